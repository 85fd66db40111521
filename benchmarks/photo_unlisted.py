# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
What becomes of people whom the retain set does not show: the five of Table 1 forgotten, with eight others left out of all that says what is kept.

    HF_SLUG_DATA=../shared/data python benchmarks/photo_unlisted.py             # an hour or two; goes on where it was stopped
    HF_SLUG_DATA=../shared/data python benchmarks/photo_unlisted.py --quick     # one person, one seed, SLUG by both directions

Writes `benchmarks/results/photo_unlisted.md`. In all other tables the retain set shows everybody that is asked for.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from photo_data import DEVELOPMENT, MODEL, PEOPLE, SEEDS, Score, collect, load_model, mark_of
from photo_methods import METHODS, PLAIN, WIDELY, apply, current, settings_of
from photo_picture import TITLES, falls
from photo_report import left
from photo_sources import FACE_NAMES
from tables import Runs, markdown, percent, percents, write


UNLISTED = DEVELOPMENT[:8]  # nobody reports them
CHOSEN = ("SLUG", PLAIN, "GAFT", "SSD")  # and of the others the two that keep most
KEPT = {"listed": "fall of people it shows", "unlisted": "fall of people it does not", "objects": "fall of objects"}


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One method, one person, one seed: what is left of the person, of people who are listed, of those who are not, and of objects."""
    model, processor = load_model(task["model"])
    concept = task["concept"]
    photographs = collect(concept, task["seed"], unlisted=UNLISTED)
    score = Score(photographs, "test_", processor, model)
    listed = tuple(name for name in FACE_NAMES if name not in UNLISTED)
    # the names that don't count
    groups = {"listed": UNLISTED, "unlisted": listed}

    def measure(model: Any, struck: tuple[str, ...] = ()) -> dict[str, float]:
        embedded = score.embed(model)
        found = {kind: score(model, gone, embedded, struck) for kind, gone in groups.items()}
        people = {kind: own["people"] for kind, own in found.items()}
        return {**people, **{key: found["listed"][key] for key in ("fa1", "fa5", "objects")}}

    struck = measure(model, (concept,))
    outcome = apply(task["method"], model, processor, photographs, task["seed"])
    after = measure(outcome.model)
    told = {"n_forget": score.n_forget, "chosen": outcome.chosen, "forgotten_on_validation": outcome.forgotten}
    return {"struck": struck, "after": after, "seconds": outcome.seconds, **told}


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes every method's means, and the worst person of SLUG."""
    lines = []
    for method in [m for m in METHODS if any(row["method"] == m for row in rows)]:
        own = [row for row in rows if row["method"] == method]
        worst = max(falls(own, "unlisted"))
        reached = f"{sum(row['forgotten_on_validation'] for row in own)} of {len(own)}"
        kept = [percents(falls(own, key)) for key in KEPT]
        lines.append([TITLES[method], left(own, "fa1"), left(own, "fa5"), *kept, percent(worst), reached])
    header = ["", "FA@1 ↓", "FA@5 ↓", *KEPT.values(), "worst of those not shown", "forgotten on validation"]
    text = (
        f"{', '.join(dict.fromkeys(row['concept'] for row in rows))} forgotten one by one, seeds {sorted({row['seed'] for row in rows})}, with "
        f"{', '.join(UNLISTED)} in no retain or validation set (they are among the fifty names all the same, and the CLIP was trained on them). "
        f"On test photographs, in percent; falls in points from the untouched model with the forgotten name struck, mean ± half a 95 % interval "
        f"over people forgotten. *Worst*: the person whose forgetting costs those not shown most. Intervals, grids and rules are those of `photo_tables.md`."
    )
    write(name, ["# People whom the retain set does not show", text, markdown(header, lines)], rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--concepts", nargs="+", default=PEOPLE, choices=PEOPLE, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=CHOSEN, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one person, one seed, SLUG by both directions")
    args = parser.parse_args()
    name = "photo_unlisted"
    if args.quick:
        name, args.concepts, args.seeds, args.methods = f"{name}_quick", PEOPLE[:1], SEEDS[:1], WIDELY
    load_model(args.model)
    mark = mark_of(args.model)
    tasks = [
        {"method": m, "concept": c, "seed": seed, "model": args.model, "weights": mark, "settings": settings_of(m)}
        for m in args.methods
        for seed in args.seeds
        for c in args.concepts
    ]
    runs = Runs(name, ("method", "concept", "seed", "weights", "settings"))
    runs.complete(run, tasks, args.workers, after=lambda rows: write_table(name, current(rows, mark)))


if __name__ == "__main__":
    main()
