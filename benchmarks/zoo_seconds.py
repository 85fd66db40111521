# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
How long each method takes to forget a concept of the zoo's Stable Diffusion, all in turn: `zoo_canvas.py`'s rows are of several days, and a machine
that is shared is not as fast on each.

    python benchmarks/zoo_seconds.py            # half an hour, in which nothing else should run; goes on where it was stopped
    python benchmarks/zoo_seconds.py --quick    # a minute or two: one style, one round

Writes `benchmarks/results/zoo_seconds.md`. SLUG with its search and without; of the others one training, at the setting that `zoo_canvas.py` has chosen
most often for the concept.
"""

import argparse
import json
import time
from collections import Counter
from statistics import fmean
from typing import Any

from tables import Runs, mark, markdown, say_reached, write
from zoo_canvas import CONCEPTS
from zoo_canvas_report import Rows, by_kind, of, say
from zoo_erasers import GRIDS, TRAININGS, forget_by_slug, settings, settings_of

from hf_slug import zoo


NAME, ROUNDS = "zoo_seconds", 3
METHODS = ("SLUG", *GRIDS)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One method, one concept, one round, which is its seed, too."""
    pipe, concept, seed = zoo.load_stable_diffusion(), task["concept"], task["round"]
    if task["method"] == "SLUG":
        found = forget_by_slug(pipe, "SLUG", concept, seed)
        return {"seconds": found.seconds, "seconds_all": found.seconds_all}
    train = TRAININGS[task["method"]](pipe, concept, seed)
    started = time.process_time()
    train(**task["setting"])
    return {"seconds": time.process_time() - started}


def chosen(method: str, concept: str) -> dict[str, Any]:
    """The setting that was chosen most often for a concept, or the first of the grid."""
    rows = of(Runs("zoo_canvas", ()).rows, method, concept=concept, settings=settings_of(method))
    often = Counter(json.dumps(row["setting"]) for row in rows).most_common(1)
    return json.loads(often[0][0]) if often else settings(method)[0]


def mark_of(method: str, setting: dict[str, Any]) -> str:
    """A mark of all that is set: a row of other settings is not one of the table."""
    return mark([settings_of(method), setting])


def current(rows: Rows) -> Rows:
    """Those by the settings of today."""
    return [row for row in rows if row["settings"] == mark_of(row["method"], row["setting"])]


def verdict(title: str, rows: Rows) -> list[list[str]]:
    """SLUG's seconds are to be a tenth of ESD's; nothing before both were timed."""
    if not (of(rows, "SLUG") and of(rows, "ESD")):
        return []
    esd = fmean(row["seconds"] for row in of(rows, "ESD"))
    lines = []
    for key, words in (
        ("seconds", "both at a setting that is known"),
        ("seconds_all", "ours with its search, ESD's without"),
    ):
        share = fmean(row[key] for row in of(rows, "SLUG")) / esd
        lines.append([title, f"seconds ≤ 1/10 of ESD's, {words}", f"1/{1 / share:.1f}", say_reached(share <= 0.1)])
    return lines


def write_table(name: str, rows: Rows) -> None:
    """Writes the means, each round, and whether the goal is reached."""
    parts = [
        "# Seconds of forgetting a concept of the zoo's Stable Diffusion",
        "Of the processor, one thread, the methods in turn and nothing beside them. SLUG's gradients alone, and with the search for layer and step, "
        "without a report. Of the others one training at the setting that was chosen most often for the concept.",
    ]
    for title, own in by_kind(rows).items():
        lines = []
        for method in METHODS:
            mine = of(own, method)
            for key, words in (("seconds", ""), ("seconds_all", " with its search")):
                seconds = [row[key] for row in mine if key in row]
                if seconds:
                    each = " ".join(f"{value:.1f}" for value in seconds)
                    tried = "; ".join(dict.fromkeys(say(row["setting"]) for row in mine if row["setting"]))
                    lines.append([f"{method}{words}", f"{fmean(seconds):.2f}", each, tried])
        parts += [
            f"## {title}",
            f"Concepts: {', '.join(dict.fromkeys(row['concept'] for row in own))}.",
            markdown(["", "s", "each", "setting"], lines),
        ]
        if reached := verdict(title.lower(), own):
            parts.append(markdown(["", "goal", "found", "reached"], reached))
    write(name, parts, note="One thread.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS[1:3], help="default: a digit and a style")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one style, one round, SLUG and UCE")
    args = parser.parse_args()
    name, methods = NAME, METHODS
    if args.quick:
        name, args.concepts, args.rounds, methods = f"{NAME}_quick", CONCEPTS[2:3], 1, ("SLUG", "UCE")
    given = {(m, c): {} if m == "SLUG" else chosen(m, c) for m in methods for c in args.concepts}
    tasks = [
        {"method": m, "concept": c, "round": i, "setting": given[m, c], "settings": mark_of(m, given[m, c])}
        for i in range(args.rounds)
        for c in args.concepts
        for m in methods
    ]
    runs = Runs(name, ("method", "concept", "round", "settings"))
    known = {runs.key(task) for task in tasks}
    runs.complete(run, tasks, 1, lambda rows: write_table(name, [row for row in rows if runs.key(row) in known]))


if __name__ == "__main__":
    main()
