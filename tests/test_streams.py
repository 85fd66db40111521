# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Retain sets that are read a few pairs at a time."""

import json

import datasets
import pytest
import torch
from conftest import NAMES, make_clip, noise_rows, write_folder

from hf_slug import unlearn
from hf_slug.data import load_pairs
from hf_slug.direction import compute_input_moments
from hf_slug.errors import EmptyDatasetError, MissingColumnError, TooManyUnreadableError
from hf_slug.gradients import compute_retain_gradients
from hf_slug.known_retain import compute_retain_statistics
from hf_slug.streams import PairStream
from hf_slug.towers import candidate_layers


@pytest.fixture(scope="module")
def rows():
    return [row | {"name": row["text"].split()[-1]} for row in noise_rows(23)]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("stream") / "set", rows)


def as_dataset(rows):
    return datasets.IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize("kind", ["folder", "dataset", "rows"])
def test_a_stream_has_the_pairs_of_the_set_again_and_again(rows, folder, kind):
    source = {"folder": folder, "dataset": as_dataset(rows), "rows": rows}[kind]
    stream, pairs = PairStream(source), load_pairs(folder if kind == "folder" else rows)
    for _ in range(2):
        groups = list(stream.groups(5))
        assert [len(group) for group in groups] == [5, 5, 5, 5, 3]
        assert [pair.text for group in groups for pair in group] == pairs.texts
        assert [pair.image.tobytes() for group in groups for pair in group] == [p.image.tobytes() for p in pairs]
    assert (stream.count, stream.skipped, len(stream)) == (23, 0, 23)
    assert set(stream.seen_names) == set(pairs.names)
    assert stream.fingerprint() == pairs.fingerprint()


@pytest.mark.parametrize("contrast, batch_size", [(7, 7), (7, 3), (64, 64)])
def test_gradients_and_moments_are_those_of_the_set(rows, tiny, processor, contrast, batch_size):
    layers, pairs = candidate_layers(tiny), load_pairs(rows)
    expected = compute_retain_gradients(tiny, processor, layers, pairs, contrast, batch_size)
    got = compute_retain_gradients(tiny, processor, layers, PairStream(rows), contrast, batch_size)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    expected = compute_input_moments(tiny, processor, layers, pairs, batch_size)
    got = compute_input_moments(tiny, processor, layers, PairStream(rows), batch_size)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


def test_captions_are_run_in_portions_where_there_are_many(rows, tiny, processor, monkeypatch):
    layers = candidate_layers(tiny, "text")
    expected = compute_input_moments(tiny, processor, layers, load_pairs(rows))
    monkeypatch.setattr("hf_slug.direction._MOST_TEXTS", 3)
    got = compute_input_moments(tiny, processor, layers, PairStream(rows), 4)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-6)


def test_statistics_of_a_stream_are_those_of_the_set(rows, tiny, processor):
    expected = compute_retain_statistics(tiny, processor, rows)
    got = compute_retain_statistics(tiny, processor, PairStream(rows))
    assert {**got.about, "retain": None} == {
        **expected.about,
        "retain": None,
        "names": sorted(expected.about["names"]),
    }
    same = ("n", "skipped", "sha256")
    assert [got.about["retain"][key] for key in same] == [expected.about["retain"][key] for key in same]
    for name in expected.gradients:
        assert torch.equal(got.gradients[name], expected.gradients[name])


def test_a_run_may_be_given_a_stream_to_keep(rows, processor):
    model, forget = make_clip(), noise_rows(20, seed=3, names=["three"])
    sets = {"validation_retain": noise_rows(20, 4), "test_retain": noise_rows(20, 5)}
    settings = {"concept": "three", "names": NAMES, "template": "{}", "steps": 3}
    known = compute_retain_statistics(model, processor, rows)
    expected = unlearn(model, processor, forget, known, **sets, **settings)
    got = unlearn(model, processor, forget, PairStream(rows), **sets, **settings)
    assert got.report["chosen"] == expected.report["chosen"]
    assert got.report["data"]["retain"]["n"] == 23
    for name, delta in expected.patch.deltas.items():
        torch.testing.assert_close(got.patch.deltas[name], delta)
    with pytest.raises(EmptyDatasetError, match="validation_retain and test_retain"):
        unlearn(model, processor, forget, PairStream(rows), **settings)
    with pytest.raises(ValueError, match="retain_gradients"):
        unlearn(model, processor, forget, PairStream(rows), retain_gradients={}, **sets, **settings)


def test_what_can_be_read_only_once_is_refused(rows):
    with pytest.raises(TypeError, match="only once"):
        PairStream(iter(rows))


def test_broken_streams_say_what_is_wrong(rows, tmp_path, tiny, processor):
    with pytest.raises(MissingColumnError):
        list(PairStream([{"picture": None, "text": "x"}]).groups(2))
    with pytest.raises(EmptyDatasetError):
        list(PairStream([]).groups(2))
    folder = tmp_path / "set"
    write_folder(folder, rows)
    for i in range(8):
        (folder / f"{2 * i}.png").write_bytes(b"no picture")
    with pytest.raises(TooManyUnreadableError, match="unreadable"):
        compute_retain_gradients(tiny, processor, candidate_layers(tiny), PairStream(str(folder)), 4)


def test_the_command_line_streams(rows, folder, processor, tmp_path, capsys):
    from hf_slug.cli import main

    make_clip().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    common = ["--model", str(tmp_path / "model"), "--retain", folder, "--device", "cpu", "--template", "{}"]
    assert main(["retain-stats", *common, "--streaming", "--output", str(tmp_path / "stats")]) == 0
    assert json.loads((tmp_path / "stats" / "retain_statistics.json").read_text())["retain"]["n"] == 23
    own = write_folder(tmp_path / "own", noise_rows(20, seed=3, names=["three"]))
    kept = write_folder(tmp_path / "kept", noise_rows(20, 4))
    command = ["unlearn", *common, "--streaming", "--forget", own, "--concept", "three", "--steps", "2"]
    capsys.readouterr()
    assert main([*command, "--output", str(tmp_path / "patch")]) == 2
    assert "--validation-retain and --test-retain" in capsys.readouterr().err
    sets = ["--validation-retain", kept, "--test-retain", kept, "--names", str(tmp_path / "names.txt")]
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    assert main([*command, *sets, "--output", str(tmp_path / "patch"), "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["data"]["retain"]["n"] == 23
