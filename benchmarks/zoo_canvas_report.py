# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tables and sentences of `zoo_canvas.py`, from its rows."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from grids import ends_chosen
from tables import interval, markdown, mean_shares, percent, say_reached, write
from zoo_erasers import (
    DRAWING_STEPS,
    FORGET_PER_PROMPT,
    GRIDS,
    KEPT_PER_PROMPT,
    QUICK,
    SEARCH_STEPS,
    SLUG_SETTINGS,
    settings,
)

from hf_slug.zoo.data import kind


METHODS = ("untouched", *SLUG_SETTINGS, *GRIDS)
KINDS = {"Styles": "style", "Objects (digits)": "digit"}
FIRST_SEED = 70_000  # of reported pictures; no search, and no choice of a setting or a grid, has seen them
QUALITY = ("ua", "ira", "cra")
Rows = Sequence[dict[str, Any]]


def of(rows: Rows, method: str, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of a method."""
    return [row for row in rows if row["method"] == method and all(row[key] == wanted[key] for key in wanted)]


def quality(row: dict[str, Any]) -> float:
    return fmean(row[key] for key in QUALITY)


def complete(rows: Rows) -> list[dict[str, Any]]:
    """The rows of those concepts and seeds that every method was run on: only these compare methods."""
    done = [{(row["concept"], row["seed"]) for row in of(rows, method)} for method in METHODS]
    return [row for row in rows if all((row["concept"], row["seed"]) in own for own in done)]


def by_kind(rows: Rows, titles: Mapping[str, str] = KINDS) -> dict[str, list[dict[str, Any]]]:
    """The rows of styles and of objects, by their title; without a kind that has none."""
    kinds = {title: [row for row in rows if kind(row["concept"]) == key] for title, key in titles.items()}
    return {title: own for title, own in kinds.items() if own}


def qualities(rows: Rows) -> list[str]:
    """UA, IRA and CRA with their intervals, and their mean."""
    drawn = {key: (10 if key == "ua" else 90) for key in QUALITY}  # prompts of the concept, and others
    cells = [mean_shares([r[key] for r in rows], [drawn[key] * r["per_prompt"] for r in rows]) for key in QUALITY]
    return [*cells, percent(fmean(quality(row) for row in rows))]


def method_row(method: str, rows: Rows) -> list[str]:
    """One line of a table of methods."""
    cells = qualities(rows)
    mean, half = interval([row["distance"] for row in rows])
    cells.append(f"{mean:.2f} ± {half:.2f}")
    if method == "untouched":
        return [method, *cells, "", "", "", "", ""]
    for key, share, digits in (
        ("seconds", 1, 1),
        ("seconds_all", 1, 1),
        ("peak_bytes", 1e6, 0),
        ("stored_bytes", 1e3, 1),
        ("changed_bytes", 1e3, 1),
    ):
        cells.append(f"{fmean(row[key] for row in rows) / share:,.{digits}f}")
    return [method, *cells]


def methods_table(rows: Rows) -> str:
    header = ["method", "UA ↑", "IRA ↑", "CRA ↑", "mean ↑", "Fréchet ↓", "s, once", "s, with search", "peak MB"]
    header += ["kB stored", "kB changed"]
    return markdown(header, [method_row(method, own) for method in METHODS if (own := of(rows, method))])


def concepts_table(rows: Rows) -> str:
    """Every concept: UA / IRA / CRA of each seed, and which settings were chosen."""
    lines = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        for method in METHODS:
            if own := of(rows, method, concept=concept):
                cells = [" ".join(percent(row[key], 1) for row in own) for key in QUALITY]
                chosen = [say(row["setting"]) for row in own if "setting" in row]
                lines.append([concept, method, *cells, "; ".join(dict.fromkeys(chosen))])
    return markdown(["concept", "method", "UA", "IRA", "CRA", "chosen (by seed, where they differ)"], lines)


def say(setting: dict[str, Any]) -> str:
    """A setting in words; a layer by its place in the text tower."""
    if "layer" in setting:
        place = setting["layer"].removeprefix("text_model.encoder.")
        return f"{place} by {setting['relative_change']:.2f} of its norm"
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in setting.items())


def say_grid(part: dict[str, Sequence[Any]]) -> str:
    return " × ".join(f"{key.replace('_', ' ')} {{{', '.join(map(str, values))}}}" for key, values in part.items())


def edges(rows: Rows) -> str:
    """Says how often an end of an axis was chosen, beyond which a better setting may lie."""
    found = []
    for method, parts in GRIDS.items():
        own, ends = of(rows, method), []
        for part in parts:
            fixed = {key: values[0] for key, values in part.items() if len(values) == 1}
            mine = [row["setting"] for row in own if all(row["setting"][key] == fixed[key] for key in fixed)]
            axes = {k: values for k, values in part.items() if len(values) > 1 and not isinstance(values[0], str)}
            variant = f"{fixed['variant']}, " if "variant" in fixed else ""
            ends += [f"{variant}{end}" for end in ends_chosen(axes, mine)]
        if ends:
            found.append(f"{method} (of {len(own)} runs): {'; '.join(ends)}")
    return f"Chosen at an end of an axis: {'. '.join(found)}." if found else ""


def verdict(title: str, rows: Rows) -> list[list[str]]:
    """What SLUG is to reach, beside what it does; a mean that another method reaches, too, is not above it."""
    means = {
        method: {key: fmean(row[key] for row in own) for key in (*QUALITY, "seconds_all")}
        | {"mean": fmean(quality(row) for row in own), "stored": fmean(row["stored_bytes"] for row in own)}
        for method in ("SLUG", *GRIDS)
        if (own := of(rows, method))
    }
    slug, others = means["SLUG"], {name: values for name, values in means.items() if name != "SLUG"}
    encoder = rows[0]["encoder_bytes"]
    lines = []
    for key in QUALITY:
        best = max((values[key], name) for name, values in others.items() if name in ("UCE", "SalUn"))
        found = f"{percent(slug[key])} against {percent(best[0])} ({best[1]})"
        lines.append([f"{key.upper()} ≥ the best of UCE and SalUn − 2 points", found, slug[key] >= best[0] - 0.02])
    best = max((values["mean"], name) for name, values in others.items())
    whole = fmean((1.0, *(fmean(row[key] for row in of(rows, "untouched")) for key in ("ira", "cra"))))
    found = f"{percent(slug['mean'])} against {percent(best[0])} ({best[1]}); {percent(whole)} would be all forgotten and the rest untouched"
    lines.append(["mean of the three above all others", found, slug["mean"] > best[0]])
    share = slug["seconds_all"] / others["ESD"]["seconds_all"]  # without their search: `zoo_seconds.py`
    lines.append(["seconds ≤ 1/10 of ESD's, both with their search", f"1/{1 / share:.1f}", share <= 0.1])
    share = slug["stored"] / encoder
    lines.append(
        [
            "bytes of its tensors ≤ 1/100 of the text encoder",
            f"1/{1 / share:.0f} of {encoder / 1e6:.2f} MB",
            share <= 0.01,
        ]
    )
    return [[title, goal, found, say_reached(reached)] for goal, found, reached in lines]


def beaten(rows: Rows) -> str:
    """Where another method is better than SLUG, in words."""
    higher = {"ua": "UA", "ira": "IRA", "cra": "CRA", "mean": "the mean of these"}
    lower = {
        "distance": ("Fréchet distance", 1),
        "seconds": ("seconds once", 1),
        "seconds_all": ("seconds with search", 1),
        "peak_bytes": ("MB", 1e6),
    }
    found = []
    for method in GRIDS:
        for key in (*higher, *lower):
            values = ([{**row, "mean": quality(row)}[key] for row in of(rows, name)] for name in ("SLUG", method))
            slug, other = map(fmean, values)
            if key in higher and other > slug:
                found.append(f"{method} in {higher[key]} ({percent(other)} against {percent(slug)})")
            elif key in lower and other < slug:
                word, share = lower[key]
                found.append(f"{method} in {word} ({other / share:.2f} against {slug / share:.2f})")
    return (
        f"Better than SLUG are: {', '.join(found)}." if found else "No other method is better than SLUG in any column."
    )


def write_table(name: str, rows: Rows, per_prompt: int, quick: bool) -> None:
    """Writes what there is; what compares methods, once all of them are there."""
    seeds, concepts = sorted({row["seed"] for row in rows}), {row["concept"] for row in rows}
    tried = "; ".join(f"{method}: {', '.join(map(say, settings(method, quick)))}" for method in QUICK) if quick else ""
    grids = "; ".join(f"{method}: {' and '.join(map(say_grid, parts))}" for method, parts in GRIDS.items())
    parts = [
        "# UnlearnCanvas on the zoo: styles and objects",
        f"{len(concepts)} concepts, seeds {seeds}. Of each of 100 prompts {per_prompt} pictures a run ({DRAWING_STEPS} steps, "
        f"guidance 3), from seeds {FIRST_SEED} + 1000 · seed on; the same for every method, and seen by no search. UA, IRA and CRA in "
        f"percent [95 % interval: on each side the wider of Student's over runs, i.e. concept × seed, of which those of a concept share it, and Wilson's "
        f"over their pictures], after UnlearnCanvas: of the concept's "
        f"pictures, how many no longer show it; of the others, how often the concept's own kind is right, and the other kind.",
        "The Fréchet distance stands in for FID, for which there are no Inception weights here: it is that of FID, between "
        "features of the zoo's judge (what its last layer reads) of the pictures of all other prompts and of real drawings with the same "
        "captions, of handwriting that nothing was trained on. Seconds are those of one processor thread: once, i.e. one training at "
        "the chosen setting (of SLUG the gradients, as all else is its search), and with the search for it. No report is in it. Peak is how far memory rose in training, and SLUG's in its search. Stored "
        "is what each method's paper counts: the weights of a patch, or the whole UNet; changed is the least that would do.",
        f"All methods have the same {FORGET_PER_PROMPT * 10} validation pictures of the concept and {KEPT_PER_PROMPT} of each other prompt "
        f"(seeds from 0, {SEARCH_STEPS} steps). SLUG (rank {SLUG_SETTINGS['SLUG']['rank']}) searches layers and their steps with them until the first that forgets and keeps the rest (`early_stopping`); as published (CLIP's losses, their plain gradient, a dense "
        f"patch) it searches the whole front; of each other method, of the settings "
        f"within a point of its highest UA, the one with the highest mean of IRA and CRA is taken, per concept and seed: forgetting comes first, "
        f"whatever it costs, so a setting that forgets less may have kept more. "
        + (f"A quick run, in which nothing is tuned: {tried}." if quick else f"Tried were {grids}."),
    ]
    if not quick:
        parts.append(
            f"ESD trains for as many iterations as published, on pictures that are denoised in {DRAWING_STEPS} steps, as the "
            f"zoo's are, where those published had 50: it would take longer with these."
        )
    compared = complete(rows)
    kinds = by_kind(compared)
    for title, own in kinds.items():
        parts += [f"## {title}", methods_table(own), beaten(own)]
    if not quick:
        parts.append(edges(compared))
    if left := len(rows) - len(compared):
        parts.append(f"{left} runs of concepts and seeds that not every method was run on yet are below alone.")
    lines = [line for title, own in kinds.items() for line in verdict(title.lower(), own)]
    if lines and not quick:  # in a quick run ESD is a tenth of itself, and nothing is tuned
        parts += ["## What SLUG is to reach", markdown(["", "goal", "found", "reached"], lines)]
    parts += ["## Every concept", concepts_table(rows)]
    write(name, parts, rows=rows)
