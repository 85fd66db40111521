# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The two losses of the CLIP objective (SLUG, section 3.1), in float64 whatever dtype the model runs in.

They cost nothing beside a tower, and an alignment near zero is the difference of large numbers.
"""

import torch
import torch.nn.functional as F

from .arithmetic import accumulation_dtype


def normalize(embeddings: torch.Tensor) -> torch.Tensor:
    """Scales rows of shape (n, d) to unit length, in float64 (float32 on devices that have no float64)."""
    return F.normalize(embeddings.to(accumulation_dtype(embeddings.device)), dim=-1)


def forget_loss(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """
    `1 - cos(v, t)`, averaged over the pairs: how far the images are from the text of the concept.

    Args:
        images (`torch.Tensor`): Image embeddings v of shape (n, d), of any length.
        texts (`torch.Tensor`): Text embeddings t of shape (n, d) or (1, d).

    Returns:
        `torch.Tensor`: A scalar in [0, 2]. Unlearning *ascends* it.
    """
    return (1 - (normalize(images) * normalize(texts)).sum(-1)).mean()


def retain_loss(images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """
    CLIP's symmetric contrastive loss of one batch of pairs, at the model's own temperature.

    Args:
        images (`torch.Tensor`): Image embeddings of shape (n, d), of any length.
        texts (`torch.Tensor`): Text embeddings of shape (n, d); row i is the caption of image i.
        logit_scale (`torch.Tensor`): The model's `logit_scale`, i.e. the logarithm of 1/temperature.

    Returns:
        `torch.Tensor`: A scalar, the mean of the image-to-text and the text-to-image cross entropy.
    """
    images, texts = normalize(images), normalize(texts)
    logits = logit_scale.to(images.dtype).exp() * images @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
