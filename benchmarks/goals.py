# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The goals that were set before anything was measured, beside what the rows say."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import zoo_seconds
from photo_data import OBJECTS, PEOPLE, STACKED
from photo_methods import SLUG
from photo_picture import falls
from photo_report import SHOWN, differences, same_runs, with_no_risk
from photo_stacks import IN_TURN, SEARCHED, WAYS, left_and_lost, some
from tables import by_concept, markdown, percent, say_reached
from zoo_canvas_report import by_kind, verdict


Rows = Sequence[dict[str, Any]]
Line = list[str]  # where, the goal, what was found, and whether that is enough
LEFT, KEPT = {"fa1": "FA@1", "fa5": "FA@5"}, {"objects": "fall of objects", "people": "fall of other people"}
NEAR = 0.02  # of a checkpoint and identities that nothing was built on: as good as the others


def line(where: str, goal: str, found: str, reached: bool) -> Line:
    """One goal."""
    return [where, goal, found, say_reached(reached)]


def at_most(where: str, goal: str, value: float, limit: float) -> Line:
    """One goal: a share, or a fall, of at most so much."""
    return line(where, f"{goal} ≤ {100 * limit:g}", percent(value), value <= limit)


def left(rows: Rows, key: str) -> list[float]:
    return by_concept(rows, lambda row: row["after"][key])


def tables(rows: Rows) -> list[Line]:
    """The paper's Tables 1 and 2 on photographs."""
    slug = [row for row in rows if row["method"] == "SLUG"]
    people, objects = ([row for row in slug if row["concept"] in own] for own in (PEOPLE, OBJECTS))
    where = f"{len(PEOPLE)} people", f"{len(OBJECTS)} objects"
    limits = {"fa1": 0.01, "fa5": 0.03}
    lines = [at_most(where[0], f"mean {LEFT[key]}", fmean(left(people, key)), limits[key]) for key in LEFT]
    for key, limit in {"objects": 0.003, "people": 0.01}.items():
        lines.append(at_most(where[0], f"mean {KEPT[key]}", fmean(falls(people, key)), limit))
    lines.append(at_most(where[1], "each one's FA@1", max(left(objects, "fa1")), 0.01))
    lines.append(at_most(where[1], "mean fall of the other nine", fmean(falls(objects, "objects")), 0.015))
    sure = [row["forgotten_on_validation"] for row in people]
    lines.append(
        line(
            where[0], "FA@1 and FA@5 = 0 on the photographs that chose", f"{sum(sure)} of {len(sure)} runs", all(sure)
        )
    )
    for place, concepts in zip(where, (PEOPLE, OBJECTS), strict=True):
        own = with_no_risk([row for row in rows if row["concept"] in concepts])
        others = [method for method in SHOWN if method not in SLUG]
        both = {method: runs for method in others if (runs := same_runs(own, method))[1]}
        not_worse = [method for method, runs in both.items() if not differences(*runs)["worse"]]
        found = "all" if not not_worse else f"not {'; '.join(not_worse)}: `photo_tables.md` says how"
        lines.append(
            line(place, "each baseline worse than SLUG in one of these (95 % interval)", found, not not_worse)
        )
    return lines


def stacks(rows: Rows) -> list[Line]:
    """The largest stacks, each group apart, as they are loaded."""
    lines = []
    count = len(STACKED[0])
    groups = sorted({row["group"] for row in rows})
    for way in (SEARCHED, IN_TURN):
        found = [left_and_lost(some(rows, group=group, count=count, weights=way)) for group in groups]
        worst, fell = [max(fa5.values()) for fa5, _ in found], [lost for _, lost in found]
        for goal, values in (("every FA@5", worst), ("fall of the 35 others", fell)):
            said = f"{sum(value <= 0.05 for value in values)} of {len(values)} groups; worst {percent(max(values))}"
            lines.append(line(f"{count} at once, {WAYS[way]}", f"{goal} ≤ 5", said, max(values) <= 0.05))
    return lines


def checkpoint(rows: Rows, other: Rows) -> list[Line]:
    """Another checkpoint beside the tables: no measure worse by more than two points."""
    lines = []
    slug, other = ([row for row in own if row["method"] == "SLUG"] for own in (rows, other))
    for title, here, there in (
        ("people", [r for r in slug if r["concept"] in PEOPLE], [r for r in other if r["concept"] not in OBJECTS]),
        ("objects", [r for r in slug if r["concept"] in OBJECTS], [r for r in other if r["concept"] in OBJECTS]),
    ):
        pairs = {name: [fmean(left(own, key)) for own in (there, here)] for key, name in LEFT.items()}
        pairs |= {name: [fmean(falls(own, key)) for own in (there, here)] for key, name in KEPT.items()}
        name, (theirs, ours) = max(pairs.items(), key=lambda pair: pair[1][0] - pair[1][1])
        found = f"the worst is {name}: {percent(theirs)} against {percent(ours)}"
        where = f"{title} of another checkpoint"
        lines.append(line(where, "as in the tables, to 2 points", found, theirs - ours <= NEAR))
    return lines


def canvas(rows: Rows, timed: Rows) -> list[Line]:
    """UnlearnCanvas in small, and its seconds where all methods were timed in turn."""
    lines = []
    seconds = by_kind(timed)
    for title, own in by_kind(rows).items():
        where = f"canvas, {title.lower()}"
        lines += verdict(where, own) + zoo_seconds.verdict(where, seconds.get(title, []))
    return lines


def goals_table(lines: Sequence[Line]) -> str:
    """All goals, in percent and points."""
    return markdown(["", "goal", "found", "reached"], lines)
