# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What `speed.py`'s rows say of each goal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
from tables import SEARCH, markdown, say_reached


Row = dict[str, Any]
TOWERS = {"both": "both towers", "text": "the text tower", "vision": "the vision tower"}
FASTER = {("both", ""): 8, ("text", ""): 12, ("text", "statistics"): 25}


def current(rows: Sequence[Row]) -> list[Row]:
    """Those of the machine that was used last and, of whole runs, by the search of today."""
    same = [row for row in rows if all(row[key] == rows[-1][key] for key in ("device", "machine", "threads"))]
    return [row for row in same if row["kind"] != "pipeline" or row["search"] == SEARCH]


def exponent(rows: Sequence[Row]) -> float:
    """That of the power of the number of pairs which seconds grow with, fitted in logarithms."""
    counts, seconds = ([row[key] for row in rows] for key in ("count", "seconds"))
    return float(numpy.polyfit(numpy.log(counts), numpy.log(seconds), 1)[0])


def is_same(row: Row, base: Row) -> bool:
    """Whether two runs chose the same layer and, but for rounding, the same step."""
    return row["layer"] == base["layer"] and math.isclose(row["step_size"], base["step_size"], rel_tol=1e-3)


def times_as_fast(row: Row, base: Row) -> float:
    return base["seconds"] / row["seconds"]


def beside(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Our runs that do what was published, each with the published one of the same towers."""
    published = {row["tower"]: row for row in rows if row["method"] == "published"}
    alike = [row for row in rows if row["method"] == "ours" and row["direction"] == "gradient"]
    return [(row, published[row["tower"]]) for row in alike if row["tower"] in published]


def of_pass_and_search(row: Row) -> float:
    """What a further concept takes, beside one forward and backward pass over its pairs and its search."""
    return row["seconds"] / (row["forget_s"] + row["search_s"])


def largest_difference(scores: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Of importance, relative to itself, and of alignment, the largest difference over all layers."""
    return max(
        max(abs(a[0] / b[0] - 1), abs(a[1] - b[1])) for a, b in zip(scores, others, strict=True) if b[0] or a[0]
    )


def goals(rows: Sequence[Row]) -> str:
    """Each goal there are rows for, what was found, and whether that is enough; or nothing."""
    lines: list[Sequence[str]] = []

    def add(where: str, goal: str, found: str, reached: bool) -> None:
        lines.append([where, goal, found, say_reached(reached)])

    pipelines = [row for row in rows if row["kind"] == "pipeline"]
    for row, base in beside(pipelines):
        where = f"{TOWERS[row['tower']]}{', retain statistics given' if row['given'] else ''}"
        if goal := FASTER.get((row["tower"], row["given"])):
            found = times_as_fast(row, base)
            add(where, f"≥ {goal} times as fast as published", f"{found:.1f}", found >= goal)
        if base["peak_bytes"]:
            share = row["peak_bytes"] / base["peak_bytes"]
            add(where, "peak memory ≤ 0.6 of it", f"{share:.2f}", share <= 0.6)
        chosen = f"{row['layer']}, step {row['step_size']:.4g}"
        add(where, "the same layer and step", chosen, is_same(row, base))
    for row in pipelines:
        if row["given"]:
            where = f"a further concept, {TOWERS[row['tower']]}, {row['direction']}"
            ratio = of_pass_and_search(row)
            add(where, "≤ 1.3 of a forward and backward pass and the search", f"{ratio:.2f}", ratio <= 1.3)
            ratio = row["gradient_s"] / row["gradient_floor_s"]
            add(where, "gradient ≤ 1.5 of its floor", f"{ratio:.2f}", ratio <= 1.5)
    for what in ("forget", "retain"):
        own = [r for r in rows if r["kind"] == "gradient" and r["set"] == what and r["tower"] == "both"]
        if len(own) > 1:
            power = exponent(own)
            add(f"seconds by pairs to {what}", "exponent ≤ 1.05", f"{power:.3f}", power <= 1.05)
    streams = sorted((row for row in rows if row["kind"] == "stream"), key=lambda row: row["count"])
    if len(streams) > 1:
        more = max(row["resident_bytes"] for row in streams) / streams[0]["resident_bytes"] - 1
        where = f"a stream (tiny model) of {streams[0]['count']:,} to {streams[-1]['count']:,} pairs"
        add(where, "memory of the process grows by ≤ 5 %", f"{more:+.1%}", more <= 0.05)
    alone, two = ([r for r in rows if r["kind"] == "processes" and r["processes"] == n] for n in (1, 2))
    if alone and two:
        found = alone[0]["seconds"] / two[0]["seconds"]
        add("two processes, a core each", "gradients ≥ 1.6 times as fast as one's", f"{found:.2f}", found >= 1.6)
        differ = largest_difference(two[0]["scores"], alone[0]["scores"])
        add("two processes, a core each", "scores equal to 1e-5", f"{differ:.1e}", differ <= 1e-5)
    return markdown(["", "goal", "found", "reached"], lines) if lines else ""
