# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What all benchmarks share: runs that are kept and not repeated, what a run costs, intervals, and tables that say how they were made."""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from tqdm.auto import tqdm

from hf_slug.report import describe_software, wilson_interval


RESULTS = Path(__file__).parent / "results"
# The bar of the runs is enough; their processes read this when they start.
_QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
# What `unlearn`'s search finds changes with it: rows of another are done again. To be changed by hand when the search is.
SEARCH = "changes of over 16 times the weight last; of the chosen layer the smallest step at a tenth of the risk"


class Runs:
    """
    Rows of a benchmark in a `.jsonl` file: a run that is there is not repeated, so a benchmark goes on where it was stopped.

    Args:
        name (`str`): The file's name in `benchmarks/results`, without its ending.
        keys (`Sequence[str]`): The fields that say which run a row is.
    """

    def __init__(self, name: str, keys: Sequence[str]):
        self.path, self.keys = RESULTS / f"{name}.jsonl", tuple(keys)
        text = self.path.read_text() if self.path.exists() else ""
        whole, _, torn = text.rpartition("\n")
        if torn:  # killed while it was written: that run is done again
            self.path.write_text(whole + "\n" if whole else "")
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def key(self, row: dict[str, Any]) -> tuple:
        return tuple(row[key] for key in self.keys)

    def left(self, tasks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that there is no row of yet."""
        done = {self.key(row) for row in self.rows}
        return [task for task in tasks if self.key(task) not in done]

    def complete(
        self,
        function: Callable[[dict[str, Any]], dict[str, Any]],
        tasks: Iterable[dict[str, Any]],
        workers: int = 2,
        after: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
        threads: int = 1,
    ) -> list[dict[str, Any]]:
        """
        Runs what is not there yet, each in a process of its own (so that its peak of memory is its own).

        Args:
            function (`Callable`): From a task to the further fields of its row. At the top of a module.
            tasks (`Iterable[dict]`): The fields that say which run it is, and whatever else `function` needs.
            workers (`int`, *optional*, defaults to 2): Processes at a time.
            after (`Callable`, *optional*): Called with all rows that are kept after each run, and at the end, e.g. to write the table.
            threads (`int`, *optional*, defaults to 1): Of each process.

        Returns:
            `list[dict]`: The rows of these tasks, in their order.
        """
        tasks = list(tasks)
        if left := self.left(tasks):
            self.path.parent.mkdir(exist_ok=True)
            os.environ |= {name: "1" for name in _QUIET}
            # forked off one that has imported what this one has (several seconds each time, else), before it has any thread
            known = multiprocessing.get_all_start_methods()
            context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
            made_with = describe_software() | {"machine": describe_machine(), "commit": describe_commit()}
            with context.Pool(workers, torch.set_num_threads, (threads,), maxtasksperchild=1) as pool:
                made = pool.imap_unordered(_Run(function, made_with), left, chunksize=1)
                for row in tqdm(made, total=len(left), desc=self.path.stem):
                    self.rows.append(row)
                    with self.path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    after(self.rows)
        by_key = {self.key(row): row for row in self.rows}
        after(self.rows)  # all that are kept, also those of other calls
        return [by_key[self.key(task)] for task in tasks]


def searched_today(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those by the search of today."""
    return [row for row in rows if row["search"] == SEARCH]


def mark(settings: Any) -> str:
    """A short mark of settings (anything JSON can say): rows that were made by others don't belong in one table."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def by_concept(rows: Iterable[Mapping[str, Any]], value: Callable[[Any], float]) -> list[float]:
    """The mean of each concept over its rows, which are seeds that share data."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["concept"], []).append(value(row))
    return [fmean(values) for values in found.values()]


class _Run:
    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]], made_with: dict[str, str]):
        self.function, self.made_with = function, made_with

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        return {**task, **self.function(task), "made_with": self.made_with}


