# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a host does before and after, to look at: grids of pictures, and pictures with answers (extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .plots import new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

CONCEPT_COLOR = "#c8361d"


def plot_pictures(
    rows: Sequence[str],
    columns: Sequence[str],
    before: Sequence[Sequence[Image]],
    after: Sequence[Sequence[Image]],
    title: str,
) -> Figure:
    """
    Draws two grids of pictures, one name a row and one prompt a column.

    Args:
        rows, columns (`Sequence[str]`): Their names; the first row is the concept's.
        before, after (`Sequence[Sequence[Image]]`): The pictures, row by row.
        title (`str`): What is to be seen.

    Returns:
        `matplotlib.figure.Figure`: Before on the left, after on the right.
    """
    figure, axes = new_figure(1.5 + 1.1 * len(columns), 0.9 + 0.62 * len(rows), 2)
    for axis, pictures, panel in zip(axes, (before, after), ("before", "after"), strict=True):
        side = max(pictures[0][0].size)
        sheet = np.full((len(rows) * (side + 2), len(columns) * (side + 2), 3), 255, dtype=np.uint8)
        for i, row in enumerate(pictures):
            for j, picture in enumerate(row):
                pixels = np.asarray(picture.convert("RGB").resize((side, side)))
                sheet[i * (side + 2) : i * (side + 2) + side, j * (side + 2) : j * (side + 2) + side] = pixels
        axis.imshow(sheet, interpolation="nearest")
        axis.set_title(panel)
        axis.set_xticks([(j + 0.5) * (side + 2) for j in range(len(columns))], columns, rotation=45, ha="right")
        axis.set_yticks([(i + 0.5) * (side + 2) for i in range(len(rows))], rows)
        axis.get_yticklabels()[0].set_color(CONCEPT_COLOR)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(title)
    return figure


def plot_answers(pictures: Sequence[Image], captions: Sequence[str], title: str) -> Figure:
    """
    Draws pictures with what was asked and answered about each under it; the first is the concept's.

    Args:
        pictures (`Sequence[Image]`): The pictures.
        captions (`Sequence[str]`): As many texts.
        title (`str`): What is to be seen.

    Returns:
        `matplotlib.figure.Figure`: One panel a picture.
    """
    figure, axes = new_figure(3.6 * len(pictures), 4.4, len(pictures))
    for i, (axis, picture, caption) in enumerate(zip(axes, pictures, captions, strict=True)):
        axis.imshow(np.asarray(picture), interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(caption, loc="left", fontsize=8, color=CONCEPT_COLOR if i == 0 else "black")
    figure.suptitle(title)
    return figure
