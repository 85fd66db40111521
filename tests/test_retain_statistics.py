# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Statistics of a retain set in place of the set: the same patch, saved and loaded, and refused where they don't fit."""

import json

import pytest
import torch
from attachment_helpers import FC1, make_patch
from conftest import assert_same, make_clip, noise_pairs, snapshot, write_folder

from hf_slug import RetainStatistics, compute_retain_statistics, unlearn
from hf_slug.cli import main
from hf_slug.errors import (
    CorruptPatchError,
    EmptyDatasetError,
    NoSuchFolderError,
    UnsupportedModelError,
    WrongBaseError,
)
from hf_slug.retain_statistics import ABOUT, CARD, TENSORS


KEPT = ["one", "two", "four", "zero"]


def sets():
    """Everything but the retain set itself."""
    parts = {"forget": noise_pairs(12, 1, ["three"]), "validation_forget": noise_pairs(6, 2, ["three"])}
    parts |= {"test_forget": noise_pairs(6, 3, ["three"]), "validation_retain": noise_pairs(16, 4, KEPT)}
    return parts | {"test_retain": noise_pairs(16, 5, KEPT)}


@pytest.fixture(scope="module")
def retain():
    return noise_pairs(30, 6, KEPT)


@pytest.fixture(scope="module")
def statistics(processor, retain):
    return compute_retain_statistics(make_clip(), processor, retain)


def forget_three(processor, retain, model=None, **settings):
    return unlearn(model or make_clip(), processor, retain=retain, concept="three", steps=4, **{**sets(), **settings})


@pytest.mark.parametrize(
    "settings", [{}, {"direction": "gradient"}, {"tower": "text"}, {"granularity": "block"}], ids=str
)
def test_the_patch_is_that_of_the_set(processor, retain, statistics, settings, tmp_path):
    statistics.save_pretrained(tmp_path)
    whole = forget_three(processor, retain, **settings)
    for known in (statistics, RetainStatistics.from_pretrained(tmp_path), str(tmp_path)):
        result = forget_three(processor, known, **settings)
        for one, other in zip(result.report["layers"], whole.report["layers"], strict=True):
            assert one["importance"] == other["importance"]
            assert one["alignment"] == pytest.approx(other["alignment"], abs=1e-5)
        assert result.report["chosen"]["layer"] == whole.report["chosen"]["layer"]
        assert result.report["chosen"]["step_size"] == pytest.approx(whole.report["chosen"]["step_size"], rel=1e-5)
        for key, tensor in whole.patch.tensors.items():
            torch.testing.assert_close(
                result.patch.tensors[key], tensor, rtol=1e-4, atol=1e-6 * float(tensor.abs().max())
            )
        assert result.report["data"]["retain"] == whole.report["data"]["retain"]
        assert result.report["data"]["retain_batch_size"] == whole.report["data"]["retain_batch_size"]
        assert result.report["retain_statistics"] == whole.report["retain_statistics"]


def test_a_folder_holds_everything_and_what_several_modules_read_once(statistics, tmp_path):
    statistics.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TENSORS, ABOUT, CARD}
    loaded = RetainStatistics.from_pretrained(tmp_path)
    for kind in ("gradients", "moments"):
        ours, theirs = getattr(statistics, kind), getattr(loaded, kind)
        assert sorted(ours) == sorted(theirs) and len(ours) == len(theirs) and "nothing" not in theirs
        assert all(torch.equal(theirs[name], ours[name].float()) for name in ours)
        with pytest.raises(KeyError):
            theirs["nothing"]
    assert loaded.about == statistics.about
    stored = json.loads((tmp_path / ABOUT).read_text())["same_input"]
    q, k = ("vision_model.encoder.layers.0.self_attn." + name for name in ("q_proj", "k_proj"))
    assert stored[k] == q and q not in stored
    loaded.save_pretrained(tmp_path / "again")  # of what was never wholly in memory
    assert (tmp_path / "again" / TENSORS).read_bytes() == (tmp_path / TENSORS).read_bytes()
    assert "30 pairs" in (tmp_path / CARD).read_text() and "30 pairs" in repr(loaded)


def test_they_depend_on_the_set_alone(processor, retain):
    model = make_clip()
    before = snapshot(model)
    first, second = (compute_retain_statistics(model, processor, retain) for _ in range(2))
    assert_same(model, before)
    assert all(torch.equal(first.gradients[name], second.gradients[name]) for name in first.gradients)
    assert first.about["retain"]["n"] == 30 and first.about["names"] == second.about["names"] == sorted(KEPT)


def test_what_does_not_fit_is_refused(processor, retain, statistics):
    other = make_clip(seed=1)
    before = snapshot(other)
    with pytest.raises(WrongBaseError):
        forget_three(processor, statistics, other)
    assert_same(other, before)
    text = compute_retain_statistics(make_clip(), processor, retain, tower="text", direction="gradient")
    with pytest.raises(ValueError, match="hold nothing of vision_model.*all towers"):
        forget_three(processor, text)
    with pytest.raises(ValueError, match="no input moment of text_model.*direction='gradient'"):
        forget_three(processor, text, tower="text")
    with pytest.raises(EmptyDatasetError, match="no pairs to search by.*Give validation_retain and test_retain"):
        forget_three(processor, statistics, validation_retain=None, test_retain=None)
    with pytest.raises(ValueError, match="Give one of them"):
        forget_three(processor, statistics, retain_gradients=statistics.gradients)
    patched = make_clip()
    patched.load_unlearning(make_patch(patched, (FC1,)), "mine")
    with pytest.raises(UnsupportedModelError, match="under the unlearning patches mine"):
        compute_retain_statistics(patched, processor, retain)


