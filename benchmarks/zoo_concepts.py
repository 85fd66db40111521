# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets each of the zoo's 20 concepts with each of three seeds, and writes the table benchmarks/results/zoo_concepts.md.

    python benchmarks/zoo_concepts.py

About half an hour on two cores. It can be stopped and started again: runs that are done are kept in a `.jsonl` file beside
the table and are not repeated unless `--fresh` is given. Every number in the table is from the test handwriting, which neither the gradient nor the search has seen.
"""

import argparse
import json
from typing import Any

import torch
from tables import RESULTS, percent
from tqdm.auto import tqdm

from hf_slug import UnlearningResult, zoo
from hf_slug.data import load_pairs
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.report import wilson_interval
from hf_slug.towers import candidate_layers
from hf_slug.zoo.data import CONCEPTS, TEMPLATES, kind, names


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


def run(concept: str, seed: int, direction: str) -> dict[str, Any]:
    """One run, as a row of the table."""
    result = zoo.unlearn_clip(concept, seed=seed, direction=direction)
    report = result.report
    before, after, cost = report["metrics"]["before"], report["metrics"]["after"], report["cost"]
    other_before, other_after = other_kind_accuracy(result, concept, seed)
    return {
        "concept": concept,
        "seed": seed,
        "direction": direction,
        "succeeded": result.succeeded,
        "layer": report["chosen"]["layer"],
        "relative_change": report["chosen"]["relative_change"],
        "before": before,
        "after": after,
        "n_forget": report["metrics"]["n_forget"],
        "n_retain": report["metrics"]["n_retain"],
        "other_before": other_before,
        "other_after": other_after,
        "seconds": cost["gradient_s"] + cost["search_s"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """All runs in Markdown: the summary first, then a row a concept, then what went wrong."""
    falls = [row["before"]["ta"] - row["after"]["ta"] for row in rows]
    near = [row["before"]["ta_neighbors"] - row["after"]["ta_neighbors"] for row in rows]
    others = [row["other_before"] - row["other_after"] for row in rows]
    reached = [row["after"]["fa1"] <= 0.01 for row in rows]
    low, high = wilson_interval(sum(reached), len(rows))
    seeds = sorted({row["seed"] for row in rows})
    missed = [row for row in rows if row["after"]["fa1"] > 0.01 or not row["succeeded"]]
    mean = sum(row["seconds"] for row in rows) / len(rows)
    lines = [
        "# The zoo's CLIP: every concept, on unseen handwriting",
        "",
        f"{len(rows)} runs: {len({row['concept'] for row in rows})} concepts, seeds {seeds}, direction "
        f"`{rows[0]['direction']}`, {rows[0]['n_forget']} forget and {rows[0]['n_retain']} retain test images a run "
        f"(a few more or less by concept). Falls are in points of accuracy, macro-averaged over names.",
        "",
        "| over all runs | |",
        "|---|---|",
        f"| FA@1 ≤ 1 % | {sum(reached)} of {len(rows)} ({100 * sum(reached) / len(rows):.1f} %, 95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}) |",
        f"| FA@1 after, mean and worst (%) | {percent(sum(r['after']['fa1'] for r in rows) / len(rows))}, "
        f"{percent(max(r['after']['fa1'] for r in rows))} |",
        f"| fall of retained accuracy, mean and worst | {percent(sum(falls) / len(rows))}, {percent(max(falls))} |",
        f"| the same over the five nearest names | {percent(sum(near) / len(rows))}, {percent(max(near))} |",
        f"| fall on the other kind (styles for digits), mean and worst | {percent(sum(others) / len(rows))}, "
        f"{percent(max(others))} |",
        f"| gradient and search, mean (s) | {mean:.1f} |",
        "",
        "| concept | FA@1 before | FA@1 after (by seed) | TA before | fall of TA (by seed) | other kind | layers |",
        "|---|---|---|---|---|---|---|",
    ]
    for concept in dict.fromkeys(row["concept"] for row in rows):
        own = [row for row in rows if row["concept"] == concept]
        average = {key: sum(row["before"][key] for row in own) / len(own) for key in ("fa1", "ta")}
        lines.append(
            f"| {concept} | {percent(average['fa1'])} | {', '.join(percent(r['after']['fa1']) for r in own)} "
            f"| {percent(average['ta'])} | {', '.join(percent(r['before']['ta'] - r['after']['ta']) for r in own)} "
            f"| {', '.join(percent(r['other_before'] - r['other_after']) for r in own)} "
            f"| {', '.join(dict.fromkeys('`' + r['layer'].replace('_model.encoder.layers', '') + '`' for r in own))} |"
        )
    lines += ["", "## Runs that missed", ""]
    lines += [f"- {r['concept']}, seed {r['seed']}: FA@1 {percent(r['after']['fa1'])} %" for r in missed] or ["None."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is not done yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--direction", default="whitened", choices=("whitened", "gradient"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are done")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    suffix = "" if args.direction == "whitened" else f"_{args.direction}"
    log = RESULTS / f"zoo_concepts{suffix}.jsonl"
    RESULTS.mkdir(exist_ok=True)
    done = {}
    if log.exists() and not args.fresh:
        done = {(row["concept"], row["seed"]): row for row in map(json.loads, log.read_text().splitlines())}
    for concept, seed in tqdm([(c, s) for c in args.concepts for s in args.seeds]):
        if (concept, seed) not in done:
            done[concept, seed] = run(concept, seed, args.direction)
            log.write_text("".join(json.dumps(row) + "\n" for row in done.values()))
    rows = [done[key] for key in sorted(done, key=lambda key: (CONCEPTS.index(key[0]), key[1]))]
    text = table(rows)
    (RESULTS / f"zoo_concepts{suffix}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
