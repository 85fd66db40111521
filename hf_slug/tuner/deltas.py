# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Where a layer keeps its deltas: in float32, and never trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Optional, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..arithmetic import compose, expand_factors
from .config import SlugConfig


def delta_shape(module: nn.Module, name: str) -> torch.Size:
    """
    The shape of the weight that a patch changes.

    Args:
        module (`nn.Module`):
            The module, without any adapter around it.
        name (`str`):
            Its name, for the message.

    Returns:
        `torch.Size`: The shape; for a quantised `nn.Linear` that of the weight it stands for.

    Raises:
        TypeError: If patches for this kind of module are not supported.
    """
    if isinstance(module, nn.Linear):
        return torch.Size((module.out_features, module.in_features))
    if isinstance(module, (nn.LayerNorm, nn.Conv2d)) and module.weight is not None:
        return module.weight.shape
    raise TypeError(
        f"Target module {name!r} is a {type(module).__name__}"
        f"{' without a weight' if isinstance(module, nn.LayerNorm) else ''}. An unlearning patch changes the weight "
        "of `nn.Linear`, `nn.LayerNorm` or `nn.Conv2d` modules; name one of these in `target_modules`."
    )


class DeltaLayer(nn.Module, BaseTunerLayer):
    """
    Wraps a module and holds its deltas, dense or as factors.

    PEFT casts, rounds or unfreezes adapter weights on several of its ways to load them. What it calls there is
    overridden here.

    Args:
        base_layer (`nn.Module`):
            The module to wrap.
        name (`str`):
            The name of the module in the model.

    Raises:
        TypeError: If the module is not of a supported type.
    """

    adapter_layer_names = ("slug_delta", "slug_up", "slug_down")
    # `canonical_names` holds by adapter (the module's name in the model, the module's name in the file)
    other_param_names = ("scaling", "canonical_names")

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.slug_delta = nn.ParameterDict({})
        self.slug_up = nn.ParameterDict({})
        self.slug_down = nn.ParameterDict({})
        self.scaling: dict[str, float] = {}
        self.canonical_names: dict[str, tuple[str, str]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        module = self.get_base_layer()
        self.delta_shape = delta_shape(module, name)
        # Host code may ask the wrapper for the size of the layer it replaces.
        sizes = ("in_channels", "out_channels") if isinstance(module, nn.Conv2d) else ("in_features", "out_features")
        self.in_features, self.out_features = (getattr(module, size, self.delta_shape[-1]) for size in sizes)

    def update_layer(self, adapter_name: str, config: SlugConfig, name: str) -> None:
        """
        Add an adapter.

        Args:
            adapter_name (`str`):
                The name of the adapter.
            config ([`SlugConfig`]):
                Its configuration.
            name (`str`):
                The name of the module in the model.
        """
        shape = self.delta_shape
        if config.rank is None or len(shape) == 1:
            sizes: dict[nn.ParameterDict, tuple[int, ...]] = {self.slug_delta: shape}
        else:
            sizes = {self.slug_up: (shape[0], config.rank), self.slug_down: (config.rank, shape[1:].numel())}
        for parameters, size in sizes.items():
            value = torch.zeros(size, dtype=torch.float32)
            if not config.init_weights:  # of about the size of a weight, or the outputs of a test would explode
                value = torch.randn(size, dtype=torch.float32) / math.sqrt(max(1, math.prod(size[1:])))
            parameters[adapter_name] = nn.Parameter(value, requires_grad=False)
        self.scaling[adapter_name] = 1.0
        canonical = {live: known for known, live in config.live_names.items()}
        self.canonical_names[adapter_name] = (name, canonical.get(name, name))
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def get_delta(self, adapter_name: str) -> Tensor:
        """
        The delta as published, before scaling.

        Args:
            adapter_name (`str`): The name of the adapter.

        Returns:
            `torch.Tensor`: The delta in float32, of the weight's shape.
        """
        if adapter_name in self.slug_delta:
            return self.slug_delta[adapter_name]
        return expand_factors(self.slug_up[adapter_name], self.slug_down[adapter_name], self.delta_shape)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """
        The delta times the current scale of the adapter.

        Args:
            adapter (`str`): The name of the adapter.

        Returns:
            `torch.Tensor`: The scaled delta in float32, of the weight's shape.
        """
        return self.get_delta(adapter) * self.scaling[adapter]

    def _compose(self, weight: Tensor, adapter_names: Sequence[str]) -> Tensor:
        return compose(weight, {name: self.get_delta(name) for name in adapter_names}, self.scaling)

    @property
    def base_weight(self) -> Tensor:
        """The weight of the innermost module."""
        return cast(Tensor, self.get_base_layer().weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # `.half()` and `.to(dtype)` come through here. Rounding a delta would change the patch.
        kept = {name: {key: p.data for key, p in getattr(self, name).items()} for name in self.adapter_layer_names}
        super()._apply(fn, recurse)
        for name, parameters in kept.items():
            for key, value in parameters.items():
                moved = getattr(self, name)[key]
                if moved.dtype != value.dtype:
                    moved.data = value.to(moved.device)
        return self

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=True)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
        if requires_grad and names & self._get_available_adapters():
            warnings.warn("The delta of an unlearning patch is computed, not trained. It stays frozen.", stacklevel=2)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Optional[torch.device] = None) -> None:
        target = self.base_weight.device if device is None else torch.device(device)
        for name in self.adapter_layer_names:
            parameters = getattr(self, name)
            if target.type != "meta" and adapter_name in parameters and not parameters[adapter_name].is_meta:
                parameters[adapter_name] = nn.Parameter(parameters[adapter_name].to(target), requires_grad=False)
