# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One gradient of each loss, at the original weights, as the sample-weighted mean over the set (SLUG, section 3.1)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from .arithmetic import accumulation_dtype
from .contrast import Contrast, Term
from .data import Pairs
from .embedding import as_written, embed
from .gradient_mean import GradientMean, Gradients
from .inputs import embed_texts, group_batches, image_batches, prepared, text_batch, unique_texts
from .losses import forget_loss, normalize
from .processes import ALONE, Processes
from .streams import PairStream
from .towers import Layer, Tower, layer_weights


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
    """
    Makes these weights, and nothing else, require a gradient; in eval mode. Restores all on the way out.

    Blocks of which `gradient_checkpointing_enable()` was asked are run once more in the backward pass, though transformers does so in
    training only: what differs in training (dropout) is in modules of its own, inside of them.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        # what is compiled would be again for weights with a gradient, and torch gives it no second pass, which float16 may take
        with eval_mode(model), as_written():
            for module in model.modules():
                module.training = bool(getattr(module, "gradient_checkpointing", False))
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


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
    processes: Processes = ALONE,
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
        processes ([`Processes`], *optional*): Those that share the batches.

    Returns:
        `dict[str, torch.Tensor]`: Gradients in float32 by canonical module name.

    Raises:
        GradientError: If a gradient is not finite.
    """
    if prompts is None:
        texts, rows = unique_texts(pairs.texts)
        against = torch.tensor(rows)[:, None]
    else:
        texts = list(prompts)
        against = torch.arange(len(texts)).expand(len(pairs), -1)
    against = against.to(model.device)
    batch_size = processes.share(len(pairs), batch_size)  # the loss does not depend on it
    weights = _weights_by_tower(model, layers)
    seeing = weights.get("vision", {})
    with torch.no_grad():
        targets = embed_texts(model, processor, texts) if seeing else None
    # (texts, d): the share of the mean unit embedding that is held against each
    pull = torch.zeros(
        len(texts), model.config.projection_dim, dtype=accumulation_dtype(model.device), device=model.device
    )
    mean = GradientMean(seeing)
    with requires_grad_only(model, seeing):
        for start, batch in image_batches(model, processor, pairs, batch_size, "forget gradient", processes):
            held = against[start : start + batch_size]
            seen = embed(model, "vision", batch)
            if targets is not None:
                mean.add(forget_loss(seen[:, None], targets[held]), len(seen) / len(pairs))
            unit = normalize(seen.detach())
            del seen  # float16 keeps its graph
            for column in held.T:
                pull.index_add_(0, column, unit, alpha=1 / against.numel())
    result = mean.over(processes)
    if "text" in weights:
        pull = processes.sum({"pull": pull})["pull"]
        mean = GradientMean(weights["text"])
        with requires_grad_only(model, weights["text"]):
            for _, start in processes.mine(range(0, len(texts), batch_size)):
                said = normalize(embed(model, "text", text_batch(model, processor, texts[start : start + batch_size])))
                mean.add(-(said * pull[start : start + batch_size]).sum(), 1.0)
                del said
        result |= mean.over(processes)
    return result


def compute_retain_gradients(
    model: PreTrainedModel,
    processor: Any,
    layers: Sequence[Layer],
    pairs: Pairs | PairStream,
    contrast: int = 64,
    batch_size: int | None = None,
    processes: Processes = ALONE,
) -> Gradients:
    """
    Computes the gradient of CLIP's contrastive loss on the retain set for every candidate layer.

    It depends on the model and the retain set alone: keep it for the next concept.

    Args:
        model (`CLIPModel`): The model, unchanged by this.
        processor (`CLIPProcessor`): Its processor.
        layers (`Sequence[Layer]`): The candidates.
        pairs (`Pairs` or [`PairStream`]): The retain set, taken in the order given.
        contrast (`int`, *optional*, defaults to 64):
            Pairs that are contrasted with each other. Unlike the forget loss, this loss depends on it.
        batch_size (`int`, *optional*):
            Pairs per forward pass; changes memory, not the result. Fewer than `contrast` are run twice (GradCache, Gao et al. 2021).
            Defaults to `contrast`.
        processes ([`Processes`], *optional*):
            Those that share the work: whole groups of `contrast` pairs or, where a group is more than a batch, its batches, whose
            embeddings are then gathered.

    Returns:
        `dict[str, torch.Tensor]`: Gradients in float32 by canonical module name.

    Raises:
        GradientError: If a gradient is not finite.
    """
    weights = _weights_by_tower(model, layers)
    size = batch_size or contrast
    contrasted = Contrast(model, processor, set(weights), size, processes)
    means, total = {tower: GradientMean(part) for tower, part in weights.items()}, 0

    def own() -> Iterator[Pairs]:
        nonlocal total
        for i, group in enumerate(group_batches(pairs, contrast, "retain gradient")):
            total += len(group)
            if len(group) > size and isinstance(pairs, PairStream):
                pairs.check_same(processes, group)
            if len(group) > size or processes.has(i):
                yield group

    def add(terms: Iterator[Term]) -> None:
        for tower, term, factor in terms:
            means[tower].add(term, factor)
            del term  # float16 keeps its graph

    with requires_grad_only(model, {name: weight for part in weights.values() for name, weight in part.items()}):
        if contrast <= size:  # each group is a batch, and the next one is read meanwhile
            for group, batch in prepared(model, processor, own()):
                add(contrasted.whole(group, batch))
        else:
            for group in own():
                add(contrasted.cached(group))
        add(contrasted.rest())
    if isinstance(pairs, PairStream):
        pairs.check_same(processes)
    return {name: gradient for mean in means.values() for name, gradient in mean.over(processes, total).items()}
