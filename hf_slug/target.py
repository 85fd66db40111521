# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The one encoder of a host that a patch is made for: whether it is the CLIP's, and untouched."""

from typing import Any, cast

import torch
from torch import nn

from .arithmetic import identical
from .encoders import Encoder, find_encoders
from .errors import UnsupportedModelError, WrongBaseError
from .hosts import get_active_unlearning
from .towers import Tower, candidate_layers, check_plain_weights


def find_encoder(host: Any, model: nn.Module | None, tower: str = "both", component: str | None = None) -> Encoder:
    """
    Finds the one encoder of a host that a patch is made for.

    Args:
        host (`DiffusionPipeline` or `nn.Module`): The host.
        model (`CLIPModel`, *optional*): The CLIP whose tower the host embeds.
        tower (`str`, *optional*, defaults to `"both"`): `"vision"`, `"text"`, or whichever there is.
        component (`str`, *optional*): Its name, where there are several.

    Returns:
        [`Encoder`]

    Raises:
        UnsupportedModelError: If there is none, or its weights are quantised, not in memory or under an adapter.
        WrongBaseError: If they are not those of the model.
        ValueError: If there are several.
    """
    every = find_encoders(host, component)
    found = [encoder for encoder in every if tower in ("both", encoder.tower)]
    if len(found) != 1:
        known = ", ".join(f"{encoder.component} ({encoder.tower})" for encoder in every)
        raise ValueError(
            f"A patch is made for one encoder; {type(host).__name__} has {len(found)} that fit tower={tower!r}, of {known}. "
            f"Choose with `component=` (`--component`) or `tower=` (`--tower`)."
        )
    (encoder,) = found
    names = [name for name in _weighted(encoder.module, encoder.tower) if encoder.is_live(name)]
    check_plain_weights(encoder.owner, encoder.resolve(names))
    if model is not None:
        (own,) = (part for part in find_encoders(model) if part.tower == encoder.tower)
        ours, theirs = own.resolve(names), encoder.resolve(names)
        for name in names:
            _check_same(name, ours.get(name), theirs[name], host)
    return encoder


def check_untouched(*models: Any) -> None:
    """
    Refuses models and hosts that are under unlearning patches now: a patch is a step from the original weights.

    Raises:
        UnsupportedModelError: If one is.
    """
    for model in models:
        active = [] if model is None else get_active_unlearning(model)
        if active:
            raise UnsupportedModelError(
                f"{type(model).__name__} is under the unlearning patches {', '.join(active)}, and a patch is made from the original "
                f"weights: it would fit no other model. Call `disable_unlearning()` first, and `enable_unlearning()` afterwards; to make one that "
                f"will be loaded with these, unload them and give them to `unlearn` as `beside=`."
            )


def _weighted(module: nn.Module, tower: Tower) -> list[str]:
    return [name for layer in candidate_layers(module, tower) for name in layer.modules]


def _check_same(name: str, ours: nn.Module | None, theirs: nn.Module, host: Any) -> None:
    left = None if ours is None else cast(Any, ours).weight.detach()
    right = cast(Any, theirs).weight.detach()
    if left is None or left.shape != right.shape or not _is_same(left.cpu(), right.cpu()):
        raise WrongBaseError(
            f"{name}.weight of the CLIPModel (shape {None if left is None else tuple(left.shape)}) and of {type(host).__name__} "
            f"(shape {tuple(right.shape)}) differ: this host embeds another CLIP. Give the one whose tower it embeds, or "
            f"`model=None` and objective='host'."
        )


def _is_same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two weights are equal as far as the coarser dtype of the two can tell."""
    narrow = min((left.dtype, right.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    if {left.dtype, right.dtype} == {torch.float16, torch.bfloat16}:  # rounded differently, from what neither can say
        return torch.allclose(left.float(), right.float(), rtol=2**-7, atol=2**-14)
    return identical(left.to(narrow), right.to(narrow))
