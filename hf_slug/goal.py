# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What counts as forgotten, and which of several changes that forget is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .evaluation import Evaluator
from .evaluation.risk import AIM
from .steps import Trial


# A risk that rests on fewer images is believed only where no other layer forgets.
_FEW = 5
# What keeps the rest at a change of more than so many times the weight does so by its inputs alone, and another patch below it shifts
# those: on people whom no table reports, stacks of five with such patches cost 5 points of the others' accuracy, without them 1.
FAR = 16.0


@dataclass(frozen=True)
class Goal:
    """
    What a search is after.

    Args:
        metric (`str`): The evaluator's primary metric.
        target (`float`): Forgotten means at or below this.
        risk (`float`): It also means that no larger share of further images would be recognised, where that is estimated.
        greater_is_better (`bool`): Whether it means at or above the target instead.
    """

    metric: str
    target: float
    risk: float
    greater_is_better: bool

    @classmethod
    def of(cls, evaluator: Evaluator, target: float | None, risk: float) -> "Goal":
        """That of an evaluator: its best value where no target is given, and a risk that the target allows anyway."""
        greater = evaluator.greater_is_better
        wanted = target if target is not None else float(greater)
        return cls(evaluator.primary_metric, wanted, risk if greater else max(risk, wanted), greater)

    @property
    def safer(self) -> "Goal":
        """The same at a tenth of the risk."""
        return replace(self, risk=AIM * self.risk)

    def is_reached(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the primary metric is where it should be."""
        found = metrics[self.metric]
        return found >= self.target if self.greater_is_better else found <= self.target

    def is_forgotten(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the risk is low enough, too."""
        return self.is_reached(metrics) and metrics.get("risk", 0.0) <= self.risk

    def distance(self, trial: Trial) -> float:
        """Orders trials by the primary metric, the best first."""
        return trial.metrics[self.metric] * (-1 if self.greater_is_better else 1)

    def best_of(self, trials: Sequence[Trial]) -> Trial:
        """Of one layer's trials the smallest that forgets, or reaches the target at least, or comes closest to it."""
        done = [trial for trial in trials if trial.forgotten] or [t for t in trials if self.is_reached(t.metrics)]
        if done:
            return min(done, key=lambda t: t.step_size)
        return min(trials, key=lambda t: (self.distance(t), t.step_size))


def preference(trial: Trial) -> tuple[float, ...]:
    """Orders the best trials of several layers, the best first: see [`~search.search`]."""
    # layers are tried at the same relative changes, which must not differ by their last bit alone
    change = round(trial.relative_change, 6)
    hardly_known = trial.metrics.get("risk_n", _FEW) < _FEW
    kept, moved = trial.metrics.get("ta", 0.0), trial.metrics.get("kl", 0.0)
    if "kl" in trial.metrics:  # below a point accuracies differ by chance, and what has moved less says more
        kept = round(kept, 2)
    return (hardly_known, -kept, change > FAR, moved, change, trial.metrics.get("risk", 0.0))
