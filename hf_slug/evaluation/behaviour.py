# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judging a host by what it does: what all evaluators of that kind share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..replay import changed_weights
from ..towers import Layer


Metrics = dict[str, float]


class BehaviourEvaluator(ABC):
    """
    Measures a host in two parts, so that a search need not measure what is kept at every step.

    Attributes:
        names (`list[str]`): All names that are told apart.
        n_forget, n_retain (`int`): How many outputs each part looks at.
    """

    primary_metric = "fa1"
    greater_is_better = False
    names: list[str]
    n_forget: int
    n_retain: int

    @abstractmethod
    def forgotten(self, host: Any, enough: float | None = None) -> Metrics:
        """
        Returns `fa1`: in which share of the outputs the concept is still there.

        Args:
            host (`DiffusionPipeline` or `nn.Module`): The host.
            enough (`float`, *optional*): Stop as soon as it is certain that the share of all is above this. `n` says where.
        """

    @abstractmethod
    def retained(self, host: Any) -> Metrics:
        """Returns `ta`: how often the other names are right, macro-averaged over them; and what more there is to say."""

    def __call__(self, host: Any) -> Metrics:
        """Measures the host as it is."""
        return self.forgotten(host) | self.retained(host)


class PreparedBehaviour:
    """
    A [`BehaviourEvaluator`] for one host and many changes of one layer.

    Args:
        evaluator ([`BehaviourEvaluator`]): The evaluator.
        host (`DiffusionPipeline` or `nn.Module`): The host, at its original weights.
        module (`nn.Module`): The part of it in which layers are found.
        target (`float`, *optional*, defaults to 0.0): Forgotten means `fa1` at or below this.
    """

    def __init__(self, evaluator: BehaviourEvaluator, host: Any, module: nn.Module, target: float = 0.0):
        self.evaluator, self.host, self.module, self.target = evaluator, host, module, target

    def probe(self, layer: Layer, whole: bool = False) -> Callable[[Mapping[str, torch.Tensor]], Metrics]:
        """Returns a function from weights of `layer` to what is left of the concept; `whole` never stops early."""

        def measure(weights: Mapping[str, torch.Tensor]) -> Metrics:
            with changed_weights(self.module, layer, weights):
                return self.evaluator.forgotten(self.host, None if whole else self.target)

        return measure

    def retained(self, changes: Sequence[tuple[Layer, Mapping[str, torch.Tensor]]]) -> list[Metrics]:
        """Measures what is left of the rest under several changes, each alone."""
        results = []
        for layer, weights in changes:
            with changed_weights(self.module, layer, weights):
                results.append(self.evaluator.retained(self.host))
        return results

    def compare(self, layer: Layer, weights: Mapping[str, torch.Tensor]) -> tuple[Metrics, Metrics, dict[str, Any]]:
        """Measures everything before and after one change; there is no further picture to draw of it."""
        before = self.evaluator(self.host)
        with changed_weights(self.module, layer, weights):
            return before, self.evaluator(self.host), {}


def quarter_first(wanted: Sequence[Any]) -> list[Any]:
    """Cuts a sequence after its first quarter (at least one), so that a look at that may save the rest."""
    cut = max(1, len(wanted) // 4)
    return [part for part in (wanted[:cut], wanted[cut:]) if len(part)]
