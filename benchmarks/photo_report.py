# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tables, sentences and the picture of `photo_tables.py`, from its rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from photo_data import EVERYONE, PEOPLE
from photo_methods import GRIDS, SLUG, WIDELY
from photo_notes import notes
from photo_picture import KINDS, NO_RISK, TITLES, Rows, draw, falls
from photo_sources import NAMES
from tables import by_concept, interval, markdown, mean_shares, percent, percents, write
from train_photo_clip import TRAINING


LEFT, KEPT = ("fa1", "fa5", "fa5_reworded"), ("objects", "people", "near")
# what a run takes: its key, what the table calls it, in which unit
COSTS = {
    "seconds": ("s, all tried", 1),
    "one_run": ("s, chosen", 1),
    "wall_seconds": ("s by the clock", 1),
    "peak_bytes": ("peak MiB", 2**20),
    "stored_bytes": ("MB stored", 1e6),
}
OF_SSD = (
    "Of SSD: each of the fifty names is one token, so the text tower's table of tokens has a row of 128 values that no other name reads. In {} of "
    "{} runs SSD changed under four times as many values as that in all: it takes the row to nothing, which costs little. In the others the setting that "
    "forgets most surely dampens layers, too."
)
ROW = 128  # values of a token's embedding
COMPARED = {"fa1": "FA@1", "fa5": "FA@5", "objects": "fall of objects", "people": "fall of people"}
SHOWN = ("SLUG", *(m for m in SLUG if m != "SLUG"), *(line for m in GRIDS for line in (m, NO_RISK.format(m))))


