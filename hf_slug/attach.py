# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches on live weights: what is stacked on an encoder, and the one way in which its weights are changed.

A patched weight is always computed anew from its original, `cast(W.float64 + Σ weightᵢ·Δᵢ)`, and written in place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .arithmetic import compose, identical
from .encoders import Encoder
from .errors import ChangedWeightError, DeadLayerError, UnsupportedModelError, WrongBaseError
from .fingerprint import verify_fingerprint
from .live_weight import ORIGINAL, LiveWeight
from .patch import UnlearningPatch


logger = logging.get_logger(__name__)

_STACK = "_unlearning"


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

    def added(self, name: str, patch: UnlearningPatch, weight: float) -> "Stack":
        """This stack with one more patch, active."""
        deltas = {module: dict(own) for module, own in self.deltas.items()}
        for module, delta in patch.deltas.items():
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
        return compose(original.detach().cpu(), own, scales)


def read_stack(encoder: Encoder) -> Stack:
    """Returns what is stacked on an encoder; it is kept on the encoder, which several pipelines may share."""
    return encoder.root.__dict__.get(_STACK) or Stack()


def find_fitting(host: str, patch: UnlearningPatch, encoders: Sequence[Encoder], strict: bool = True) -> list[Encoder]:
    """
    Finds the encoders that have a patch's layer, read it, and carry the weights that it was computed from.

    Args:
        host (`str`): What to call the host in messages.
        patch ([`UnlearningPatch`]): The patch.
        encoders (`Sequence[Encoder]`): The encoders to choose from.
        strict (`bool`, *optional*, defaults to `True`): Whether the weights must be those of the patch's fingerprint.

    Returns:
        `list[Encoder]`: At least one.

    Raises:
        UnsupportedModelError: If no encoder has the layer in the right shape.
        WrongBaseError: If the weights are others.
        DeadLayerError: If the layer is there and is not read.
        ValueError: If the patch says nothing of its base, and several encoders have the layer.
    """
    fingerprint = patch.config.base_fingerprint if strict else None
    fitting: list[Encoder] = []
    refused: list[ValueError] = []
    for encoder in encoders:
        if encoder.tower == patch.tower:
            try:
                _check_fit(host, patch, encoder, fingerprint)
                fitting.append(encoder)
            except (UnsupportedModelError, WrongBaseError) as error:
                refused.append(error)
    if not fitting:
        # the error that came furthest says most
        for kind in (DeadLayerError, WrongBaseError, UnsupportedModelError):
            for refusal in refused:
                if isinstance(refusal, kind):
                    raise refusal
        raise UnsupportedModelError(
            f"The patch changes {', '.join(patch.modules)} of a {patch.tower} tower. {host} has none that could be changed: "
            f"found {', '.join(f'{e.component} ({e.tower})' for e in encoders)}."
        )
    if not fingerprint and len(fitting) > 1:
        raise ValueError(
            f"The patch fits {', '.join(e.component for e in fitting)} of {host} by shape, and nothing says which it was computed "
            f"from. Choose with `components=`."
        )
    if strict and not fingerprint:
        logger.warning(
            "The patch carries no fingerprint of its base: whether it belongs to these weights can't be checked."
        )
    return fitting


def _check_fit(host: str, patch: UnlearningPatch, encoder: Encoder, fingerprint: Mapping[str, Any] | None) -> None:
    modules = encoder.resolve(patch.modules)
    missing = [name for name in patch.modules if name not in modules]
    if missing:
        encoder.check_live(missing, host)
        raise UnsupportedModelError(
            f"{encoder.component} of {host} has no {', '.join(missing)}, which the patch changes."
        )
    originals, stack = {}, read_stack(encoder)
    for name, delta in patch.deltas.items():
        weight = LiveWeight(modules[name], name, encoder.root)
        originals[name] = read_original(weight, name, stack)
        if originals[name].shape != delta.shape:
            raise WrongBaseError(
                f"{name}.weight in {encoder.component} of {host} has shape {tuple(originals[name].shape)}; the patch was computed "
                f"from {patch.config.base_model_name_or_path or 'another base model'}, where it has {tuple(delta.shape)}."
            )
    if fingerprint:
        verify_fingerprint(originals, fingerprint, base_name=patch.config.base_model_name_or_path)
    encoder.check_live(patch.modules, host)


@dataclass
class _Change:
    weight: LiveWeight
    before: Tensor
    original: Tensor
    after: Tensor
    is_patched: bool


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
        modules = encoder.resolve(touched)
        for name in touched:
            weight = LiveWeight(modules[name], name, encoder.root)
            original = read_original(weight, name, present)
            plan.append(_Change(weight, weight.read(), original, stack.compose(name, original), name in stack.deltas))
    done: list[tuple[LiveWeight, Tensor]] = []
    try:
        for change in plan:
            done.append((change.weight, change.before.clone()))
            change.weight.write(change.after)
    except BaseException:
        for weight, before in done:
            weight.write(before)
        raise
    for change in plan:
        if not change.is_patched:
            change.weight.drop_original()
        elif change.weight.original is None:
            change.weight.keep_original(change.original)
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
    expected = stack.compose(name, kept).to(live.device)
    if not identical(live, expected) and not _is_rounding(weight, live, expected):
        raise ChangedWeightError(
            f"The weight of {name} is not what {', '.join(stack.patches)} left there: something else (a fused LoRA, training) has "
            f"changed it since, and would be wiped out. Undo that first, e.g. with `unfuse_lora()`; nothing was changed."
        )
    return kept


def _is_rounding(weight: LiveWeight, live: Tensor, expected: Tensor) -> bool:
    # A LoRA that was fused and unfused leaves rounding errors behind, which nobody misses. In half precision they are as large
    # as a weak LoRA, so there the LoRA's layer must still be in place to say that it is not fused.
    if live.dtype != expected.dtype or live.shape != expected.shape:
        return False
    wrappers = [m for m in weight.owner.modules() if getattr(m, "base_layer", None) is weight.module]
    unfused = bool(wrappers) and not any(getattr(wrapper, "merged", False) for wrapper in wrappers)
    if live.dtype != torch.float32 and not unfused:
        return False
    tolerance = 4 * torch.finfo(live.dtype).eps * expected.abs().max()
    return bool(((live - expected).abs() <= tolerance).all())


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
        encoder.root.__dict__[_STACK] = stack
    else:
        encoder.root.__dict__.pop(_STACK, None)


def _apply_patched(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` of a patched module: after a cast the weight is what it would be had it been patched there."""
    name, stack = module.__dict__["_unlearning_of"]
    parameter: Any = module.weight
    weight, original = parameter.data, getattr(module, ORIGINAL)
    type(module)._apply(module, fn, recurse)
    parameter, kept = module.weight, getattr(module, ORIGINAL)
    is_cast = kept.dtype != original.dtype and not kept.is_meta and not parameter.is_meta
    # if something else has changed the weight, that is cast like any other
    if is_cast and identical(weight.cpu(), stack.compose(name, original)):
        with torch.no_grad():
            parameter.copy_(stack.compose(name, kept))
    return module
