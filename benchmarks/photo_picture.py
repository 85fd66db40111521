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
NO_RISK = "{}, no risk"
MARKERS = "*soD^v<>PX"


def falls(rows: Rows, key: str) -> list[float]:
    """How far what is kept falls: a concept's mean over seeds, as seeds share photographs."""
    return by_concept(rows, lambda row: row["struck"][key] - row["after"][key])


def draw(rows: Rows, name: str) -> None:
    """
    Draws every method by what it leaves of the concept and what it costs the rest: the lower left corner is best. What it would have
    been without the risk is drawn hollow.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [KINDS[kind] for kind in ("people", "objects")]
    kinds = [(title, concepts) for title, concepts in kinds if any(row["concept"] in concepts for row in rows)]
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(1 + 4.5 * len(kinds), 4.5), layout="constrained", squeeze=False
    )
    points = {}
    for axis, (title, concepts) in zip(axes[0], kinds):
        shown = [
            (name, i, fill) for i, m in enumerate(METHODS) for name, fill in ((m, "full"), (NO_RISK.format(m), "none"))
        ]
        for method, place, fill in shown:
            own = [row for row in rows if row["method"] == method and row["concept"] in concepts]
            if own:
                lost = fmean([*falls(own, "people"), *falls(own, "objects")])
                where = 100 * lost, 100 * fmean(row["after"]["fa5"] for row in own)
                size = 13 if method == "SLUG" else 8
                style = {"marker": MARKERS[place], "color": f"C{place}", "markersize": size, "alpha": 0.8}
                (points[TITLES.get(method, method)],) = axis.plot(*where, linestyle="none", fillstyle=fill, **style)
        # most are near nothing of either, where a point decides
        axis.set_xscale("symlog", linthresh=1)
        axis.set_yscale("symlog", linthresh=1)
        axis.set(title=title, xlabel="fall of what is kept (points)", ylabel="FA@5 (%)", ylim=(-0.2, 130))
        for line in (axis.axvline, axis.axhline):
            line(0, color="grey", linewidth=0.5)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter("{x:g}")
    figure.legend(points.values(), points, loc="outside lower center", ncols=4, fontsize=8)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)
