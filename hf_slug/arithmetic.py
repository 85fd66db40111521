# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The one arithmetic of the package: `W' = cast(W.float64 + Σ scaleᵢ·Δᵢ)`, always from the original weight.

Everything that changes a weight comes through here, so that a patch loaded as a PEFT adapter and the same patch
written into a pipeline give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def accumulation_dtype(device: torch.device | str) -> torch.dtype:
    """
    The dtype in which weights and deltas are summed.

    Args:
        device (`torch.device` or `str`):
            Where the sum is computed.

    Returns:
        `torch.dtype`: float64, or float32 on devices that have no float64.
    """
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def compose(weight: Tensor, deltas: Mapping[str, Tensor], scales: Mapping[str, float]) -> Tensor:
    """
    The weight with deltas applied, rounded once.

    The sum runs over the names in sorted order, so the order in which patches were loaded never matters.

    Args:
        weight (`torch.Tensor`):
            The original weight, in any floating-point dtype. It is not changed.
        deltas (`Mapping[str, torch.Tensor]`):
            One delta of the weight's shape per adapter name.
        scales (`Mapping[str, float]`):
            The scale of each delta; 1.0 for a name that is not in it.

    Returns:
        `torch.Tensor`: A new tensor in the dtype and on the device of `weight`. Without deltas, or with every scale at
        zero, it has the weight's bits.

    Raises:
        ValueError: If a delta does not have the weight's shape.
    """
    applied = [(name, float(scales.get(name, 1.0))) for name in sorted(deltas)]
    applied = [(name, scale) for name, scale in applied if scale != 0.0]
    for name, _ in applied:
        if deltas[name].shape != weight.shape:
            raise ValueError(
                f"The delta {name!r} has shape {tuple(deltas[name].shape)}, the weight has {tuple(weight.shape)}. A "
                "patch fits only the layer that it was computed on."
            )
    if not applied:
        return weight.clone()
    dtype = accumulation_dtype(weight.device)
    # Separate multiplication and addition: a fused `add(alpha=...)` may round differently from device to device.
    total = weight.to(dtype)
    for name, scale in applied:
        total = total + deltas[name].to(weight.device, dtype) * scale
    return total.to(weight.dtype)


def expand_factors(up: Tensor, down: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """
    The dense delta of rank-r factors.

    The product is taken in float64 and rounded to float32, the dtype of a dense delta: the bits then do not depend on
    the order in which a matrix multiplication happens to sum.

    Args:
        up (`torch.Tensor`):
            The factor of shape `(out, rank)`.
        down (`torch.Tensor`):
            The factor of shape `(rank, in)`; for a convolution `in` counts the kernel too.
        shape (`torch.Size` or `tuple[int, ...]`):
            The shape of the weight.

    Returns:
        `torch.Tensor`: The delta in float32, of the given shape.
    """
    dtype = accumulation_dtype(up.device)
    return (up.to(dtype) @ down.to(dtype)).to(torch.float32).reshape(shape)


def weighted_sum(deltas: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """
    One delta from several, `Σ weightᵢ·Δᵢ` over sorted names, rounded once to float32.

    Args:
        deltas (`Mapping[str, torch.Tensor]`):
            The deltas, all of one shape; at least one.
        weights (`Mapping[str, float]`):
            The weight of each.

    Returns:
        `torch.Tensor`: The sum in float32.
    """
    names = sorted(deltas)
    dtype = accumulation_dtype(deltas[names[0]].device)
    total = torch.zeros_like(deltas[names[0]], dtype=dtype)
    for name in names:
        total = total + deltas[name].to(total.device, dtype) * float(weights[name])
    return total.to(torch.float32)


def identical(left: Tensor, right: Tensor) -> bool:
    """
    Whether two tensors hold the same values in the same dtype; unlike `torch.equal`, a NaN equals a NaN.

    Args:
        left (`torch.Tensor`): One tensor.
        right (`torch.Tensor`): The other, on the same device.

    Returns:
        `bool`: True if nothing differs.
    """
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    # NaN is rare: only a pair that is not equal pays for the slower comparison.
    return torch.equal(left, right) or bool(((left == right) | (left.isnan() & right.isnan())).all())
