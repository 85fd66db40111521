# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgetting every concept of the zoo's Stable Diffusion, and every digit of its LLaVA, with both objectives.

    python benchmarks/zoo_hosts.py                 # about two hours on two cores; goes on where it was stopped
    python benchmarks/zoo_hosts.py --host llava    # the quicker half
    python benchmarks/zoo_hosts.py --quick         # a concept of each, some minutes

Writes `benchmarks/results/zoo_hosts.md`. UA, IRA and CRA are those of UnlearnCanvas: of the concept's pictures, how many no longer
show it; of the others, how often the concept's own kind (digits or styles) is right, and how often the other kind is. The
pictures that are reported are made from seeds that no search has seen, the questions are about handwriting and in wordings
that neither the models nor a search have seen.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tables import Runs, markdown, percent, write
from zoo_pictures import SEED, judge, make, score

from hf_slug import UnlearningPatch, UnlearningResult, zoo
from hf_slug.report import wilson_interval
from hf_slug.zoo.data import CONCEPTS, DIGITS
from hf_slug.zoo.unlearning import answer_evaluator, picture_evaluator


PATCHES = Path(".cache/zoo-hosts")
# The objective that is not the default is measured on fewer pictures: two thousand take a minute and a half.
PER_CELL = {"host": 20, "clip": 5}
STACKS = (("seven", "neon", "fire"), ("three", "eight", "ink"), ("zero", "one", "two"), ("chalk", "gold", "pixel"))
HOSTS = {"stable-diffusion": CONCEPTS, "llava": DIGITS}
KEYS = ("host", "objective", "concept")
Row = dict[str, Any]
Rows = Sequence[Row]


def unlearn_pictures(objective: str, concept: str, beside: Sequence[UnlearningPatch] = ()) -> UnlearningResult:
    gone = [patch.config.concept for patch in beside]
    # the report of the patch itself; the tables are measured apart
    quick = picture_evaluator(concept, 10_000, 2, 1, gone)
    return zoo.unlearn_stable_diffusion(concept, objective=objective, test_evaluate=quick, beside=beside)


def run_pictures(objective: str, concept: str) -> tuple[UnlearningResult, Row]:
    result = unlearn_pictures(objective, concept)
    pipe = zoo.load_stable_diffusion()
    pipe.load_unlearning(result.patch)
    return result, score(judge(make(pipe, PER_CELL[objective])), (concept,))


def run_answers(objective: str, concept: str) -> tuple[UnlearningResult, Row]:
    quick = answer_evaluator(concept, "test", 0, 90)
    result = zoo.unlearn_llava(concept, objective=objective, test_evaluate=quick)
    llava, _ = zoo.load_llava()
    evaluator = answer_evaluator(concept, "test")
    before = evaluator(llava)
    llava.load_unlearning(result.patch)
    n = {"n_forget": evaluator.n_forget, "n_retain": evaluator.n_retain}
    return result, {"before": before, "after": evaluator(llava), **n}


def run(task: Row) -> Row:
    """One concept of one host with one objective."""
    host, objective, concept = (task[key] for key in KEYS)
    started = time.perf_counter()
    result, row = (run_pictures if host == "stable-diffusion" else run_answers)(objective, concept)
    folder = PATCHES / host / objective / concept
    if folder.exists():
        shutil.rmtree(folder)
    result.patch.save_pretrained(folder)
    return {
        **{key: result.report["chosen"][key] for key in ("layer", "relative_change")},
        "reached": result.report["target"]["reached_on_validation"],
        "seconds": round(time.perf_counter() - started),
        **row,
    }


def run_untouched(_: Row) -> Row:
    return {"judged": judge(make(zoo.load_stable_diffusion(), PER_CELL["host"]))}


