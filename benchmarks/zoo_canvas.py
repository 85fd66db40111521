# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
UnlearnCanvas (Zhang et al. 2024) on the zoo's Stable Diffusion: SLUG beside ESD, UCE and SalUn.

    python benchmarks/zoo_canvas.py            # hours; goes on where it was stopped
    python benchmarks/zoo_canvas.py --quick    # some minutes: a smoke test, nothing is tuned

Writes `benchmarks/results/zoo_canvas.md` (or `zoo_canvas_quick.md`). Every method has the same data, is searched by the same
validation pictures, and is judged by the same pictures, of seeds that no search has seen.
"""

import argparse
from dataclasses import asdict
from typing import Any

from tables import Runs, measured
from zoo_canvas_report import FIRST_SEED, METHODS, Rows, write_table
from zoo_erasers import SLUG_SETTINGS, forget_by_slug, forget_by_tuning, settings_of
from zoo_pictures import distance_of_kept, judge, make, score

from hf_slug import zoo


CONCEPTS = (
    "four",
    "nine",
    "chalk",
    "shadow",
)  # the search was settled on "three", grids on "seven", "neon" and "watercolor"


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Forgets one concept by one method, and looks at what is drawn afterwards."""
    method, concept, seed = task["method"], task["concept"], task["seed"]
    pipe = zoo.load_stable_diffusion()
    row: dict[str, Any] = {}
    with measured() as cost:
        if method in SLUG_SETTINGS:
            row = asdict(forget_by_slug(pipe, method, concept, seed))
        elif method != "untouched":
            row = asdict(forget_by_tuning(pipe, method, concept, seed, task["quick"]))
    row["wall_seconds"] = cost.seconds
    pictures = make(pipe, task["per_prompt"], FIRST_SEED + 1000 * seed)
    encoder = sum(parameter.nbytes for parameter in pipe.text_encoder.parameters())
    scores = score(judge(pictures), (concept,))
    return {**row, **scores, "distance": distance_of_kept(pictures, concept), "encoder_bytes": encoder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--per-prompt", type=int, default=5, help="reported pictures of each prompt (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument(
        "--quick", action="store_true", help="a digit, a style, one seed, two pictures a prompt, untuned"
    )
    args = parser.parse_args()
    name = "zoo_canvas_quick" if args.quick else "zoo_canvas"
    if args.quick:
        args.concepts, args.seeds, args.per_prompt = ("seven", "neon"), (0,), 2
    tasks = [
        {
            **{"method": method, "concept": concept, "seed": seed, "per_prompt": args.per_prompt, "quick": args.quick},
            "settings": settings_of(method),
        }
        for seed in args.seeds
        for concept in args.concepts
        for method in args.methods
    ]
    runs = Runs(name, ("method", "concept", "seed", "per_prompt", "settings"))
    order = {runs.key(task): i for i, task in enumerate(tasks)}

    def write_known(rows: Rows) -> None:
        known = [row for row in rows if runs.key(row) in order]
        write_table(name, sorted(known, key=lambda row: order[runs.key(row)]), args.per_prompt, args.quick)

    runs.complete(run, tasks, args.workers, write_known)


if __name__ == "__main__":
    main()
