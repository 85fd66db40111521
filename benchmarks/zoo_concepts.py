# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets each of the zoo's 20 concepts with each of three seeds, and writes the table benchmarks/results/zoo_concepts.md.

    python benchmarks/zoo_concepts.py             # about an hour on two cores; goes on where it was stopped
    python benchmarks/zoo_concepts.py --quick     # two concepts, one seed, the default direction

Every number in the table is from the test handwriting, which neither the
gradient nor the search has seen.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from tables import SEARCH, Runs, markdown, percent, searched_today, write

from hf_slug import UnlearningResult, zoo
from hf_slug.data import load_pairs
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.inputs import embed_images
from hf_slug.report import wilson_interval
from hf_slug.towers import candidate_layers
from hf_slug.zoo.data import CONCEPTS, TEMPLATES, kind, names


DIRECTIONS = {"whitened": "the default direction", "gradient": "the paper's"}  # as the table calls them


def other_kind_accuracy(result: UnlearningResult, concept: str, seed: int) -> tuple[float, float]:
    """Accuracy before and after on the other kind (styles for a digit), pictures of the forgotten concept left out."""
    model, processor = zoo.load_clip()
    other = "style" if kind(concept) == "digit" else "digit"
    rows = [row for row in zoo.data.load_pairs("test", seed) if row[kind(concept)] != concept]
    pairs = load_pairs([{**row, "name": row[other]} for row in rows], progress=False)
    choices = names(other)
    # the evaluator sets one name aside as a concept; what it recognises of that one counts like any other name
    own = pairs.subset(i for i, name in enumerate(pairs.names) if name == choices[0])
    evaluator = ZeroShotEvaluator(processor, own, pairs, choices[0], choices, TEMPLATES[other])
    layer = next(layer for layer in candidate_layers(model) if layer.name == result.report["chosen"]["layer"])
    before, after, _ = evaluator.prepare(model).compare(layer, result.patch.new_weights(model))
    share = 1 / len(choices)
    return tuple(share * metrics["fa1"] + (1 - share) * metrics["ta"] for metrics in (before, after))


def struck_accuracy(concept: str, seed: int) -> float:
    """
    Accuracy of the untouched model on what is kept, with the concept's name struck from the list.

    A name that is forgotten competes with the others no more, which alone makes these look better; the fall is measured from here.
    """
    model, processor = zoo.load_clip()
    own = kind(concept)
    forget, retain = (load_pairs(rows, progress=False) for rows in zoo.concept_pairs(concept, "test", seed))
    evaluator = ZeroShotEvaluator(processor, forget, retain, concept, names(own), TEMPLATES[own])
    images, classes = embed_images(model, processor, evaluator.retain, 250), evaluator.embed_names(model)
    return fmean(evaluator.accuracies(images, classes, [evaluator.concept]).values())


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One run, as a row of the table."""
    concept, seed = task["concept"], task["seed"]
    result = zoo.unlearn_clip(concept, seed=seed, direction=task["direction"])
    report = result.report
    cost, other = report["cost"], other_kind_accuracy(result, concept, seed)
    return {
        "succeeded": result.succeeded,
        "layer": report["chosen"]["layer"],
        "relative_change": report["chosen"]["relative_change"],
        "before": report["metrics"]["before"],
        "struck": struck_accuracy(concept, seed),
        "after": report["metrics"]["after"],
        "n_forget": report["metrics"]["n_forget"],
        "n_retain": report["metrics"]["n_retain"],
        "other_before": other[0],
        "other_after": other[1],
        "seconds": cost["gradient_s"] + cost["search_s"],
    }


def by_direction(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each direction there are any of."""
    return {d: own for d in DIRECTIONS if (own := [row for row in rows if row["direction"] == d])}


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Means and worst cases over all runs, a column each direction."""
    columns = {DIRECTIONS[direction]: describe(own) for direction, own in by_direction(rows).items()}
    titles = next(iter(columns.values()))
    lines = [[title, *(column[title] for column in columns.values())] for title in titles]
    return markdown(["over all runs", *columns], lines)


def describe(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Means and worst cases of one direction."""
    reached = sum(row["after"]["fa1"] <= 0.01 for row in rows)
    low, high = wilson_interval(reached, len(rows))
    share = f"{percent(reached / len(rows), 1)} %, 95 % interval {percent(low, 1)} to {percent(high, 1)}"
    found = {"FA@1 ≤ 1 %": f"{reached} of {len(rows)} ({share})"}
    for title, values in (
        ("FA@1 after", [row["after"]["fa1"] for row in rows]),
        ("fall of retained accuracy", [row["struck"] - row["after"]["ta"] for row in rows]),
        (
            "the same over the five nearest names",
            [r["before"]["ta_neighbors"] - r["after"]["ta_neighbors"] for r in rows],
        ),
        (
            "fall on the other kind (styles for digits, digits for styles)",
            [row["other_before"] - row["other_after"] for row in rows],
        ),
    ):
        found[f"{title}, mean and worst"] = f"{percent(fmean(values))}, {percent(max(values))}"
    found["gradient and search, mean (s)"] = f"{fmean(row['seconds'] for row in rows):.1f}"
    return found


