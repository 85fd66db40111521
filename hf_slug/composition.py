# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Several patches made into one, and how they get in each other's way."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .arithmetic import weighted_sum
from .errors import UnsupportedModelError, WrongBaseError
from .evaluation import ZeroShotEvaluator
from .hosts import delete_unlearning, get_list_unlearning, load_unlearning
from .patch import UnlearningPatch
from .tuner import SlugConfig


def compose_patches(patches: Mapping[str, UnlearningPatch], weights: Sequence[float] | None = None) -> UnlearningPatch:
    """
    Makes one patch out of several on the same base: `Δ = Σ weightᵢ·Δᵢ`, in float64, rounded once to float32.

    Loaded, it gives the weights that the parts give when they are stacked, but for that one rounding where parts share a layer.

    Args:
        patches (`Mapping[str, UnlearningPatch]`): The patches by a name of each, at least one.
        weights (`Sequence[float]`, *optional*): How much of each. Defaults to 1.0, the searched steps.

    Returns:
        [`UnlearningPatch`]: Dense; its report says what it was made of and how the parts interfere.

    Raises:
        WrongBaseError: If the patches were made from different bases.
        ValueError: If there is none, the lengths differ, or a weight is not finite.
    """
    if not patches:
        raise ValueError("There is no patch to compose.")
    given = [1.0] * len(patches) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(patches):
        raise ValueError(
            f"Found {len(given)} weights for {len(patches)} patches ({', '.join(patches)}). Give one each."
        )
    if not all(-float("inf") < weight < float("inf") for weight in given):
        raise ValueError(f"Expected finite weights, found {given}.")
    check_same_base(patches)
    towers = {tower for patch in patches.values() for tower in patch.modules_by_tower}
    factor = dict(zip(patches, given, strict=True))
    dense = {name: patch.deltas for name, patch in patches.items()}
    modules = sorted({module for deltas in dense.values() for module in deltas})
    deltas = {}
    for module in modules:
        shares = {name: own[module] for name, own in dense.items() if module in own}
        deltas[module] = weighted_sum(shares, {name: factor[name] for name in shares})
    parts = list(patches.values())
    config = SlugConfig(
        target_modules=modules,
        tower=towers.pop() if len(towers) == 1 else None,  # both: such a patch fits a CLIPModel alone
        concept=", ".join(dict.fromkeys(patch.config.concept or name for name, patch in patches.items())),
        base_model_name_or_path=parts[0].config.base_model_name_or_path,
        revision=parts[0].config.revision,
        base_fingerprint={
            module: known for patch in parts for module, known in (patch.config.base_fingerprint or {}).items()
        }
        or None,
        inference_mode=True,
    )
    report = {
        "concept": config.concept,
        "composed_of": [
            {
                "name": name,
                "concept": patch.config.concept,
                "concepts": concepts_of(patch),
                "beside": [row["concept"] for row in patch.report.get("beside") or ()],
                "weight": factor[name],
                "modules": patch.modules,
                "succeeded": patch.report.get("succeeded"),
                "metrics": patch.report.get("metrics"),
            }
            for name, patch in patches.items()
        ],
        "interference": find_interference(patches),
    }
    return UnlearningPatch.from_deltas(deltas, config, report)


def concepts_of(patch: UnlearningPatch) -> list[str]:
    """All concepts that a patch forgets: one, but for one that is made of several."""
    parts = patch.report.get("composed_of") or []
    found = [concept for part in parts for concept in part.get("concepts") or [part["concept"]]]
    return list(dict.fromkeys(c for c in found or [patch.config.concept] if c))


def check_same_base(patches: Mapping[str, UnlearningPatch]) -> None:
    """
    Refuses patches of different bases: by name and revision where they are known, and by the weights of modules that they share.

    Raises:
        WrongBaseError: If two differ.
    """
    for (first, a), (second, b) in itertools.combinations(patches.items(), 2):
        left, right = a.config.base_fingerprint or {}, b.config.base_fingerprint or {}
        shared = sorted(left.keys() & right.keys())
        for module in sorted(a.deltas.keys() & b.deltas.keys()):
            if a.deltas[module].shape != b.deltas[module].shape:
                raise WrongBaseError(
                    f"{first!r} changes {module} of shape {tuple(a.deltas[module].shape)} and {second!r} of "
                    f"{tuple(b.deltas[module].shape)}. Only patches of the same base can be made into one."
                )
        for module in shared:
            if left[module].get("sha256") != right[module].get("sha256"):
                raise WrongBaseError(
                    f"{first!r} and {second!r} were made from different weights of {module} (norm {left[module].get('norm'):.6g} "
                    f"and {right[module].get('norm'):.6g}). Only patches of the same base can be made into one."
                )
        for what, found in (
            ("base", (a.config.base_model_name_or_path, b.config.base_model_name_or_path)),
            ("revision", (a.config.revision, b.config.revision)),
        ):
            # the same weights may well have two names
            if not shared and None not in found and found[0] != found[1]:
                raise WrongBaseError(
                    f"{first!r} was made from the {what} {found[0]!r} and {second!r} from {found[1]!r}. Only patches of the same "
                    f"base can be made into one."
                )