def run_stack(task: Row) -> Row:
    """Several patches of the Stable Diffusion at once: each made apart, or in turn, beside those before it."""
    gone = tuple(task["concept"].split(" + "))
    pipe, patches = zoo.load_stable_diffusion(), []
    for i, concept in enumerate(gone):
        before = gone[:i] if task["objective"] == "stack in turn" else ()
        folder = PATCHES / "stable-diffusion" / "host" / "-after-".join([concept, *before])
        if not folder.is_dir():  # the rows were made elsewhere: the same patch again
            unlearn_pictures("host", concept, patches if before else ()).patch.save_pretrained(folder)
        patches.append(UnlearningPatch.from_pretrained(folder))
    for concept, patch in zip(gone, patches, strict=True):
        pipe.load_unlearning(patch, concept)
    return score(judge(make(pipe, PER_CELL["host"])), gone)


def task(host: str, objective: str, concept: str) -> Row:
    return dict(zip(KEYS, (host, objective, concept)))


UNTOUCHED = task("stable-diffusion", "untouched", "")
WAYS = {"stack": "apart", "stack in turn": "in turn"}  # as the table says it
STACKED = [task("stable-diffusion", way, " + ".join(gone)) for way in WAYS for gone in STACKS]


def singles(objective: str) -> list[Row]:
    return [task(host, objective, concept) for host, concepts in HOSTS.items() for concept in concepts]


def of(rows: Rows, host: str, objective: str) -> list[Row]:
    """The rows of a host and an objective, in the order of the concepts."""
    order = [*CONCEPTS, *(stack["concept"] for stack in STACKED)]
    own = (row for row in rows if (row["host"], row["objective"]) == (host, objective))
    return sorted(own, key=lambda row: order.index(row["concept"]))


def with_untouched(rows: Rows, objective: str) -> list[tuple[Row, Row]]:
    """Scores of pictures beside those of the untouched pipeline on the same pictures: those of the first seeds of each prompt."""
    judged = next(row["judged"] for row in rows if row["objective"] == "untouched")
    same = [(p, tuple(seen)) for i, (p, seen) in enumerate(judged) if i % PER_CELL["host"] < PER_CELL[objective]]
    return [(row, score(same, (row["concept"],))) for row in of(rows, "stable-diffusion", objective)]


def chosen(row: Row) -> list[str]:
    """Which layer was changed, by how much of its norm, and how long that took."""
    layer = row["layer"].split("encoder.", 1)[1]
    return [layer, f"{row['relative_change']:.2f}", str(row["seconds"])]


def summed(title: str, pick: Callable[[Iterable[float]], float], columns: Sequence[Sequence[float]]) -> list[str]:
    return [title, *(percent(pick(column), 1) for column in columns), "", "", ""]


def pictures_table(rows: Rows, objective: str) -> list[str]:
    """Every concept of the Stable Diffusion, the mean and the worst."""
    pairs = with_untouched(rows, objective)
    values = [
        [*(row[key] for key in ("ua", "ira", "cra", "cra_forget")), *(base[key] for key in ("ua", "ira", "cra"))]
        for row, base in pairs
    ]
    lines = [[row["concept"], *(percent(v, 1) for v in own), *chosen(row)] for (row, _), own in zip(pairs, values)]
    columns = list(zip(*values))
    lines += [summed("**mean**", fmean, columns), summed("worst", min, columns)]
    header = ["concept", "UA", "IRA", "CRA", "kept", "untouched UA", "IRA", "CRA", "layer", "change", "s"]
    n = 10 * PER_CELL[objective] * len(pairs)
    low, high = wilson_interval(fmean(columns[0]) * n, n)
    shares = [percent(fmean(columns[i]) / fmean(columns[i + 4]), 1) for i in (1, 2)]
    return [
        f'### objective="{objective}" ({len(pairs)} concepts)',
        markdown(header, lines),
        f"Mean UA {percent(fmean(columns[0]), 1)} (95 % interval over {n:,} pictures {percent(low, 1)} to {percent(high, 1)}); IRA and CRA "
        f"are {shares[0]} % and {shares[1]} % of the untouched model's.",
    ]


