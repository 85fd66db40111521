# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks on photographs, on drawings in the same layout: all of it runs, and the tables say what was run."""

import json

import photo_ablations
import photo_data
import photo_methods
import photo_report
import photo_stacks
import photo_tables
import photo_trial
import photo_unlisted
import pytest
import tables
import train_photo_clip
from conftest import assert_same, snapshot
from photo_sources import FACE_NAMES

from hf_slug import UnlearningPatch


pytestmark = pytest.mark.usefixtures("photographs")


@pytest.fixture
def quick(monkeypatch):
    for method, grid in photo_methods.GRIDS.items():
        chosen = {"lr": (1e-4,), "steps": (2,), "every": (1,), "ratio": (1,), "alpha": (1.0, 10.0), "limit": (1.0,)}
        monkeypatch.setitem(photo_methods.GRIDS, method, {key: chosen[key] for key in grid})
    collect = photo_data.collect
    for module in (photo_tables, photo_stacks, photo_trial, photo_unlisted):
        monkeypatch.setattr(module, "collect", lambda *args, **kwargs: collect(*args, objects=12, test_objects=60))


@pytest.mark.slow
def test_people_whom_the_retain_set_does_not_show_are_scored_apart(photo_folder, quick, tmp_path):
    task = {"concept": FACE_NAMES[21], "seed": 0, "model": str(photo_folder / "model")}
    rows = [task | {"method": m} | photo_unlisted.run({**task, "method": m}) for m in photo_methods.WIDELY]
    model, processor = photo_data.load_model(photo_folder / "model")
    score = photo_data.Score(photo_unlisted.collect(task["concept"], 0), "test_", processor, model)
    struck = rows[0]["struck"]
    every = score(model, struck=(task["concept"],))["people"]
    listed, unlisted = len(FACE_NAMES) - 1 - len(photo_unlisted.UNLISTED), len(photo_unlisted.UNLISTED)
    assert every * (listed + unlisted) == pytest.approx(listed * struck["listed"] + unlisted * struck["unlisted"])
    rows[0] |= {"struck": {**struck, "unlisted": 0.75}, "after": {**rows[0]["after"], "unlisted": 0.5}}
    photo_unlisted.write_table("photo_unlisted", rows)
    text = (tmp_path / "results" / "photo_unlisted.md").read_text()
    assert "| 25.00 |" in text and "| SLUG, plain gradient |" in text


@pytest.mark.slow
def test_the_tables_are_made_of_what_was_run(photo_folder, quick, tmp_path):
    concept, model = photo_data.PEOPLE[0], str(photo_folder / "model")
    rows = []
    for method in photo_methods.METHODS:
        task = {"method": method, "concept": concept, "seed": 0, "model": model}
        rows.append({**task, **photo_tables.run(task)})
    assert len({json.dumps(row["before"]) for row in rows}) == 1  # all methods begin with the same
    assert all(row["seconds"] >= row["one_run"] > 0 and row["stored_bytes"] > 0 for row in rows)
    by_method = {row["method"]: row for row in rows}
    assert by_method["SalUn"]["stored_bytes"] < by_method["GAFT"]["stored_bytes"]
    for method in photo_methods.WIDELY[::-1]:
        patch = UnlearningPatch.from_pretrained(photo_tables.patch_folder({**task, "method": method}))
        assert patch.num_bytes == by_method[method]["stored_bytes"]
        assert patch.report["direction"] == photo_methods.SLUG[method].get("direction", "whitened")
    again, processor = photo_data.load_model(model)
    before = snapshot(again)
    again.load_unlearning(patch)
    photographs = photo_tables.collect(concept, 0)
    score = photo_data.Score(photographs, "test_", processor, photo_data.load_model(model)[0])
    assert score(again) == pytest.approx(by_method["SLUG"]["after"])
    again.unload_unlearning()
    assert_same(again, before)
    photo_report.write_tables(rows, "photo_tables")
    text = (tmp_path / "results" / "photo_tables.md").read_text()
    left = [tables.shares([by_method["GA"]["after"][key]], [by_method["GA"]["n_forget"]]) for key in ("fa1", "fa5")]
    assert f"| GA | {' | '.join(left)} |" in text
    assert (tmp_path / "results" / "photo_tables.png").stat().st_size > 5000
    assert "- GAFT: " in text and "Table 2" not in text and "Chosen at an end of an axis" in text
    fall = by_method["GA"]["struck"]["people"] - by_method["GA"]["after"]["people"]
    assert f" {tables.percents([fall])} " in next(line for line in text.splitlines() if line.startswith("| GA |"))