def find_interference(patches: Mapping[str, UnlearningPatch]) -> list[dict[str, Any]]:
    """
    Compares every two patches by the layers that they change and the directions in which they do.

    Args:
        patches (`Mapping[str, UnlearningPatch]`): The patches by name.

    Returns:
        `list[dict]`: For each pair `first`, `second`, `shared` modules, `cosine` by shared module, `overall`: the cosine of the two
        deltas as vectors over all modules (0 where they share none), and `input_overlap` by shared matrix: how much of the second's
        change lies in the inputs that the first reads, `‖Δ₂·V‖² / ‖Δ₂‖²` with V the right singular vectors that carry 99 % of Δ₁.
    """
    found = []
    dense = {name: patch.deltas for name, patch in patches.items()}
    norms = {
        name: sum(float(delta.double().square().sum()) for delta in own.values()) ** 0.5 for name, own in dense.items()
    }
    for first, second in itertools.combinations(patches, 2):
        a, b = dense[first], dense[second]
        shared = sorted(a.keys() & b.keys())
        products = {module: float((a[module].double() * b[module].double()).sum()) for module in shared}
        found.append(
            {
                "first": first,
                "second": second,
                "shared": shared,
                "cosine": {
                    module: products[module]
                    / max(float(a[module].double().norm() * b[module].double().norm()), 1e-300)
                    for module in shared
                },
                "overall": sum(products.values()) / max(norms[first] * norms[second], 1e-300),
                "input_overlap": {
                    module: _input_overlap(a[module], b[module]) for module in shared if a[module].ndim == 2
                },
            }
        )
    return found


def _input_overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    _, values, vh = torch.linalg.svd(first.double(), full_matrices=False)
    energy = values.square().cumsum(0)
    count = int((energy < 0.99 * energy[-1]).sum()) + 1
    return float((second.double() @ vh[:count].T).square().sum() / second.double().square().sum().clamp_min(1e-300))


def _check_bare(model: Any) -> None:
    own = list(dict.fromkeys(name for names in get_list_unlearning(model).values() for name in names))
    if own:
        raise UnsupportedModelError(
            f"{type(model).__name__} has the unlearning patches {', '.join(own)}, and others are to be loaded onto the original weights. Call "
            f"`unload_unlearning()` first, or load the model again."
        )


@contextmanager
def stacked(
    model: Any, patches: Mapping[str, UnlearningPatch], weights: Mapping[str, float]
) -> Iterator[dict[str, str]]:
    """
    Loads patches for as long as the context is open; gives the adapter that each is loaded as.

    Raises:
        UnsupportedModelError: If the model has patches of its own, which would be measured, too.
    """
    _check_bare(model)
    adapters: dict[str, str] = {}
    try:
        for name, patch in patches.items():
            adapters[name] = load_unlearning(model, patch, f"compose {name}", weights[name])
        yield adapters
    finally:
        if adapters:
            delete_unlearning(model, list(adapters.values()))


def measure_stack(
    model: Any,
    patches: Mapping[str, UnlearningPatch],
    weights: Sequence[float],
    evaluators: Mapping[str, ZeroShotEvaluator],
) -> dict[str, Any]:
    """
    Measures every concept without any patch, under its own alone, and under all of them.

    Args:
        model (`CLIPModel`): The base; it is as before afterwards.
        patches (`Mapping[str, UnlearningPatch]`): The patches by name.
        weights (`Sequence[float]`): How much of each.
        evaluators (`Mapping[str, ZeroShotEvaluator]`): By the patch's name, what measures its concept.

    Returns:
        `dict`: `{name: {"untouched" | "alone" | "stacked": metrics, "n_forget", "n_retain"}}`.

    Raises:
        UnsupportedModelError: If the model has patches of its own.
    """
    factor = dict(zip(patches, weights, strict=True))
    _check_bare(model)  # before anything is measured
    near = {name: evaluator.find_neighbors(model) for name, evaluator in evaluators.items()}
    found: dict[str, Any] = {
        name: {
            "untouched": evaluator.measure(model, near[name]),
            "n_forget": evaluator.n_forget,
            "n_retain": evaluator.n_retain,
        }
        for name, evaluator in evaluators.items()
    }

    def under(names: Sequence[str], measured: Sequence[str], what: str) -> None:
        with stacked(model, {name: patches[name] for name in names}, factor):
            for name in measured:
                found[name][what] = evaluators[name].measure(model, near[name])

    for name in evaluators:
        under([name], [name], "alone")
    under(list(patches), list(evaluators), "stacked")
    return found