def answers_table(rows: Rows, objective: str) -> list[str]:
    """Every digit of the LLaVA, the mean and the worst."""
    own, keys = of(rows, "llava", objective), ("fa1", "ira", "cra")
    values = [[row[when][key] for key in keys for when in ("before", "after")] for row in own]
    lines = [[row["concept"], *(percent(v, 1) for v in found), *chosen(row)] for row, found in zip(own, values)]
    columns = list(zip(*values))
    lines.append(summed("**mean**", fmean, columns))
    worst = [(max if i < 2 else min)(column) for i, column in enumerate(columns)]
    lines.append(["worst", *(percent(value, 1) for value in worst), "", "", ""])
    header = ["digit", "right before", "right after", "other digits before", "after", "styles before", "after"]
    fall = falls_of_answers(own)
    return [
        f'### objective="{objective}" ({len(own)} digits)',
        markdown([*header, "layer", "change", "s"], lines),
        f"Fall of the other digits: mean {percent(fmean(fall))}, worst {percent(max(fall))} points.",
    ]


def falls_of_answers(rows: Rows) -> list[float]:
    return [row["before"]["ira"] - row["after"]["ira"] for row in rows]


def stacks_table(rows: Rows) -> str:
    keys = ("ua", "worst_ua", "digits", "styles")
    lines = [[row["concept"], WAYS[row["objective"]], *(percent(row[key], 1) for key in keys)] for row in rows]
    return markdown(["concepts", "made", "mean UA", "worst UA", "digits right", "styles right"], lines)


def write_table(name: str, rows: Rows) -> None:
    """Writes what there is."""
    parts = ["# The zoo's hosts: every concept, both objectives"]
    if objectives := [objective for objective in PER_CELL if of(rows, "stable-diffusion", objective)]:
        parts += [
            "## Stable Diffusion",
            f'{PER_CELL["host"]} pictures of each of 100 prompts for every patch ({PER_CELL["clip"]} with objective="clip"), ten of them prompts '
            f"of the concept, seeds from {SEED}; searched on seeds from 0. In percent; higher is better everywhere. *Kept* are the other kind's "
            f"names in the concept's own pictures. The last line of each kind is the worst concept of each column.",
        ]
        for objective in objectives:
            parts += pictures_table(rows, objective)
    if stacks := [row for way in WAYS for row in of(rows, "stable-diffusion", way)]:
        parts += ['### Three patches at once (objective="host")', stacks_table(stacks)]
        parts.append(
            "Digits and styles over the prompts that show none of the three. *In turn*: each made with those before it on (`beside=`)."
        )
    if objectives := [objective for objective in PER_CELL if of(rows, "llava", objective)]:
        first = of(rows, "llava", objectives[0])[0]
        parts += [
            "## LLaVA",
            f"One question in a wording that was never trained on about each of {first['n_forget'] + first['n_retain']:,} drawings of unseen "
            f"handwriting, and one about its style. *Right* is the share of answers about the forgotten digit that are still right.",
        ]
        for objective in objectives:
            parts += answers_table(rows, objective)
    write(name, parts, note="One thread a run.", rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", choices=HOSTS, help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one concept of each")
    args = parser.parse_args()
    name = "zoo_hosts_quick" if args.quick else "zoo_hosts"
    # in this order, so that a run that is stopped early has the most useful part: the defaults first
    plan = [(run_untouched, [UNTOUCHED]), (run, singles("host")), (run_stack, STACKED), (run, singles("clip"))]
    if args.quick:
        plan = [(run_untouched, [UNTOUCHED]), (run, [task(host, "host", "five") for host in HOSTS])]
    for function, tasks in plan:
        own = [task for task in tasks if args.host in (None, task["host"])]
        Runs(name, KEYS).complete(function, own, args.workers, after=partial(write_table, name))


if __name__ == "__main__":
    main()
