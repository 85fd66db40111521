# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tables, sentences and the picture of `photo_tables.py`, from its rows."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from photo_data import EVERYONE, OBJECTS, PEOPLE
from photo_methods import GRIDS, KEPT, METHODS, PATIENCE, RISK
from tables import RESULTS, by_concept, interval, markdown, percent, percents, shares, write
from train_photo_clip import NAMES

from hf_slug.evaluation.risk import AIM


KINDS = {
    "people": ("Five people (the paper's Table 1)", PEOPLE),
    "objects": ("Seven objects (the paper's Table 2)", OBJECTS),
    "everyone": ("All people but those the defaults were settled on", EVERYONE),
}
MEASURES = ("fa1", "fa5", "objects", "people", "near")
Rows = Sequence[dict[str, Any]]
SSD = (
    "Why SSD keeps as much as SLUG of some concepts: each of the fifty names is one token, so the text tower's table of tokens has a row that no other "
    "name reads, and SSD takes that row to nothing. No layer need change then, but a word in other spelling, or one that shares its tokens, has no such "
    "row. SLUG never changes embeddings; *SSD, layers alone* is not given them either, and where the row is not enough SSD itself fares like it."
)


def falls(rows: Rows, key: str) -> list[float]:
    """How far what is kept falls: a concept's mean over seeds, as seeds share photographs."""
    return by_concept(rows, lambda row: row["struck"][key] - row["after"][key])


