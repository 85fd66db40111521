# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the method needs of an objective, and what those of all hosts share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from ..data import Pairs
from ..direction import record_moments, sum_up
from ..encoders import Encoder
from ..gradient_mean import GradientMean, Gradients
from ..gradients import eval_mode, requires_grad_only
from ..processes import ALONE, Processes
from ..towers import Layer, layer_weights


class Objective(Protocol):
    """
    A forget and a retain loss, differentiated once at the original weights.

    Args:
        module (`nn.Module`): What canonical layer names are resolved in.
    """

    module: nn.Module

    def forget_gradients(self, layers: Sequence[Layer]) -> Gradients: ...
    def retain_gradients(self, layers: Sequence[Layer]) -> Mapping[str, torch.Tensor]: ...
    def input_moments(self, layers: Sequence[Layer]) -> dict[str, torch.Tensor]: ...


class HostObjective(ABC):
    """
    A host's own loss, through the frozen rest of it into one of its CLIP encoders, for forget and retain pairs alike.

    Args:
        parts (`Sequence[nn.Module]`): Every module of the host that the loss runs through.
        encoder ([`Encoder`]): The encoder whose weights it is differentiated by.
        forget, retain (`Pairs`): The two sets.
        processes ([`Processes`], *optional*): Those that share the batches.
    """

    def __init__(
        self,
        parts: Sequence[nn.Module],
        encoder: Encoder,
        forget: Pairs,
        retain: Pairs,
        processes: Processes = ALONE,
    ):
        self.parts, self.encoder, self.processes = nn.ModuleList(parts), encoder, processes
        self.forget, self.retain = forget, retain
        self.module = encoder.module

    @abstractmethod
    def losses(self, pairs: Pairs, description: str) -> Iterator[tuple[torch.Tensor, float]]:
        """Yields the loss of a batch, with gradient, and the batch's share of the set."""

    @abstractmethod
    def encode(self, pairs: Pairs) -> None:
        """Runs the encoder over a set as the host does, padding and all; for what its layers read."""

    def forget_gradients(self, layers: Sequence[Layer]) -> Gradients:
        """Returns the gradient of the forget set's loss, which unlearning *ascends*."""
        return self._gradients(layers, self.forget, "forget gradient")

    def retain_gradients(self, layers: Sequence[Layer]) -> Gradients:
        """Returns the gradient of the retain set's loss."""
        return self._gradients(layers, self.retain, "retain gradient")

    def input_moments(self, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        """Returns `E[x xᵀ]` of the inputs of every Linear module of some layers, over the retain set."""
        names = [name for layer in layers for name in layer.modules]
        with eval_mode(self.parts), torch.no_grad(), record_moments(self.encoder.resolve(names)) as moments:
            self.encode(self.retain)
        return sum_up(moments, self.processes)

    def _gradients(self, layers: Sequence[Layer], pairs: Pairs, description: str) -> Gradients:
        weights = _weights(self.module, layers)
        mean = GradientMean(weights)
        with requires_grad_only(self.parts, weights):
            for loss, share in self.losses(pairs, description):
                mean.add(loss, share)
                del loss  # float16 keeps its graph
        return mean.over(self.processes)


def _weights(module: nn.Module, layers: Sequence[Layer]) -> Mapping[str, nn.Parameter]:
    return {name: weight for layer in layers for name, weight in layer_weights(module, layer).items()}
