# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The search for the step size of one layer (SLUG, section 3.3)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .arithmetic import compose
from .towers import Layer


TOLERANCE = 0.34  # halvings give shares of 1/n, which this is not, so that rounding never decides
Measure = Callable[[Mapping[str, torch.Tensor]], dict[str, Any]]


@dataclass
class Trial:
    """
    One step of one layer.

    Args:
        layer (`Layer`): The layer.
        step_size (`float`): λ; the delta is λ·direction.
        relative_change (`float`): ‖λ·direction‖ / ‖W‖.
        forgotten (`bool`): Whether the primary metric reached the target, and the risk, if there is one, is low enough.
        metrics (`dict[str, Any]`): What the evaluator said; `ta` only where it was measured.
    """

    layer: Layer
    step_size: float
    relative_change: float
    forgotten: bool
    metrics: dict[str, Any] = field(default_factory=dict)


def scale_delta(direction: torch.Tensor, step_size: float) -> torch.Tensor:
    """`Δ = λ·direction`, rounded once to float32: what is searched is, to the bit, what is saved."""
    return (direction.double() * step_size).float()


def new_weights(
    weights: Mapping[str, torch.Tensor],
    directions: Mapping[str, torch.Tensor],
    step_size: float,
    stacked: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor]:
    """
    `W' = W + Δ` of every module of a layer, in the weights' own dtype.

    Args:
        weights (`Mapping[str, torch.Tensor]`): The original weights W.
        directions (`Mapping[str, torch.Tensor]`): Ascent directions.
        step_size (`float`): λ.
        stacked (`Mapping[str, Mapping[str, torch.Tensor]]`, *optional*): Deltas of other patches on these weights, summed up with this one.
    """
    others = stacked or {}
    return {
        name: compose(
            weight.detach(), {**others.get(name, {}), "a step": scale_delta(directions[name], step_size)}, {}
        )
        for name, weight in weights.items()
    }


def initial_step(weights: Mapping[str, torch.Tensor], directions: Mapping[str, torch.Tensor]) -> float:
    """`λ₀ = ‖W‖ / (10·‖direction‖)`: a first step that moves the layer by a tenth of its norm, its parts taken jointly."""

    def norm(tensors: Sequence[torch.Tensor]) -> float:
        return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))

    return norm(list(weights.values())) / (10 * norm([directions[name] for name in weights]))


def search_layer(
    layer: Layer,
    weights: Mapping[str, torch.Tensor],
    directions: Mapping[str, torch.Tensor],
    measure: Measure,
    is_forgotten: Callable[[dict[str, Any]], bool],
    steps: int = 10,
    tolerance: float = TOLERANCE,
    hopeless: float = math.inf,
    known: Sequence[Trial] = (),
    stacked: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> list[Trial]:
    """
    Looks for the smallest step of one layer that forgets: doubles from λ₀ until it does, then bisects.

    Args:
        layer (`Layer`): The layer.
        weights (`Mapping[str, torch.Tensor]`): Its original weights.
        directions (`Mapping[str, torch.Tensor]`): Its ascent directions.
        measure (`Callable`): From new weights to metrics.
        is_forgotten (`Callable`): From metrics to whether the target is reached.
        steps (`int`, *optional*, defaults to 10): At most so many trials.
        tolerance (`float`, *optional*, defaults to 0.34):
            Bisection ends when the smallest forgetting step is known to this share of itself; at 0 all steps are taken. Going finer would
            fit the validation sample: where its last image is forgotten, an unseen one often is not yet.
        hopeless (`float`, *optional*, defaults to infinity):
            A relative change by which there must have been some effect, for the step to be doubled any further.
        known (`Sequence[Trial]`, *optional*): Trials of this layer to go on from, whatever they were taken for; not among those returned.
        stacked (`Mapping[str, Mapping[str, torch.Tensor]]`, *optional*): Deltas of other patches that are on these weights.

    Returns:
        `list[Trial]`: In the order tried.
    """
    trials: list[Trial] = []
    first = initial_step(weights, directions)
    high = min((trial.step_size for trial in known if is_forgotten(trial.metrics)), default=math.inf)
    low = max((trial.step_size for trial in known if trial.step_size < high), default=0.0)
    while len(trials) < steps and (high == math.inf or high - low > tolerance * high):
        step = (low + high) / 2 if high < math.inf else 2 * low or first
        changed = new_weights(weights, directions, step, stacked)
        if not all(bool(torch.isfinite(weight).all()) for weight in changed.values()):
            break  # beyond what the dtype can hold
        metrics = measure(changed)
        forgotten = is_forgotten(metrics)
        trials.append(Trial(layer, step, 0.1 * step / first, forgotten, metrics))
        low, high = (low, step) if forgotten else (step, high)
        if trials[-1].relative_change > hopeless and high == math.inf and not _has_effect(trials):
            break
    return trials


def _has_effect(trials: Sequence[Trial]) -> bool:
    return any(trial.metrics != trials[0].metrics for trial in trials)
