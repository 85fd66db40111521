# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of speed: that both sides of it do the same, and that its tables say what was measured."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import NAMES, noise_pairs
from transformers import CLIPModel


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import speed
import speed_floor
import speed_goals
import speed_report
import speed_setup
import tables
from baselines.published import full_gradients, unlearn_as_published

from hf_slug import unlearn
from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients
from hf_slug.towers import candidate_layers


def test_published_gradients_are_those_that_we_compute_with_less(tiny, processor):
    layers, forget, retain = candidate_layers(tiny), noise_pairs(7, names=["three"]), noise_pairs(12)
    for got, expected in (
        (compute_forget_gradients(tiny, processor, layers, forget, ["a three"]), (forget, "a three")),
        (compute_retain_gradients(tiny, processor, layers, retain, 5), (retain, None)),
    ):
        published = full_gradients(tiny, processor, *expected, 5)
        assert set(published) == {name for name, _ in tiny.named_parameters()} - (
            {"logit_scale"} if expected[1] else set()
        )
        for name, gradient in got.items():
            assert (gradient - published[f"{name}.weight"]).norm() <= 1e-4 * gradient.norm(), name
    assert all(parameter.grad is None for parameter in tiny.parameters())


@pytest.mark.parametrize("tower", ["text", "both"])
def test_both_procedures_choose_the_same_layer_and_step(tiny, processor, tower):
    parts = {
        "forget": noise_pairs(7, names=["three"]),
        "retain": noise_pairs(12, seed=1),
        "validation_forget": noise_pairs(6, seed=2, names=["three"]),
        "validation_retain": noise_pairs(12, seed=3),
    }
    names = ["three", *(name for name in NAMES if name != "three")]
    found = unlearn_as_published(tiny, processor, parts, "a photo of three", names, tower, steps=5)
    layers = {trial.layer.name for trial in found.trials}
    assert len(found.trials) == 5 * len(layers)  # all steps, however well the smallest that forgets is known
    tests = {"test_forget": noise_pairs(3, 4, ["three"]), "test_retain": noise_pairs(9, 5)}
    ours = unlearn(
        tiny, processor, concept="three", names=names, tower=tower, direction="gradient", risk=1.0, steps=5, tolerance=0.0,
        **parts, **tests,
    ).report  # fmt: skip
    assert [trial.layer.name for trial in found.trials] == [row["layer"] for row in ours["search"]]
    assert found.chosen.layer.name == ours["chosen"]["layer"]
    assert found.chosen.step_size == pytest.approx(ours["chosen"]["step_size"], rel=1e-4)


def test_what_grows_linearly_has_exponent_one():
    rows = [{"count": n, "seconds": 0.3 * n} for n in (10, 20, 40)]
    assert speed_goals.exponent(rows) == pytest.approx(1)
    assert speed_goals.exponent([row | {"seconds": row["seconds"] ** 2} for row in rows]) == pytest.approx(2)


@pytest.mark.slow
def test_the_table_has_what_was_measured(monkeypatch, tmp_path):
    def few(size, *counts):
        parts, names = speed_setup.collect(size, *counts)
        return {part: pairs[:12] for part, pairs in parts.items()}, names

    monkeypatch.setattr(speed, "collect", few)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["speed.py"])
    every = speed.plan(True, 1)
    wanted = [
        next(task for task in every if all(task[key] == value for key, value in some.items()))
        for some in (
            {"kind": "pipeline", "method": "ours", "tower": "text", "given": ""},
            {"kind": "pipeline", "method": "published", "tower": "text"},
            *({"kind": "gradient", "set": "retain", "count": n} for n in (16, 32)),
            {"kind": "gradient", "set": "forget", "tower": "text"},
            {"kind": "stream"},
        )
    ]
    rows = []
    for task in wanted:
        rows.append({**task, **speed.run(task)})
        assert rows[-1]["seconds"] > 0
    assert rows[0]["layer"] == rows[1]["layer"] and rows[0]["trials"] == rows[1]["trials"]
    assert rows[0]["step_size"] == pytest.approx(rows[1]["step_size"], rel=1e-4)
    assert rows[2]["flops"] * 1.9 < rows[3]["flops"] < rows[2]["flops"] * 2.1
    layers = candidate_layers(speed_setup.load("tiny")[0])
    pairs = speed_setup.make_pairs(16, speed_setup.names()[1:], 7, speed_setup.pixels("tiny"))
    counted = speed_floor.count_flops(lambda: compute_retain_gradients(*speed_setup.load("tiny"), layers, pairs, 16))
    assert rows[2]["flops"] <= counted  # of ours, which runs captions twice, more
    rows.append({**rows[0], "given": "statistics"})
    rows += [{**rows[-1], "kind": "processes", "processes": n, "scores": [[0.5, n / 1e4], [0, 0]]} for n in (1, 2)]
    speed_report.table("speed", rows)
    text = (tmp_path / "speed.md").read_text()
    assert "| the text tower | the same layer and step | " in text and "to the power of" in text
    assert "| two processes, a core each | scores equal to 1e-5 | 1.0e-04 | **no** |" in text
    assert "resident, MiB" in text and "1 threads." in text
    assert (tmp_path / "speed.json").is_file()


def pipeline(method, tower, seconds, **fields):
    row = {
        "kind": "pipeline",
        "method": method,
        "tower": tower,
        "given": "",
        "direction": "gradient",
        "seconds": seconds,
    }
    return row | {"peak_bytes": 60, "layer": "a", "step_size": 1.0} | fields