def test_statistics_that_are_not_whole_are_refused(processor, statistics, tmp_path):
    gradients, moments = dict(statistics.gradients), dict(statistics.moments)
    name = "text_model.encoder.layers.1.mlp.fc2"

    def forget(about=statistics.about, **changed):
        known = RetainStatistics(
            {**gradients, **changed.get("gradients", {})}, {**moments, **changed.get("moments", {})}, about
        )
        known.save_pretrained(tmp_path)
        for each in (known, RetainStatistics.from_pretrained(tmp_path)):
            with pytest.raises(CorruptPatchError) as refused:
                forget_three(processor, each)
        return str(refused.value)

    assert name in forget(gradients={name: gradients[name].T}) and "found shapes" in forget(
        moments={name: moments[name][:1]}
    )
    spoilt = gradients[name].clone()
    spoilt[0, 0] = float("nan")
    assert f"{name} are not finite" in forget(gradients={name: spoilt})
    unknown = {key: value for key, value in statistics.about["base_fingerprint"].items() if key != name}
    assert "no fingerprint" in forget({**statistics.about, "base_fingerprint": unknown})


def test_statistics_of_other_settings_are_refused(processor, statistics):
    assert statistics.about["retain_batch_size"] == 64
    assert forget_three(processor, statistics, retain_batch_size=64).report["data"]["retain_batch_size"] == 64
    with pytest.raises(ValueError, match="of 64 pairs contrasted.*retain_batch_size=16"):
        forget_three(processor, statistics, retain_batch_size=16)
    with pytest.raises(WrongBaseError, match="file of retain statistics was computed from"):
        forget_three(processor, statistics, make_clip(seed=1))


@pytest.mark.parametrize("damage", ["no tensors", "no description", "cut", "another description", "a list"])
def test_damaged_folders_are_said(statistics, tmp_path, damage):
    statistics.save_pretrained(tmp_path)
    tensors, about = tmp_path / TENSORS, tmp_path / ABOUT
    if damage == "no tensors":
        tensors.unlink()
    elif damage == "no description":
        about.unlink()
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    else:
        about.write_text("[]" if damage == "a list" else '{"retain": {}}')
    with pytest.raises(CorruptPatchError, match="retain statistics|can't be read|expected an object"):
        RetainStatistics.from_pretrained(tmp_path)
    with pytest.raises(NoSuchFolderError):
        RetainStatistics.from_pretrained(tmp_path / "none")


def test_a_save_that_fails_leaves_what_was_there(statistics, tmp_path, monkeypatch):
    statistics.save_pretrained(tmp_path / "stats")
    before = {path.name: path.read_bytes() for path in (tmp_path / "stats").iterdir()}
    monkeypatch.setattr(RetainStatistics, "_card", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        statistics.save_pretrained(tmp_path / "stats")
    assert {path.name: path.read_bytes() for path in (tmp_path / "stats").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["stats"]
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        statistics.save_pretrained(tmp_path / "file")


def test_the_commands(processor, tmp_path, capsys):
    make_clip().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    folders = {}
    for name, pairs in {**sets(), "retain": noise_pairs(30, 6, KEPT)}.items():
        rows = [{"image": pair.image, "text": pair.text, "name": pair.name} for pair in pairs]
        folders[name] = write_folder(tmp_path / name, rows)
    own = ["--model", str(tmp_path / "model")]
    assert main(["retain-stats", *own, "--retain", str(folders["retain"])]) == 2
    assert "would be lost" in capsys.readouterr().err
    made = ["retain-stats", *own, "--retain", str(folders["retain"]), "--output", str(tmp_path / "stats")]
    assert main(made) == 0 and "30 pairs" in capsys.readouterr().out
    run = ["unlearn", *own, "--concept", "three", "--steps", "2", "--output", str(tmp_path / "patch")]
    for name, folder in folders.items():
        if name != "retain":
            run += [f"--{name.replace('_', '-')}", str(folder)]
    assert main([*run, "--retain-stats", str(tmp_path / "stats")]) in (0, 1)
    report = json.loads((tmp_path / "patch" / "unlearning_report.json").read_text())
    assert report["data"]["retain"]["n"] == 30 and report["data"]["retain"]["source"].endswith(str(folders["retain"]))
    for wrong in ([], ["--retain", str(folders["retain"]), "--retain-stats", str(tmp_path / "stats")]):
        assert main([*run, *wrong]) == 2 and "one of them" in capsys.readouterr().err


def test_statistics_that_show_the_concept_are_warned_of(processor, statistics, caplog):
    known = RetainStatistics(statistics.gradients, statistics.moments, statistics.about | {"names": ["one", "Three"]})
    forget_three(processor, statistics)
    assert "computed with pairs that show" not in caplog.text
    forget_three(processor, known)
    assert "computed with pairs that show the concept 'three'" in caplog.text


def test_the_command_line_takes_no_flag_that_it_does_not_read(capsys):
    for flag in ("--names", "--seed"):
        with pytest.raises(SystemExit):
            main(["retain-stats", "--model", "m", "--retain", "r", "--output", "o", flag, "1"])
    assert "unrecognized arguments" in capsys.readouterr().err
