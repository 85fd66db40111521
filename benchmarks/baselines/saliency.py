# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""SalUn's choice of weights (Fan et al., ICLR 2024, eq. 3), the same for CLIP and for diffusion models."""

from collections.abc import Mapping

import torch


def salient(gradients: Mapping[str, torch.Tensor], share: float = 0.5) -> dict[str, torch.Tensor]:
    """
    `m_S = 1(|∇_θ ℓ_f(θ_o)| ≥ γ)`, γ leaving a share of all weights: the median in the paper.

    A weight without any gradient is never salient, even where more than the rest of the share has none (tokens that no caption uses).

    Args:
        gradients (`Mapping[str, torch.Tensor]`): Gradients of the forget loss, by parameter.
        share (`float`, *optional*, defaults to 0.5): How much of all weights is salient.

    Returns:
        `dict[str, torch.Tensor]`: What may change, of dtype bool, by parameter.
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    # not `quantile`, which takes no more than 16 million values
    threshold = sizes.kthvalue(min(len(sizes), int((1 - share) * len(sizes)) + 1)).values
    return {name: (gradient.abs() >= threshold) & (gradient != 0) for name, gradient in gradients.items()}
