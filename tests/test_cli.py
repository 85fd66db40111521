# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import json
import shutil

import pytest
import torch
from conftest import write_folder
from peft import PeftModel
from transformers import CLIPTextModel

from hf_slug import UnlearningPatch, zoo
from hf_slug.cli import main
from hf_slug.request import read_names
from hf_slug.tables import format_table
from hf_slug.zoo import concept_pairs
from hf_slug.zoo.data import DIGITS


@pytest.fixture
def arguments(tmp_path):
    forget, retain = concept_pairs("seven", "train", limit_per_digit=6)
    return [
        *("unlearn", "--model", str(zoo.CLIP_FOLDER), "--concept", "seven", "--template", "a {}"),
        *(
            "--forget",
            write_folder(tmp_path / "forget", forget),
            "--retain",
            write_folder(tmp_path / "retain", retain),
        ),
        *("--output", str(tmp_path / "patch"), "--tower", "text", "--device", "cpu"),
    ]


def test_unlearn_from_folders(arguments, tmp_path, capsys):
    assert main([*arguments, "--plots", str(tmp_path / "plots")]) == 0
    out = capsys.readouterr().out
    assert "FORGOTTEN" in out and "NOT FORGOTTEN" not in out and "FA@1" in out
    report = UnlearningPatch.from_pretrained(tmp_path / "patch").report
    assert report["succeeded"] and [report["data"][k]["n"] for k in ("forget", "test_forget")] == [36, 12]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"front.png", "trajectory.png", "similarity.png"}
    assert PeftModel.from_pretrained(zoo.load_clip()[0], tmp_path / "patch")


def test_json_is_the_report_and_nothing_else(arguments, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DIGITS) + "\n")
    code = main([*arguments, "--json", "--names", str(names), "--dtype", "bfloat16", "--fa-at", "1", "--rank", "4"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and report["succeeded"]
    assert report["base_model"]["dtype"] == "bfloat16" and report["metrics"]["n_names"] == 10


def test_a_concept_that_was_not_forgotten_gives_another_exit_code(arguments, capsys):
    assert main([*arguments, "--steps", "1", "--front-only"]) == 1
    assert "NOT FORGOTTEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--forget", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--text-column", "caption"], "--text-column"),
        (["--concept", "seven " * 40], "tokens"),
        (["--template", "a photo"], "exactly one {}"),
        (["--model", "/nowhere/model"], "There is no folder /nowhere/model"),
        (["--rank", "0"], "rank=0"),
        (["--output", __file__], "is a file"),
        (["--output", f"{__file__}/deeper"], "is a file"),
        (["--device", "cuda"], "cuda"),
    ],
)
def test_nonsense_is_answered_in_one_line(arguments, changes, message, capsys):
    assert main([*arguments, *changes]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert captured.err.splitlines()[-1].startswith("hf-slug: error: ")


def test_a_model_that_is_not_clip_is_refused(arguments, tmp_path, capsys):
    CLIPTextModel(zoo.load_clip()[0].config.text_config).save_pretrained(tmp_path / "text")
    assert main([*arguments, "--model", str(tmp_path / "text")]) == 2
    assert "'clip_text_model'" in capsys.readouterr().err


def test_inspect_shows_what_a_patch_changes(arguments, tmp_path, capsys):
    main(arguments)
    capsys.readouterr()
    patch = UnlearningPatch.from_pretrained(tmp_path / "patch")
    assert main(["inspect", str(tmp_path / "patch")]) == 0
    out = capsys.readouterr().out
    assert all(module in out for module in patch.modules) and "'seven'" in out and "FA@1" in out
    assert main(["inspect", str(tmp_path / "patch"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["concept"] == "seven" and summary["succeeded"] is True
    model = zoo.load_clip()[0]
    for change in summary["changes"]:
        delta, weight = patch.deltas[change["module"]], model.get_submodule(change["module"]).weight
        assert change["delta_norm"] == pytest.approx(delta.norm().item(), rel=1e-5)
        assert change["relative_change"] == pytest.approx((delta.norm() / weight.norm()).item(), rel=1e-5)
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo(tmp_path, capsys, monkeypatch):
    every = zoo.concept_pairs  # less handwriting than a newcomer's demo takes
    monkeypatch.setattr(zoo, "concept_pairs", lambda *given, **_: every(*given, limit_per_digit=6))
    assert main(["demo", "--concept", "gold", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "patch" / "unlearning_report.json").read_text())
    assert report["succeeded"] and report["metrics"]["after"]["fa1"] <= 0.01
    assert report["metrics"]["before"]["ta"] - report["metrics"]["after"]["ta"] <= 0.02
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"front.png", "trajectory.png", "similarity.png"}


def test_the_demo_knows_its_concepts(tmp_path, capsys):
    assert main(["demo", "--concept", "mickey", "--output", str(tmp_path / "out")]) == 2
    assert "no concept 'mickey'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_damaged_model_weights_are_said(arguments, tmp_path, capsys):
    shutil.copytree(zoo.CLIP_FOLDER, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert main([*arguments, "--model", str(tmp_path / "model")]) == 2
    assert "can't be loaded" in capsys.readouterr().err


def test_names_files(tmp_path):
    (tmp_path / "a.json").write_text('["mira", "tobin"]')
    (tmp_path / "b.txt").write_text("mira\n\n tobin \n")
    assert read_names(tmp_path / "a.json") == read_names(tmp_path / "b.txt") == ["mira", "tobin"]
    (tmp_path / "c.txt").write_text("mira\nmira\n")
    with pytest.raises(ValueError, match="mira more than once"):
        read_names(tmp_path / "c.txt")
    (tmp_path / "d.json").write_text('{"mira": 1}')
    with pytest.raises(ValueError, match="no names"):
        read_names(tmp_path / "d.json")


def test_tables_are_aligned():
    lines = format_table(["a", "bb"], [["long name", "1"], ["x", "22"]]).splitlines()
    assert lines == ["a          bb", "─────────  ──", "long name   1", "x          22"]
    assert torch.get_default_dtype() == torch.float32  # nothing above leaves a global setting behind
