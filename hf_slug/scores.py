# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The two scores of a layer and the Pareto front of the candidates (SLUG, section 3.2)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .towers import TOWERS, Layer


@dataclass(frozen=True)
class LayerScore:
    """
    What the search knows of a layer.

    Args:
        layer (`Layer`): The layer.
        importance (`float`): `‖∇L_forget‖₂ / ‖W‖₂`, how much the concept depends on the layer.
        alignment (`float`): `cos(∇L_forget, ∇L_retain)`, how much a step would move what is kept; 0 is best.
        on_front (`bool`): Whether no other candidate of the same tower is at least as good in both and better in one.
    """

    layer: Layer
    importance: float
    alignment: float
    on_front: bool = False


def importance_and_alignment(
    weights: Sequence[torch.Tensor], forget: Sequence[torch.Tensor], retain: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """
    Scores one layer. Its tensors are taken jointly, as one long vector, and summed up in float64.

    Args:
        weights (`Sequence[torch.Tensor]`): The layer's weights W.
        forget (`Sequence[torch.Tensor]`): Gradients of the forget loss, in the same order and shapes.
        retain (`Sequence[torch.Tensor]`): Gradients of the retain loss.

    Returns:
        `tuple[float, float]`: Importance, and alignment in [-1, 1] (0 where a gradient vanishes).
    """

    def norm(parts: Sequence[torch.Tensor]) -> float:
        return math.hypot(*(float(torch.linalg.vector_norm(part.detach(), dtype=torch.float64)) for part in parts))

    weight_norm, forget_norm, retain_norm = map(norm, (weights, forget, retain))
    importance = forget_norm / weight_norm if weight_norm > 0 else 0.0
    scale = forget_norm * retain_norm
    product = sum(float(torch.sum(a.detach().double() * b.detach())) for a, b in zip(forget, retain, strict=True))
    return importance, max(-1.0, min(1.0, product / scale)) if scale > 0 else 0.0


def pareto_fronts(points: Sequence[tuple[float, float]]) -> list[list[int]]:
    """
    Peels points into fronts: the first is dominated by none, the second only by the first, and so on.

    Args:
        points (`Sequence[tuple[float, float]]`):
            Importance (higher is better) and abs(alignment) (lower is better) of each candidate.

    Returns:
        `list[list[int]]`: Indices into `points`, most important first within a front.
    """

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and (a[0] > b[0] or a[1] < b[1])

    left, fronts = list(range(len(points))), []
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        fronts.append(sorted(front, key=lambda i: -points[i][0]))
        left = [i for i in left if i not in front]
    return fronts


def score_layers(
    layers: Sequence[Layer],
    weights: Mapping[str, torch.Tensor],
    forget: Mapping[str, torch.Tensor],
    retain: Mapping[str, torch.Tensor],
) -> list[LayerScore]:
    """
    Scores every candidate and marks the front of each tower.

    Args:
        layers (`Sequence[Layer]`): The candidates.
        weights, forget, retain (`Mapping[str, torch.Tensor]`): Weight and gradients by canonical module name.

    Returns:
        `list[LayerScore]`: In the order of `layers`.
    """
    raw = [
        importance_and_alignment(*([source[name] for name in layer.modules] for source in (weights, forget, retain)))
        for layer in layers
    ]
    on_front = set()
    for tower in TOWERS:
        own = [i for i, layer in enumerate(layers) if layer.tower == tower]
        for front in pareto_fronts([(raw[i][0], abs(raw[i][1])) for i in own])[:1]:
            on_front |= {own[i] for i in front}
    return [LayerScore(layer, *raw[i], on_front=i in on_front) for i, layer in enumerate(layers)]


def select_layers(scores: Sequence[LayerScore], minimum: int = 5, front_only: bool = False) -> list[LayerScore]:
    """
    Chooses the layers that are worth searching: the front of each tower.

    Args:
        scores (`Sequence[LayerScore]`): What [`score_layers`] returned.
        minimum (`int`, *optional*, defaults to `5`):
            A front of fewer layers is filled up with the next fronts (a front of one layer leaves the search no choice).
        front_only (`bool`, *optional*, defaults to `False`): Never fill up, as in the paper.

    Returns:
        `list[LayerScore]`: First fronts first, most important first within a front; vision before text.
    """
    chosen = []
    for tower in TOWERS:
        # a layer the concept does not reach (zero gradient) has no direction to search in
        own = [score for score in scores if score.layer.tower == tower and score.importance > 0]
        picked: list[LayerScore] = []
        for front in pareto_fronts([(score.importance, abs(score.alignment)) for score in own]):
            picked += [own[i] for i in front]
            if front_only or len(picked) >= minimum:
                break
        chosen += picked
    return chosen
