# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The one encoder of a host that a patch is made for, and whether it is the CLIP's."""

from typing import Any, cast

import torch
from torch import nn

from .arithmetic import identical
from .encoders import Encoder, find_encoders
from .errors import WrongBaseError
from .towers import Tower, candidate_layers


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
        UnsupportedModelError: If there is none, or patches are on it or the model now.
        WrongBaseError: If the host's weights are not those of the model.
        ValueError: If there are several.
    """
    found = [e for e in find_encoders(host, component) if tower in ("both", e.tower)]
    if len(found) != 1:
        several = ", ".join(encoder.component for encoder in found)
        raise ValueError(
            f"A patch is made for one encoder; {type(host).__name__} has {len(found)} that fit tower={tower!r} ({several}). "
            f"Choose with `component=` (`--component`) or `tower=` (`--tower`)."
        )
    (encoder,) = found
    if model is not None:
        names = [name for name in _weighted(model, encoder.tower) if encoder.is_live(name)]
        ours, theirs = (e.resolve(names) for e in (_model_encoder(model, encoder.tower), encoder))
        for name in names:
            _check_same(name, ours.get(name), theirs.get(name), host)
    return encoder


def _model_encoder(model: nn.Module, tower: Tower) -> Encoder:
    return next(encoder for encoder in find_encoders(model) if encoder.tower == tower)


def _weighted(model: nn.Module, tower: Tower) -> list[str]:
    layers = candidate_layers(model, tower)
    return [name for layer in layers for name in layer.modules]


def _check_same(name: str, ours: nn.Module | None, theirs: nn.Module | None, host: Any) -> None:
    if ours is None or theirs is None:
        return
    left, right = cast(Any, ours).weight.detach(), cast(Any, theirs).weight.detach()
    narrow = min((left.dtype, right.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    if left.shape != right.shape or not identical(left.cpu().to(narrow), right.cpu().to(narrow)):
        raise WrongBaseError(
            f"{name}.weight of the CLIPModel (shape {tuple(left.shape)}) and of {type(host).__name__} (shape {tuple(right.shape)}) "
            f"differ: this host embeds another CLIP. Give the one whose tower it embeds, or `model=None` and objective='host'."
        )
