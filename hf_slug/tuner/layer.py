# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A layer whose weight is changed by unlearning patches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.func import functional_call

from ..arithmetic import identical
from .config import SlugConfig
from .deltas import DeltaLayer


_PLAIN_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class SlugLayer(DeltaLayer):
    """
    Wraps a module of type `nn.Linear`, `nn.LayerNorm` or `nn.Conv2d` and applies deltas to its weight.

    Deltas are in float32 and never trained, whatever the dtype of the base. While adapters are merged the original
    weight is kept in a non-persistent buffer: every merge is computed from it, and unmerging puts it back.

    Args:
        base_layer (`nn.Module`):
            The module to wrap, itself possibly a tuner layer of another PEFT method.
        adapter_name (`str`):
            The name of the first adapter.
        config ([`SlugConfig`]):
            Its configuration.
        name (`str`):
            The name of the module in the model.

    Raises:
        TypeError: If the module is of another type.
    """

    slug_original: Optional[Tensor]

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SlugConfig, name: str) -> None:
        super().__init__(base_layer, name)
        self.register_buffer("slug_original", None, persistent=False)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, name)

    def _is_quantized(self) -> bool:
        weight = self.base_weight
        # Quantised weights hide behind another dtype, shape or tensor class (bitsandbytes, HQQ, torchao).
        plain_class = type(weight) in (nn.Parameter, Tensor)
        return weight.dtype not in _PLAIN_DTYPES or weight.shape != self.delta_shape or not plain_class

    # ---------------------------------------------------------------- merging

    def merge(self, safe_merge: bool = False, adapter_names: Optional[list[str]] = None) -> None:
        """
        Write the deltas into the base weight.

        Merging in several calls gives the same bits as merging at once, in any order.

        Args:
            safe_merge (`bool`, *optional*, defaults to `False`):
                Whether to check that the new weight is finite before it is written.
            adapter_names (`List[str]`, *optional*):
                The adapters to merge; the active ones if not given.

        Raises:
            ValueError: If `safe_merge` finds a value that is not finite, or if the base weight is quantised or
            offloaded.
            RuntimeError: If something else has changed the weight since an earlier merge.
        """
        chosen = check_adapters_to_merge(self, adapter_names)
        chosen = [name for name in dict.fromkeys(chosen) if name in self._get_available_adapters()]
        if not chosen:
            return
        base_weight = self.base_weight
        if self._is_quantized() or base_weight.is_meta:
            raise ValueError(
                f"Can't merge {', '.join(chosen)} into a weight of type {type(base_weight).__name__}, "
                f"{base_weight.dtype}, on {base_weight.device}: it is quantised or offloaded. Use the adapter "
                "unmerged, or load the model unquantised."
            )
        original: Tensor = self._checked_original() if self.merged else base_weight.data
        weight = self._compose(original, [*self.merged_adapters, *chosen])
        if safe_merge and not torch.isfinite(weight).all():
            broken = [name for name in chosen if not torch.isfinite(self.get_delta(name)).all()] or chosen
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {', '.join(broken)} seems to be broken"
            )
        # The old storage becomes the kept original and the parameter gets a new one: nothing is copied.
        base_weight.data = weight
        self.slug_original = original
        self.merged_adapters.extend(chosen)

    def unmerge(self) -> None:
        """
        Put the original weight back, bit for bit.

        Raises:
            RuntimeError: If something else has changed the weight since the merge.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.base_weight.data = self._checked_original()
        self.slug_original = None
        self.merged_adapters.clear()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool = False, adapter_names: Optional[list[str]] = None
    ) -> nn.Module:
        """
        The module to put back in place of this one, which PEFT asks for when it unloads.

        Args:
            merge (`bool`):
                Whether to merge. If not, the weight is the original one even if adapters were merged before.
            safe_merge (`bool`, *optional*, defaults to `False`):
                See [`SlugLayer.merge`].
            adapter_names (`List[str]`, *optional*):
                See [`SlugLayer.merge`].

        Returns:
            `nn.Module`: What this layer wraps; if that is a layer of another PEFT method, it stays as it is.
        """
        if merge:
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        elif self.merged:
            self.unmerge()
        return self.base_layer

    def _checked_original(self) -> Tensor:
        weight = self.base_weight.data
        assert isinstance(self.slug_original, Tensor)
        original = self.slug_original.to(weight.device)  # the base may have been offloaded and brought back on its own
        if original.dtype != weight.dtype or not identical(weight, self._compose(original, self.merged_adapters)):
            name = next(iter(self.canonical_names.values()), ("?", "?"))[0]
            raise RuntimeError(
                f"The weight of {name} is not what merging {', '.join(self.merged_adapters)} left there: something "
                "else (such as a fused LoRA) has changed it since, and would be lost. Undo that change first."
            )
        return original

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlugLayer:
        # After a cast or a move, a merged weight is what it would be had it been merged there.
        before = (self.base_weight.dtype, self.base_weight.device)
        super()._apply(fn, recurse)
        weight = self.base_weight
        changed = (weight.dtype, weight.device) != before and not weight.is_meta
        if self.merged and changed and isinstance(self.slug_original, Tensor):
            weight.data = self._compose(self.slug_original, self.merged_adapters)
        return self

    # ---------------------------------------------------------------- forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        available = self._get_available_adapters()
        applied = [name for name in self.active_adapters if name in available and self.scaling[name] != 0.0]
        if self.merged or not applied:
            return self.base_layer(x, *args, **kwargs)
        base = self.base_layer
        if isinstance(base, BaseTunerLayer) or self._is_quantized() or self.base_weight.is_meta:
            return self._add_on_top(x, self.base_layer(x, *args, **kwargs), applied)
        return functional_call(base, {"weight": self._compose(self.base_weight, applied)}, (x, *args), kwargs)

    def _add_on_top(self, x: Tensor, result: Tensor, adapter_names: Sequence[str]) -> Tensor:
        # The weight can't be read here, or is not all there is: these modules are linear in it, so the rest is added.
        zero = torch.zeros(self.delta_shape, dtype=torch.float32, device=x.device)
        delta = self._compose(zero, adapter_names).to(x.dtype)
        module: Any = self.get_base_layer()
        if isinstance(module, nn.Linear):
            added = F.linear(x, delta)
        elif isinstance(module, nn.LayerNorm):
            added = F.layer_norm(x, module.normalized_shape, delta, None, module.eps)
        else:
            added = module._conv_forward(x, delta, None)
        return result + added.to(result.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return isinstance(self.get_base_layer(), nn.Linear)

    # ---------------------------------------------------------------- scale

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the scale of an adapter to its initial scale (1.0, the published step) times `scale`."""
        if adapter in self.scaling:  # PEFT asks every layer, also those that the adapter does not change
            self._rescale({adapter: float(scale)})

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of all active adapters by `scale`."""
        self._rescale({name: self.scaling[name] * scale for name in self.active_adapters if name in self.scaling})

    def unscale_layer(self, scale: Optional[float] = None) -> None:
        """Divide the scale of all active adapters by `scale`; without it, go back to the initial scale."""
        names = [name for name in self.active_adapters if name in self.scaling]
        self._rescale({name: 1.0 if scale is None else self.scaling[name] / scale for name in names})

    def _rescale(self, scales: dict[str, float]) -> None:
        original = self._checked_original() if self.merged else None
        self.scaling.update(scales)
        if original is not None:
            self.base_weight.data = self._compose(original, self.merged_adapters)

    def __repr__(self) -> str:
        return "slug." + super().__repr__()


class SlugLinear(SlugLayer):
    """A [`SlugLayer`] around an `nn.Linear`. PEFT's `"all-linear"` knows wrapped linear layers by their class name."""
