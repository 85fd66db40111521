# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches on live weights: whether a patch fits an encoder, and the one way in which its weights are changed.

A patched weight is always computed anew from its original, `cast(W.float64 + Σ weightᵢ·Δᵢ)`, and written in place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .arithmetic import identical
from .encoders import STACK, Encoder
from .errors import ChangedWeightError, DeadLayerError, UnsupportedModelError, WrongBaseError
from .fingerprint import verify_fingerprint
from .live_weight import ORIGINAL, LiveWeight
from .patch import UnlearningPatch
from .stack import Stack, read_stack


logger = logging.get_logger(__name__)


def find_fitting(
    host: str, patch: UnlearningPatch, encoders: Sequence[Encoder], strict: bool = True, chosen: bool = False
) -> list[Encoder]:
    """
    Finds the encoders that have a patch's layer, read it, and carry the weights that it was computed from. Of a patch that changes
    both towers, each must find one.

    Args:
        host (`str`): What to call the host in messages.
        patch ([`UnlearningPatch`]): The patch.
        encoders (`Sequence[Encoder]`): The encoders to choose from.
        strict (`bool`, *optional*, defaults to `True`): Whether the weights must be those of the patch's fingerprint.
        chosen (`bool`, *optional*, defaults to `False`): Whether somebody has chosen these encoders.

    Returns:
        `list[Encoder]`: At least one.

    Raises:
        UnsupportedModelError: If no encoder has the layer in the right shape.
        WrongBaseError: If the weights are others.
        DeadLayerError: If the layer is there and is not read.
        ValueError: If the patch says nothing of its base, several encoders have the layer, and nobody has chosen.
    """
    fingerprint = patch.config.base_fingerprint if strict else None
    shapes = {name: delta.shape for name, delta in patch.deltas.items()}
    found: list[Encoder] = []
    for tower, modules in patch.modules_by_tower.items():
        fitting: list[Encoder] = []
        refused: list[tuple[int, ValueError]] = []
        for encoder in encoders:
            if encoder.tower == tower:
                refusal = _refuse(host, patch, {name: shapes[name] for name in modules}, encoder, fingerprint)
                if refusal is None:
                    fitting.append(encoder)
                else:
                    refused.append(refusal)
        if not fitting and refused:
            raise max(refused, key=lambda refusal: refusal[0])[1]  # what came nearest says most
        if not fitting:
            raise UnsupportedModelError(
                f"The patch changes {', '.join(modules)} of a {tower} tower. {host} has none that could be changed: "
                f"found {', '.join(f'{e.component} ({e.tower})' for e in encoders)}."
            )
        if not fingerprint and not chosen and len(fitting) > 1:
            raise ValueError(
                f"The patch fits {', '.join(e.component for e in fitting)} of {host} by shape, and nothing says which it was "
                f"computed from. Choose with `components=`."
            )
        found += fitting
    if strict and not fingerprint:
        logger.warning(
            "The patch carries no fingerprint of its base: whether it belongs to these weights can't be checked."
        )
    return found


def _refuse(
    host: str,
    patch: UnlearningPatch,
    shapes: Mapping[str, torch.Size],
    encoder: Encoder,
    fingerprint: Mapping[str, Any] | None,
) -> tuple[int, ValueError] | None:
    """Why a patch does not fit an encoder, and how near it came to it, or `None` if it does."""
    modules, base = encoder.resolve(list(shapes)), patch.config.base_model_name_or_path
    missing = [name for name in shapes if name not in modules]
    if missing:
        kind = UnsupportedModelError if all(map(encoder.is_live, missing)) else DeadLayerError
        return 0, kind(
            f"{encoder.component} of {host} has {encoder.blocks} blocks and no {', '.join(missing)}, which the patch changes. Load "
            f"a patch that was made for this host: `unlearn(..., host=...)`."
        )
    originals, stack = {}, read_stack(encoder)
    nearness = 2  # a quantised weight hides its shape, so it may well be the one that is meant
    try:
        for name, module in modules.items():
            originals[name] = read_original(LiveWeight(module, name, encoder.owner), name, stack)
        nearness = 1
        for name, shape in shapes.items():
            if originals[name].shape != shape:
                raise WrongBaseError(
                    f"{name}.weight in {encoder.component} of {host} has shape {tuple(originals[name].shape)}; the patch was computed "
                    f"from {base or 'another base model'}, where it has {tuple(shape)}."
                )
        nearness = 3
        if fingerprint:
            verify_fingerprint(originals, fingerprint, base_name=base)
        nearness = 4
        encoder.check_live(list(shapes), host)
    except (UnsupportedModelError, WrongBaseError) as error:
        return nearness, error
    return None