def describe_machine() -> str:
    """The processor, as far as the system tells, and how many cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _git(*command: str) -> str:
    try:
        return subprocess.run(
            ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def _history() -> list[str]:
    # nothing, where it can't be told what is missing: outside a clone, or in a shallow one
    return _git("rev-list", "HEAD").split() if _git("rev-parse", "--is-shallow-repository") == "false" else []


def describe_commit() -> str:
    """The commit that the code is of, with a plus if something was changed since; empty outside a clone."""
    changed = _git("status", "--porcelain", "--", "../hf_slug", "*.py")
    return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


class Cost:
    """What a piece of work cost: `seconds`; `highest`, the most memory taken; `peak_bytes`, how far that is over where it started."""

    def __init__(self) -> None:
        self.seconds = self.highest = self.peak_bytes = 0.0


@contextmanager
def measured(device: torch.device | None = None) -> Iterator[Cost]:
    """Measures wall time and the peak of memory of what runs inside: that of the GPU if it runs on one, else resident memory."""
    cost, gpu = Cost(), device is not None and device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    first = torch.cuda.memory_allocated() if gpu else _resident()
    highest, stop = [first], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], _resident())

    watcher = None if gpu else threading.Thread(target=watch, daemon=True)
    if watcher is not None:
        watcher.start()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        stop.set()
        cost.highest = torch.cuda.max_memory_allocated() if gpu else max(highest[0], _resident())
        cost.peak_bytes = cost.highest - first


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t over independent runs (0 for a single one)."""
    if len(values) < 2:
        return fmean(values), 0.0
    return fmean(values), float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def percent(value: float, digits: int = 2) -> str:
    """A fraction as a percentage, without a minus sign on zero."""
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def say_reached(done: bool) -> str:
    """Whether a goal was reached, so that what was not is seen."""
    return "yes" if done else "**no**"


def percents(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± half an interval, in percent; of a single run, which has none, that alone."""
    mean, half = interval(values)
    return percent(mean, digits) + (f" ± {percent(half, digits)}" if len(values) > 1 else "")


def shares(values: Sequence[float], counts: Sequence[int]) -> str:
    """
    The share of what was counted in all runs together, with its 95 % interval by Wilson, in percent: where every run has none of its
    few photographs, an interval over runs would have no width.

    Args:
        values (`Sequence[float]`): The share of each run, in [0, 1].
        counts (`Sequence[int]`): Of how many.
    """
    found, total = sum(value * count for value, count in zip(values, counts, strict=True)), sum(counts)
    low, high = wilson_interval(found, total)
    return f"{percent(found / total)} [{percent(low, 1)}, {percent(high, 1)}]"


def mean_shares(values: Sequence[float], counts: Sequence[int]) -> str:
    """
    The mean of the shares of several concepts, or runs, [its 95 % interval] in percent.

    On each side it is the wider of Student's over the concepts and Wilson's over all that was counted: where nothing is left of most
    of them, the first would be the narrower the less there is to see.

    Args:
        values (`Sequence[float]`): The share of each concept, in [0, 1].
        counts (`Sequence[int]`): Of how many.
    """
    mean, half = interval(values)
    low, high = wilson_interval(mean * sum(counts), sum(counts))
    return f"{percent(mean)} [{percent(max(min(low, mean - half), 0.0), 1)}, {percent(min(max(high, mean + half), 1.0), 1)}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def write(
    name: str,
    parts: Sequence[str],
    note: str = "",
    folder: Path | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
) -> None:
    """
    Writes `<name>.md`, ending with the command and the versions that made it, and `<name>.json` with these for programs (the
    rows themselves, if there are, are in `<name>.jsonl`).

    Args:
        name (`str`): Without its ending.
        parts (`Sequence[str]`): Paragraphs and tables.
        note (`str`, *optional*): More to say of how it was made.
        folder (`Path`, *optional*): Where to. Defaults to `benchmarks/results`.
        rows (`Sequence[dict]`, *optional*): Those of [`Runs`] it was made from; other versions that made some of them are said.
    """
    command = f"python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    software, machine = describe_software(), describe_machine()
    versions = ", ".join(f"{package} {version}" for package, version in software.items())
    made = f"Made by `{command}` on {machine}; {versions}. {note}"
    known = [row.get("made_with", {}) for row in rows]
    elsewhere = sorted({found.get("machine", "a machine that was not kept") for found in known} - {machine})
    if known and elsewhere:
        made += f" Rows that were there are kept, not measured again: {len([f for f in known if f.get('machine') != machine])} of {len(rows)} are of {'; '.join(elsewhere)}."
    if commits := sorted({found["commit"] for found in known if found.get("commit")}):
        made += f" Commits: {', '.join(commits)}."
        history = _history()
        lost = [one for one in commits if not any(known.startswith(one.removesuffix("+")) for known in history)]
        if history and lost:
            made += f" Of these, {', '.join(lost)} are not in the history: of a branch of somebody's own."
    others = [own for found in known if (own := {key: found[key] for key in software if key in found}) != software]
    for found in [own for i, own in enumerate(others) if own not in others[:i]]:
        different = ", ".join(
            f"{package} {version}" for package, version in found.items() if software.get(package) != version
        )
        made += (
            f" {others.count(found)} of {len(rows)} runs are older: {different or 'of versions that were not kept'}."
        )
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    by = {"command": command, "machine": machine, "software": software, "note": note}
    if (folder / f"{name}.jsonl").exists():
        by["rows"] = f"{name}.jsonl"
    (folder / f"{name}.json").write_text(json.dumps(by, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text("\n\n".join(filter(None, [*parts, made.strip()])) + "\n", encoding="utf-8")
