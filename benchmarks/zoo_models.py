# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
What the zoo's models can do before anything is forgotten, on handwriting, drawings and noise that none was trained on.

    python benchmarks/zoo_models.py            # some minutes
    python benchmarks/zoo_models.py --quick    # fewer pictures

Writes `benchmarks/results/zoo_models.md`.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tables import Runs, markdown, percent, write
from zoo_pictures import PROMPTS, SEED, judge, make

from hf_slug import ZeroShotJudge, zoo
from hf_slug.evaluation import ClassifierJudge
from hf_slug.report import wilson_interval
from hf_slug.zoo import data
from hf_slug.zoo.unlearning import answer_evaluator


DRAWN = 5  # the seed of the drawings
KINDS = ("digit", "style")
Row = dict[str, Any]


def of_pictures(name_all: Callable[[str], Callable[[Sequence[Any]], list[tuple[str, ...]]]], limit: int | None) -> Row:
    """How many drawings of test handwriting get their name, for each kind by a judge of its own."""
    rows = data.load_pairs("test", DRAWN, limit)
    images = [row["image"] for row in rows]
    seen = {kind: name_all(kind)(images) for kind in KINDS}
    right = {kind: sum(row[kind] in names for row, names in zip(rows, seen[kind])) for kind in KINDS}
    return {"n": dict.fromkeys(KINDS, len(rows)), "right": right}


def clip(quick: bool) -> Row:
    """Zero-shot."""
    loaded = zoo.load_clip()
    return of_pictures(
        lambda kind: ZeroShotJudge(*loaded, [data.names(kind)], data.TEMPLATES[kind]), 3 if quick else None
    )


def the_judge(quick: bool) -> Row:
    """The ResNet by which pictures of the Stable Diffusion are judged."""
    loaded = zoo.load_judge()
    return of_pictures(lambda kind: ClassifierJudge(*loaded, kinds=[data.names(kind)]), 3 if quick else None)


def stable_diffusion(quick: bool) -> Row:
    """Pictures of all hundred prompts, by that judge."""
    judged = judge(make(zoo.load_stable_diffusion(), 1 if quick else 20))
    right = {kind: sum(PROMPTS[prompt][i] in seen for prompt, seen in judged) for i, kind in enumerate(KINDS)}
    return {"n": dict.fromkeys(KINDS, len(judged)), "right": right}


def llava(quick: bool, unseen: bool) -> Row:
    """A question about the digit and one about the style of each drawing."""
    limit = 200 if quick else None
    asked = answer_evaluator("zero", "test", DRAWN, limit, unseen)
    found = asked(zoo.load_llava()[0])
    own, rest = asked.n_forget, asked.n_retain
    right = {"digit": round(found["fa1"] * own + found["ira"] * rest), "style": round(found["cra"] * rest)}
    return {"n": {"digit": own + rest, "style": rest}, "right": right}


MODELS: dict[str, tuple[str, Callable[[bool], Row]]] = {
    "clip": ("CLIP, zero-shot", clip),
    "judge": ("judge", the_judge),
    "stable-diffusion": ("Stable Diffusion's pictures, to the judge", stable_diffusion),
    "llava": ("LLaVA, in wordings it was trained on", partial(llava, unseen=False)),
    "llava, unseen": ("LLaVA, in wordings that it never saw", partial(llava, unseen=True)),
}


def run(task: Row) -> Row:
    """One model."""
    return MODELS[task["model"]][1](task["quick"])


def table(rows: Sequence[Row]) -> str:
    """How many digits and styles each gets right, with 95 % intervals by Wilson."""
    lines = []
    for row in sorted(rows, key=lambda row: list(MODELS).index(row["model"])):
        cells = []
        for kind in KINDS:
            right, n = row["right"][kind], row["n"][kind]
            low, high = wilson_interval(right, n)
            cells.append(f"{percent(right / n, 1)} [{percent(low, 1)}, {percent(high, 1)}] of {n:,}")
        lines.append([MODELS[row["model"]][0], *cells])
    return markdown(["", "digits right", "styles right"], lines)


def write_table(name: str, rows: Sequence[Row]) -> None:
    text = (
        f"Of handwriting that nothing was trained on, drawn in all styles with seed {DRAWN}; of the Stable Diffusion pictures of all hundred prompts from "
        f"noise of seeds {SEED:,} on. In percent [95 % interval by Wilson]."
    )
    write(name, ["# The zoo's models, untouched", text, table(rows)], note="One thread a run.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    args = parser.parse_args()
    name = "zoo_models_quick" if args.quick else "zoo_models"
    tasks = [{"model": model, "quick": args.quick} for model in MODELS]
    Runs(name, ("model", "quick")).complete(run, tasks, args.workers, after=partial(write_table, name))


if __name__ == "__main__":
    main()
