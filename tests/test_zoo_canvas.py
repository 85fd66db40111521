# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the UnlearnCanvas table of `benchmarks/` rests on: its distance, its choice of settings, and what it counts."""

import json
import math

import pytest
import tables
import torch
import zoo_erasers
import zoo_seconds
from zoo_canvas_report import METHODS, beaten, complete, edges, qualities, verdict
from zoo_erasers import GRIDS, QUICK, best_of, changed_bytes, neighbour, search_evaluator, settings, split_prompts
from zoo_pictures import frechet_distance, score

from hf_slug import zoo
from hf_slug.zoo.unlearning import PROMPTS


def with_moments(mean, deviation):
    """Four points of a plane, of this mean and these (uncorrelated) standard deviations."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double() * (3 / 4) ** 0.5
    return torch.tensor(mean) + corners * torch.tensor(deviation)


def test_frechet_distance_of_gaussians_by_hand():
    first, second = with_moments([0.0, 1.0], [1.0, 2.0]), with_moments([3.0, 5.0], [4.0, 2.0])
    # 3² + 4² + (1 − 4)² + (2 − 2)²
    assert frechet_distance(first, second) == pytest.approx(34)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_scores_are_those_of_unlearn_canvas():
    shown = {prompt: names for prompt, names in PROMPTS.items()}
    assert score(list(shown.items()), ("seven",)) == {
        **{"ua": 0.0, "worst_ua": 0.0, "digits": 1.0, "styles": 1.0, "ira": 1.0, "cra": 1.0, "cra_forget": 1.0}
    }
    for prompt, (digit, style) in shown.items():
        seen = "one" if digit == "seven" else "two" if style == "ink" else digit
        shown[prompt] = (seen, "fire" if style == "neon" else style)
    found = score(list(shown.items()), ("seven",))
    # of 9 kept digits in ink all but one are now a two; a tenth of all pictures are in another style
    assert found["ua"] == 1 and found["ira"] == pytest.approx(1 - 8 / 90) and found["cra"] == pytest.approx(0.9)


def test_forgetting_comes_before_keeping():
    def best(*looks):
        return best_of([{"fa1": 1 - ua, "ira": ira, "cra": cra} for ua, ira, cra in looks])

    assert best((0.975, 1, 1), (1, 0.5, 0.5)) == 1
    assert best((1, 0.9, 0.8), (1, 1, 0.6)) == 0
    assert best((1, 0.9, 0.8), (0.99, 1, 1)) == 1  # one picture of a hundred is no difference


def test_only_what_changed_is_counted():
    before = torch.zeros(100)
    after = before.clone()
    assert changed_bytes(before, after) == 0
    after[:10] = 1
    assert changed_bytes(before, after) == 10 * 4 + 13  # a bit for each of 100 weights
    assert changed_bytes(before, before + 1) == 400


def test_a_quick_run_tries_the_first_setting_of_each_grid():
    for method, parts in GRIDS.items():
        every = settings(method)
        sizes = [math.prod(len(values) for values in part.values()) for part in parts]
        assert len({str(setting) for setting in every}) == len(every) == sum(sizes)
        assert settings(method, quick=True) == [every[0] | QUICK[method]]


def test_methods_are_told_the_same_prompts_and_an_own_neighbour():
    own, keep = split_prompts("neon")
    assert sorted(own + keep) == sorted(PROMPTS) and own == [p for p in PROMPTS if "neon" in p]
    pipe = zoo.load_stable_diffusion()
    near = neighbour(pipe, "neon")
    assert near in zoo.data.STYLES and near != "neon"
    evaluator = search_evaluator("neon")
    assert {prompt for prompt, _ in evaluator.forget} == set(own)
    assert {prompt for prompt, _ in evaluator.retain} == set(keep)


def rows_of(**better):
    row = {"ua": 1.0, "ira": 0.9, "cra": 0.9, "distance": 5.0, "seconds": 100.0, "seconds_all": 100.0}
    row |= {"peak_bytes": 1e6, "stored_bytes": 10, "encoder_bytes": 1000, "seed": 0, "per_prompt": 5}
    return [{"method": method, "concept": "neon", **row, **better.get(method, {})} for method in METHODS]


def test_settings_at_an_end_of_their_axis_are_said():
    settings = [{"variant": "x", "lr": lr, "steps": 1000} for lr in (1e-4, 1e-4, 3e-5)]
    settings += [{"variant": "u", "lr": 3e-5, "steps": 1000}]  # the middle of one axis, the end of the other
    assert edges([{"method": "ESD", "setting": setting} for setting in settings]) == (
        "Chosen at an end of an axis: ESD (of 4 runs): x, lr 0.0001 2 times; u, lr 3e-05 1 times."
    )
    assert edges([{"method": "ESD", "setting": settings[2]}]) == ""


def test_the_verdict_does_not_flatter():
    fast = {"seconds": 9.0, "seconds_all": 9.0}
    reached = [line[-1] for line in verdict("", rows_of(SLUG={**fast, "ira": 0.95}))]
    assert reached == ["yes"] * 6
    slow = verdict("", rows_of(SLUG={"ira": 0.95, "seconds_all": 11.0}))
    assert [line[-1] for line in slow] == ["yes"] * 4 + ["**no**", "yes"]
    lines = verdict("", rows_of(SLUG={**fast, "stored_bytes": 11}, UCE={"ira": 0.93}))
    assert [line[1].split()[0] for line in lines if line[-1] != "yes"] == ["IRA", "mean", "bytes"]
    assert verdict("", rows_of(SLUG=fast))[3][-1] != "yes"  # a tie is not above
    assert "; 96.67 would be all forgotten" in verdict("", rows_of(untouched={"ira": 1.0, "ua": 0.0}))[3][2]
    assert "UCE in IRA (93.00 against 90.00)" in beaten(rows_of(UCE={"ira": 0.93}))
    assert "UCE in the mean of these (94.33 against 93.33)" in beaten(rows_of(UCE={"ira": 0.93}))
    assert beaten(rows_of()).startswith("No other method")


def test_seconds_are_compared_where_all_were_timed_in_turn(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [
        {
            "method": method,
            "concept": "neon",
            "round": i,
            "setting": setting,
            "settings": "x",
            "seconds": seconds,
            **more,
        }
        for i in range(2)
        for method, setting, seconds, more in (
            ("SLUG", {}, 6.0, {"seconds_all": 11.0 + 2 * i}),
            ("ESD", {"lr": 1e-4}, 110.0, {}),
        )
    ]
    assert [line[2:] for line in zoo_seconds.verdict("", rows)] == [["1/18.3", "yes"], ["1/9.2", "**no**"]]
    zoo_seconds.write_table("zoo_seconds", rows)
    text = (tmp_path / "zoo_seconds.md").read_text()
    assert (
        "| SLUG with its search | 12.00 | 11.0 13.0 |  |" in text
        and "| ESD | 110.00 | 110.0 110.0 | lr 0.0001 |" in text
    )
    assert zoo_seconds.current(rows) == []  # of other settings
    assert zoo_seconds.chosen("UCE", "neon") == settings("UCE")[0]  # of which nothing is known
    known = {"method": "UCE", "concept": "neon", "settings": zoo_erasers.settings_of("UCE")}
    tried = [{**known, "setting": {"damping": value}} for value in (1.0, 0.1, 0.1)]
    (tmp_path / "zoo_canvas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tried))
    assert zoo_seconds.chosen("UCE", "neon") == {"damping": 0.1}


def test_methods_are_compared_on_what_all_were_run_on():
    rows = rows_of()
    late = [{**row, "seed": 1} for row in rows if row["method"] != "ESD"]
    assert complete([*late, *rows]) == rows and complete(late) == []
    assert qualities(rows[:1]) == ["100.00 [92.9, 100.0]", "90.00 [86.9, 92.4]", "90.00 [86.9, 92.4]", "93.33"]