def test_rows_are_compared_with_those_of_the_same_concept(tmp_path):
    rows = []
    for place, concept in enumerate(photo_data.PEOPLE):
        for seed in (0, 1):
            kept = {"people": 0.9 - 0.1 * place, "objects": 0.7}  # differs much by concept
            common = {"concept": concept, "seed": seed, "before": {"fa1": 1.0, "fa5": 1.0, "near": 1.0} | kept}
            common |= {"struck": common["before"], "n_forget": 2, "n_retain": 9, "seconds": 1.0, "one_run": 1.0}
            common["before"]["fa5_reworded"] = 1.0
            common |= {"model": str(tmp_path / "clip"), "weights": "abcd"}
            common |= {
                "wall_seconds": 1.0,
                "setting": {},
                "peak_bytes": 1,
                "stored_bytes": 1,
                "forgotten_on_validation": True,
                "chosen": f"layer {seed}",
            }
            for method, fall in (("SLUG", 0.1 * place), ("GA", 0.1 * place + 0.01 * (1 + place % 2))):
                after = {
                    "fa1": 0.0,
                    "fa5": 0.1 * seed,
                    "fa5_reworded": 0.2,
                    "near": 1.0,
                    "objects": 0.7,
                    "people": kept["people"] - fall,
                }
                chosen = {"setting": {"lr": 3e-4, "step": 2}, "stored_bytes": 0} if method == "GA" else {}
                rows.append({**common, "method": method, "after": after, **chosen})
    (tmp_path / "clip").mkdir()
    told = {"made_by": {"steps": 700, "seed": 3}, "unseen": {"faces": {"top1": 0.875}, "objects": {"top1": 0.5}}}
    (tmp_path / "clip" / train_photo_clip.TRAINING).write_text(json.dumps(told))
    written = []
    for order in (rows, rows[::-1], rows[::2] + rows[1::2][::-1]):
        photo_report.write_tables(order, "photo_tables")
        written.append((tmp_path / "results" / "photo_tables.md").read_text())
    assert len(set(written)) == 1
    assert "- GA: worse in fall of people (21.40 against 20.00);" in written[0]  # by 1 or 2 points each, among 0 to 40
    assert "takes less in MB stored (0 against 1e-06)." in written[0]
    assert (
        "(weights abcd): 700 steps of `train_photo_clip.py`, seed 3." in written[0]
        and "87.5 % of the people" in written[0]
    )
    # of a method that has been run on a part, that part is compared
    some = [
        row
        for row in rows
        if row["method"] == "SLUG" or (row["seed"] == 1 and row["concept"] in photo_data.PEOPLE[:3])
    ]
    photo_report.write_tables(some, "photo_tables")
    text = (tmp_path / "results" / "photo_tables.md").read_text()
    assert "- GA: worse" not in text and "(11.33 against 10.00)" in text and "; 3 runs that both have." in text
    assert "| 0.0 10.0 |" in written[0]  # by seed
    assert "Chosen at an end of an axis: GA (of 10 runs): lr 0.0003 10 times." in written[0]