@dataclass
class _Change:
    weight: LiveWeight
    original: Tensor
    after: Tensor
    is_patched: bool

    def __post_init__(self) -> None:
        self.is_new = self.is_patched and self.weight.original is None
        # a new original is a copy already
        self.before = self.original if self.weight.original is None else self.weight.read().clone()

    def make(self) -> None:
        if self.is_new:
            self.weight.keep_original(self.original)
        self.weight.write(self.after)

    def undo(self) -> None:
        if self.is_new:
            self.weight.drop_original()
        self.weight.write(self.before)


def apply_stacks(changes: Iterable[tuple[Encoder, Stack]]) -> None:
    """
    Puts encoders under new stacks: all of them, or none if anything goes wrong.

    Args:
        changes (`Iterable[tuple[Encoder, Stack]]`): The encoders and what is to be stacked on each.

    Raises:
        ChangedWeightError: If a weight is no longer what the present stack left there.
        UnsupportedModelError: If a weight can't be written.
    """
    changes = list(changes)
    plan: list[_Change] = []
    for encoder, stack in changes:
        present = read_stack(encoder)
        touched = list(dict.fromkeys([*present.deltas, *stack.deltas]))
        # a layer that has been removed since has nothing to be given back
        for name, module in encoder.resolve(touched).items():
            weight = LiveWeight(module, name, encoder.owner)
            original = read_original(weight, name, present)
            plan.append(_Change(weight, original, stack.compose(name, original), name in stack.deltas))
    made: list[_Change] = []
    try:
        for change in plan:
            made.append(change)
            change.make()
    except BaseException:
        for change in made:
            change.undo()
        raise
    for change in plan:
        if not change.is_patched:
            change.weight.drop_original()
    for encoder, stack in changes:
        _record(encoder, stack)


def read_original(weight: LiveWeight, name: str, stack: Stack) -> Tensor:
    """
    Returns the weight without any patch: a copy, or the kept one if nothing else has changed the weight since.

    Raises:
        ChangedWeightError: If something has.
    """
    kept, live = weight.original, weight.read()
    if kept is None:
        return live.clone()
    if identical(live, kept.to(live.device)):  # somebody has put the original back: there is nothing to lose
        return kept
    expected = stack.compose(name, kept).to(live.device)
    if not identical(live, expected) and not _is_rounding(weight, live, expected):
        raise ChangedWeightError(
            f"The weight of {name} is not what {', '.join(stack.patches)} left there: something else (a fused LoRA, training) has "
            f"changed it since, and would be wiped out. Nothing was changed. Undo that first, e.g. with `unfuse_lora()`, or load the "
            f"model again."
        )
    return kept


def _is_rounding(weight: LiveWeight, live: Tensor, expected: Tensor) -> bool:
    # A LoRA that was fused and unfused leaves rounding errors behind, which nobody misses.
    if live.dtype != expected.dtype or live.shape != expected.shape:
        return False
    wrappers: list[Any] = [m for m in weight.owner.modules() if getattr(m, "base_layer", None) is weight.module]
    if any(getattr(wrapper, "merged", False) for wrapper in wrappers):
        return False
    if wrappers:
        deltas = [wrapper.get_delta_weight(name) for wrapper in wrappers for name in getattr(wrapper, "lora_A", ())]
        size = sum((delta.abs() for delta in deltas), expected.abs())
    elif live.dtype in (torch.float32, torch.float64):
        size = expected.abs().max()
    else:
        # in half precision a weak LoRA is no larger than rounding, and there is none here to compare with
        return False
    kind = torch.finfo(live.dtype)
    return bool(((live - expected).abs() <= 4 * kind.eps * (size + kind.tiny)).all())


def _record(encoder: Encoder, stack: Stack) -> None:
    for name, module in encoder.resolve(list({**read_stack(encoder).deltas, **stack.deltas})).items():
        if name in stack.deltas:
            module.__dict__["_unlearning_of"] = (name, stack)
            # found on the instance, so that nothing is wrapped; a partial is copied and pickled with its module
            module.__dict__["_apply"] = partial(_apply_patched, module)
        else:
            module.__dict__.pop("_unlearning_of", None)
            module.__dict__.pop("_apply", None)
    if stack.patches:
        encoder.root.__dict__[STACK] = stack
    else:
        encoder.root.__dict__.pop(STACK, None)


def _apply_patched(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` of a patched module: after a cast the weight is what it would be had it been patched there."""
    name, stack = module.__dict__["_unlearning_of"]
    parameter: Any = module.weight
    weight, original = parameter.data, getattr(module, ORIGINAL)
    type(module)._apply(module, fn, recurse)
    parameter, kept = module.weight, getattr(module, ORIGINAL)
    if kept.is_meta or kept.dtype == original.dtype:
        return module
    if parameter.is_meta:
        # the weight itself is offloaded and has not been cast
        setattr(module, ORIGINAL, original)
    elif identical(weight.cpu(), stack.compose(name, original)):
        with torch.no_grad():
            parameter.copy_(stack.compose(name, kept))
    # if something else has changed the weight, that is cast like any other
    return module
