# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""FT, GA, GAFT, SalUn and SSD for a CLIP: what SLUG is compared with (SLUG, section 4.1), over SLUG's own two losses."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import CLIPModel

from hf_slug.data import Pairs
from hf_slug.inputs import text_batch
from hf_slug.losses import forget_loss, retain_loss


class ClipLosses:
    """
    The forget loss `1 - cos(v, t)` and the contrastive retain loss of a CLIP, over photographs that are preprocessed once.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        forget, retain (`Pairs`): The two sets.
        prompt (`str`): The text of the concept.
        batch_size (`int`, *optional*, defaults to 64): Images of the forget set in a batch.
        seed (`int`, *optional*, defaults to 0): Seed of the order.
    """

    def __init__(
        self,
        model: CLIPModel,
        processor: Any,
        forget: Pairs,
        retain: Pairs,
        prompt: str,
        batch_size: int = 64,
        seed: int = 0,
    ):
        self.model, self.processor, self.prompt, self.batch_size = model, processor, prompt, batch_size
        self.texts, self.random = retain.texts, random.Random(seed)
        pixels = [processor.image_processor(p.images(), return_tensors="pt")["pixel_values"] for p in (forget, retain)]
        self.forget_pixels, self.retain_pixels = pixels
        # the temperature is no weight of a tower
        self.weights = {n: p for n, p in model.named_parameters() if n != "logit_scale"}

    def forget_batches(self) -> Iterator[torch.Tensor]:
        """Yields the forget loss of every batch of the forget set, in a random order."""
        order = self.random.sample(range(len(self.forget_pixels)), len(self.forget_pixels))
        for start in range(0, len(order), self.batch_size):
            images = self._see(self.forget_pixels[order[start : start + self.batch_size]])
            yield forget_loss(images, self._say([self.prompt]))

    def retain_batches(self) -> Iterator[torch.Tensor]:
        """
        Yields the retain loss of batches that hold one photograph of every caption, as many as the commonest one has.

        Two photographs of one caption in a batch would be taught not to fit each other's; rare ones are seen over again.
        """
        by_text: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(self.texts):
            by_text[text].append(i)
        texts = list(by_text)
        for own in by_text.values():
            self.random.shuffle(own)
        for turn in range(max(map(len, by_text.values()))):
            chosen = [by_text[text][turn % len(by_text[text])] for text in texts]
            yield retain_loss(self._see(self.retain_pixels[chosen]), self._say(texts), self.model.logit_scale)

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the gradient of a loss by every weight."""
        found = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        pairs = zip(self.weights.items(), found, strict=True)
        return {name: torch.zeros_like(weight) if grad is None else grad for (name, weight), grad in pairs}

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def _say(self, texts: Sequence[str]) -> torch.Tensor:
        return self.model.get_text_features(**text_batch(self.model, self.processor, list(texts))).pooler_output


def _descend(
    losses: ClipLosses, batches: Iterator[torch.Tensor], optimizer: Any, mask: Mapping[str, torch.Tensor] | None = None
) -> None:
    for loss in batches:
        for name, gradient in losses.gradients(loss).items():
            losses.weights[name].grad = gradient if mask is None else gradient * mask[name]
        optimizer.step()
        optimizer.zero_grad()


def _optimizer(losses: ClipLosses, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(losses.weights.values(), lr=lr, weight_decay=0.0)


def fine_tune(losses: ClipLosses, lr: float, epochs: int) -> Iterator[int]:
    """
    FT: descends the retain loss alone, and hopes that the concept fades (Warnecke et al. 2023).

    Args:
        losses ([`ClipLosses`]): The losses; its model is changed in place.
        lr (`float`): AdamW's learning rate.
        epochs (`int`): Passes over the set.

    Yields:
        `int`: The number of every epoch that is done, for the caller to look.
    """
    optimizer = _optimizer(losses, lr)
    for epoch in range(1, epochs + 1):
        _descend(losses, losses.retain_batches(), optimizer)
        yield epoch


def ascend(losses: ClipLosses, lr: float, epochs: int) -> Iterator[int]:
    """GA: ascends the forget loss alone (Thudi et al. 2022). Arguments as in [`fine_tune`]."""
    optimizer = _optimizer(losses, lr)
    for epoch in range(1, epochs + 1):
        _descend(losses, (-loss for loss in losses.forget_batches()), optimizer)
        yield epoch


def alternate(
    losses: ClipLosses, lr: float, epochs: int, mask: Mapping[str, torch.Tensor] | None = None
) -> Iterator[int]:
    """
    GAFT: ascends the forget loss and descends the retain loss, batch by batch by turns. Arguments as in [`fine_tune`].

    Args:
        mask (`Mapping[str, torch.Tensor]`, *optional*): 1 for the weights that may change, 0 for the others.
    """
    optimizer = _optimizer(losses, lr)

    def turns() -> Iterator[torch.Tensor]:
        forget: Iterator[torch.Tensor] = iter(())
        for retain in losses.retain_batches():
            yield retain
            loss = next(forget, None)
            if loss is None:  # the smaller set, over again
                forget = losses.forget_batches()
                loss = next(forget)
            yield -loss

    for epoch in range(1, epochs + 1):
        _descend(losses, turns(), optimizer, mask)
        yield epoch


def saliency_mask(losses: ClipLosses, share: float = 0.5) -> dict[str, torch.Tensor]:
    """
    SalUn's mask `1(|∇L_forget| ≥ γ)`, γ the median over all weights (Fan et al. 2024, eq. 3).

    Args:
        losses ([`ClipLosses`]): The losses.
        share (`float`, *optional*, defaults to 0.5): The share of weights that may change.
    """
    total = _mean_gradients(losses, losses.forget_batches(), 1)
    everything = torch.cat([gradient.abs().flatten() for gradient in total.values()])
    threshold = everything.kthvalue(max(1, math.ceil(len(everything) * (1 - share)))).values
    return {name: (gradient.abs() > threshold).to(gradient.dtype) for name, gradient in total.items()}


def salun(losses: ClipLosses, lr: float, epochs: int) -> Iterator[int]:
    """SalUn: GAFT on the weights that are salient for the forget set (Fan et al. 2024, eq. 4). Arguments as in [`fine_tune`]."""
    yield from alternate(losses, lr, epochs, saliency_mask(losses))


def fisher(losses: ClipLosses, batches: Iterator[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The diagonal of the Fisher information, `E[(∂L/∂θ)²]` over batches (SSD, Foster et al. 2024)."""
    return _mean_gradients(losses, batches, 2)


