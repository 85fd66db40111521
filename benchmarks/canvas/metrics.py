# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
UA, IRA and CRA of what the judges saw, and FID.

The accuracy of a name is that over all pictures which should show it, the forgotten concept's own included, as the authors'
`accuracy.py` counts. UA is 1 − the accuracy of the concept. IRA is the mean accuracy of the others of its kind, CRA that of the
other kind's names (`machine_unlearning/README.md`). The photographs are neither forgotten nor counted among the styles: "the other 49
styles", as an author says in the repository's thread "UA,IRA,CRA". As the README speaks of "other images", `cra_others` leaves the concept's own out.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .protocol import Canvas, Cell


class Answer(NamedTuple):
    """What a picture should show, and what the judges saw."""

    cell: Cell
    seed: int
    seen: Cell


def accuracies(answers: Iterable[Answer]) -> dict[str, float]:
    """How often each name was seen in the pictures that should show it."""
    right: dict[str, list[bool]] = {}
    for answer in answers:
        for name, seen in zip(answer.cell, answer.seen):
            right.setdefault(name, []).append(name == seen)
    return {name: fmean(values) for name, values in right.items()}


def score(answers: Sequence[Answer], concept: str, canvas: Canvas) -> dict[str, float]:
    """
    The metrics of one forgotten concept.

    Args:
        answers (`Sequence[Answer]`): Of the whole grid.
        concept (`str`): A style or an object.
        canvas ([`Canvas`]): The names.

    Returns:
        `dict`: `ua`, `ira`, `cra`, `cra_others`, between 0 and 1.
    """
    kinds = (canvas.painted, list(canvas.objects))
    own, other = kinds if concept in canvas.styles else kinds[::-1]
    right = accuracies(answers)
    elsewhere = accuracies(answer for answer in answers if concept not in answer.cell)
    return {
        "ua": 1 - right[concept],
        "ira": fmean(right[name] for name in own if name != concept),
        "cra": fmean(right[name] for name in other),
        "cra_others": fmean(elsewhere[name] for name in other),
    }


def frechet_distance(real: Sequence[Path], drawn: Sequence[Path], device: str, batch_size: int = 32) -> float | None:
    """
    FID by torchmetrics, or `None` where that is not installed. The authors' own has other Inception weights (torchvision's).

    Args:
        real, drawn (`Sequence[Path]`): Pictures.
        device (`str`): Where Inception runs.
        batch_size (`int`, *optional*, defaults to 32): Pictures per forward pass.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric: Any = FrechetInceptionDistance().to(device)
    except ImportError:  # torchmetrics, or the torch-fidelity that it asks for
        return None
    for files, is_real in ((real, True), (drawn, False)):
        for start in range(0, len(files), batch_size):
            metric.update(_pixels(files[start : start + batch_size]).to(device), real=is_real)
    return float(metric.compute())


def _pixels(files: Sequence[Path]) -> torch.Tensor:
    """As `fid.py`: 512 pixels square."""
    images = [np.asarray(Image.open(file).convert("RGB").resize((512, 512))) for file in files]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
