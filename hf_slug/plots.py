# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a run, drawn from its report alone (extra `plots`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MissingDependencyError


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FRONT, _REST, _CHOSEN = "#1f5fa8", "#9aa0a6", "#c8361d"
_SMALLEST = 1e-6  # an alignment of exactly zero has no place on a log axis


def check_installed() -> None:
    """
    Checks that pictures can be drawn.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("matplotlib", extra="plots", purpose="pictures") from error


def new_figure(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Axes]]:
    """
    Makes an empty figure with a row of panels, without pyplot: the caller's state is left alone.

    Args:
        width, height (`float`): Its size in inches.
        columns (`int`): How many panels.

    Returns:
        `tuple[Figure, Sequence[Axes]]`: The figure and its panels.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    check_installed()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def short_name(layer: str) -> str:
    """Shortens `vision_model.encoder.layers.3.self_attn.out_proj` to `vision 3 out_proj`."""
    tower, _, rest = layer.partition("_model.encoder.layers.")
    if not rest:
        return layer
    block, _, part = rest.partition(".")
    return f"{tower} {block} {part.removeprefix('self_attn.').removeprefix('mlp.')}"


def _spread(axis: Axes, points: Sequence[tuple[float, float, Any]]) -> list[float]:
    """Heights in the margin for the labels of points sorted by y: beside the point, but never on one another."""
    low, high = (math.log10(limit) for limit in axis.get_ylim())
    heights: list[float] = []
    gap = min(0.075, 0.94 / max(len(points), 1))
    for _, y, _ in points:
        own = (math.log10(y) - low) / (high - low)
        heights.append(max(own, heights[-1] + gap if heights else 0.03))
    overhang = max(0.0, heights[-1] - 0.97) if heights else 0.0
    return [max(height - overhang, 0.03 + i * gap) for i, height in enumerate(heights)] if overhang else heights


def plot_front(report: dict[str, Any]) -> Figure:
    """
    Plots importance against abs(alignment) of every candidate, a panel a tower (Fig. 2a/b of the paper).

    Args:
        report (`dict`): A run's report.

    Returns:
        `matplotlib.figure.Figure`: Log axes; the front is labelled, the rest crossed, the chosen layer red.
    """
    towers = [t for t in ("vision", "text") if any(layer["tower"] == t for layer in report["layers"])]
    figure, axes = new_figure(6.6 * len(towers), 4.4, len(towers))
    for axis, tower in zip(axes, towers, strict=True):
        points = [
            (layer["importance"], max(abs(layer["alignment"]), _SMALLEST), layer)
            for layer in report["layers"]
            if layer["tower"] == tower and layer["importance"] > 0
        ]
        rest = [p for p in points if not p[2]["on_front"]]
        front = sorted((p for p in points if p[2]["on_front"]), key=lambda p: p[1])
        axis.set(xscale="log", yscale="log", title=f"{tower} tower")
        axis.scatter([p[0] for p in rest], [p[1] for p in rest], marker="x", s=28, color=_REST, label="dominated")
        chosen = report["chosen"]["layer"]
        for on_front, color, label in ((front, _FRONT, "front"), (points, _CHOSEN, "chosen")):
            shown = on_front if label == "front" else [p for p in points if p[2]["name"] == chosen]
            if shown:
                axis.scatter([p[0] for p in shown], [p[1] for p in shown], s=44, color=color, label=label, zorder=3)
        axis.margins(0.12)
        labelled = sorted(front + [p for p in points if p[2]["name"] == chosen and p not in front], key=lambda p: p[1])
        for (x, y, layer), height in zip(labelled, _spread(axis, labelled), strict=True):
            axis.annotate(
                short_name(layer["name"]),
                (x, y),
                xytext=(1.04, height),
                textcoords="axes fraction",
                va="center",
                fontsize=9,
                color=_CHOSEN if layer["name"] == chosen else _FRONT,
                arrowprops={"arrowstyle": "-", "color": _FRONT, "lw": 0.5, "alpha": 0.6},
            )
        axis.set(xlabel="importance  ‖∇forget‖ / ‖W‖", ylabel="|alignment|  cos(∇forget, ∇retain)")
        axis.grid(True, which="major", alpha=0.25)
    # every kind of point once, whichever panel it is in
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Layers for forgetting {report['concept']!r}")
    return figure


