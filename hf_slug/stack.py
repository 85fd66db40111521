# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What is stacked on an encoder: the patches, their weights, and which of them are on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .arithmetic import compose
from .encoders import STACK, Encoder
from .live_weight import ORIGINAL
from .patch import UnlearningPatch
from .towers import Layer, Tower, layer_modules


_BLOCK = 1 << 17  # elements


@dataclass(frozen=True)
class Stack:
    """
    The patches of one encoder. Never changed: a change makes another one, which is applied as a whole or not at all.

    Args:
        patches (`dict[str, UnlearningPatch]`): By adapter name, in the order of loading.
        weights (`dict[str, float]`): How much of each.
        active (`tuple[str, ...]`): Those that `set_unlearning` left on.
        enabled (`bool`): Whether the active ones are on at the moment.
        deltas (`dict[str, dict[str, Tensor]]`): Float32 deltas by canonical module name and adapter name.
    """

    patches: Mapping[str, UnlearningPatch] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    enabled: bool = True
    deltas: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def added(self, name: str, patch: UnlearningPatch, weight: float, tower: Tower) -> "Stack":
        """This stack with one more patch, active: with what it changes of the encoder's tower."""
        deltas = {module: dict(own) for module, own in self.deltas.items()}
        modules = patch.modules_by_tower.get(tower, [])
        for module, delta in ((module, delta) for module, delta in patch.deltas.items() if module in modules):
            deltas.setdefault(module, {})[name] = delta
        return replace(
            self,
            patches={**self.patches, name: patch},
            weights={**self.weights, name: weight},
            active=(*self.active, name),
            deltas=deltas,
        )

    def without(self, names: Iterable[str]) -> "Stack":
        """This stack without some patches; without all of them, it is as if there had never been one."""
        gone = set(names)
        left = {name: patch for name, patch in self.patches.items() if name not in gone}
        if not left:
            return Stack()
        kept = {
            module: {name: delta for name, delta in own.items() if name in left} for module, own in self.deltas.items()
        }
        return replace(
            self,
            patches=left,
            weights={name: self.weights[name] for name in left},
            active=tuple(name for name in self.active if name in left),
            deltas={module: own for module, own in kept.items() if own},
        )

    def compose(self, module: str, original: Tensor) -> Tensor:
        """The weight that this stack makes of an original: in float64 on the CPU, so that no device adds rounding of its own."""
        own = self.deltas.get(module, {})
        scales = {name: self.weights[name] if self.enabled and name in self.active else 0.0 for name in own}
        original = original.detach().cpu()
        result = torch.empty_like(original)
        # by blocks: fresh float64 tensors of a whole weight would cost many times as long as the sum itself
        rows = max(1, _BLOCK // original[0].numel())
        for block in (slice(start, start + rows) for start in range(0, len(original), rows)):
            result[block] = compose(original[block], {name: delta[block] for name, delta in own.items()}, scales)
        return result


def deltas_on(module: nn.Module) -> dict[str, Tensor]:
    """Returns the deltas that are on a module now, each at its weight, by adapter name."""
    name, stack = module.__dict__.get("_unlearning_of", ("", Stack()))
    active = stack.active if stack.enabled else ()
    return {
        adapter: delta if stack.weights[adapter] == 1.0 else delta * stack.weights[adapter]
        for adapter, delta in stack.deltas.get(name, {}).items()
        if adapter in active
    }


def start_of(model: nn.Module, layer: Layer) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Returns what a patch is a step from, by canonical module name: a layer's weights without any patch, and the deltas that are on them."""
    modules = layer_modules(model, layer)
    originals = {name: getattr(module, ORIGINAL, module.weight).detach() for name, module in modules.items()}  # type: ignore[operator]
    return originals, {name: deltas_on(module) for name, module in modules.items()}


def read_stack(encoder: Encoder) -> Stack:
    """Returns what is stacked on an encoder; it is kept on the encoder, which several pipelines may share."""
    return encoder.root.__dict__.get(STACK) or Stack()
