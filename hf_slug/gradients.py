# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One gradient of each loss, at the original weights, as the sample-weighted mean over the set (SLUG, section 3.1)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .data import Pairs
from .errors import GradientError
from .inputs import embed_images, embed_texts, image_batches, text_batch
from .losses import forget_loss, normalize, retain_loss
from .towers import Layer, Tower, embed, layer_weights


Gradients = dict[str, torch.Tensor]  # canonical module name -> gradient of its weight, float32


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Puts a model in eval mode, and every module of it back into its own on the way out."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def requires_grad_only(model: torch.nn.Module, weights: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Makes these weights, and nothing else, require a gradient; in eval mode. Restores all on the way out."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        with eval_mode(model):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class GradientMean:
    """
    A weighted mean of gradients, accumulated in float32 without ever touching `.grad`.

    float16 gradients of a mean cosine underflow, so losses are scaled up for the backward pass by a power of two, which is
    halved when a gradient overflows and divided out exactly.

    Args:
        weights (`Mapping[str, torch.nn.Parameter]`): The weights to differentiate by, by canonical module name.
    """

    def __init__(self, weights: Mapping[str, torch.nn.Parameter]):
        self.weights = dict(weights)
        self.mean: Gradients = {
            name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for name, weight in self.weights.items()
        }
        self.scale = 2.0**12 if any(weight.dtype == torch.float16 for weight in weights.values()) else 1.0

    def add(self, loss: torch.Tensor, share: float) -> None:
        """
        Adds `share` times the gradient of a loss.

        Raises:
            GradientError: If the gradient is not finite.
        """
        while True:
            parts = torch.autograd.grad(
                loss * self.scale, list(self.weights.values()), retain_graph=self.scale > 1, allow_unused=True
            )
            if all(part is None or bool(torch.isfinite(part).all()) for part in parts):
                break
            if self.scale <= 1:
                raise GradientError(
                    f"The gradient of a batch is not finite (its loss is {loss.item():.4g}), so no layer can be scored. "
                    f"Load the model in float32 or bfloat16, and check it for NaN weights."
                )
            self.scale /= 2
        for name, part in zip(self.weights, parts, strict=True):
            if part is None:  # the other tower's
                continue
            self.mean[name].add_(part.to(self.mean[name].dtype), alpha=share / self.scale)


def _weights_by_tower(model: torch.nn.Module, layers: Sequence[Layer]) -> dict[Tower, dict[str, torch.nn.Parameter]]:
    by_tower: dict[Tower, dict[str, torch.nn.Parameter]] = {}
    for layer in layers:
        by_tower.setdefault(layer.tower, {}).update(layer_weights(model, layer))
    return by_tower


def compute_forget_gradients(
    model: PreTrainedModel,
    processor: Any,
    layers: Sequence[Layer],
    pairs: Pairs,
    prompts: Sequence[str] | None = None,
    batch_size: int = 64,
) -> Gradients:
    """
    Computes `∇_W (1/n) Σᵢ (1 - cos(vᵢ, t))` for the weight of every candidate layer.

    A text repeated n times is run once: `1 - t̂·(1/n)Σ v̂ᵢ` has the same gradient. So the text tower sees each prompt once
    whatever the size of the forget set, and neither tower is differentiated through for the sake of the other.

    Args:
        model (`CLIPModel`): The model, unchanged by this.
        processor (`CLIPProcessor`): Its processor.
        layers (`Sequence[Layer]`): The candidates.
        pairs (`Pairs`): The forget set.
        prompts (`Sequence[str]`, *optional*):
            Texts of the concept; every image is held against each of them. Without, each against its own caption.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass; changes memory, not the result.

    Returns:
        `dict[str, torch.Tensor]`: Gradients in float32 by canonical module name.

    Raises:
        GradientError: If a gradient is not finite.
    """
    if prompts is None:
        own = pairs.texts
        texts = list(dict.fromkeys(own))
        position = {text: i for i, text in enumerate(texts)}
        against = torch.tensor([[position[text]] for text in own])
    else:
        texts = list(prompts)
        against = torch.arange(len(texts)).expand(len(pairs), -1)
    weights = _weights_by_tower(model, layers)
    description, result = "forget gradient", Gradients()

    if "vision" in weights:
        with torch.no_grad():
            targets = embed_texts(model, processor, texts)
        images, mean = [], GradientMean(weights["vision"])
        with requires_grad_only(model, weights["vision"]):
            for start, batch in image_batches(model, processor, pairs, batch_size, description):
                seen = embed(model, "vision", batch)
                loss = forget_loss(seen[:, None], targets[against[start : start + len(seen)].to(targets.device)])
                mean.add(loss, len(seen) / len(pairs))
                images.append(seen.detach())
        result |= mean.mean
    if "text" in weights:
        seen = normalize(
            torch.cat(images)
            if "vision" in weights
            else embed_images(model, processor, pairs, batch_size, description)
        )
        pull = torch.zeros(len(texts), seen.shape[1], dtype=seen.dtype, device=seen.device)
        for column in against.T.to(seen.device):
            pull.index_add_(0, column, seen, alpha=1 / against.numel())
        mean = GradientMean(weights["text"])
        with requires_grad_only(model, weights["text"]):
            for start in range(0, len(texts), batch_size):
                said = normalize(embed(model, "text", text_batch(model, processor, texts[start : start + batch_size])))
                mean.add(-(said * pull[start : start + batch_size]).sum(), 1.0)
        result |= mean.mean
    return result


