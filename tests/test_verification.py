# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A card's numbers, measured again: confirmed on its own data, contradicted by a forged card, never compared with other kinds."""

import copy
import json

import pytest
from conftest import assert_same, snapshot, write_folder

from hf_slug import load_pairs, unlearn, zoo
from hf_slug.cli import main
from hf_slug.evaluation import VqaEvaluator, ZeroShotEvaluator
from hf_slug.verification import verify_patch


NAMES = list(zoo.data.DIGITS)


@pytest.fixture(scope="module")
def made():
    """A patch of the zoo's CLIP, and the data of its report."""
    model, processor = zoo.load_clip()
    sets = {}
    for part, split in (("", "train"), ("validation_", "validation"), ("test_", "test")):
        for what, rows in zip(("forget", "retain"), zoo.concept_pairs("seven", split, 0, limit_per_digit=1)):
            sets[part + what] = load_pairs(rows)
    forget, retain = sets.pop("forget"), sets.pop("retain")
    quick = {"concept": "seven", "names": NAMES, "template": "a {}", "tower": "text", "steps": 3, "front_only": True}
    return unlearn(model, processor, forget, retain, **quick, **sets).patch, sets


def evaluator(sets, **settings):
    processor = zoo.load_clip()[1]
    return ZeroShotEvaluator(processor, sets["test_forget"], sets["test_retain"], "seven", NAMES, "a {}", **settings)


def test_the_cards_own_data_confirm_it(made):
    patch, sets = made
    model = zoo.load_clip()[0]
    before = snapshot(model)
    done = verify_patch(patch, model, evaluator(sets))
    assert done.same_data and done.confirmed and len(done.rows) == 4
    assert all(row["found"] == pytest.approx(row["card"]) for row in done.rows)
    assert_same(model, before) and model.get_list_unlearning() == {}


@pytest.mark.parametrize("key", ["fa1", "ta", "ta_neighbors"])
def test_a_forged_number_is_found_out(made, key):
    patch, sets = made
    forged = copy.deepcopy(patch)
    after = forged.report["metrics"]["after"]
    after[key] = 1 - after[key] if abs(1 - 2 * after[key]) > 0.5 else 0.0
    done = verify_patch(forged, zoo.load_clip()[0], evaluator(sets))
    assert not done.confirmed and [row["metric"] for row in done.rows if not row["agree"]] == [key]


def test_other_data_are_compared_by_their_intervals(made):
    patch, sets = made
    other = {"test_forget": sets["validation_forget"], "test_retain": sets["validation_retain"]}
    done = verify_patch(patch, zoo.load_clip()[0], evaluator(other))
    assert not done.same_data
    for row in done.rows:  # ten drawings of the concept say little: only what is far off contradicts
        assert row["agree"] or abs(row["found"] - row["card"]) > 0.2


def test_what_can_not_be_compared_is_refused(made):
    patch, sets = made
    llava, processor = zoo.load_llava()
    asks = VqaEvaluator(processor, sets["test_forget"], sets["test_retain"], "seven", NAMES, ["Which digit is it?"])
    with pytest.raises(ValueError, match="ZeroShotEvaluator.*Leave --host out"):
        verify_patch(patch, llava, asks)
    empty = copy.deepcopy(patch)
    empty.report = {}
    with pytest.raises(ValueError, match="nothing to verify"):
        verify_patch(empty, zoo.load_clip()[0], evaluator(sets))


def test_the_command(made, tmp_path, capsys):
    patch, _ = made
    patch.save_pretrained(tmp_path / "patch")
    forget, retain = zoo.concept_pairs("seven", "test", 0, limit_per_digit=1)
    given = ["--forget", write_folder(tmp_path / "f", forget), "--retain", write_folder(tmp_path / "r", retain)]
    command = ["verify", str(tmp_path / "patch"), "--model", str(zoo.CLIP_FOLDER), *given]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["confirmed"] and all(row["found"] == pytest.approx(row["card"]) for row in said["metrics"])
    assert main(command) == 0 and "CONFIRMED" in capsys.readouterr().out
    report = json.loads((tmp_path / "patch/unlearning_report.json").read_text())
    report["metrics"]["after"]["ta"] = 0.1
    (tmp_path / "patch/unlearning_report.json").write_text(json.dumps(report))
    assert main(command) == 2 and "not what was published" in capsys.readouterr().err  # its hash tells on it
    forged = copy.deepcopy(patch)
    forged.report["metrics"]["after"]["ta"] = 0.1
    forged.save_pretrained(tmp_path / "patch")
    assert main(command) == 1 and "NOT CONFIRMED" in capsys.readouterr().out


def test_a_llavas_card_is_verified_by_asking_it(tmp_path, capsys):
    forget, retain = zoo.concept_pairs("seven", "validation", 0, limit_per_digit=1)
    sets = {"forget": write_folder(tmp_path / "f", forget), "retain": write_folder(tmp_path / "r", retain)}
    given = ["--forget", sets["forget"], "--retain", sets["retain"], "--template", "a {}"]
    seen = zoo.concept_pairs("seven", "train", 0, limit_per_digit=1)  # by the search
    others = [write_folder(tmp_path / name, rows) for name, rows in zip("sq", seen)]
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    made = [
        "unlearn",
        "--host",
        "llava",
        "--evaluate",
        "host",
        "--concept",
        "seven",
        "--output",
        str(tmp_path / "patch"),
    ]
    sets = [f"--{part}-{what}" for part in ("validation", "test") for what in ("forget", "retain")]
    paths = [*others, given[1], given[3]]
    more = [word for pair in zip(sets, paths) for word in pair]
    quick = ["--steps", "1", "--front-only", "--names", str(names), "--question", "Which digit is written here?"]
    assert main([*made, *given, *more, *quick]) in (0, 1)
    capsys.readouterr()
    command = [
        "verify",
        str(tmp_path / "patch"),
        "--host",
        "llava",
        *given,
        "--question",
        "Which digit is written here?",
    ]
    assert main([*command, "--json"]) == 0
    assert {row["metric"] for row in json.loads(capsys.readouterr().out)["metrics"]} >= {"fa1", "ta"}
    assert main(["verify", str(tmp_path / "patch"), "--model", str(zoo.CLIP_FOLDER), *given]) == 2
    assert "Give --host llava" in capsys.readouterr().err
