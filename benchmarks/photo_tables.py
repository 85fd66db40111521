# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
SLUG's Tables 1 and 2 on photographs: people and objects forgotten by SLUG and by every method the paper compares it with.

    HF_SLUG_DATA=../shared/data python benchmarks/train_photo_clip.py   # half an hour, once
    HF_SLUG_DATA=../shared/data python benchmarks/photo_tables.py       # hours; goes on where it was stopped

All methods run on one model, on the same photographs, their hyper-parameters chosen by the same rule on the same validation photographs
(`photo_methods.py` has the grids). What is reported was seen by none of them. Writes `benchmarks/results/photo_tables.md`; with
`--quick` one person and one object with the quickest methods, to `photo_tables_quick.md`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from photo_data import MODEL, OBJECTS, PEOPLE, Score, collect, load_model
from photo_methods import GRIDS, METHODS, RISK, SLUG, apply
from tables import RESULTS, Runs, markdown, measured, percent, percents, shares, write


PATCHES = Path(".cache/photo-patches")
KINDS = {
    "people": ("Five people (the paper's Table 1)", PEOPLE),
    "objects": ("Seven objects (the paper's Table 2)", OBJECTS),
}
MEASURES = ("fa1", "fa5", "objects", "people", "near")


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One method, one concept, one seed: what the test photographs say before and after, and what it cost."""
    model, processor = load_model(task["model"])
    photographs = collect(task["concept"], task["seed"])
    score = Score(photographs, "test_", processor, model)
    before = score(model)
    with measured() as cost:
        outcome = apply(task["method"], model, processor, photographs, task["seed"])
    if task["method"] == "SLUG":
        outcome.patch.save_pretrained(PATCHES / str(task["seed"]) / task["concept"])
    return {
        "before": before,
        "after": score(outcome.model),
        "n_forget": score.n_forget,
        "n_retain": score.n_retain,
        "wall_seconds": cost.seconds,
        "seconds": outcome.seconds,
        "one_run": outcome.one_run,
        "peak_bytes": cost.peak_bytes,
        "stored_bytes": outcome.stored_bytes,
        "chosen": outcome.chosen,
        "forgotten_on_validation": outcome.forgotten,
    }


def table(rows: Sequence[dict[str, Any]], kind: str) -> str:
    """All methods on one kind of concept: means over concepts and seeds."""
    lines = []
    untouched = {(row["concept"], row["seed"]): row["before"] for row in rows}
    cells = [percents([before[key] for before in untouched.values()]) for key in MEASURES]
    lines.append(["untouched", *cells, "", "", "", "", ""])
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        cells = [_left(own, key) for key in MEASURES[:2]]
        cells += [percents([row["before"][key] - row["after"][key] for row in own]) for key in MEASURES[2:]]
        costs = [
            sum(row[key] for row in own) / len(own) for key in ("seconds", "one_run", "peak_bytes", "stored_bytes")
        ]
        done = sum(row["forgotten_on_validation"] for row in own)
        figures = [f"{costs[0]:.0f}", f"{costs[1]:.0f}", f"{costs[2] / 2**20:.0f}", f"{costs[3] / 1e6:.2f}"]
        lines.append([method, *cells, f"{done} of {len(own)}", *figures])
    header = ["", "FA@1 ↓", "FA@5 ↓", "objects", "other people" if kind == "people" else "people", "nearest names"]
    header += ["forgotten on validation", "s, all tried", "s, chosen", "peak MiB", "MB stored"]
    return markdown(header, lines)


def _left(rows: Sequence[dict[str, Any]], key: str) -> str:
    return shares([row["after"][key] for row in rows], [row["n_forget"] for row in rows])


def by_concept(rows: Sequence[dict[str, Any]]) -> str:
    """SLUG on every concept."""
    lines = []
    own = [row for row in rows if row["method"] == "SLUG"]
    for concept in dict.fromkeys(row["concept"] for row in own):
        mine = [row for row in own if row["concept"] == concept]
        falls = [[row["before"][key] - row["after"][key] for row in mine] for key in MEASURES[2:]]
        cells = [_left(mine, key) for key in MEASURES[:2]]
        layers = dict.fromkeys(row["chosen"].replace("_model.encoder.layers", "") for row in mine)
        lines.append([concept, mine[0]["n_forget"], *cells, *map(percents, falls), "; ".join(layers)])
    header = ["SLUG", "n", "FA@1", "FA@5", "objects, fall", "people, fall", "nearest, fall", "layers, by seed"]
    return markdown(header, lines)


def compare(rows: Sequence[dict[str, Any]]) -> str:
    """Says of every other method where it is worse than SLUG, and where it is not."""

    def means(method: str) -> dict[str, float]:
        own = [row for row in rows if row["method"] == method]
        result = {key: sum(row["after"][key] for row in own) / len(own) for key in ("fa1", "fa5")}
        for key in ("objects", "people"):
            result[key] = sum(row["before"][key] - row["after"][key] for row in own) / len(own)
        return result

    ours, sentences = means("SLUG"), []
    names = {"fa1": "FA@1", "fa5": "FA@5", "objects": "fall of objects", "people": "fall of people"}
    for method in [m for m in METHODS if m != "SLUG" and any(row["method"] == m for row in rows)]:
        theirs = means(method)
        parts = []
        for title, chosen in (
            ("worse", [k for k in names if theirs[k] > ours[k] + 5e-4]),
            ("better", [k for k in names if theirs[k] < ours[k] - 5e-4]),
        ):
            said = ", ".join(f"{names[k]} {percent(theirs[k])} against {percent(ours[k])}" for k in chosen)
            parts.append(f"{title} in {said}" if said else f"{title} in nothing")
        sentences.append(f"- {method}: {'; '.join(parts)}.")
    return "\n".join(["Beside SLUG (differences under 0.05 points are none):", "", *sentences])


def draw(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Draws every method by what it leaves of the concept and what it costs the rest: the lower left corner is best."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(KINDS), figsize=(10, 4), layout="constrained")
    for axis, (title, concepts) in zip(axes, KINDS.values()):
        for method in METHODS:
            own = [row for row in rows if row["method"] == method and row["concept"] in concepts]
            if own:
                falls = [
                    100 * (row["before"][key] - row["after"][key]) for row in own for key in ("people", "objects")
                ]
                left = [100 * row["after"]["fa5"] for row in own]
                point = fmean(falls), fmean(left)
                axis.plot(*point, "o", markersize=9 if method == "SLUG" else 6)
                axis.annotate(method, point, xytext=(5, 5), textcoords="offset points", fontsize=8)
        axis.axvline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="fall of what is kept (points)", ylabel="FA@5 (%)")
        axis.margins(x=0.2, y=0.15)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)


def write_tables(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Writes every table there are rows for."""
    parts = ["# Forgetting people and objects of a CLIP on photographs"]
    for kind, (title, concepts) in KINDS.items():
        own = [row for row in rows if row["concept"] in concepts]
        if not any(row["method"] == "SLUG" for row in own):
            continue
        seeds = sorted({row["seed"] for row in own})
        parts += [
            f"## {title}",
            f"Concepts: {', '.join(dict.fromkeys(row['concept'] for row in own))}; seeds {seeds}; {own[0]['n_forget']} test photographs of "
            f"the concept and {own[0]['n_retain']:,} others a run. All in percent, among all fifty names. FA: the share of all runs' "
            f"photographs [95 % interval by Wilson]. Of what is kept (mean over names, the forgotten one left out) the fall in points, but "
            f"for the untouched model its accuracy: mean ± half a 95 % interval over runs (seeds share photographs, so it is a little "
            f"narrow). *Nearest names*: the five that the text tower finds most like the concept.",
            table(own, kind),
            by_concept(own),
            compare(own),
        ]
    draw(rows, name)
    parts.append(f"![Methods by what they leave and what they cost]({name}.png)")
    grids = "; ".join(
        f"{title}: {', '.join(f'{k} {list(v)}' for k, v in grid.items())}" for title, grid in GRIDS.items()
    )
    parts += [
        "## How the settings were chosen",
        f"Of every grid the setting and epoch are taken, per concept and seed, that forget on validation (FA@5 = 0, and by their margins "
        f"at most {RISK:.0%} of further photographs recognised) and keep most there; where none forgets, the lowest FA@5. SLUG searches "
        f"layer and step by the same rule. Grids: {grids}. AdamW, batches of 64 of the concept and of one photograph of every other name, all "
        f"weights but the temperature. *s, all tried* holds the whole grid (SLUG: the whole search), with its validation; seconds are those of "
        f"the processor, what a run takes on a core of its own.",
    ]
    write(name, parts, note="One thread a run.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--concepts", nargs="+", default=[*PEOPLE, *OBJECTS])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one person, one object, one seed, SLUG, GA and SSD")
    args = parser.parse_args()
    name = "photo_tables"
    if args.quick:
        name, args.seeds, args.methods = "photo_tables_quick", [0], [*SLUG, "GA", "SSD"]
        args.concepts = [PEOPLE[0], OBJECTS[0]]
    load_model(args.model)  # before anything long begins
    tasks = [
        {"method": method, "concept": concept, "seed": seed, "model": args.model}
        for seed in args.seeds
        for method in args.methods
        for concept in args.concepts
    ]
    runs = Runs(name, ("method", "concept", "seed"))
    runs.complete(run, tasks, args.workers, after=lambda rows: write_tables(rows, name))
    write_tables(runs.rows, name)


if __name__ == "__main__":
    main()