def compute_retain_gradients(
    model: PreTrainedModel,
    processor: Any,
    layers: Sequence[Layer],
    pairs: Pairs,
    contrast: int = 64,
    batch_size: int | None = None,
) -> Gradients:
    """
    Computes the gradient of CLIP's contrastive loss on the retain set for every candidate layer.

    It depends on the model and the retain set alone: keep it for the next concept.

    Args:
        model (`CLIPModel`): The model, unchanged by this.
        processor (`CLIPProcessor`): Its processor.
        layers (`Sequence[Layer]`): The candidates.
        pairs (`Pairs`): The retain set, taken in the order given.
        contrast (`int`, *optional*, defaults to 64):
            Pairs that are contrasted with each other. Unlike the forget loss, this loss depends on it.
        batch_size (`int`, *optional*):
            Pairs per forward pass; changes memory, not the result. Fewer than `contrast` are run twice (GradCache, Gao et al. 2021).
            Defaults to `contrast`.

    Returns:
        `dict[str, torch.Tensor]`: Gradients in float32 by canonical module name.

    Raises:
        GradientError: If a gradient is not finite.
    """
    weights = _weights_by_tower(model, layers)
    together = {name: weight for part in weights.values() for name, weight in part.items()}
    captions = None if "text" in weights else embed_texts(model, processor, pairs.texts)
    mean = GradientMean(together)
    starts = range(0, len(pairs), contrast)
    with requires_grad_only(model, together):
        for start in logging.tqdm(starts, desc="retain gradient", leave=False, disable=len(starts) < 3):
            group = pairs.subset(range(start, min(start + contrast, len(pairs))))
            said = None if captions is None else captions[start : start + contrast]
            for term in _contrast(model, processor, group, said, set(weights), batch_size or contrast):
                mean.add(term, len(group) / len(pairs))
    return mean.mean


def _contrast(
    model: PreTrainedModel,
    processor: Any,
    pairs: Pairs,
    captions: torch.Tensor | None,
    towers: set[Tower],
    batch_size: int,
) -> Iterator[torch.Tensor]:
    """
    Yields terms whose gradients add up to that of the contrastive loss of some pairs.

    Where all pairs are one batch that is the loss itself. Else its gradient by the embeddings is taken first, `g = ∂L/∂v`, and then batch by
    batch that of `⟨g, v⟩`, which is the same by the chain rule: no more than a batch is ever in a graph.
    """
    texts = pairs.texts
    unique = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(unique)}
    rows = torch.tensor([position[text] for text in texts], device=model.device)

    def see() -> Iterator[torch.Tensor]:
        return (embed(model, "vision", batch) for _, batch in image_batches(model, processor, pairs, batch_size))

    def say() -> Iterator[torch.Tensor]:
        parts = [unique[start : start + batch_size] for start in range(0, len(unique), batch_size)]
        return (embed(model, "text", text_batch(model, processor, part)) for part in parts)

    scale = cast(torch.Tensor, model.logit_scale)
    if len(pairs) <= batch_size:
        with torch.set_grad_enabled("vision" in towers):
            seen = torch.cat(list(see()))
        yield retain_loss(seen, torch.cat(list(say()))[rows] if captions is None else captions, scale)
        return
    with torch.no_grad():
        wide = torch.promote_types(model.dtype, torch.float32)
        seen, said = (
            torch.cat(list(see())).to(wide),
            (captions if captions is not None else torch.cat(list(say()))).to(wide),
        )
    leaves = {"vision": seen, "text": said}
    for tower in towers:
        leaves[tower].requires_grad_()
    loss = retain_loss(seen, said[rows] if captions is None else said, scale.detach())
    found = torch.autograd.grad(loss, [leaves[tower] for tower in sorted(towers)])
    for tower, gradient in zip(sorted(towers), found, strict=True):
        for own, pulled in zip(see() if tower == "vision" else say(), gradient.split(batch_size), strict=True):
            yield (own.to(pulled.dtype) * pulled).sum()
