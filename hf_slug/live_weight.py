# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A weight of a running model, wherever the library that offloads it keeps it."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import UnsupportedModelError


_PLAIN_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ORIGINAL = "slug_original"


class LiveWeight:
    """
    The weight of one module, read and written in place.

    Usually that is `module.weight`. Under accelerate's sequential offload the parameter is on the meta device, and each forward
    pass takes the weight from the hook's `weights_map`; under diffusers' group offload with streams each takes it from a pinned
    copy. What is written is written to all of them, or the next forward pass would undo it.

    Args:
        module (`nn.Module`): The module, without any adapter around it.
        name (`str`): What to call it in messages.
        owner (`nn.Module`): The whole model it is part of, whose offloading hooks are looked at.

    Raises:
        UnsupportedModelError: If the weight is quantised, on disk, or nowhere.
    """

    def __init__(self, module: nn.Module, name: str, owner: nn.Module):
        self.module, self.name, self.owner = module, name, owner
        weight = getattr(module, "weight", None)
        plain = isinstance(weight, Tensor) and type(weight) in (nn.Parameter, Tensor) and weight.dtype in _PLAIN_DTYPES
        if not plain:
            raise UnsupportedModelError(
                f"The weight of {name} is quantised ({type(weight).__name__}, {getattr(weight, 'dtype', 'no dtype')}), so it can't "
                f"be changed in place. Load this encoder unquantised (in float16 it is small beside the rest of the model); "
                f"a vision or language model as a whole can load the patch unmerged with `PeftModel.from_pretrained`."
            )
        self.parameter = cast(nn.Parameter, weight)
        self._groups = [group for group in _offload_groups(owner) if self._is_in(group)]
        if any(getattr(group, "offload_to_disk_path", None) for group in self._groups):
            raise UnsupportedModelError(
                f"{name} is offloaded to disk by group offloading, which would undo any change. Load patches first and offload "
                f"then, or offload to the CPU."
            )
        self._offloaded = self._find_offloaded()
        if self.parameter.is_meta and self._offloaded is None:
            raise UnsupportedModelError(
                f"The weight of {name} is not in memory (on the meta device, or offloaded to disk), so it can't be changed. "
                f"Load this encoder onto a device or the CPU."
            )

    @property
    def original(self) -> Tensor | None:
        """The weight as it was before any patch, if there is one on it now."""
        return getattr(self.module, ORIGINAL, None)

    def read(self) -> Tensor:
        """Returns the weight itself, not a copy."""
        return self._offloaded if self._offloaded is not None else self.parameter.data

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Writes into the tensors that exist: whatever refers to them (compiled code, an optimizer, a shared pipeline) sees it."""
        for place in self._places():
            with torch.inference_mode(place.is_inference()):
                place.copy_(value)

    def keep_original(self, original: Tensor) -> None:
        """Keeps the original beside the weight: it follows `.to()` and `deepcopy`, and stays out of the state dict."""
        self.module.register_buffer(ORIGINAL, original, persistent=False)
        for group in self._groups:
            if group.stream is not None:
                # another tensor than the buffer, whose data goes to the accelerator and back
                group.cpu_param_dict[original] = original.data.cpu()

    def drop_original(self) -> None:
        """Forgets the original, also where offloading that was turned on later has taken note of it."""
        kept = self.original
        if kept is None:
            return
        delattr(self.module, ORIGINAL)
        for group in self._groups:
            group.buffers = [buffer for buffer in group.buffers if buffer is not kept]
            group.cpu_param_dict.pop(kept, None)
        for hook in self._align_hooks():
            getattr(hook, "original_devices", {}).pop(ORIGINAL, None)

    def _places(self) -> Iterator[Tensor]:
        if self._offloaded is not None:
            yield self._offloaded
        if not self.parameter.is_meta:
            yield self.parameter.data
        for group in self._groups:
            if self.parameter in group.cpu_param_dict:
                yield group.cpu_param_dict[self.parameter]

    def _align_hooks(self) -> list[Any]:
        hook = self.module.__dict__.get("_hf_hook")
        return list(getattr(hook, "hooks", [hook]))

    def _find_offloaded(self) -> Tensor | None:
        for hook in self._align_hooks():
            weights = getattr(hook, "weights_map", None)
            if weights is None or "weight" not in weights:
                continue
            first, again = weights["weight"], weights["weight"]
            # from disk every access reads a fresh copy, and writing into that changes nothing
            return first if first.data_ptr() == again.data_ptr() and not first.is_meta else None
        return None

    def _is_in(self, group: Any) -> bool:
        if any(parameter is self.parameter for parameter in group.parameters):
            return True
        return any(part is self.module for module in group.modules for part in module.modules())


def _offload_groups(owner: nn.Module) -> Iterator[Any]:
    """The groups of diffusers' group offloading."""
    for module in owner.modules():
        registry = module.__dict__.get("_diffusers_hook")
        for hook in getattr(registry, "hooks", {}).values():
            if getattr(hook, "group", None) is not None:
                yield hook.group