def test_every_goal_is_said_beside_what_was_found():
    further = {"given": "statistics", "forget_s": 1.0, "search_s": 1.0, "gradient_s": 1.5, "gradient_floor_s": 1.0}
    rows = [
        pipeline("published", "both", 80.0, peak_bytes=100),
        pipeline("published", "text", 78.0, peak_bytes=99),
        pipeline("ours", "both", 10.0),
        pipeline("ours", "text", 7.0, layer="b"),
        pipeline("ours", "text", 2.7, step_size=1.0001, **further),
        pipeline("ours", "text", 1.0, direction="whitened"),  # another result: no goal is of it
        *({"kind": "gradient", "set": "forget", "tower": "both", "count": n, "seconds": n**1.1} for n in (8, 16)),
        *({"kind": "stream", "count": n, "resident_bytes": 100 + n / 1000} for n in (1000, 16000)),
        {"kind": "processes", "processes": 1, "seconds": 1.6, "scores": [[2.0, 0.5]]},
        {"kind": "processes", "processes": 2, "seconds": 1.0, "scores": [[2.0 + 1e-5, 0.5 - 9e-6]]},
    ]
    lines = [line.strip("| ").split(" | ") for line in speed_goals.goals(rows).splitlines()[2:]]
    assert [(where, found, reached) for where, _, found, reached in lines] == [
        ("both towers", "8.0", "yes"),
        ("both towers", "0.60", "yes"),
        ("both towers", "a, step 1", "yes"),
        ("the text tower", "11.1", "**no**"),
        ("the text tower", "0.61", "**no**"),
        ("the text tower", "b, step 1", "**no**"),
        ("the text tower, retain statistics given", "28.9", "yes"),
        ("the text tower, retain statistics given", "0.61", "**no**"),
        ("the text tower, retain statistics given", "a, step 1", "yes"),
        ("a further concept, the text tower, gradient", "1.35", "**no**"),
        ("a further concept, the text tower, gradient", "1.50", "yes"),
        ("seconds by pairs to forget", "1.100", "**no**"),
        ("a stream (tiny model) of 1,000 to 16,000 pairs", "+14.9%", "**no**"),
        ("two processes, a core each", "1.60", "yes"),
        ("two processes, a core each", "9.0e-06", "yes"),
    ]
    assert speed_goals.goals([]) == ""


def test_goals_are_of_the_machine_and_search_that_were_used_last():
    here = {"device": "cpu", "machine": "here", "threads": 2}
    rows = [
        {**here, "machine": "there", "kind": "stream", "count": 1},
        {**here, "threads": 1, "kind": "stream", "count": 1},
        {**here, "kind": "pipeline", "search": "an older one"},
        {**here, "kind": "pipeline", "search": tables.SEARCH},
        {**here, "kind": "stream", "count": 1},
    ]
    assert speed_goals.current(rows) == rows[3:]


def test_sizes_are_those_of_real_models():
    with torch.device("meta"):
        model = CLIPModel(speed_setup.configure("ViT-B/32"))
    assert sum(p.numel() for p in model.parameters()) == 151_277_313  # openai/clip-vit-base-patch32


def test_the_concept_is_one_that_the_model_sees():
    parts, names = speed_setup.collect("tiny", 4, 8)
    assert set(parts["forget"].names) == {names[0]} and names[0] not in parts["retain"].names
    assert len(names) == len(set(names)) == 100


@pytest.mark.parametrize("quick", [True, False])
def test_what_was_measured_is_known_again(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tasks = speed.plan(quick, 2)
    (tmp_path / "speed.jsonl").write_text("".join(json.dumps({**task, "seconds": 1.0}) + "\n" for task in tasks))
    runs = tables.Runs("speed", list(tasks[0]))
    assert len({runs.key(task) for task in tasks}) == len(tasks)
    assert [row["seconds"] for row in runs.complete(pytest.fail, tasks)] == [1.0] * len(tasks)
    elsewhere = speed.plan(quick, 1)  # fewer threads: nothing of it is known
    assert not {runs.key(task) for task in elsewhere} & {runs.key(row) for row in runs.rows}


def test_the_floor_of_a_search_is_counted_from_above_the_layer():
    parts, every = speed_setup.collect("tiny", 4, 8)
    layers = {layer.name: layer for layer in candidate_layers(speed_setup.load("tiny")[0])}
    first, last = (layers[f"vision_model.encoder.layers.{i}.mlp.fc1"] for i in (0, 2))
    nothing, top, low, twice, short = (
        speed_floor.search_flops("tiny", tried, {layer for layer, _ in tried}, parts, every)
        for tried in ([], [(last, None)], [(first, None)], [(first, None)] * 2, [(first, None), (first, 1)])
    )
    unkept = speed_floor.search_flops("tiny", [(last, None), (first, None)], {last}, parts, every)
    n_forget, n_retain = len(parts["validation_forget"]), len(parts["validation_retain"])
    # an image has 2 x 2 patches and a class token; a block's matrices are as large as 12 of these
    tokens, matrix, projection = 5, 2 * 64 * 64, 2 * 64 * 32
    # the MLP of the first block, the second, and of the last one what its attention reads, and the class token's way
    above_first = matrix * (8 * tokens + 12 * tokens + 3 * tokens + 9) + projection
    above_last = matrix * 8 + projection
    assert low - nothing == pytest.approx(above_first * (n_forget + n_retain))
    assert top - nothing == pytest.approx(above_last * (n_forget + n_retain))
    assert twice - low == pytest.approx(above_first * n_forget)
    assert short - low == pytest.approx(above_first)
    assert unkept - top == pytest.approx(above_first * n_forget)
