# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgetting every concept of the zoo's Stable Diffusion, and every digit of its LLaVA, with both objectives.

    python benchmarks/zoo_hosts.py                 # about two hours on two cores; goes on where it was stopped
    python benchmarks/zoo_hosts.py --host llava    # the quicker half

Writes `benchmarks/results/zoo_hosts.md`. UA, IRA and CRA are those of UnlearnCanvas: of the concept's pictures, how many no longer
show it; of the others, how often the concept's own kind (digits or styles) is right, and how often the other kind is. The
pictures that are reported are made from seeds that no search has seen, the questions are about handwriting and in wordings
that neither the models nor a search have seen.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from pathlib import Path
from statistics import fmean

import torch
from tqdm.auto import tqdm
from zoo_pictures import SEED, judge, make, score

from hf_slug import zoo
from hf_slug.report import describe_software, wilson_interval
from hf_slug.zoo.data import CONCEPTS, DIGITS
from hf_slug.zoo.unlearning import answer_evaluator, picture_evaluator


RESULTS = Path(__file__).parent / "results"
PATCHES = Path(".cache/zoo-hosts")
# The objective that is not the default is measured on fewer pictures: two thousand take a minute and a half.
PER_CELL = {"host": 20, "clip": 5}
STACKS = (("seven", "neon", "fire"), ("three", "eight", "ink"), ("zero", "one", "two"), ("chalk", "gold", "pixel"))
# What is run, in this order, so that a run that is stopped early has the most useful part: the defaults first.
_HOSTS = {"stable-diffusion": CONCEPTS, "llava": DIGITS}
PLAN = [(host, objective, c) for objective in ("host", "clip") for host, concepts in _HOSTS.items() for c in concepts]


def run_pictures(objective: str, concept: str) -> dict:
    quick = picture_evaluator(concept, 10_000, 2, 1)  # the report of the patch itself; the table is measured below
    result = zoo.unlearn_stable_diffusion(concept, objective=objective, test_evaluate=quick)
    pipe = zoo.load_stable_diffusion()
    pipe.load_unlearning(result.patch)
    return {"result": result, **score(judge(make(pipe, PER_CELL[objective])), (concept,))}


def run_answers(objective: str, concept: str) -> dict:
    quick = answer_evaluator(concept, "test", 0, 90)
    result = zoo.unlearn_llava(concept, objective=objective, test_evaluate=quick)
    llava, _ = zoo.load_llava()
    evaluator = answer_evaluator(concept, "test")
    before = evaluator(llava)
    llava.load_unlearning(result.patch)
    after = evaluator(llava)
    n = {"n_forget": len(evaluator.forget), "n_retain": len(evaluator.retain)}
    return {"result": result, "before": before, "after": after, **n}


def run(task: tuple[str, str, str]) -> dict:
    torch.set_num_threads(1)
    host, objective, concept = task
    started = time.perf_counter()
    row = (run_pictures if host == "stable-diffusion" else run_answers)(objective, concept)
    result = row.pop("result")
    folder = PATCHES / host / objective / concept
    if folder.exists():
        shutil.rmtree(folder)
    result.patch.save_pretrained(folder)
    chosen = result.report["chosen"]
    return {
        "host": host,
        "objective": objective,
        "concept": concept,
        "layer": chosen["layer"],
        "relative_change": chosen["relative_change"],
        "reached": result.report["target"]["reached_on_validation"],
        "seconds": round(time.perf_counter() - started),
        **row,
    }


def run_untouched(_: str) -> dict:
    torch.set_num_threads(1)
    judged = judge(make(zoo.load_stable_diffusion(), PER_CELL["host"]))
    return {"host": "stable-diffusion", "objective": "untouched", "concept": "", "judged": judged}


