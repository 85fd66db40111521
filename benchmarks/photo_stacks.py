# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Patches of one to five people on one CLIP (the paper's Figures 7 and 8): as `photo_tables.py` has saved them, or made in turn.

    HF_SLUG_DATA=../shared/data python benchmarks/photo_stacks.py             # goes on where it was stopped
    HF_SLUG_DATA=../shared/data python benchmarks/photo_stacks.py --quick     # two people of one seed

Writes `benchmarks/results/photo_stacks.md` and `photo_stacks.png`, the mean cosines of people's photographs with their names.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from photo_data import MODEL, SEEDS, STACKED, TEST_SHOTS, Photographs, Score, collect, load_model, mark_of
from photo_methods import PLAIN, SLUG, search_patch, settings_of
from photo_sources import FACE_NAMES, NAMES, TEMPLATE
from photo_tables import patch_folder, save_patch
from tables import RESULTS, Runs, mark, markdown, mean_shares, percent, percents, say_reached, write

from hf_slug import UnlearningPatch, fit_weights
from hf_slug.composition import stacked
from hf_slug.data import Pairs
from hf_slug.evaluation import ZeroShotEvaluator, seen_beside
from hf_slug.inputs import embed_images, embed_texts
from hf_slug.losses import normalize


SEARCHED, FITTED, IN_TURN, BOTH = "as searched", "fitted", "in turn", "in turn, fitted"
WAYS = {  # as tables say it
    PLAIN: "made apart, plain gradient",
    SEARCHED: "made apart",
    FITTED: "made apart, weights fitted",
    IN_TURN: "made in turn",
    BOTH: "made in turn, weights fitted",
}
# to be changed by hand when `fit_weights` is, and when what `beside` does is
FIT = "raised where that costs at most a point of what is kept"
BESIDE = "steps from the original weights"


def run(task: dict[str, Any]) -> dict[str, Any]:
    """The first `count` people forgotten at once: each one's FA, what is left of the others, and the cosines."""
    model, processor = load_model(task["model"])
    group = STACKED[task["group"]]
    gone = group[: task["count"]]
    photographs = {concept: collect(concept, task["seed"]) for concept in gone}
    scores = {concept: Score(own, "test_", processor, model) for concept, own in photographs.items()}
    kept = scores[gone[0]]  # of the others: those 35 people who are never forgotten, so that the numbers compare
    before = kept(model, group, struck=gone)
    shown = Pairs([p for s in scores.values() for p in s.evaluator.forget], "people")
    first = cosines(model, processor, shown)
    patches: dict[str, UnlearningPatch] = {}
    for c in gone:
        beside = patches if task["weights"] in (IN_TURN, BOTH) else {}
        own = {**task, "concept": c, "method": method_of(task["weights"])}
        patches[c] = UnlearningPatch.from_pretrained(find_patch(own, beside))
    weights = dict.fromkeys(gone, 1.0)
    if task["weights"] in (FITTED, BOTH):
        weights = fit_weights(model, patches, {c: _judge(own, processor) for c, own in photographs.items()}).weights
    with stacked(model, patches, weights):
        after, fa = kept(model, group), {concept: score.forgotten(model) for concept, score in scores.items()}
        return {
            "fitted": weights,
            "fa": {concept: [found["fa1"], found["fa5"]] for concept, found in fa.items()},
            **{key: [before[key], after[key]] for key in ("people", "objects")},
            "cosines": [first, cosines(model, processor, shown)],
        }


def _judge(photographs: Photographs, processor: Any) -> ZeroShotEvaluator:
    parts = photographs.parts
    own = (parts["validation_forget"], parts["validation_retain"], photographs.concept, NAMES)
    return ZeroShotEvaluator(processor, *own, seen=seen_beside(parts["validation_forget"], parts["forget"]))


def find_patch(task: dict[str, Any], beside: Mapping[str, UnlearningPatch] | None = None) -> Path:
    """The patch that `photo_tables.py` has saved, or the same once more; beside others, one that is made with them on."""
    task = {**task, "after": [*(beside or {}), mark(BESIDE)] if beside else []}
    folder = patch_folder(task)
    if folder.is_dir():
        return folder
    photographs = collect(task["concept"], task["seed"])
    others = list((beside or {}).values())
    how = SLUG[task["method"]]
    return save_patch(
        search_patch(*load_model(task["model"]), photographs, task["seed"], **how, beside=others).patch, task
    )