def _mean_gradients(losses: ClipLosses, batches: Iterator[torch.Tensor], power: int) -> dict[str, torch.Tensor]:
    total = {name: torch.zeros_like(weight) for name, weight in losses.weights.items()}
    count = 0
    for loss in batches:
        count += 1
        for name, gradient in losses.gradients(loss).items():
            total[name] += gradient**power
    return {name: value / count for name, value in total.items()}


@torch.no_grad()
def dampen(
    losses: ClipLosses,
    forget: Mapping[str, torch.Tensor],
    retain: Mapping[str, torch.Tensor],
    alpha: float,
    limit: float = 1.0,
) -> None:
    """
    SSD: multiplies weights that matter much more to the forget set than to the retain set by `min(λ·F_retain/F_forget, 1)`
    (Foster et al. 2024).

    Args:
        losses ([`ClipLosses`]): Whose model is changed in place.
        forget, retain (`Mapping[str, torch.Tensor]`): What [`fisher`] says of the two sets, at the original weights.
        alpha (`float`): Much more: so many times.
        limit (`float`, *optional*, defaults to 1.0): λ.
    """
    for name, weight in losses.weights.items():
        chosen = forget[name] > alpha * retain[name]
        factor = (limit * retain[name] / forget[name].clamp_min(1e-45)).clamp_max(1.0)
        weight.copy_(torch.where(chosen, weight * factor, weight))
