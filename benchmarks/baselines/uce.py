# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""UCE: Unified Concept Editing in Diffusion Models (Gandikota, Orgad, Belinkov, Materzyńska and Bau, WACV 2024)."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from .conditioning import embed_prompts


def solve(
    old: torch.Tensor,
    sources: torch.Tensor,
    targets: torch.Tensor,
    kept: torch.Tensor,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    damping: float = 0.1,
) -> torch.Tensor:
    """
    Minimises `a Σᵢ ‖W cᵢ − v*ᵢ‖² + b Σⱼ ‖W cⱼ − W_old cⱼ‖² + λ ‖W − W_old‖²` with `v*ᵢ = W_old c*ᵢ`, in closed form:

    `W = (a Σᵢ v*ᵢ cᵢᵀ + b Σⱼ W_old cⱼ cⱼᵀ + λ W_old) (a Σᵢ cᵢ cᵢᵀ + b Σⱼ cⱼ cⱼᵀ + λ I)⁻¹`

    Args:
        old (`torch.Tensor`): W_old, of shape (out, in).
        sources, targets (`torch.Tensor`): Embeddings cᵢ to edit and c*ᵢ to take their places, of shape (n, in).
        kept (`torch.Tensor`): Embeddings cⱼ to preserve, of shape (m, in).
        erase_scale, preserve_scale (`float`, *optional*, default to 1): a and b.
        damping (`float`, *optional*, defaults to 0.1): λ; what makes the matrix invertible.

    Returns:
        `torch.Tensor`: W, in the dtype of `old`.
    """
    weight, sources, targets, kept = (part.double() for part in (old, sources, targets, kept))
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    preserved = preserve_scale * kept.T @ kept + damping * identity
    wanted = weight @ (erase_scale * targets.T @ sources + preserved)
    # W·A = B, A being symmetric
    return torch.linalg.solve(erase_scale * sources.T @ sources + preserved, wanted.T).T.to(old.dtype)


@torch.no_grad()
def uce(
    pipe: Any,
    prompts: Sequence[str],
    targets: Sequence[str],
    keep: Sequence[str],
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    damping: float = 0.1,
) -> list[str]:
    """
    Has the keys and values of every cross-attention read the prompts of a concept as other prompts, by one linear solve each.

    Args:
        pipe (`StableDiffusionPipeline`): The pipeline; its UNet is changed in place.
        prompts (`Sequence[str]`): Prompts of the concept.
        targets (`Sequence[str]`): What each is to be read as: `""`, or a prompt of a neighbouring concept.
        keep (`Sequence[str]`): Prompts to preserve.
        erase_scale, preserve_scale, damping (`float`, *optional*): See [`solve`].

    Returns:
        `list[str]`: Names of the changed parameters.
    """
    said, meant, kept = (embed_prompts(pipe, part).flatten(0, 1) for part in (prompts, targets, keep))
    changed = []
    for name, module in tqdm(list(pipe.unet.named_modules()), desc="UCE", leave=False):
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.weight.copy_(solve(module.weight, said, meant, kept, erase_scale, preserve_scale, damping))
            changed.append(f"{name}.weight")
    return changed