@pytest.mark.slow
def test_every_ablation_runs_and_leaves_the_model_as_it_was(photo_folder, quick):
    model, processor = photo_data.load_model(photo_folder / "model")
    before = snapshot(model)
    trial = photo_trial.Trial(model, processor, FACE_NAMES[6], 0)
    usual = photo_ablations.BASE
    unlike = (
        "direction",
        "choose",
        "tower",
        "granularity",
        "inputs",
    )  # what has code of its own; the rest are numbers
    variants = [v for v in photo_ablations.VARIANTS if any(getattr(v, key) != getattr(usual, key) for key in unlike)]
    found = {variant.name: trial.run(variant) for variant in (usual, *variants, photo_ablations.PUBLISHED)}
    assert_same(model, before)
    every = [photo_ablations._key(variant) for variant in photo_ablations.VARIANTS]
    assert len(set(every)) == len(every)  # no two of a name
    assert found["vision"]["layer"].startswith("vis") and found["default"]["layer"].startswith("text")
    # to first order a step off the retain gradient leaves its loss as it is
    layers = [layer for layer in trial.layers if layer.tower == "text"]
    directions = trial._directions(photo_ablations.Variant("x", direction="projected"), layers)
    for name in (name for layer in layers for name in layer.modules):
        retain = trial.retain_gradients[name]
        assert abs(float((directions[name] * retain).sum())) <= 1e-4 * float(directions[name].norm() * retain.norm())


@pytest.mark.slow
def test_stacks_load_all_the_patches(photo_folder, quick, tmp_path, monkeypatch):
    pairs = [people[:2] for people in photo_data.STACKED[:2]]
    monkeypatch.setattr(photo_stacks, "STACKED", pairs)
    model = str(photo_folder / "model")
    tasks = [
        {"group": 0, "count": n, "weights": weights, "seed": 0, "model": model}
        for n in (1, 2)
        for weights in photo_stacks.WAYS
    ]
    rows = [task | photo_stacks.run(task) for task in tasks]
    by_way = {(row["count"], row["weights"]): row for row in rows}
    fitted = {way: set(by_way[1, way]["fitted"].values()) for way in photo_stacks.WAYS}
    assert all((fitted[way] == {1.0}) == ("fitted" not in photo_stacks.WAYS[way]) for way in photo_stacks.WAYS)
    first, second = pairs[0]
    made = photo_tables.PATCHES.rglob(f"{second}-after-{first}-*")
    (in_turn,) = [UnlearningPatch.from_pretrained(folder) for folder in made]
    assert [row["concept"] for row in in_turn.report["beside"]] == [first]
    apart = [UnlearningPatch.from_pretrained(folder).report for folder in photo_tables.PATCHES.rglob(second)]
    assert sorted((report["direction"], report["beside"]) for report in apart) == [("gradient", []), ("whitened", [])]
    assert [list(row["fa"]) for row in rows] == [list(pairs[0][: task["count"]]) for task in tasks]
    searched = by_way[2, photo_stacks.SEARCHED]
    assert searched["cosines"][0] != searched["cosines"][1] and len(searched["cosines"][1]) == 2
    assert searched["cosines"][1] != by_way[2, photo_methods.PLAIN]["cosines"][1]
    fa = {concept: [0.0, 0.5 * place] for place, concept in enumerate(pairs[1])}
    other = {**searched, "group": 1, "fa": fa, "people": [0.9, 0.8], "objects": [0.6, 0.5]}
    photo_stacks.write_table("photo_stacks", [*rows, other])
    assert (tmp_path / "results" / "photo_stacks.png").stat().st_size > 5000
    text = (tmp_path / "results" / "photo_stacks.md").read_text()
    own = [searched["fa"][concept][1] for concept in pairs[0]]
    fell = tables.percents([searched["people"][0] - searched["people"][1], 0.1])
    worst = tables.percent(max(*own, 0.5))
    assert f"| {tables.mean_shares([*own, 0.0, 0.5], [2] * 4)} | {worst} | {fell} |" in text
    assert (
        "each of 2 groups" in text and "| 2 | made apart, weights fitted |" in text and "| 2 | made in turn |" in text
    )
