# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The least that a concept takes: passes that can't be done without, their operations, and how fast large products of matrices are."""

import time
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from speed_setup import TEMPLATE, load, names, pixels
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

from hf_slug.embedding import embed
from hf_slug.gradients import requires_grad_only
from hf_slug.inputs import text_batch
from hf_slug.losses import forget_loss, retain_loss
from hf_slug.replay import record_below, run_above
from hf_slug.towers import Layer, candidate_layers, layer_weights


def candidate_weights(model: CLIPModel, tower: str) -> dict[str, torch.nn.Parameter]:
    """The weights that compete, by canonical module name."""
    return {k: w for layer in candidate_layers(model, tower) for k, w in layer_weights(model, layer).items()}


def forward_and_backward(size: str, tower: str, count: int) -> None:
    """One forward and backward pass over `count` images that are preprocessed already, and the concept: the least that a concept takes."""
    model, processor = load(size)
    weights = candidate_weights(model, tower)
    images = torch.randn(min(count, 64), 3, pixels(size), pixels(size), device=model.device, dtype=model.dtype)
    said = text_batch(model, processor, [TEMPLATE.format(names()[0])])
    with requires_grad_only(model, weights), torch.set_grad_enabled(True):
        prompt = embed(model, "text", said)
        held = prompt.detach().requires_grad_()  # its own graph is gone through once, at the end
        pull = torch.zeros_like(held)
        for start in range(0, count, 64):
            seen = embed(model, "vision", {"pixel_values": images[: min(64, count - start)]})
            pull += torch.autograd.grad(forget_loss(seen, held), [*weights.values(), held], allow_unused=True)[-1]
        if tower != "vision":
            torch.autograd.grad(prompt, list(weights.values()), pull, allow_unused=True)


def contrast(size: str, tower: str, count: int) -> None:
    """The same of the contrastive loss: one forward and backward pass over `count` images and as many captions."""
    model, processor = load(size)
    weights = candidate_weights(model, tower)
    images = torch.randn(count, 3, pixels(size), pixels(size), device=model.device, dtype=model.dtype)
    said = text_batch(model, processor, [TEMPLATE.format(name) for name in names()[1 : count + 1]])
    with requires_grad_only(model, weights), torch.set_grad_enabled(True):
        seen = embed(model, "vision", {"pixel_values": images})
        loss = retain_loss(seen, embed(model, "text", said), model.logit_scale.detach())
        torch.autograd.grad(loss, list(weights.values()))


def forward_and_backward_flops(size: str, tower: str) -> tuple[float, float]:
    """The operations of that pass: of each image, and of the concept."""
    few, more = (count_flops(lambda n=n: forward_and_backward(size, tower, n)) for n in (4, 8))
    return (more - few) / 4, 2 * few - more


def search_flops(
    size: str,
    tried: Sequence[tuple[Layer, int | None]],
    kept: Collection[Layer],
    parts: dict[str, Any],
    every: list[str],
) -> float:
    """
    The operations that a search can't do without: all validation images and names once, and above the changed layer those of the concept (or all
    names) for each step, and the retained ones once for each layer `kept`, where they were measured. Of a step that was looked at no further the
    images it took to know.
    """
    model, processor = load(size)
    some = torch.randn(2, 3, pixels(size), pixels(size), device=model.device, dtype=model.dtype)
    said = text_batch(model, processor, [TEMPLATE.format(name) for name in every])
    batches: dict[str, dict[str, Any]] = {"vision": {"pixel_values": some}, "text": said}
    counted = {"vision": len(some), "text": 1}
    forget, retain = len(parts["validation_forget"]), len(parts["validation_retain"])
    with torch.no_grad():
        image, prompts = (count_flops(lambda t=t, b=b: embed(model, t, b)) / counted[t] for t, b in batches.items())

    @cache
    def above(layer: Layer) -> float:
        """Of an image, or of all names."""
        _, (recording,) = record_below(model, [layer], batches[layer.tower])
        return count_flops(lambda: run_above(model, layer, recording)) / counted[layer.tower]

    total = (forget + retain) * image + prompts
    total += sum(above(layer) * ((n or forget) if layer.tower == "vision" else 1) for layer, n in tried)
    return total + sum(above(layer) * retain for layer in set(kept) if layer.tower == "vision")


def count_flops(function: Callable[[], Any]) -> float:
    """Multiplications and additions of matrix products and convolutions; torch counts none inside attention on a CPU."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@cache
def throughput(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of large matrix products: the best of three times two, of several shapes."""
    side = 8192 if device.type == "cuda" else 1024
    found = []
    for n, k, m in ((side, side, side), (side, 768, 3072), (side, 3072, 768)):
        a, b = (torch.randn(*shape, device=device).to(dtype) for shape in ((n, k), (k, m)))
        found += [2 * 2 * n * k * m / seconds_of(lambda a=a, b=b: [a @ b for _ in range(2)]) for _ in range(3)]
    return max(found)


def seconds_of(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
