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
import os
import shutil
from pathlib import Path
from typing import Any

from photo_data import EVERYONE, MODEL, OBJECTS, PEOPLE, SEEDS, Score, collect, load_model, mark_of
from photo_methods import METHODS, SLUG, WIDELY, Outcome, apply, current, settings_of
from photo_report import write_tables
from photo_sources import load_faces, open_objects
from tables import Runs, measured


PATCHES = Path(".cache/photo-patches")


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One method, one concept, one seed: what the test photographs say before and after, and what it cost."""
    model, processor = load_model(task["model"])
    photographs = collect(task["concept"], task["seed"])
    with measured() as cost:  # first: what else runs in a process before it takes memory that then is there
        outcome = apply(task["method"], model, processor, photographs, task["seed"])
    if task["method"] in WIDELY:
        save_patch(outcome.patch, task, anew=True)
    untouched, _ = load_model(task["model"])
    score = Score(photographs, "test_", processor, untouched)
    if "before" in task:  # no method changes what the untouched model does
        before, struck = task["before"], task["struck"]
    else:
        embedded = score.embed(untouched)
        before = score(untouched, embedded=embedded)
        struck = score(untouched, embedded=embedded, struck=(task["concept"],))

    def tell(outcome: Outcome) -> dict[str, Any]:
        return {
            "after": score(outcome.model),
            "one_run": outcome.one_run,
            "stored_bytes": outcome.stored_bytes,
            "chosen": outcome.chosen,
            "forgotten_on_validation": outcome.forgotten,
            "setting": outcome.setting,
            "risk": outcome.risk,
        }

    return {
        "before": before,
        "struck": struck,
        **tell(outcome),
        **({"without_risk": tell(outcome.without_risk)} if outcome.without_risk else {}),
        "looks": outcome.looks,
        "n_forget": score.n_forget,
        "n_retain": score.n_retain,
        "wall_seconds": cost.seconds,
        "seconds": outcome.seconds,
        "peak_bytes": cost.peak_bytes,
    }


def patch_folder(task: dict[str, Any]) -> Path:
    """Where the patch of a task lies, under the marks of the model it was made of and of the settings; `after` which others it was made."""
    name = "-after-".join([task["concept"], *task.get("after", ())])
    return PATCHES / mark_of(task["model"]) / settings_of(task["method"]) / str(task["seed"]) / name


def save_patch(patch: Any, task: dict[str, Any], anew: bool = False) -> Path:
    """Keeps a patch for `photo_stacks.py`; whole or not at all. That of a run that is made again takes the place of the old one."""
    folder = patch_folder(task)
    if anew and folder.is_dir():
        shutil.rmtree(folder)
    if not folder.is_dir():
        beside = folder.with_name(f".{folder.name}-{os.getpid()}")
        patch.save_pretrained(beside)
        beside.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--name", default="photo_tables", help="of the files in benchmarks/results")
    everything = [*PEOPLE, *OBJECTS, *(name for name in EVERYONE if name not in PEOPLE)]
    parser.add_argument("--concepts", nargs="+", choices=everything, metavar="NAME", help="default: all of all tables")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one person, one object, one seed, SLUG, GA and SSD")
    args = parser.parse_args()
    if args.quick:
        args.name, args.seeds, args.methods = "photo_tables_quick", SEEDS[:1], [*SLUG, "GA", "SSD"]
        args.concepts = [PEOPLE[0], OBJECTS[0]]
    load_model(args.model), load_faces(), open_objects("test")  # before anything long begins
    mark = mark_of(args.model)
    tasks = [
        {"method": m, "concept": c, "seed": seed, "model": args.model, "weights": mark, "settings": settings_of(m)}
        for seed in args.seeds
        for m in args.methods
        for c in args.concepts or everything
        if args.concepts or m in WIDELY or c in (*PEOPLE, *OBJECTS)
    ]
    runs = Runs(args.name, ("method", "concept", "seed", "weights", "settings"))

    def known(task: dict[str, Any]) -> dict[str, Any]:
        """A task with what earlier runs found the untouched model to do."""
        keys = ("concept", "seed", "weights")
        begun = [row for row in current(runs.rows, mark) if all(row[key] == task[key] for key in keys)]
        return task | ({key: begun[0][key] for key in ("before", "struck")} if begun else {})

    for seed in args.seeds:  # whole seeds first: a run that is stopped early has all methods
        own = [known(task) for task in tasks if task["seed"] == seed]
        runs.complete(run, own, args.workers, after=lambda rows: write_tables(current(rows, mark), args.name))


if __name__ == "__main__":
    main()
