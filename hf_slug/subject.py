# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a run changes: a CLIPModel, or the one encoder of a host, and those of its layers that compete."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .encoders import Encoder
from .evaluation import Evaluator, ZeroShotEvaluator
from .stack import start_of
from .target import check_untouched, find_encoder
from .towers import Granularity, Layer, candidate_layers, check_clip_model


@dataclass(frozen=True)
class Subject:
    """
    What a run changes.

    Args:
        model (`CLIPModel`, *optional*): The CLIP.
        host (`DiffusionPipeline` or `nn.Module`, *optional*): What the patch is for.
        encoder ([`Encoder`], *optional*): The host's.
        objective (`str`): `"clip"` or `"host"`.
        tower (`str`): `"vision"`, `"text"` or `"both"`.
        layers (`list[Layer]`): The candidates.
    """

    model: Any
    host: Any
    encoder: Encoder | None
    objective: str
    tower: str
    layers: list[Layer]

    @property
    def module(self) -> nn.Module:
        """Where layers are found, and whose weights are differentiated by."""
        return _module(self.model, self.encoder, self.objective)

    @property
    def device(self) -> torch.device:
        """Where that is."""
        return next(self.module.parameters()).device

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of all candidates without any patch, by canonical module name."""
        return {name: weight for layer in self.layers for name, weight in start_of(self.module, layer)[0].items()}

    def judged_by(self, evaluator: Evaluator) -> nn.Module:
        """Where weights are changed for an evaluator: in the CLIPModel or in the host."""
        by_clip = self.encoder is None or isinstance(evaluator, ZeroShotEvaluator)
        return cast(nn.Module, self.model if by_clip else self.encoder.module)  # type: ignore[union-attr]


def find_subject(
    model: Any, host: Any, objective: str, tower: str, component: str | None, granularity: Granularity, norms: bool
) -> Subject:
    """
    Finds what a run changes, and its candidate layers: in a host only those that reach its output.

    Raises:
        UnsupportedModelError: If the model is not a `CLIPModel` with plain weights, or it or the host is under a patch now.
        WrongBaseError: If the host's weights are not the model's.
    """
    if model is not None:
        check_clip_model(model)
    check_untouched(model, host)
    encoder = None if host is None else find_encoder(host, model, tower, component)
    side = tower if encoder is None else encoder.tower
    layers = candidate_layers(_module(model, encoder, objective), cast(Any, side), granularity, norms)
    if encoder is not None:
        layers = [layer for layer in layers if all(encoder.is_live(name) for name in layer.modules)]
    return Subject(model, host, encoder, objective, side, layers)


def _module(model: Any, encoder: Encoder | None, objective: str) -> nn.Module:
    return cast(nn.Module, model if encoder is None or objective == "clip" else encoder.module)
