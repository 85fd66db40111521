# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
What settles the defaults: one thing changed at a time, on people and objects that no other table reports.

    HF_SLUG_DATA=../shared/data python benchmarks/photo_ablations.py             # an hour or two; goes on where it was stopped
    HF_SLUG_DATA=../shared/data python benchmarks/photo_ablations.py --quick     # a person and an object of one seed

Writes `benchmarks/results/photo_ablations.md`.
"""

import argparse
import hashlib
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from photo_data import DEVELOPMENT, DEVELOPMENT_SEEDS, MODEL, load_model, mark_of
from photo_sources import FACE_NAMES
from photo_trial import Trial
from photo_variants import BASE, GROUPS, PUBLISHED, VARIANTS, WHY, Variant
from tables import SEARCH, Runs, by_concept, interval, markdown, percent, percents, write


CONCEPTS = (*DEVELOPMENT[:6], *DEVELOPMENT[-3:])  # people and objects; five minutes each and seed
# other variants, another search, or other rules of what is compared, are other runs
PLAN = hashlib.sha256(repr((VARIANTS, PUBLISHED, SEARCH, "the forgotten name struck")).encode()).hexdigest()[:8]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """All variants, of one concept and seed."""
    model, processor = load_model(task["model"])
    trial = Trial(model, processor, task["concept"], task["seed"])
    return {"before": trial.before, "variants": {_key(v): trial.run(v) for v in (*VARIANTS, PUBLISHED)}}


def _key(variant: Variant) -> str:
    group = next((title for title, group in GROUPS.items() if variant in group), "")
    return f"{group}: {variant.name}" if group else variant.name


MEASURES = ("fa1", "fa5", "people", "objects")


def measure(rows: Sequence[dict[str, Any]], variant: Variant, key: str) -> list[float]:
    """What is left of each concept, or how far what is kept falls: means over seeds."""

    def value(row: dict[str, Any]) -> float:
        after = row["variants"][_key(variant)]["after"][key]
        return after if key in ("fa1", "fa5") else row["before"][key] - after

    return by_concept(rows, value)


def against_default(rows: Sequence[dict[str, Any]], variant: Variant) -> str:
    """Where a variant differs from the default by more than half the 95 % interval of the difference over concepts."""
    said = []
    for key, name in (("fa5", "FA@5"), ("people", "people"), ("objects", "objects")):
        pairs = zip(measure(rows, variant, key), measure(rows, BASE, key), strict=True)
        mean, half = interval([its - default for its, default in pairs])
        if abs(mean) > max(half, 5e-5):
            said.append(f"{'worse' if mean > 0 else 'better'} in {name}")
    return ", ".join(said) or ("" if variant is BASE else "no difference shown")


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes what each change does to forgetting and to what is kept, people and objects apart."""
    parts = ["# Ablations"]
    people = [row for row in rows if row["concept"] in FACE_NAMES]
    objects = [row for row in rows if row["concept"] not in FACE_NAMES]
    known = [percent(fmean(row["before"][key] for row in rows), 1) for key in ("people", "objects")]
    parts.append(
        f"One thing changed at a time, on {len({row['concept'] for row in people})} people and {len({row['concept'] for row in objects})} "
        f"objects that the other tables don't report, seeds {sorted({row['seed'] for row in rows})}. On test photographs, in percent; falls in "
        f"points, from the untouched model with the forgotten name struck from the list. People: mean ± half a 95 % interval over "
        f"people, each the mean of its seeds; objects: each one's own mean. *Forgotten*: on validation. All but the rows under *Tower* search the text "
        f"tower alone. Of a person's four photographs seeds 10 and 12 let the same two choose. *Looked at*: so many steps of all layers, which the seconds of a "
        f"search grow with; `photo_tables.md` has the seconds, memory and bytes of the default and of what is published. Untouched, with the forgotten name struck, "
        f"{known[0]} % of the photographs of other people are recognised and {known[1]} % of the objects'. The objective, CLIP's or the host's own, is compared in "
        f"`zoo_hosts.md` and `zoo_answers.md`: a CLIP has one alone."
    )
    header = [
        "",
        "people: FA@1",
        "FA@5",
        "fall of people",
        "fall of objects",
        "forgotten",
        "looked at",
        "beside the default",
        "objects: FA@1",
        "FA@5",
        "fall of people",
        "fall of objects",
    ]

    def line(variant: Variant) -> list[str]:
        cells = [f"**{variant.name}**" if variant is BASE else variant.name]
        for own in (people, objects):
            found = [row for row in own if _key(variant) in row["variants"]]
            if not found:
                return []
            for key in MEASURES:
                means = measure(found, variant, key)
                cells.append(percents(means) if own is people else " ".join(percent(mean, 1) for mean in means))
            if own is people:
                done = [row["variants"][_key(variant)]["succeeded"] for row in found]
                looks = fmean(row["variants"][_key(variant)]["trials"] for row in found)
                cells += [percent(sum(done) / len(done), 0) + " %", f"{looks:.0f}", against_default(found, variant)]
        return cells

    for title, variants in {**GROUPS, "Everything as published": (PUBLISHED,)}.items():
        lines = [line(BASE), *map(line, variants)]
        parts += [f"## {title}", markdown(header, [each for each in lines if each]), *filter(None, [WHY.get(title)])]
    write(name, parts, note="One thread a run.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--name", default="photo_ablations", help="of the files in benchmarks/results")
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=DEVELOPMENT, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=DEVELOPMENT_SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a person and an object, one seed")
    args = parser.parse_args()
    name = args.name
    if args.quick:
        name, args.concepts, args.seeds = f"{name}_quick", [DEVELOPMENT[0], DEVELOPMENT[-1]], args.seeds[:1]
    load_model(args.model)
    mark = mark_of(args.model)
    tasks = [
        {"concept": concept, "seed": seed, "model": args.model, "plan": PLAN, "weights": mark}
        for seed in args.seeds
        for concept in args.concepts
    ]
    runs = Runs(name, ("concept", "seed", "plan", "weights"))

    def write_current(rows: Sequence[dict[str, Any]]) -> None:
        write_table(name, [row for row in rows if (row["plan"], row.get("weights")) == (PLAN, mark)])

    runs.complete(run, tasks, args.workers, after=write_current)


if __name__ == "__main__":
    main()
