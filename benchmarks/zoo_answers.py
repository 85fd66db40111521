# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The paper's table of a vision-language model, on the zoo's LLaVA: what it still names, and how it answers other questions.

    python benchmarks/zoo_answers.py             # an hour or two on two cores; goes on where it was stopped
    python benchmarks/zoo_answers.py --quick     # one digit, one way, one seed

Digits and styles are forgotten with both objectives, by the paper's direction, and as the paper does (CLIP's losses, its direction, the front alone); each
is asked for in wordings that neither the models nor a search have seen, about handwriting that neither has seen. Writes `benchmarks/results/zoo_answers.md`.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from tables import SEARCH, Runs, markdown, measured, percents, searched_today, write
from zoo_canvas_report import by_kind

from hf_slug import zoo
from hf_slug.zoo.unlearning import answer_evaluator


CONCEPTS = ("two", "eight", "neon", "gold")
VARIANTS = {  # what the table calls it, and how `unlearn` does
    'SLUG, objective="host"': {"objective": "host"},
    'SLUG, objective="clip"': {"objective": "clip"},
    'SLUG, objective="host", plain gradient': {"objective": "host", "direction": "gradient"},
    "SLUG as published": {"objective": "clip", "direction": "gradient", "front_only": True},
}
MEASURES = {"fa1": "still named ↓", "ira": "fall of the same kind", "cra": "fall of the other kind"}
KINDS = {"digits": "digit", "styles": "style"}  # as the table says it
HEADER = ["", *MEASURES.values(), "reached on validation", "s", "peak MiB", "kB stored"]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One concept, one way, one seed."""
    concept, seed = task["concept"], task["seed"]
    llava, _ = zoo.load_llava()
    evaluator = answer_evaluator(concept, "test", seed)
    before = evaluator(llava)
    quick = answer_evaluator(concept, "test", seed, 90)  # the report of the patch itself; the table is measured here
    started = time.process_time()
    with measured() as cost:
        result = zoo.unlearn_llava(concept, seed, test_evaluate=quick, **VARIANTS[task["variant"]])
    seconds = time.process_time() - started
    llava.load_unlearning(result.patch)
    report = result.report
    return {
        "before": before,
        "after": evaluator(llava),
        "n_forget": evaluator.n_forget,
        "n_retain": evaluator.n_retain,
        "reached": report["target"]["reached_on_validation"],
        "layer": report["chosen"]["layer"],
        "seconds": seconds,
        "peak_bytes": cost.peak_bytes,
        "stored_bytes": result.patch.num_bytes,
    }


def line(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line of the table."""
    cells = [percents([row["after"]["fa1"] for row in rows])]
    cells += [percents([row["before"][key] - row["after"][key] for row in rows]) for key in ("ira", "cra")]
    costs = [fmean(row[key] for row in rows) for key in ("seconds", "peak_bytes", "stored_bytes")]
    reached = f"{sum(row['reached'] for row in rows)} of {len(rows)}"
    return [title, *cells, reached, f"{costs[0]:.0f}", f"{costs[1] / 2**20:.0f}", f"{costs[2] / 1e3:.1f}"]


def means(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The untouched model, and every way."""
    untouched = list({(row["concept"], row["seed"]): row for row in rows}.values())
    before = [percents([row["before"][key] for row in untouched]) for key in MEASURES]
    lines = [["*untouched: accuracy*", *before, *[""] * 4]]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        lines += [line(variant, own)] if own else []
    return lines


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes digits and styles apart, and every concept."""
    rows = searched_today(rows)
    parts = ["# A vision-language model that forgets: the zoo's LLaVA"]
    parts.append(
        f"One question about each of {rows[0]['n_forget'] + rows[0]['n_retain']:,} drawings of unseen handwriting, in unseen wordings, and one "
        f"about its other kind. *Still named*: answers about the forgotten concept that are right. Of what is kept the fall in points. "
        f"Mean ± half a 95 % interval over runs, i.e. concept × seed, of which those of a concept share it (seeds "
        f"({sorted({row['seed'] for row in rows})}), in percent. Searched to 1 % on validation. Seconds are the processor's."
    )
    for title, own in by_kind(rows, KINDS).items():
        parts += [
            f"## {title.title()}: {', '.join(dict.fromkeys(row['concept'] for row in own))}",
            markdown(HEADER, means(own)),
        ]
        each = [
            line(f"{concept}: {variant.removeprefix('SLUG, ')}", mine)
            for concept in dict.fromkeys(row["concept"] for row in own)
            for variant in VARIANTS
            if (mine := [row for row in own if (row["concept"], row["variant"]) == (concept, variant)])
        ]
        parts.append(markdown(HEADER, each))
    write(name, parts, note="One thread a run.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one digit, one way, one seed")
    args = parser.parse_args()
    name = "zoo_answers"
    if args.quick:
        name, args.concepts, args.variants, args.seeds = f"{name}_quick", CONCEPTS[:1], list(VARIANTS)[:1], (0,)
    tasks = [
        {"concept": concept, "variant": variant, "seed": seed, "search": SEARCH}
        for seed in args.seeds
        for variant in args.variants
        for concept in args.concepts
    ]
    keys = ("concept", "variant", "seed", "search")
    Runs(name, keys).complete(run, tasks, args.workers, after=partial(write_table, name))


if __name__ == "__main__":
    main()
