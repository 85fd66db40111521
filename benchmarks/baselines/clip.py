# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""FT, GA, GAFT, SalUn and SSD for a CLIP: what SLUG is compared with (SLUG, section 4.1), over SLUG's own two losses."""

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import CLIPModel

from hf_slug.data import Pairs
from hf_slug.inputs import text_batch
from hf_slug.losses import forget_loss, retain_loss

from .saliency import salient


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
        half (`bool`, *optional*, defaults to `False`): Whether the towers run in bfloat16, beside weights and losses in float32.
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
        half: bool = False,
    ):
        self.model, self.processor, self.prompt = model, processor, prompt
        self.batch_size, self.half, self.random = batch_size, half, random.Random(seed)
        self.texts = retain.texts
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

    def retain_batches(self, size: int | None = None) -> Iterator[torch.Tensor]:
        """
        Yields the retain loss of batches that hold one photograph of every caption, as many as the commonest one has.

        Two photographs of one caption in a batch would be taught not to fit each other's; rare ones are seen over again.

        Args:
            size (`int`, *optional*): At most so many captions in a batch. Defaults to all.
        """
        by_text: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(self.texts):
            by_text[text].append(i)
        for own in by_text.values():
            self.random.shuffle(own)
        for turn in range(max(map(len, by_text.values()))):
            texts = self.random.sample(list(by_text), len(by_text)) if size else list(by_text)
            for start in range(0, len(texts), size or len(texts)):
                part = texts[start : start + (size or len(texts))]
                chosen = [by_text[text][turn % len(by_text[text])] for text in part]
                yield retain_loss(self._see(self.retain_pixels[chosen]), self._say(part), self.model.logit_scale)

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the gradient of a loss by every weight."""
        found = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        pairs = zip(self.weights.items(), found, strict=True)
        return {name: torch.zeros_like(weight) if grad is None else grad for (name, weight), grad in pairs}

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        with half_precision(self.half):
            return self.model.get_image_features(pixel_values=pixels).pooler_output.float()

    def _say(self, texts: Sequence[str]) -> torch.Tensor:
        batch = text_batch(self.model, self.processor, list(texts))
        with half_precision(self.half):
            return self.model.get_text_features(**batch).pooler_output.float()


def half_precision(enabled: bool = True) -> torch.autocast:
    """Products in bfloat16, which recent CPUs do in half the time."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def _train(
    losses: ClipLosses,
    lr: float,
    batches: Iterator[tuple[torch.Tensor, bool]],
    every: int,
    mask: Mapping | None = None,
) -> Iterator[int]:
    """Descends losses with AdamW; a step ends where a batch says so, and every so many steps the caller may look."""
    optimizer = torch.optim.AdamW(losses.weights.values(), lr=lr, weight_decay=0.0)
    done = 0
    for loss, ends in batches:
        for name, gradient in losses.gradients(loss).items():
            losses.weights[name].grad = gradient if mask is None else gradient * mask[name]
        optimizer.step()
        optimizer.zero_grad()
        done += ends
        if ends and done % every == 0:
            yield done


def _over_and_over(batches: Callable[[], Iterator[torch.Tensor]]) -> Iterator[torch.Tensor]:
    while True:
        yield from batches()


def fine_tune(losses: ClipLosses, lr: float, steps: int, every: int = 1) -> Iterator[int]:
    """
    FT: descends the retain loss alone, and hopes that the concept fades (Warnecke et al. 2023).

    Args:
        losses ([`ClipLosses`]): The losses; its model is changed in place.
        lr (`float`): AdamW's learning rate.
        steps (`int`): Batches.
        every (`int`, *optional*, defaults to 1): After how many steps the caller may look.

    Yields:
        `int`: The number of steps done.
    """
    batches = itertools.islice(_over_and_over(losses.retain_batches), steps)
    yield from _train(losses, lr, ((loss, True) for loss in batches), every)


def ascend(losses: ClipLosses, lr: float, steps: int, every: int = 1) -> Iterator[int]:
    """GA: ascends the forget loss alone (Thudi et al. 2022). Arguments as in [`fine_tune`]."""
    batches = itertools.islice(_over_and_over(losses.forget_batches), steps)
    yield from _train(losses, lr, ((-loss, True) for loss in batches), every)


def alternate(
    losses: ClipLosses,
    lr: float,
    steps: int,
    every: int = 1,
    ratio: int = 1,
    mask: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[int]:
    """
    GAFT: descends the retain loss and ascends the forget loss by turns. Arguments as in [`fine_tune`].

    Args:
        ratio (`int`, *optional*, defaults to 1): Batches to keep for each one to forget; both together are a step.
        mask (`Mapping[str, torch.Tensor]`, *optional*): 1 for the weights that may change, 0 for the others.
    """

    def turns() -> Iterator[tuple[torch.Tensor, bool]]:
        retain, forget = (_over_and_over(batches) for batches in (losses.retain_batches, losses.forget_batches))
        for _ in range(steps):
            for _ in range(ratio):
                yield next(retain), False
            yield -next(forget), True

    yield from _train(losses, lr, turns(), every, mask)


def salun(losses: ClipLosses, lr: float, steps: int, every: int = 1, ratio: int = 1) -> Iterator[int]:
    """SalUn: GAFT on the weights that are salient for the forget set (Fan et al. 2024, eq. 4). Arguments as in [`alternate`]."""
    mask = salient(_mean_gradients(losses, losses.forget_batches(), 1))
    yield from alternate(losses, lr, steps, every, ratio, mask)


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
    (Foster et al. 2024, eq. 3 and 4; there `F_retain` is that of all of the data, of which what is kept is nearly all).

    Args:
        losses ([`ClipLosses`]): Whose model is changed in place.
        forget, retain (`Mapping[str, torch.Tensor]`):
            What [`fisher`] says of the two sets, at the original weights. Weights that it is not given for stay as they are.
        alpha (`float`): Much more: so many times.
        limit (`float`, *optional*, defaults to 1.0): λ.
    """
    for name, importance in forget.items():
        weight, chosen = losses.weights[name], importance > alpha * retain[name]
        factor = (limit * retain[name] / importance).clamp_max(1.0)
        weight.copy_(torch.where(chosen, weight * factor, weight))
