# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a reader of `photo_tables.py`'s tables is to know of how they came about."""

from collections.abc import Iterator

from grids import ends_chosen
from photo_choice import RISK
from photo_data import DEVELOPMENT_SEEDS, OBJECTS, PEOPLE
from photo_methods import GRIDS, PATIENCE
from photo_picture import Rows

from hf_slug.evaluation.risk import AIM, HARDLY


def notes(rows: Rows, with_edges: bool = True) -> list[str]:
    """How settings were chosen and out of which, what was looked at before, what is counted; of the methods there are rows of."""
    grids = {method: grid for method, grid in GRIDS.items() if any(row["method"] == method for row in rows)}
    told = list(_choosing(bool(grids)))
    if grids:
        axes = (
            f"- {method}: {', '.join(f'{k} {_say(v)}' for k, v in grid.items())}" for method, grid in grids.items()
        )
        told += ["Tried were", "\n".join(axes)]
        if with_edges:
            told.append(edges(rows))
    return [*told, *_looked_at(rows), *_counted(list(grids))]


def _say(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _choosing(others: bool) -> Iterator[str]:
    yield "## How the settings were chosen"
    of = (
        "SLUG's layer and step, and the setting and step of every other method, are"
        if others
        else "SLUG's layer and step are"
    )
    yield (
        f"{of} chosen by one rule, anew for each concept and seed, on validation photographs alone:\n\n"
        f"1. Those that forget: no photograph of the concept has its name among the first five (FA@5 = 0). Where nothing does, those with the lowest "
        f"FA@5, to a twentieth.\n"
        f"2. Of these, those with a *risk* of at most {RISK:.0%}: the share of further photographs that would still be recognised, estimated from the margins.\n"
        f"3. Of these, the one that keeps most: the highest accuracy, in whole points; then the one that changes least what photographs are taken "
        f"for (Kullback-Leibler divergence).\n"
        f"4. If another one brings the risk to {RISK * AIM:.1%} at the price of at most {HARDLY * 100:.1f} points of what is kept, it is taken instead."
    )
    if others:
        yield (
            f"A setting of another method is left once {PATIENCE} looks since its best had nothing to gain: the risk was at most {RISK * AIM:.1%}, or over "
            f"{HARDLY * 100:.1f} points more were lost. Two unseen photographs of a person are too few for an estimate of the risk, so it also goes by those "
            f"that the method was trained on, which look more forgotten than others: that may end a training early. The risk is SLUG's rule, in none "
            f"of the other papers, and not always to their advantage: *no risk* is what they would be had the first and third step alone chosen (where there is no "
            f"such line, the same). `ratio` was settled on a person and an object of those that SLUG's defaults were settled on."
        )


def _looked_at(rows: Rows) -> Iterator[str]:
    known = {row["concept"] for row in rows}
    yield (
        f"Defaults were settled on other people and objects, in the end on photographs of seeds {list(DEVELOPMENT_SEEDS)} (`photo_ablations.md`), "
        f"before on those of seeds 0 to 2. Photographs of what is kept are partly the same: of a person there are four that the CLIP was not "
        f"trained on, of objects those that two seeds draw alike out of CIFAR-10's 10,000."
    )
    if known & {*PEOPLE, *OBJECTS}:
        yield (
            "**Looked at before**: *cat*, once, while the risk was settled; and step 4 of the rule was settled, on others, after the five "
            "people's FA@5 had been seen to be 3.33 without it, which missed a goal of 3."
        )


def _counted(methods: list[str]) -> Iterator[str]:
    if "FT" in methods:
        yield "Of FT, which still knows the name, a part of the fall is that it competes with the others, as it does in the untouched model."
    if methods:
        yield (
            "Trained were all weights but the temperature, by AdamW in bfloat16 beside float32 weights, as the CLIP itself was, in batches of 64 photographs of the concept "
            "and of one of every other name (GAFT and SalUn: `ratio` of these for each of those). "
            "SSD's Fisher information is that of SLUG's two losses, each over its own set in batches of one size: its α is on another scale than with the one "
            "loss of its paper, so its axis is wide."
        )
    yield (
        "*MB stored*: of SLUG the tensors of its patch; of the others the values that differ, in float32, without saying where they are. *s, all tried* holds the whole "
        "grid (SLUG: the whole search), with its validation; *s, chosen* the training by the chosen setting alone up to the chosen step, with what was validated on the way; but for "
        "those by the clock seconds are the processor's, what a run takes on a core of its own. Peak is how far memory rose."
    )


def edges(rows: Rows) -> str:
    """Says how often an end of an axis was chosen, beyond which a better setting may lie, or the last step."""
    found = []
    for method, grid in GRIDS.items():
        own = [row["setting"] for row in rows if row["method"] == method]
        axes = {key: values for key, values in grid.items() if len(values) > 1}
        if "steps" in grid:
            axes["step"] = grid["steps"]
        if ends := ends_chosen(axes, own):
            found.append(f"{method} (of {len(own)} runs): {', '.join(ends)}")
    return f"Chosen at an end of an axis: {'; '.join(found)}." if found else ""
