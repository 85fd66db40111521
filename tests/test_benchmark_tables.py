# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: runs that are never repeated, intervals, what a run costs."""

import gc
import json
import os
import time

import numpy as np
import pytest
import tables
import torch
from scipy import stats

from hf_slug.report import wilson_interval


def square(task):
    """One run: says in which process and with how many threads."""
    with open(task["log"], "a") as file:
        file.write(f"{task['n']}\n")
    if task["n"] == task.get("breaks"):
        raise RuntimeError("stopped in the middle")
    return {"square": task["n"] ** 2, "process": os.getpid(), "threads": torch.get_num_threads()}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.mark.slow
def test_a_benchmark_that_was_stopped_goes_on_where_it_was(results, monkeypatch):
    log, kept = results / "log", results / "results" / "squares.jsonl"
    done, left = ({"n": n, "log": str(log)} for n in (3, 1))
    first = {**done, "square": 9, "process": 0, "threads": 1}  # the row of an earlier call
    kept.parent.mkdir()
    kept.write_text(json.dumps(first) + "\n")
    with pytest.raises(RuntimeError, match="stopped in the middle"):
        tables.Runs("squares", ["n"]).complete(square, [done, {**left, "breaks": 1}], workers=1)
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [first]
    seen = []
    rows = tables.Runs("squares", ["n"]).complete(square, [left, done], workers=1, after=lambda r: seen.append(len(r)))
    assert [row["square"] for row in rows] == [1, 9] and rows[1] == first  # in the order asked for
    assert log.read_text().split() == ["1", "1"]  # the one that was done is not done again
    assert seen == [2, 2]
    assert rows[0]["threads"] == 1 and rows[0]["process"] != os.getpid()
    assert [json.loads(line)["n"] for line in kept.read_text().splitlines()] == [3, 1]
    assert tables.Runs("squares", ["n"]).complete(None, [done, left]) == rows[::-1]  # nothing is left to do


@pytest.mark.parametrize("torn", ['{"n": 2, "squ', '{"n": 2, "square": 4}'])
def test_a_row_that_was_being_written_is_run_again(results, torn):
    kept = results / "results" / "squares.jsonl"
    kept.parent.mkdir()
    kept.write_text('{"n": 1, "square": 1}\n' + torn)
    assert tables.Runs("squares", ["n"]).rows == [{"n": 1, "square": 1}]
    assert kept.read_text() == '{"n": 1, "square": 1}\n'
    kept.write_text(torn)
    assert tables.Runs("squares", ["n"]).rows == [] and kept.read_text() == ""


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(0.4, 0.1, n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    mean, half = tables.interval(values.tolist())
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert tables.interval([0.3]) == (0.3, 0.0)


def test_numbers_in_words():
    assert tables.percent(-0.00001) == "0.00" and tables.percent(0.12345, 1) == "12.3"
    assert tables.percents([0.1, 0.1]) == "10.00 ± 0.00"
    assert tables.percents([0.1]) == "10.00"  # one run has no interval
    assert tables.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


def test_cost_is_that_of_what_runs_inside():
    gc.collect()  # or what earlier tests left is freed inside, and taken off
    with tables.measured() as cost:
        held = torch.ones(30_000_000)  # 120 MB
        started = time.perf_counter()
        while time.perf_counter() - started < 0.1:
            pass
    assert cost.seconds >= 0.1 and 100e6 < cost.peak_bytes < 250e6
    del held
    with pytest.raises(ZeroDivisionError), tables.measured() as failed:
        1 / 0  # noqa: B018
    assert 0 < failed.seconds < cost.seconds


def test_a_table_says_how_it_was_made(results, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks/some.py", "--seeds", "0"])
    tables.write("some", ["# Title", "text"], note="One thread.")
    text = (results / "results" / "some.md").read_text()
    assert text.startswith("# Title\n\ntext\n\nMade by `python benchmarks/some.py --seeds 0`")
    assert f"torch {torch.__version__}" in text and text.endswith("One thread.\n")
    made = json.loads((results / "results" / "some.json").read_text())
    assert made["command"] == "python benchmarks/some.py --seeds 0" and made["software"]["torch"] == torch.__version__


def test_a_table_says_of_rows_that_were_measured_elsewhere(results, monkeypatch):
    software = tables.describe_software()
    here = {"made_with": software | {"machine": tables.describe_machine(), "commit": "abc"}}
    there = {"made_with": software | {"machine": "a Cray", "commit": "def+", "torch": "1.0"}}
    tables.write("some", ["text"], rows=[here, there, {}])
    text = (results / "results" / "some.md").read_text()
    assert "2 of 3 are of a Cray; a machine that was not kept" in text and "Commits: abc, def+." in text
    assert "1 of 3 runs are older: torch 1.0." in text
    tables.write("some", ["text"], rows=[here])
    text = (results / "results" / "some.md").read_text()
    assert "older" not in text and "measured again" not in text and "Commits: abc." in text


def test_shares_are_of_all_runs_together():
    low, high = wilson_interval(3, 30)
    assert tables.shares([0.0, 0.3], [20, 10]) == f"10.00 [{100 * low:.1f}, {100 * high:.1f}]"
    assert tables.shares([0.0] * 15, [2] * 15) == "0.00 [0.0, 11.4]"


def test_means_of_shares_vary_over_concepts():
    assert tables.mean_shares([0.0] * 15, [2] * 15) == tables.shares([0.0] * 15, [2] * 15)  # all agree
    assert tables.mean_shares([0.3], [20]) == tables.shares([0.3], [20])
    mean, half = tables.interval([0.0, 0.3, 0.3])
    assert tables.mean_shares([0.0, 0.3, 0.3], [20, 10, 10]) == f"20.00 [0.0, {100 * (mean + half):.1f}]"