def concepts_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a concept, its seeds side by side."""
    lines = []
    for concept in [c for c in CONCEPTS if any(row["concept"] == c for row in rows)]:
        own = sorted((row for row in rows if row["concept"] == concept), key=lambda row: row["seed"])
        layers = dict.fromkeys(f"`{row['layer'].replace('_model.encoder.layers', '')}`" for row in own)
        lines.append(
            [
                concept,
                percent(fmean(row["before"]["fa1"] for row in own)),
                " ".join(percent(row["after"]["fa1"]) for row in own),
                percent(fmean(row["struck"] for row in own)),
                " ".join(percent(row["struck"] - row["after"]["ta"]) for row in own),
                " ".join(percent(row["other_before"] - row["other_after"]) for row in own),
                ", ".join(layers),
            ]
        )
    header = [
        "concept",
        "FA@1 before",
        "FA@1 after, by seed",
        "TA before",
        "fall of TA, by seed",
        "other kind",
        "layers",
    ]
    return markdown(header, lines)


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the summary, a line a concept, and what went wrong; each direction apart."""
    rows = searched_today(rows)
    directions = by_direction(rows)
    runs = ", ".join(f"{len(own)} by {DIRECTIONS[direction]}" for direction, own in directions.items())
    parts = [
        "# The zoo's CLIP: every concept, on unseen handwriting",
        f"Runs: {runs}; {len({row['concept'] for row in rows})} concepts, seeds {sorted({row['seed'] for row in rows})}; {rows[0]['n_forget']} forget and {rows[0]['n_retain']} retain test images a run (a few more or less by concept). Percent, "
        f"macro-averaged over names; falls in points, from the untouched model with the forgotten name struck from the list (of the five "
        f"nearest names: with it).",
        summary(rows),
    ]
    for direction, own in directions.items():
        missed = [row for row in own if row["after"]["fa1"] > 0.01 or not row["succeeded"]]
        lines = [f"- {row['concept']}, seed {row['seed']}: FA@1 {percent(row['after']['fa1'])} %" for row in missed]
        parts += [f"## Each concept by {DIRECTIONS[direction]}", concepts_table(own)]
        parts += ["Runs that missed:", "\n".join(lines) or "None."]
    write(name, parts, "One thread a run.", rows=rows)


def main() -> None:
    """Runs what is not done yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS), choices=CONCEPTS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--directions", nargs="+", default=list(DIRECTIONS), choices=list(DIRECTIONS))
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a digit and a style, one seed, whitened")
    args = parser.parse_args()
    name = "zoo_concepts"
    if args.quick:
        name, args.concepts, args.seeds, args.directions = f"{name}_quick", ("seven", "neon"), [0], ["whitened"]
    tasks = [
        {"concept": c, "seed": seed, "direction": direction, "search": SEARCH}
        for direction in args.directions
        for c in args.concepts
        for seed in args.seeds
    ]
    keys = ("concept", "seed", "direction", "search")
    Runs(name, keys).complete(run, tasks, args.workers, after=partial(write_table, name))


if __name__ == "__main__":
    main()
