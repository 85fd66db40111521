# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
UnlearnCanvas (Zhang et al. 2024) on the zoo's Stable Diffusion: SLUG beside ESD, UCE and SalUn.

    python benchmarks/zoo_canvas.py            # hours; goes on where it was stopped
    python benchmarks/zoo_canvas.py --quick    # some minutes: a smoke test, nothing is tuned

Writes `benchmarks/results/zoo_canvas.md` (or `zoo_canvas_quick.md`). Every method has the same data, is searched by the same
validation pictures, and is judged by the same pictures, of seeds that no search has seen.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from tables import Runs, interval, markdown, mean_shares, measured, percent, write
from zoo_erasers import (
    DRAWING_STEPS,
    FORGET_PER_PROMPT,
    GRIDS,
    KEPT_PER_PROMPT,
    QUICK,
    SEARCH_STEPS,
    SLUG_SETTINGS,
    forget_by_slug,
    forget_by_tuning,
    settings,
    settings_of,
)
from zoo_pictures import distance_of_kept, judge, make, score

from hf_slug import zoo
from hf_slug.zoo.data import kind


METHODS = ("untouched", *SLUG_SETTINGS, *GRIDS)
CONCEPTS = (
    "four",
    "nine",
    "chalk",
    "shadow",
)  # the search was settled on "three", grids on "seven", "neon" and "watercolor"
FIRST_SEED = 70_000  # of reported pictures; no search, and no choice of a setting or a grid, has seen them
QUALITY = ("ua", "ira", "cra")
Rows = Sequence[dict[str, Any]]


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


def of(rows: Rows, method: str, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of a method."""
    return [row for row in rows if row["method"] == method and all(row[key] == wanted[key] for key in wanted)]


def quality(row: dict[str, Any]) -> float:
    return fmean(row[key] for key in QUALITY)


def complete(rows: Rows) -> list[dict[str, Any]]:
    """The rows of those concepts and seeds that every method was run on: only these compare methods."""
    done = [{(row["concept"], row["seed"]) for row in of(rows, method)} for method in METHODS]
    return [row for row in rows if all((row["concept"], row["seed"]) in own for own in done)]


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


def verdict(title: str, rows: Rows) -> list[list[str]]:
    """What SLUG is to reach, beside what it does; a mean that another method reaches, too, is not above it."""
    means = {
        method: {key: fmean(row[key] for row in own) for key in (*QUALITY, "seconds", "seconds_all")}
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
    for own, theirs, words in (
        ("seconds", "seconds", "both at a setting that is known"),
        ("seconds_all", "seconds_all", "both with their search"),
        ("seconds_all", "seconds", "ours with its search, ESD's without"),
    ):
        share = slug[own] / others["ESD"][theirs]
        lines.append([f"seconds ≤ 1/10 of ESD's, {words}", f"1/{1 / share:.1f}", share <= 0.1])
    share = slug["stored"] / encoder
    lines.append(["bytes ≤ 1/100 of the text encoder", f"1/{1 / share:.0f} of {encoder / 1e6:.2f} MB", share <= 0.01])
    return [[title, goal, found, "yes" if reached else "**no**"] for goal, found, reached in lines]


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


def table(name: str, rows: Rows, per_prompt: int, quick: bool) -> None:
    """Writes what there is; what compares methods, once all of them are there."""
    seeds, concepts = sorted({row["seed"] for row in rows}), {row["concept"] for row in rows}
    tried = "; ".join(f"{method}: {', '.join(map(say, settings(method, quick)))}" for method in QUICK) if quick else ""
    grids = "; ".join(f"{method}: {' and '.join(map(say_grid, parts))}" for method, parts in GRIDS.items())
    parts = [
        "# UnlearnCanvas on the zoo: styles and objects",
        f"{len(concepts)} concepts, seeds {seeds}. Of each of 100 prompts {per_prompt} pictures a run ({DRAWING_STEPS} steps, "
        f"guidance 3), from seeds {FIRST_SEED} + 1000 · seed on; the same for every method, and seen by no search. UA, IRA and CRA in "
        f"percent [95 % interval: Student over runs, i.e. concept × seed, of which those of a concept share it; where all agree Wilson over "
        f"their pictures], after UnlearnCanvas: of the concept's "
        f"pictures, how many no longer show it; of the others, how often the concept's own kind is right, and the other kind.",
        "The Fréchet distance stands in for FID, for which there are no Inception weights here: it is that of FID, between "
        "features of the zoo's judge (what its last layer reads) of the pictures of all other prompts and of real drawings with the same "
        "captions, of handwriting that nothing was trained on. Seconds are those of one processor thread: once, i.e. one training at "
        "the chosen setting (of SLUG the gradients, as all else is its search), and with the search for it. Peak is how far memory rose in training, and SLUG's in its search. Stored "
        "is what each method's authors publish: the weights of a patch, or the whole UNet; changed is the least that would do.",
        f"All methods have the same {FORGET_PER_PROMPT * 10} validation pictures of the concept and {KEPT_PER_PROMPT} of each other prompt "
        f"(seeds from 0, {SEARCH_STEPS} steps). SLUG (rank {SLUG_SETTINGS['SLUG']['rank']}) searches layers and their steps with them until the first that forgets and keeps the rest (`early_stopping`); of each other method, of the settings "
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
    by_kind = {title: [row for row in compared if kind(row["concept"]) == key] for title, key in KINDS.items()}
    by_kind = {title: own for title, own in by_kind.items() if own}
    for title, own in by_kind.items():
        parts += [f"## {title}", methods_table(own), beaten(own)]
    if left := len(rows) - len(compared):
        parts.append(f"{left} runs of concepts and seeds that not every method was run on yet are below alone.")
    lines = [line for title, own in by_kind.items() for line in verdict(title.lower(), own)]
    if lines and not quick:  # in a quick run ESD is a tenth of itself, and nothing is tuned
        parts += ["## What SLUG is to reach", markdown(["", "goal", "found", "reached"], lines)]
    parts += ["## Every concept", concepts_table(rows)]
    write(name, parts, rows=rows)


KINDS = {"Styles": "style", "Objects (digits)": "digit"}


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

    def write_table(rows: Rows) -> None:
        known = [row for row in rows if runs.key(row) in order]
        table(name, sorted(known, key=lambda row: order[runs.key(row)]), args.per_prompt, args.quick)

    runs.complete(run, tasks, args.workers, write_table)


if __name__ == "__main__":
    main()