def _concepts(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    return {c: [row for row in rows if row["concept"] == c] for c in dict.fromkeys(row["concept"] for row in rows)}


def left(rows: Rows, key: str) -> str:
    """The share of photographs that are still recognised; of each concept no more are counted than one seed has."""
    counts = [max(row["n_forget"] for row in own) for own in _concepts(rows).values()]
    return shares(by_concept(rows, lambda row: row["after"][key]), counts)


def table(rows: Rows) -> str:
    """All methods on one kind of concept."""
    lines = []
    runs = list({(row["concept"], row["seed"]): row for row in rows}.values())
    for title, state in (("untouched", "before"), ("untouched, the name struck", "struck")):
        cells = [percents(by_concept(runs, lambda row: row[state][key])) for key in MEASURES]  # noqa: B023
        lines.append([title, *(cells if state == "before" else ["", "", *cells[2:]]), "", "", "", "", ""])
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        cells = [left(own, key) for key in MEASURES[:2]] + [percents(falls(own, key)) for key in MEASURES[2:]]
        costs = [fmean(row["seconds"] for row in own if not row.get("tried"))]
        costs += [fmean(row[key] for row in own) for key in ("one_run", "peak_bytes", "stored_bytes")]
        done = sum(row["forgotten_on_validation"] for row in own)
        figures = [f"{costs[0]:.0f}", f"{costs[1]:.0f}", f"{costs[2] / 2**20:.0f}", f"{costs[3] / 1e6:.2f}"]
        lines.append([method, *cells, f"{done} of {len(own)}", *figures])
    header = ["", "FA@1 ↓", "FA@5 ↓", "objects", "people", "nearest names"]
    header += ["forgotten on validation", "s, all tried", "s, chosen", "peak MiB", "MB stored"]
    return markdown(header, lines)


def concepts_table(rows: Rows) -> str:
    """SLUG on every concept."""
    lines = []
    for concept, own in _concepts([row for row in rows if row["method"] == "SLUG"]).items():
        fa = [" ".join(percent(row["after"][key], 1) for row in own) for key in MEASURES[:2]]
        cost = [" ".join(percent(row["struck"][key] - row["after"][key], 1) for row in own) for key in MEASURES[2:]]
        layers = dict.fromkeys(row["chosen"].replace("_model.encoder.layers", "") for row in own)
        lines.append([concept, own[0]["n_forget"], *fa, *cost, "; ".join(layers)])
    header = ["SLUG, by seed", "n", "FA@1", "FA@5", "objects, fall", "people, fall", "nearest, fall", "layers"]
    return markdown(header, lines)


def compare(rows: Rows) -> str:
    """Says of every other method where it is worse than SLUG on the same concepts, where better, and where neither is shown."""
    names = {"fa1": "FA@1", "fa5": "FA@5", "objects": "fall of objects", "people": "fall of people"}

    def values(method: str, key: str) -> list[float]:
        own = [row for row in rows if row["method"] == method]
        return falls(own, key) if key in MEASURES[2:] else by_concept(own, lambda row: row["after"][key])

    sentences = []
    for method in [m for m in METHODS if m != "SLUG" and any(row["method"] == m for row in rows)]:
        said: dict[str, list[str]] = {"worse": [], "better": [], "no difference shown": []}
        for key, name in names.items():
            ours, theirs = values("SLUG", key), values(method, key)
            if len(ours) != len(theirs):
                return "Not every method has been run on every concept yet."
            mean, half = interval([their - our for our, their in zip(ours, theirs, strict=True)])
            shown = abs(mean) > half and abs(mean) > 5e-5
            kind = "no difference shown" if not shown else "worse" if mean > 0 else "better"
            said[kind].append(f"{name} ({percent(fmean(theirs))} against {percent(fmean(ours))})")
        parts = [f"{kind} in {', '.join(own)}" for kind, own in said.items() if own and kind != "no difference shown"]
        if said["no difference shown"]:
            parts.append(f"no difference shown in {', '.join(said['no difference shown'])}")
        if not said["worse"]:  # means hide that: what it costs varies much, or is as little
            own = [row for row in rows if row["method"] == method]
            each = zip(_concepts(own), falls(own, "objects"), falls(own, "people"), strict=True)
            parts.append(
                f"its falls by concept: {', '.join(f'{c} {percent(o, 1)} and {percent(p, 1)}' for c, o, p in each)}"
            )
        sentences.append(f"- {method}: {'; '.join(parts)}.")
    head = "Beside SLUG, by the 95 % interval of the difference over concepts (of a single one any difference counts):"
    return "\n".join([head, "", *sentences])


def draw(rows: Rows, name: str) -> None:
    """Draws every method by what it leaves of the concept and what it costs the rest: the lower left corner is best."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {kind: KINDS[kind] for kind in ("people", "objects")}
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(10, 4), layout="constrained")
    for axis, (title, concepts) in zip(axes, kinds.values()):
        for method in METHODS:
            own = [row for row in rows if row["method"] == method and row["concept"] in concepts]
            if own:
                lost = fmean([*falls(own, "people"), *falls(own, "objects")])
                point = 100 * lost, 100 * fmean(row["after"]["fa5"] for row in own)
                axis.plot(*point, "o", markersize=9 if method == "SLUG" else 6)
                axis.annotate(method, point, xytext=(5, 5), textcoords="offset points", fontsize=8)
        axis.axvline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="fall of what is kept (points)", ylabel="FA@5 (%)")
        axis.margins(x=0.2, y=0.15)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)


def write_tables(rows: Rows, name: str) -> None:
    """Writes every table there are rows for; in whatever order they were done, concepts and seeds are compared with the same."""
    rows = sorted(rows, key=lambda row: (NAMES.index(row["concept"]), row["seed"]))
    parts = ["# Forgetting people and objects of a CLIP on photographs"]
    for kind, (title, concepts) in KINDS.items():
        own = [row for row in rows if row["concept"] in concepts]
        if kind == "everyone":  # the five have a table of their own for the other methods
            own = [row for row in own if row["method"] == "SLUG"]
        if not any(row["method"] == "SLUG" for row in own) or (kind == "everyone" and len(_concepts(own)) <= 5):
            continue
        parts += [
            f"## {title}",
            f"Concepts: {', '.join(_concepts(own))}; seeds {sorted({row['seed'] for row in own})}; {own[0]['n_forget']} test photographs of "
            f"the concept and {own[0]['n_retain']:,} others a run. All in percent, among all fifty names. FA: the share of photographs "
            f"still recognised [95 % interval by Wilson, of each concept no more photographs counted than one seed has: seeds share "
            f"some]. Of what is kept (mean over names, the forgotten one left out) the fall in points, mean ± half a 95 % interval over "
            f"concepts, each the mean of its seeds. The fall is that from the untouched model *with the forgotten name struck from the "
            f"list*: a name that is gone competes with the others no more, which alone makes these look better. *Nearest names*: the five that "
            f"the text tower finds most like the concept. Concepts of one seed are kept by the same photographs.",
            table(own),
            concepts_table(own),
        ]
        if kind != "everyone" and len({row["method"] for row in own}) > 1:
            parts.append(compare(own))
            if any(row["method"] == "SSD" for row in own):
                parts.append(SSD)
    draw(rows, name)
    parts.append(f"![Methods by what they leave and what they cost]({name}.png)")
    grids = "; ".join(
        f"{title}: {', '.join(f'{k} {list(v)}' for k, v in grid.items())}" for title, grid in GRIDS.items()
    )
    parts += [
        "## How the settings were chosen",
        f"Of every grid the setting and step are taken, per concept and seed, that forget on validation (FA@5 = 0), of those the ones by whose "
        f"margins at most {RISK:.0%} of further photographs are recognised, and of those what keeps most there (accuracy in whole points, "
        f"then what moves least what photographs are taken for, by KL); where none forgets, the lowest FA@5 (to a twentieth), then what keeps "
        f"most. SLUG searches layer and step by the same rule, and of the chosen layer takes a larger step at {AIM:g} of that risk where it keeps "
        f"as much to half a point; the others hardly ever leave what that would mend. (Their risk also goes by photographs that they were trained "
        f"on, in their favour.) A concept's first seed tries the whole grid, its others the {KEPT} settings that did best there, each with its own "
        f"steps; SLUG searches every seed anew. Grids: {grids}; a setting is left after {PATIENCE} looks that forget and keep no more. The "
        f"ratio was settled on a person and an object that the defaults were settled on.",
        "AdamW, batches of 64 of the concept and of one photograph of every other name (GAFT and SalUn: `ratio` of these for each of those), "
        "all weights but the temperature, trained in bfloat16 beside float32 weights as the CLIP itself was; SSD's Fisher information over "
        "batches of one size. *s, all tried* holds the whole grid (SLUG: the whole search), with its validation; seconds are those of the "
        "processor, what a run takes on a core of its own. Peak is how far memory rose.",
    ]
    if not name.endswith("quick"):
        parts.append(edges(rows))
    write(name, parts, note="One thread a run.", rows=rows)


def edges(rows: Rows) -> str:
    """Says how often a learning rate was chosen at an end of its axis, where a better one may lie outside."""
    found = []
    for method, grid in GRIDS.items():
        own = [row for row in rows if row["method"] == method and row["forgotten_on_validation"]]
        axis = "lr" if "lr" in grid else "alpha"
        ends = [f"{axis} {value:g}" for value in (min(grid[axis]), max(grid[axis]))]
        counts = [sum(row["chosen"].split(",")[0] == end for row in own) for end in ends]
        if own:
            found.append(f"{method}: {ends[0]} {counts[0]} and {ends[1]} {counts[1]} times of {len(own)}")
    return f"Chosen at an end of its axis, of the runs that forgot: {'; '.join(found)}." if found else ""
