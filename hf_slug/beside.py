# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches that are on while another is made, because they will be on wherever it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .arithmetic import compose
from .composition import stacked
from .data import Pairs
from .errors import EmptyDatasetError
from .live_weight import ORIGINAL
from .names import bare_name, name_of
from .patch import UnlearningPatch
from .towers import Layer, layer_weights, resolve_modules


Beside = Mapping[str, UnlearningPatch]


def read_beside(sources: Sequence[UnlearningPatch | str | Path]) -> dict[str, UnlearningPatch]:
    """
    Reads the patches that another is made beside, in a given order.

    Raises:
        CorruptPatchError: If a source holds anything but a patch.
        TypeError: If one patch is given in place of a list.
    """
    if isinstance(sources, (UnlearningPatch, str, Path)):
        raise TypeError(f"Expected a list of patches as `beside`, found {type(sources).__name__}. Give [patch].")
    patches = [p if isinstance(p, UnlearningPatch) else UnlearningPatch.from_pretrained(p) for p in sources]
    return {f"{i}": patch for i, patch in enumerate(patches)}


def check_beside(patches: Beside, has_gradients: bool) -> None:
    """
    Checks that nothing given was computed without the patches.

    Raises:
        ValueError: If the retain set's gradients were.
    """
    if patches and has_gradients:
        raise ValueError(
            "Retain statistics, streams and `retain_gradients` are of the model without patches; found `beside` (--beside, --in-turn), too. Give "
            "the retain set as pairs: its gradient is computed with the patches on."
        )


@contextmanager
def loaded_beside(patches: Beside, *models: Any) -> Iterator[None]:
    """
    Loads patches onto a model and a host for as long as the context is open.

    Raises:
        UnsupportedModelError: If one has patches of its own already, or lacks a layer that is changed.
        WrongBaseError: If a patch is of another base.
    """
    with ExitStack() as stack:
        for model in models:
            if patches and model is not None:
                stack.enter_context(stacked(model, patches, dict.fromkeys(patches, 1.0)))
        yield


def leave_out(parts: Mapping[str, Pairs], patches: Beside, templates: Sequence[str]) -> dict[str, Pairs]:
    """
    Leaves out of what is kept the pairs of concepts that the patches forget: nothing is to bring them back.

    Raises:
        EmptyDatasetError: If a part has no other pairs.
    """
    gone = {bare_name(concept, templates).casefold() for patch in patches.values() for concept in _concepts(patch)}
    left = {}
    for key, pairs in parts.items():
        if gone and key.endswith("retain"):
            own = pairs.subset(i for i, pair in enumerate(pairs) if name_of(pair, templates).casefold() not in gone)
            if len(pairs) and not len(own):
                raise EmptyDatasetError(
                    f"Every pair of the {key.replace('_', ' ')} set shows a concept that a patch beside this one forgets "
                    f"({', '.join(sorted(gone))}). Give pairs of what is to be kept."
                )
            pairs = own
        left[key] = pairs
    return left


def original_weights(module: nn.Module, layer: Layer) -> dict[str, torch.Tensor]:
    """The weights of a layer without the patches on it, by canonical module name: what a patch is a step from."""
    paths = resolve_modules(module, layer.modules)
    return {
        name: getattr(module.get_submodule(paths[name]), ORIGINAL, weight).detach()
        for name, weight in layer_weights(module, layer).items()
    }


def weights_with(
    module: nn.Module, layer: Layer, deltas: Mapping[str, torch.Tensor], patches: Beside
) -> dict[str, torch.Tensor]:
    """The weights of a layer with new deltas and those of the patches: the bits that loading them all gives."""
    found = {}
    for name, original in original_weights(module, layer).items():
        shares = {key: patch.deltas[name] for key, patch in patches.items() if name in patch.deltas}
        found[name] = compose(original, {**shares, "new": deltas[name]}, {})
    return found


def describe_beside(patches: Beside) -> list[dict[str, Any]]:
    """What a report says of them: the concept of each, the modules it changes and by which norm."""
    return [
        {
            "concept": patch.config.concept,
            "norms": {name: float(delta.double().norm()) for name, delta in patch.deltas.items()},
        }
        for patch in patches.values()
    ]


def _concepts(patch: UnlearningPatch) -> list[str]:
    parts = [row.get("concept") for row in patch.report.get("composed_of", ())] or [patch.config.concept]
    return [concept for concept in parts if concept]