def run_stack(gone: tuple[str, ...]) -> dict:
    torch.set_num_threads(1)
    pipe = zoo.load_stable_diffusion()
    for concept in gone:
        folder = PATCHES / "stable-diffusion" / "host" / concept
        if not folder.is_dir():  # the rows were made elsewhere: the same patch again
            quick = picture_evaluator(concept, 10_000, 2, 1)
            zoo.unlearn_stable_diffusion(concept, objective="host", test_evaluate=quick).patch.save_pretrained(folder)
        pipe.load_unlearning(folder, concept)
    return {
        "host": "stable-diffusion",
        "objective": "stack",
        "concept": " + ".join(gone),
        **score(judge(make(pipe, PER_CELL["host"])), gone),
    }


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def write_table(rows: list[dict]) -> None:
    lines = ["# The zoo's hosts: every concept, both objectives", ""]
    lines += [f"`python benchmarks/zoo_hosts.py`, {json.dumps(describe_software())}", ""]
    untouched = next((row["judged"] for row in rows if row["objective"] == "untouched"), None)
    pictures = [row for row in rows if row["host"] == "stable-diffusion" and row["objective"] in ("host", "clip")]
    if untouched and pictures:
        judged = [(prompt, tuple(seen)) for prompt, seen in untouched]
        lines += ["## Stable Diffusion", ""]
        lines += [
            f'{PER_CELL["host"]} pictures of each of 100 prompts for every patch ({PER_CELL["clip"]} with objective="clip"), ten of them '
            f"prompts of the concept, seeds from {SEED}; searched on seeds from 0. In percent; higher is better everywhere. `kept` are the other kind's names in the "
            f"concept's own pictures. The last line of each kind is the worst concept of each column.",
            "",
        ]
        for objective in ("host", "clip"):
            own = [row for row in pictures if row["objective"] == objective]
            if not own:
                continue
            lines += [f'### objective="{objective}" ({len(own)} concepts)', ""]
            lines += [
                "| concept | UA | IRA | CRA | kept | untouched UA | IRA | CRA | layer | change | s |",
                "|---|" + "---|" * 10,
            ]
            tables = []
            # of the untouched model the same pictures: those of the first seeds of each prompt
            same = [seen for i, seen in enumerate(judged) if i % PER_CELL["host"] < PER_CELL[objective]]
            for row in own:
                base = score(same, (row["concept"],))
                tables.append((row, base))
                cells = [percent(row[key]) for key in ("ua", "ira", "cra", "cra_forget")]
                cells += [percent(base[key]) for key in ("ua", "ira", "cra")]
                layer = row["layer"].removeprefix("text_model.encoder.")
                lines.append(
                    f"| {row['concept']} | {' | '.join(cells)} | {layer} | {row['relative_change']:.2f} | {row['seconds']} |"
                )
            for title, pick in (("**mean**", fmean), ("worst", min)):
                cells = [percent(pick(row[key] for row, _ in tables)) for key in ("ua", "ira", "cra", "cra_forget")]
                cells += [percent(pick(base[key] for _, base in tables)) for key in ("ua", "ira", "cra")]
                lines.append(f"| {title} | {' | '.join(cells)} | | | |")
            share = {
                key: fmean(r[key] for r, _ in tables) / fmean(b[key] for _, b in tables) for key in ("ira", "cra")
            }
            n = 10 * PER_CELL[objective] * len(own)
            low, high = wilson_interval(round(fmean(row["ua"] for row, _ in tables) * n), n)
            lines += [
                "",
                f"Mean UA {percent(fmean(r['ua'] for r, _ in tables))} (95 % interval over {n:,} pictures {percent(low)} to "
                f"{percent(high)}); IRA and CRA are {percent(share['ira'])} % and {percent(share['cra'])} % of the untouched model's.",
                "",
            ]
        stacks = [row for row in rows if row["objective"] == "stack"]
        if stacks:
            lines += [
                '### Three patches at once (objective="host")',
                "",
                "| concepts | mean UA | worst UA | digits right | styles right |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {row['concept']} | {percent(row['ua'])} | {percent(row['worst_ua'])} | {percent(row['digits'])} | {percent(row['styles'])} |"
                for row in stacks
            ]
            lines += ["", "Digits and styles over the prompts that show none of the three.", ""]
    answers = [row for row in rows if row["host"] == "llava"]
    if answers:
        lines += ["## LLaVA", ""]
        lines += [
            f"One question in a wording that was never trained on about each of {sum(answers[0][n] for n in ('n_forget', 'n_retain')):,} "
            f"drawings of unseen handwriting, and one about its style. `right` is the share of answers about the forgotten digit "
            f"that are still right.",
            "",
        ]
        for objective in ("host", "clip"):
            own = [row for row in answers if row["objective"] == objective]
            if not own:
                continue
            lines += [f'### objective="{objective}" ({len(own)} digits)', ""]
            lines += [
                "| digit | right before | right after | other digits before | after | styles before | after | layer | change | s |",
                "|---|" + "---|" * 9,
            ]
            for row in own:
                cells = [percent(row[when][key]) for key in ("fa1", "ira", "cra") for when in ("before", "after")]
                layer = row["layer"].removeprefix("vision_model.encoder.")
                lines.append(
                    f"| {row['concept']} | {' | '.join(cells)} | {layer} | {row['relative_change']:.2f} | {row['seconds']} |"
                )
            means = [
                percent(fmean(row[when][key] for row in own))
                for key in ("fa1", "ira", "cra")
                for when in ("before", "after")
            ]
            worst = [
                percent((max if key == "fa1" else min)(row[when][key] for row in own))
                for key in ("fa1", "ira", "cra")
                for when in ("before", "after")
            ]
            lines += [f"| **mean** | {' | '.join(means)} | | | |", f"| worst | {' | '.join(worst)} | | | |"]
            falls = [row["before"]["ira"] - row["after"]["ira"] for row in own]
            lines += [
                "",
                f"Fall of the other digits: mean {100 * fmean(falls):.2f}, worst {100 * max(falls):.2f} points.",
                "",
            ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "zoo_hosts.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", choices=("stable-diffusion", "llava"), help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    args = parser.parse_args()
    log = RESULTS / "zoo_hosts.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def work(pool, function, tasks, is_done) -> None:
        left = [task for task in tasks if not is_done(task)]
        for row in tqdm(pool.imap_unordered(function, left), total=len(left), desc=function.__name__):
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            write_table(sorted(rows, key=order))

    def order(row: dict) -> int:
        key = (row["host"], row["objective"], row["concept"])
        return PLAN.index(key) if key in PLAN else len(PLAN)

    def has(**wanted) -> bool:
        return any(all(row[key] == value for key, value in wanted.items()) for row in rows)

    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        tasks = [task for task in PLAN if args.host in (None, task[0])]
        if args.host != "llava":
            work(pool, run_untouched, [""], lambda _: has(objective="untouched"))
        for objective in ("host", "clip"):
            own = [task for task in tasks if task[1] == objective]
            work(pool, run, own, lambda t: has(host=t[0], objective=t[1], concept=t[2]))
            if args.host != "llava" and objective == "host":
                work(pool, run_stack, STACKS, lambda gone: has(objective="stack", concept=" + ".join(gone)))
    write_table(sorted(rows, key=order))


if __name__ == "__main__":
    main()
