# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Matrices by factors: how few will do, and what they leave."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn


_LOSSLESS = 1e-6  # of a matrix in float32 more is not known


def factorize(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The best approximation of a matrix by factors of a rank (Eckart-Young), balanced between the two.

    Args:
        matrix (`torch.Tensor`): Shape (out, in).
        rank (`int`): Rank r; at most min(out, in) is used.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: (out, r) and (r, in) in float64, padded with zeros up to r.
    """
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = values[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    padding = rank - len(root)
    return nn.functional.pad(up, (0, padding)), nn.functional.pad(down, (0, 0, 0, padding))


def residuals(values: torch.Tensor) -> torch.Tensor:
    """
    What is left of a matrix beyond each rank, `‖M − M_r‖ / ‖M‖` in Frobenius' norm, from rank 0 on.

    Args:
        values (`torch.Tensor`): Its singular values, largest first.
    """
    left = torch.cat([values.square().flip(0).cumsum(0).flip(0), values.new_zeros(1)])
    return (left / left[0].clamp_min(torch.finfo(left.dtype).tiny)).sqrt()


def find_rank(matrix: torch.Tensor, tolerance: float = _LOSSLESS) -> int:
    """The smallest rank, at least 1, that leaves no more than `tolerance` of a matrix (see [`residuals`])."""
    return _rank_of(residuals(torch.linalg.svdvals(matrix.double())), tolerance)


def _rank_of(left: torch.Tensor, tolerance: float) -> int:
    return max(1, int((left <= tolerance).nonzero()[0, 0]))


def is_smaller(shape: Sequence[int], rank: int) -> bool:
    """Whether factors of a rank have fewer numbers than a matrix of a shape."""
    return rank * sum(shape) < shape[0] * shape[1]


def stored_rank(rank: int | Literal["auto"] | None, matrices: Sequence[torch.Tensor]) -> int | None:
    """
    The rank that a layer's directions are stored with.

    Args:
        rank (`int` or `"auto"`, *optional*): What was asked for.
        matrices (`Sequence[torch.Tensor]`): The directions, as [`compute_directions`] returned them for that.

    Returns:
        `int`, *optional*: With `"auto"` the largest of theirs, or `None` (dense) where factors would not be smaller.
    """
    if rank != "auto":
        return rank
    found = [(matrix.shape, find_rank(matrix)) for matrix in matrices if matrix.ndim == 2]
    most = max((own for _, own in found), default=0)
    return most if found and all(is_smaller(shape, most) for shape, _ in found) else None


def truncate(matrix: torch.Tensor, rank: int | Literal["auto"], tolerance: float) -> torch.Tensor:
    """Keeps the strongest singular values of a matrix: so many, or with `"auto"` as many as [`compute_directions`] says."""
    if rank == "auto":
        left = residuals(torch.linalg.svdvals(matrix.double()))
        if is_smaller(matrix.shape, _rank_of(left, _LOSSLESS)):
            return matrix
        rank = _rank_of(left, tolerance)
        if not is_smaller(matrix.shape, rank):
            return matrix
    up, down = factorize(matrix, rank)
    return (up @ down).to(matrix.dtype)