@torch.no_grad()
def cosines(model: Any, processor: Any, shown: Pairs) -> list[list[float]]:
    """Mean cosine of each person's photographs (a row) with each of their names (a column)."""
    people = list(dict.fromkeys(shown.names))
    said = normalize(embed_texts(model, processor, [TEMPLATE.format(name) for name in people]))
    found = normalize(embed_images(model, processor, shown, 250)) @ said.T
    return [found[[name == person for name in shown.names]].mean(0).tolist() for person in people]


def method_of(way: str) -> str:
    """What makes the patches that are stacked in a way."""
    return PLAIN if way == PLAIN else "SLUG"


def mark_of_stacks(weights: str, way: str) -> str:
    """A mark of a model's weights, of how its patches are made and stacked: rows of another are not one table's."""
    made = {PLAIN: [], SEARCHED: [FIT], FITTED: [FIT], IN_TURN: [BESIDE], BOTH: [BESIDE, FIT]}[way]
    return f"{weights}-{mark([settings_of(method_of(way)), *made])}"


def current(rows: Sequence[dict[str, Any]], weights: str) -> list[dict[str, Any]]:
    """Those of a model, by the code of today."""
    return [row for row in rows if row["mark"] == mark_of_stacks(weights, row["weights"])]


def summarize(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What stacks of so many leave (FA@1, FA@5, the worst person's FA@5) and cost (people, objects)."""
    groups = [[row for row in rows if row["group"] == group] for group in sorted({row["group"] for row in rows})]
    fa = [[fmean(row["fa"][concept][i] for row in own) for own in groups for concept in own[0]["fa"]] for i in (0, 1)]
    falls = [[fmean(row[key][0] - row[key][1] for row in own) for own in groups] for key in ("people", "objects")]
    left = [mean_shares(each, [TEST_SHOTS] * len(each)) for each in fa]
    return [*left, percent(max(fa[1])), *map(percents, falls)]


def write_table(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the table, and draws the cosines of the largest stack."""
    lines = [
        [str(count), said, *summarize(own)]
        for count in sorted({row["count"] for row in rows})
        for way, said in WAYS.items()
        if (own := some(rows, count=count, weights=way))
    ]
    header = [
        "people forgotten",
        "patches",
        "FA@1 ↓",
        "FA@5 ↓",
        "worst person's FA@5",
        f"fall of the {len(FACE_NAMES) - len(STACKED[0])} others",
        "fall of objects",
    ]
    groups = sorted({row["group"] for row in rows})
    text = (
        f"The first 1 to 5 of each of {len(groups)} groups ({'; '.join(', '.join(STACKED[i]) for i in groups)}), their "
        f"patches loaded together: each searched alone ({WAYS[SEARCHED]}; also by the paper's direction), or beside those before it ({WAYS[IN_TURN]}: "
        f"`unlearn(..., beside=...)`); as they are, or with weights that `fit_weights` found on validation photographs; seeds {sorted({row['seed'] for row in rows})}. On test photographs, {TEST_SHOTS} a person and "
        f"seed, among all {len(NAMES)} names, in percent. FA: the share still recognised [95 % interval: on each side the wider of Student's over people and "
        f"Wilson's, as if a person had the {TEST_SHOTS} photographs of one seed alone: seeds share some]; falls in points (mean ± half a "
        f"95 % interval over groups) from the untouched model with the forgotten names struck, over the {len(FACE_NAMES) - len(STACKED[0])} "
        f"people whom no patch of the group forgets. Three rules were made after stacks of these groups had been looked at: that what moves least wins "
        f"(first group), that changes of over 16 times come last (fourth), and `beside` itself; each was settled on other people and seeds, yet no group is untouched by them."
    )
    known = [percent(fmean(row[key][0] for row in rows), 1) for key in ("people", "objects")]
    text += (
        f" Untouched, {known[0]} % of the photographs of these 35 are recognised, and {known[1]} % of the objects'. A stack takes the seconds, memory and bytes of its "
        f"patches (`photo_tables.md`). Other methods were not stacked."
    )
    draw(name, rows)
    most = max(row["count"] for row in rows)
    parts = [
        "# Several people forgotten at once",
        text,
        markdown(header, lines),
        f"## {most} at once, by group",
        goals_table([row for row in rows if row["count"] == most]),
        f"![Mean cosines of people's photographs with their names, the largest stack of every group]({name}.png)",
    ]
    write(name, parts, rows=rows)


def some(rows: Sequence[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows in which all of this is so."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def left_and_lost(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """Of a group by one way: each person's FA@5, and the fall of the others, means over seeds."""
    fa5 = {concept: fmean(row["fa"][concept][1] for row in rows) for concept in rows[0]["fa"]}
    return fa5, fmean(row["people"][0] - row["people"][1] for row in rows)


def goals_table(rows: Sequence[dict[str, Any]]) -> str:
    """Each group's largest stack beside the goals: every FA@5 at most 5 %, a fall of the others of at most 5 points."""
    lines = []
    groups = sorted({row["group"] for row in rows})
    for group, (way, said) in itertools.product(groups, WAYS.items()):
        own = some(rows, group=group, weights=way)
        if not own:
            continue
        fa5, fall = left_and_lost(own)
        worst = max(fa5, key=fa5.__getitem__)
        over = sum(value > 0.05 for value in fa5.values())
        found = f"{percent(fa5[worst])} ({worst})" if fa5[worst] else "0.00"
        reached = [say_reached(done) for done in (not over, fall <= 0.05)]
        lines.append([", ".join(own[0]["fa"]), said, found, reached[0], percent(fall), reached[1]])
    header = ["group", "patches", "worst person's FA@5", "each ≤ 5 %", "fall of the others", "≤ 5 points"]
    return markdown(header, lines)


def draw(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the cosines of every group's largest stack with their names, before and after, averaged over seeds; a row each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count, groups = max(row["count"] for row in rows), sorted({row["group"] for row in rows})
    kinds = [kind for kind in WAYS if any(row["weights"] == kind for row in rows)]
    size = (4 * (1 + len(kinds)), 4 * len(groups))
    figure, axes = pyplot.subplots(len(groups), 1 + len(kinds), figsize=size, layout="constrained", squeeze=False)
    for line, group in zip(axes, groups):
        people = STACKED[group][:count]
        own = {kind: some(rows, group=group, count=count, weights=kind) for kind in kinds}
        means = {kind: torch.tensor([row["cosines"] for row in some]).mean(0) for kind, some in own.items() if some}
        if not means:
            continue
        shown = {"before": next(iter(means.values()))[0]}
        shown |= {f"{count} patches, {WAYS[kind]}": pair[1] for kind, pair in means.items()}
        for axis, (title, matrix) in zip(line, shown.items()):
            picture = axis.imshow(matrix, vmin=-1, vmax=1, cmap="coolwarm")
            axis.set(xticks=range(count), yticks=range(count), xlabel="name", ylabel="photographs")
            axis.set_title(title, pad=8)
            axis.set_xticklabels(people, rotation=45)
            axis.set_yticklabels(people)
            for i in range(count):
                for j in range(count):
                    axis.text(j, i, f"{matrix[i][j]:.2f}", ha="center", va="center", color="black", fontsize=7)
    figure.colorbar(picture, ax=axes, label="mean cosine")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=70)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="folder that train_photo_clip.py wrote")
    parser.add_argument("--name", default="photo_stacks", help="of the files in benchmarks/results")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="two people, one seed")
    args = parser.parse_args()
    name, counts, groups = args.name, range(1, len(STACKED[0]) + 1), range(len(STACKED))
    if args.quick:
        name, counts, groups, args.seeds = f"{name}_quick", range(1, 3), range(1), args.seeds[:1]
    load_model(args.model)
    made_by = {way: mark_of_stacks(mark_of(args.model), way) for way in WAYS}
    tasks = [
        {
            "group": group,
            "count": count,
            "weights": weights,
            "seed": seed,
            "model": args.model,
            "mark": made_by[weights],
        }
        for seed in args.seeds
        for group in groups
        for count in counts
        for weights in WAYS
    ]
    runs = Runs(name, ("group", "count", "weights", "seed", "mark"))
    shared = {  # which several processes would want at the same time
        (concept, task["seed"])
        for task in runs.left(tasks)
        if method_of(task["weights"]) == "SLUG"
        for concept in STACKED[task["group"]][: task["count"]]
    }
    for concept, seed in sorted(shared):
        find_patch({"concept": concept, "seed": seed, "model": args.model, "method": "SLUG"})
    # the largest first, as they make the patches of the smaller ones
    longest = [task for task in tasks if task["count"] == max(counts) and task["weights"] in (IN_TURN, PLAIN)]
    for part in (longest, tasks):
        runs.complete(
            run, part, args.workers, after=lambda rows: write_table(name, current(rows, mark_of(args.model)))
        )


if __name__ == "__main__":
    main()