def plot_trajectory(report: dict[str, Any]) -> Figure:
    """
    Plots FA and TA against the step size for every layer searched (Fig. 2c/d of the paper).

    Args:
        report (`dict`): A run's report. TA is drawn where it was measured (`trajectory="all"` measures it everywhere).

    Returns:
        `matplotlib.figure.Figure`:
            Left FA, right TA, on validation data; the chosen layer is thick, its step a star. Steps that were looked at no further once it was
            certain that they don't forget are hollow: their FA is of the images seen up to then.
    """
    figure, axes = new_figure(11, 4.6, 2)
    metric = report["target"]["metric"]
    panels = ((metric, f"{metric.upper().replace('FA', 'FA@')} (forgotten: down)"), ("ta", "TA (kept: up)"))
    chosen = report["chosen"]
    names = list(dict.fromkeys(trial["layer"] for trial in report["search"]))
    colors = _colors(len(names))
    for axis, (key, title) in zip(axes, panels, strict=True):
        for name, color in zip(names, colors, strict=True):
            rows = [t for t in report["search"] if t["layer"] == name and t.get(key) is not None]
            rows.sort(key=lambda t: t["step_size"])
            best = name == chosen["layer"]
            draw = partial(_plot_trials, axis, key, color=_CHOSEN if best else color)
            draw([t for t in rows if "n" in t], "o", ms=3.5, mfc="white", zorder=4.5)
            draw(rows, marker="o", ms=3.5, lw=2.6 if best else 1.2, zorder=4 if best else 2, label=short_name(name))
            if best:
                at = [t for t in rows if t["step_size"] == chosen["step_size"]]
                draw(at, "*", ms=15, mec="white", zorder=5)
        axis.set(xscale="log", ylim=(-0.04, 1.04), xlabel="step size λ", title=title)
        axis.grid(True, alpha=0.25)
    if any("n" in trial for trial in report["search"]):
        axes[0].plot([], [], "o", ms=3.5, color=_REST, mfc="white", label="of part of the images")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(f"Search for forgetting {report['concept']!r} (validation set)")
    return figure


def _plot_trials(axis: Axes, key: str, trials: Sequence[dict[str, Any]], *form: str, **style: Any) -> None:
    axis.plot([trial["step_size"] for trial in trials], [trial[key] for trial in trials], *form, **style)


def plot_similarity(report: dict[str, Any]) -> Figure:
    """
    Plots mean image-text cosines of some names before and after (Fig. 3 of the paper).

    Args:
        report (`dict`): A run's report; its `similarity` holds `names` (the concept first) and two matrices.

    Returns:
        `matplotlib.figure.Figure`: Rows are images, columns texts; both panels share one scale.
    """
    similarity = report["similarity"]
    names, before, after = similarity["names"], similarity["before"], similarity["after"]
    cell = 0.52 * len(names)
    figure, axes = new_figure(2 * cell + 4, cell + 1.9, 2)
    values = [value for matrix in (before, after) for row in matrix for value in row]
    for axis, matrix, title in zip(axes, (before, after), ("before", "after"), strict=True):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-max(map(abs, values)), vmax=max(map(abs, values)))
        axis.set(title=title, xlabel="text", ylabel="image" if title == "before" else "")
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.get_yticklabels()[0].set_color(_CHOSEN)
        axis.get_xticklabels()[0].set_color(_CHOSEN)
        for row, numbers in enumerate(matrix):
            for column, value in enumerate(numbers):
                dark = abs(value) > 0.6 * max(map(abs, values))
                text = f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
                axis.text(
                    column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black"
                )
    figure.colorbar(image, ax=list(axes), shrink=0.85, label="mean cosine")
    figure.suptitle(f"Image-text similarity on the test set, forgetting {report['concept']!r}")
    return figure


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.1 + 0.8 * i / max(count - 1, 1)) for i in range(count)]


def save_plots(report: dict[str, Any], folder: str | Path) -> list[Path]:
    """
    Draws all pictures of a report into a folder.

    Returns:
        `list[Path]`: The PNG files written.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    folder = Path(folder)
    pictures = {"front": plot_front, "trajectory": plot_trajectory}
    if report["similarity"]:
        pictures["similarity"] = plot_similarity
    figures = {name: draw(report) for name, draw in pictures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    return [folder / f"{name}.png" for name in figures]
