# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Several processes find what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shared_work
import torch
from conftest import make_clip

from hf_slug.processes import ALONE, Processes, launched


HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_find_what_one_does(processor, tmp_path):
    folder = tmp_path
    make_clip().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    shared_work.main(str(folder / "model"), str(folder / "1.pt"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(HERE / "shared_work.py"), str(folder / "model"), str(folder / "2.pt")),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(folder / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert (one["count"], two["count"]) == (1, 2) and one.keys() == two.keys()
    kinds = [key for key in one if key.startswith(("forget", "retain", "moments"))]
    assert len(kinds) == 26
    for key in kinds:
        assert one[key].keys() == two[key].keys() and one[key]
        for name, expected in one[key].items():
            assert (two[key][name] - expected).norm() <= 1e-5 * expected.norm(), (key, name)
    assert 0 < two.pop("completed") < one.pop("completed")  # of several layers each process has its own
    in_vain, shared = (run.pop("search in vain") for run in (one, two))
    assert len(in_vain) > 4 and in_vain[-1] is False and in_vain[-2:] == shared[-2:]
    for row, other in zip(in_vain[:-2], shared[:-2], strict=True):
        assert row[:1] == other[:1] and other[1] == pytest.approx(row[1]) and other[2] == pytest.approx(row[2])
        assert "n" not in row[2] and row[2]["fa1"] > 0
    searches = [key for key in one if key.startswith("search")]
    assert len(searches) == 4 and [one[key] for key in searches] == [two[key] for key in searches]
    assert [len({row[0] for row in one[key][:-2]}) for key in searches] == [3, 3, 2, 5]
    assert one["what differs"] == "" and "have read other pairs, or in another order" in two["what differs"]
    assert "(7, " in two["what is missing"] and one["what is missing"] == ""  # all are told, and none waits
    runs = [key for key in one if key.startswith("unlearn")]
    assert len(runs) == 2
    for key in runs:
        expected, got = one[key], two[key]
        assert (expected["processes"], got["processes"]) == (1, 2)
        for i, tolerance in enumerate(({"rtol": 1e-5, "atol": 0}, {"rtol": 0, "atol": 1e-5})):  # importance; alignment
            torch.testing.assert_close(got["scores"][:, i], expected["scores"][:, i], **tolerance)
        assert got["chosen"]["layer"] == expected["chosen"]["layer"]
        assert got["chosen"]["step_size"] == pytest.approx(expected["chosen"]["step_size"], rel=1e-5)
        assert [row[0] for row in got["search"]] == [row[0] for row in expected["search"]]
        assert [row[2] for row in got["search"]] == [row[2] for row in expected["search"]]
        assert got["metrics"]["after"] == pytest.approx(expected["metrics"]["after"])
        assert (got["weights"] - expected["weights"]).norm() <= 1e-4 * expected["weights"].norm()


def test_every_item_is_somebodys():
    class State:
        def __init__(self, rank):
            self.process_index, self.num_processes = rank, 3

    shares = [list(Processes(State(rank)).mine("abcdefg")) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(enumerate("abcdefg"))
    for count, most, size in ((200, 64, 34), (13, 3, 3), (13, 64, 5), (1, 64, 1), (192, 64, 64), (0, 64, 64)):
        assert Processes(State(0)).share(count, most) == size <= most
        held = [
            sum(min(size, count - start) for _, start in Processes(State(r)).mine(range(0, count, size)))
            for r in range(3)
        ]
        assert sum(held) == count and max(held) - min(held) <= size
    assert ALONE.share(200, 64) == 64
    assert list(ALONE.mine("ab")) == [(0, "a"), (1, "b")] and ALONE.is_main
    assert [Processes(State(rank)).is_main for rank in range(3)] == [True, False, False]


def test_one_process_joins_no_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() is None
    assert launched("auto") is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched("cpu") is None


@pytest.mark.parametrize("device", ["cuda:0", "auto", "cpu:0"])
def test_processes_do_not_share_a_device(device, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"2 processes were started.*--device {device}"):
        launched(device)
