# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Writes into README.md what the benchmarks of the photographs have found, between its marks, from the rows in `benchmarks/results`.

    python benchmarks/readme.py
"""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from photo_data import EVERYONE, OBJECTS, PEOPLE, STACKED
from photo_methods import METHODS, current
from photo_report import falls, left
from photo_stacks import FITTED, SEARCHED, mark_of_stacks, summarize
from tables import Runs, markdown, percents


README = Path(__file__).parent.parent / "README.md"
Rows = list[dict[str, Any]]


def last(name: str) -> Rows:
    """The rows of a table of photographs: those of the model that was last run."""
    rows = Runs(name, ()).rows
    return current(rows, rows[-1]["weights"])


def line(title: str, rows: Rows) -> list[str]:
    """What is left of some concepts and what that costs, with how many runs validation calls a success."""
    kept = [percents(falls(rows, key)) for key in ("objects", "people")]
    reached = sum(row["forgotten_on_validation"] for row in rows)
    return [title, left(rows, "fa1"), left(rows, "fa5"), *kept, f"{reached} of {len(rows)}"]


def photographs() -> str:
    """SLUG and every other method on Tables 1 and 2; more people, stacks, another checkpoint."""
    lines: list[Sequence[str]] = []
    rows, other = last("photo_tables"), last("photo_tables_other")
    for kind, concepts in (("five people", PEOPLE), ("seven objects", OBJECTS)):
        for method in METHODS:
            own = [row for row in rows if row["method"] == method and row["concept"] in concepts]
            if own:
                lines.append(line(f"{kind}: {'**SLUG**' if method == 'SLUG' else method}", own))
    more = [row for row in rows if row["method"] == "SLUG" and row["concept"] in EVERYONE]
    if len({row["concept"] for row in more}) > len(PEOPLE):
        lines.append(line(f"{len({row['concept'] for row in more})} people: SLUG", more))
    for kind, own in (
        ("people", [row for row in other if row["concept"] not in OBJECTS]),
        ("objects", [row for row in other if row["concept"] in OBJECTS]),
    ):
        if own:
            lines.append(line(f"{len({row['concept'] for row in own})} {kind} of another checkpoint: SLUG", own))
    mark = mark_of_stacks(rows[-1]["weights"])
    stacks = [row for row in Runs("photo_stacks", ()).rows if (row["count"], row["mark"]) == (len(STACKED), mark)]
    for weights in (SEARCHED, FITTED) if stacks else ():
        fa1, fa5, _, people, objects = summarize([row for row in stacks if row["weights"] == weights])
        lines.append([f"{len(STACKED)} people at once, weights {weights}: SLUG", fa1, fa5, objects, people, ""])
    whole = [row for row in rows if not row.get("tried")]
    seconds = {
        method: fmean(own) for method in METHODS if (own := [r["seconds"] for r in whole if r["method"] == method])
    }
    costs = ", ".join(f"{method} {value:.0f}" for method, value in seconds.items())
    header = ["", "FA@1 ↓", "FA@5 ↓", "fall of objects", "fall of other people", "forgotten on validation"]
    return f"{markdown(header, lines)}\n\nProcessor seconds of a run, with all that is tried: {costs}."


BLOCKS = {"photographs": photographs}


def fill(text: str) -> str:
    """Puts every block between its marks."""
    for name, block in BLOCKS.items():
        mark = f"<!-- {name}: by benchmarks/readme.py -->"
        whole = re.compile(rf"{re.escape(mark)}\n.*?\n<!-- end of {name} -->", re.DOTALL)
        if not whole.search(text):
            raise ValueError(
                f"README.md has no block that begins with {mark!r} and ends with '<!-- end of {name} -->'."
            )
        found = block()
        text = whole.sub(lambda _: f"{mark}\n{found}\n<!-- end of {name} -->", text)  # noqa: B023
    return text


if __name__ == "__main__":
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