def _concepts(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    return {c: [row for row in rows if row["concept"] == c] for c in dict.fromkeys(row["concept"] for row in rows)}


def left(rows: Rows, key: str) -> str:
    """The share of photographs that are still recognised, the mean over concepts; of each no more are counted than one seed has."""
    counts = [max(row["n_forget"] for row in own) for own in _concepts(rows).values()]
    return mean_shares(by_concept(rows, lambda row: row["after"][key]), counts)


def table(rows: Rows) -> str:
    """All methods on one kind of concept."""
    lines = []
    runs = list({(row["concept"], row["seed"]): row for row in rows}.values())
    for title, state in (("*untouched: accuracy*", "before"), ("*untouched, the name struck: accuracy*", "struck")):
        cells = [percents(by_concept(runs, lambda row: row[state][key])) for key in (*LEFT, *KEPT)]  # noqa: B023
        shown = cells if state == "before" else [*[""] * len(LEFT), *cells[len(LEFT) :]]
        lines.append([title, *shown, "", *[""] * len(COSTS)])
    every = with_no_risk(rows)
    for method in SHOWN:
        own = [row for row in every if row["method"] == method]
        if not own:
            continue
        cells = [left(own, key) for key in LEFT] + [percents(falls(own, key)) for key in KEPT]
        done = sum(row["forgotten_on_validation"] for row in own)
        costs = [fmean(row[key] for row in own) / unit for key, (_, unit) in COSTS.items()]
        lines.append(
            [
                TITLES.get(method, method),
                *cells,
                f"{done} of {len(own)}",
                *(f"{c:.2f}" if c < 10 else f"{c:.0f}" for c in costs),
            ]
        )
    header = [
        "",
        "FA@1 ↓",
        "FA@5 ↓",
        "FA@5, reworded ↓",
        "fall of objects",
        "fall of people",
        "fall of nearest names",
        "forgotten on validation",
    ]
    return markdown([*header, *(title for title, _ in COSTS.values())], lines)


def with_no_risk(rows: Rows) -> list[dict[str, Any]]:
    """Beside every run of a baseline what it would have been, had the risk not counted in choosing its setting; of those for which it ever did."""
    changed = {row["method"] for row in rows if "without_risk" in row}
    loose = [row | row.get("without_risk", {}) for row in rows if "looks" in row and row["method"] in changed]
    return [*rows, *(row | {"method": NO_RISK.format(row["method"])} for row in loose)]


def concepts_table(rows: Rows) -> str:
    """SLUG on every concept."""
    lines = []
    for concept, own in _concepts([row for row in rows if row["method"] == "SLUG"]).items():
        fa = [" ".join(percent(row["after"][key], 1) for row in own) for key in LEFT[:2]]
        cost = [" ".join(percent(row["struck"][key] - row["after"][key], 1) for row in own) for key in KEPT]
        layers = dict.fromkeys(row["chosen"].replace("_model.encoder.layers", "") for row in own)
        lines.append([concept, own[0]["n_forget"], *fa, *cost, "; ".join(layers)])
    header = ["SLUG, by seed", "n", "FA@1", "FA@5", "objects, fall", "people, fall", "nearest, fall", "layers"]
    return markdown(header, lines)


def same_runs(rows: Rows, method: str) -> tuple[Rows, Rows]:
    """SLUG's runs and a method's, on the concepts and seeds that both were run on."""
    both = [{(r["concept"], r["seed"]): r for r in rows if r["method"] == name} for name in ("SLUG", method)]
    shared = [run for run in both[0] if run in both[1]]
    return [both[0][run] for run in shared], [both[1][run] for run in shared]


def differences(slug: Rows, other: Rows) -> dict[str, list[str]]:
    """What a method is worse in than SLUG, what better, and in what neither is shown by the 95 % interval over concepts."""

    def values(own: Rows, key: str) -> list[float]:
        return falls(own, key) if key in KEPT else by_concept(own, lambda row: row["after"][key])

    said: dict[str, list[str]] = {"worse": [], "better": [], "no difference shown": []}
    for key, name in COMPARED.items():
        ours, theirs = values(slug, key), values(other, key)
        mean, half = interval([their - our for our, their in zip(ours, theirs, strict=True)])
        shown = abs(mean) > half and abs(mean) > 5e-5
        kind = "no difference shown" if not shown else "worse" if mean > 0 else "better"
        said[kind].append(f"{name} ({percent(fmean(theirs))} against {percent(fmean(ours))})")
    return said


def compare(rows: Rows) -> str:
    """Says of every other method where it is worse than SLUG on the same concepts and seeds, where better, and where neither is shown."""
    sentences, every = [], with_no_risk(rows)
    for method in SHOWN[1:]:
        slug, other = same_runs(every, method)
        if not other:
            continue
        said = differences(slug, other)
        parts = [f"{kind} in {', '.join(own)}" for kind, own in said.items() if own]
        if not said["worse"]:  # means hide that: what it costs varies much, or is as little
            each = zip(_concepts(other), falls(other, "objects"), falls(other, "people"), strict=True)
            parts.append(
                f"its falls by concept: {', '.join(f'{c} {percent(o, 1)} and {percent(p, 1)}' for c, o, p in each)}"
            )
        if cheaper := [f"{title} ({found})" for title, found in _cheaper(slug, other)]:
            parts.append(f"takes less in {', '.join(cheaper)}")
        if len(other) < max(sum(row["method"] == name for row in every) for name in ("SLUG", method)):
            parts.append(f"{len(other)} runs that both have")
        sentences.append(f"- {TITLES.get(method, method)}: {'; '.join(parts)}.")
    head = "Beside SLUG, by the 95 % interval of the difference over concepts (of a single one any difference counts):"
    return "\n".join([head, "", *sentences])


def _cheaper(slug: Rows, other: Rows) -> Iterator[tuple[str, str]]:
    """Yields what runs of a method take less of than SLUG's of the same, with both numbers."""
    for key, (title, unit) in COSTS.items():
        theirs, ours = (fmean(row[key] for row in own) / unit for own in (other, slug))
        if theirs < ours:
            yield title, f"{theirs:.3g} against {ours:.3g}"


def training_of(rows: Rows) -> dict[str, Any]:
    """How the CLIP was trained, if the folder that rows were made of says so."""
    file = Path(rows[0]["model"], TRAINING)
    return json.loads(file.read_text()) if file.is_file() else {}


def describe_model(rows: Rows) -> list[str]:
    """A sentence or two on the CLIP."""
    told = training_of(rows)
    if not told:
        return []
    spelt = "Its names are no tokens: they fall into letters, and pairs of these, that they share. "
    faces, objects = (percent(told["unseen"][kind]["top1"], 1) for kind in ("faces", "objects"))
    return [
        f"The CLIP (weights {rows[0]['weights']}): {told['made_by']['steps']:,} steps of `train_photo_clip.py`, seed {told['made_by']['seed']}. {spelt if told['made_by'].get('spell_names') else ''}Of all "
        f"that it was not trained on it names {faces} % of the people's photographs and {objects} % of the objects' right, among fifty names."
    ]


def _range(rows: Rows, key: str) -> str:
    least, most = min(row[key] for row in rows), max(row[key] for row in rows)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def write_tables(rows: Rows, name: str) -> None:
    """Writes every table there are rows for; in whatever order they were done, concepts and seeds are compared with the same."""
    rows = sorted(rows, key=lambda row: (NAMES.index(row["concept"]), row["seed"]))
    parts = ["# Forgetting people and objects of a CLIP on photographs", *describe_model(rows)]
    for kind, (title, concepts) in KINDS.items():
        own = [row for row in rows if row["concept"] in concepts]
        if kind == "everyone" and any(
            row["concept"] in PEOPLE for row in own
        ):  # who have a table of all methods above
            own = [row for row in own if row["method"] in WIDELY]
        if not any(row["method"] == "SLUG" for row in own) or (kind == "everyone" and len(_concepts(own)) <= 5):
            continue
        if kind == "everyone" and set(_concepts(own)) != set(EVERYONE):
            title = "People"
        parts += [
            f"## {title}",
            f"Concepts: {', '.join(_concepts(own))}; seeds {sorted({row['seed'] for row in own})}; {_range(own, 'n_forget')} test photographs of "
            f"the concept and {_range(own, 'n_retain')} others a run. All in percent, among all fifty names. FA: the share of photographs "
            f"still recognised, the mean over concepts [95 % interval: on each side the wider of Student's over concepts and Wilson's, of each "
            f"concept no more photographs counted than one seed has: seeds share some]; *reworded*: with all names in six wordings that "
            f"neither the gradient nor a search has seen. Of what is kept (mean over names, the forgotten one left out) the fall in points, mean ± half a 95 % interval over "
            f"concepts, each the mean of its seeds. The fall is that from the untouched model *with the forgotten name struck from the "
            f"list*: a name that is gone competes with the others no more, which alone makes these look better. *Nearest names*: the five that "
            f"the text tower finds most like the concept. Concepts of one seed are kept by the same photographs.",
            table(own),
            concepts_table(own),
        ]
        if len({row["method"] for row in own}) > 1:
            parts.append(compare(own))
            ssd = [row for row in own if row["method"] == "SSD"]
            if ssd and not training_of(rows).get("made_by", {}).get("spell_names"):
                parts.append(OF_SSD.format(sum(row["stored_bytes"] < 4 * 4 * ROW for row in ssd), len(ssd)))
    if len({row["method"] for row in rows}) > 1:
        draw(with_no_risk(rows), name)
        parts.append(f"![Methods by what they leave and what they cost]({name}.png)")
    parts += notes(rows, with_edges=not name.endswith("quick"))
    write(name, parts, note="One thread a run.", rows=rows)
