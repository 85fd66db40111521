# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The mean of gradients of many batches, and no more than that in memory."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from .errors import GradientError
from .processes import Processes


Gradients = dict[str, torch.Tensor]  # canonical module name -> gradient of its weight, float32


class GradientMean:
    """
    A weighted mean of gradients, accumulated in float32 without ever touching `.grad`.

    float16 gradients of a mean cosine underflow, so losses are scaled up for the backward pass by a power of two, which is
    halved when a gradient overflows and divided out exactly.

    Args:
        weights (`Mapping[str, torch.nn.Parameter]`): The weights to differentiate by, by canonical module name.
    """

    def __init__(self, weights: Mapping[str, torch.nn.Parameter]):
        self.weights = dict(weights)
        self.mean: Gradients = {
            name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for name, weight in self.weights.items()
        }
        self.scale = 2.0**12 if any(weight.dtype == torch.float16 for weight in weights.values()) else 1.0

    def add(self, loss: torch.Tensor, share: float) -> None:
        """
        Adds `share` times the gradient of a loss.

        Raises:
            GradientError: If the gradient is not finite.
        """
        found: Gradients = {}  # those that another may turn out not to be finite beside

        def take(name: str, part: torch.Tensor) -> torch.Tensor:
            finite.append(torch.isfinite(part).all())  # looked at once for all: each look waits for a GPU
            if self.scale > 1:
                found[name] = part
            else:
                self._add(name, part, share)
            return part.new_zeros(()).expand_as(part)  # so that no more than one of them need be in memory

        while True:
            finite: list[torch.Tensor] = []
            hooks = [weight.register_hook(partial(take, name)) for name, weight in self.weights.items()]
            try:
                torch.autograd.grad(
                    loss * self.scale, list(self.weights.values()), retain_graph=self.scale > 1, allow_unused=True
                )  # of what is unused, as blocks that a host does not read, no hook is called
            finally:
                for hook in hooks:
                    hook.remove()
            if all(bool(torch.stack(flags).all()) for flags in _by_device(finite)):
                break
            if self.scale <= 1:
                raise GradientError(
                    f"The gradient of a batch is not finite (its loss is {loss.item():.4g}), so no layer can be scored. "
                    f"Load the model in float32 or bfloat16, and check it for NaN weights."
                )
            self.scale /= 2
            found.clear()
        for name, part in found.items():
            self._add(name, part, share)

    def _add(self, name: str, part: torch.Tensor, share: float) -> None:
        self.mean[name].add_(part.to(self.mean[name].dtype), alpha=share / self.scale)

    def over(self, processes: Processes, total: float = 1.0) -> Gradients:
        """Returns the sum of what all processes added, divided by `total`: the mean, where shares add up to that."""
        self.mean = processes.sum(self.mean)
        return {name: mean.div_(total) for name, mean in self.mean.items()}


def _by_device(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor)
    return list(by_device.values())
