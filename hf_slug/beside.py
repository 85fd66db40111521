# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches that are on while another is made, because they will be on wherever it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .attach import find_fitting
from .composition import concepts_of, stacked
from .data import Pairs
from .encoders import find_encoders
from .errors import DeadLayerError, EmptyDatasetError, UnsupportedModelError, WrongBaseError
from .names import bare_name, name_of
from .patch import UnlearningPatch
from .patch_files import understood
from .stack import deltas_on


Sources = Sequence[UnlearningPatch | str | Path] | Mapping[str, UnlearningPatch | str | Path] | None


@dataclass(frozen=True)
class Beside:
    """
    Patches that another is made beside.

    Args:
        patches (`dict[str, UnlearningPatch]`): In their order, by number.
        sources (`list[str]`): The folder or Hub id of each, or `""`.
    """

    patches: dict[str, UnlearningPatch]
    sources: list[str]

    @property
    def concepts(self) -> list[str]:
        """All that they forget."""
        return [concept for patch in self.patches.values() for concept in concepts_of(patch)]

    def describe(self) -> list[dict[str, Any]]:
        """What a report says of them: the concept of each, where it came from, the modules it changes and by which norm."""
        return [
            {
                "concept": patch.config.concept,
                "source": source or None,
                "norms": {name: float(delta.double().norm()) for name, delta in patch.deltas.items()},
            }
            for patch, source in zip(self.patches.values(), self.sources, strict=True)
        ]

    def differs_from(self, described: Sequence[Mapping[str, Any]]) -> bool:
        """Whether these are other patches than those that a report describes."""
        left = [dict(row["norms"]) for row in described]
        for own in self.describe():
            same = [norms for norms in left if _alike(norms, own["norms"])]
            if not same:
                return True
            left.remove(same[0])
        return bool(left)

    @contextmanager
    def loaded(self, host: Any, model: Any = None) -> Iterator[None]:
        """
        Loads all of them for as long as the context is open.

        Args:
            host (`DiffusionPipeline` or `nn.Module`): All are loaded onto it.
            model (`CLIPModel`, *optional*): One of whose towers the host has a copy: those are loaded onto it that fit it.

        Raises:
            UnsupportedModelError: If one has patches of its own already, or lacks a layer that is changed.
            WrongBaseError: If a patch is of another base.
        """
        with ExitStack() as stack:
            if self.patches and host is not None:
                stack.enter_context(stacked(host, self.patches, dict.fromkeys(self.patches, 1.0)))
            fitting = {key: patch for key, patch in self.patches.items() if model is not None and _lacks(model, patch)}
            if fitting:
                stack.enter_context(stacked(model, fitting, dict.fromkeys(fitting, 1.0)))
            yield

    def leave_out(
        self, parts: Mapping[str, Pairs], templates: Sequence[str]
    ) -> tuple[dict[str, Pairs], dict[str, int]]:
        """
        Leaves out of what is kept the pairs whose name is of a concept that the patches forget: nothing is to bring it back.

        Returns:
            `tuple[dict[str, Pairs], dict[str, int]]`: The parts, and how many pairs of each name were left out.

        Raises:
            EmptyDatasetError: If a part has no other pairs.
        """
        gone = {
            bare_name(concept, [*templates, *_templates_of(patch)]).casefold()
            for patch in self.patches.values()
            for concept in concepts_of(patch)
        }
        left, out = dict(parts), dict[str, int]()
        for key in [key for key in parts if gone and key.endswith("retain")]:
            shown = [name_of(pair, templates) for pair in parts[key]]
            left[key] = parts[key].subset(i for i, name in enumerate(shown) if name.casefold() not in gone)
            for name in shown:
                if name.casefold() in gone:
                    out[name] = out.get(name, 0) + 1
            if shown and not len(left[key]):
                raise EmptyDatasetError(
                    f"Every pair of the {key.replace('_', ' ')} set shows a concept that a patch beside this one forgets "
                    f"({', '.join(sorted(gone))}). Give pairs of what is to be kept."
                )
        return left, out


def read_beside(sources: "Sources | Beside") -> Beside:
    """
    Reads the patches that another is made beside; what has been read is taken as it is.

    Raises:
        CorruptPatchError: If a source holds anything but a patch.
        TypeError: If one patch is given in place of a list.
        ValueError: If one is given twice.
    """
    if isinstance(sources, Beside):
        return sources
    if isinstance(sources, (UnlearningPatch, str, Path)):
        raise TypeError(f"Expected a list of patches as `beside`, found {type(sources).__name__}. Give [patch].")
    given = list(sources.values() if isinstance(sources, Mapping) else sources or ())
    patches = [p if isinstance(p, UnlearningPatch) else UnlearningPatch.from_pretrained(p) for p in given]
    for i, patch in enumerate(patches):
        with understood(patch.report):
            concepts_of(patch), _templates_of(patch)
        if any(_is_same(patch, other) for other in patches[:i]):
            raise ValueError(
                f"The patch that forgets {patch.config.concept!r} was given twice to make another beside. Give it once."
            )
    sources_ = ["" if isinstance(p, UnlearningPatch) else str(p) for p in given]
    return Beside({f"{i}": patch for i, patch in enumerate(patches)}, sources_)


def check_beside(beside: Beside, has_gradients: bool) -> None:
    """
    Checks that nothing given was computed without the patches.

    Raises:
        ValueError: If the retain set's gradients were.
    """
    if beside.patches and has_gradients:
        raise ValueError(
            "Retain statistics, streams and `retain_gradients` are of the model without patches; found `beside` (--beside, --in-turn), too. Give "
            "the retain set as pairs: its gradient is computed with the patches on."
        )


def _lacks(model: Any, patch: UnlearningPatch) -> bool:
    """Whether a patch fits a model, and is not on it already, as on one that shares its modules with the host."""
    try:
        fitting = find_fitting(type(model).__name__, patch, find_encoders(model))
    except (UnsupportedModelError, WrongBaseError, DeadLayerError):
        return False  # it changes another encoder of the host
    modules: list[nn.Module] = [m for own in fitting for m in own.resolve(patch.modules).values()]
    return not any(deltas_on(module) for module in modules)


def _is_same(first: UnlearningPatch, second: UnlearningPatch) -> bool:
    a, b = first.deltas, second.deltas
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _alike(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    return first.keys() == second.keys() and all(math.isclose(first[key], second[key], rel_tol=1e-4) for key in first)


def _templates_of(patch: UnlearningPatch) -> list[str]:
    return list((patch.report.get("metrics") or {}).get("templates", ()))
