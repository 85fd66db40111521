# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Every method on the photographs by what it leaves and what it costs, in a picture."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from photo_data import EVERYONE, OBJECTS, PEOPLE
from photo_methods import METHODS
from tables import RESULTS, by_concept


Rows = Sequence[dict[str, Any]]
KINDS = {
    "people": ("Five people (the paper's Table 1)", PEOPLE),
    "objects": ("Seven objects (the paper's Table 2)", OBJECTS),
    "everyone": ("All people but those the defaults were settled on", EVERYONE),
}
# what tables and the picture call a method
TITLES = {method: method for method in METHODS} | {"SLUG, as published": "SLUG, plain gradient, front alone, no risk"}


def falls(rows: Rows, key: str) -> list[float]:
    """How far what is kept falls: a concept's mean over seeds, as seeds share photographs."""
    return by_concept(rows, lambda row: row["struck"][key] - row["after"][key])


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
                axis.annotate(TITLES[method], point, xytext=(5, 5), textcoords="offset points", fontsize=8)
        axis.axvline(0, color="grey", linewidth=0.5)
        axis.set(title=title, xlabel="fall of what is kept (points)", ylabel="FA@5 (%)")
        axis.margins(x=0.2, y=0.15)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)
