# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The direction of the step: always one that ascends the forget loss (DESIGN: `W + λ·direction`)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from .arithmetic import accumulation_dtype
from .data import Pairs
from .embedding import as_written, embed
from .gradient_mean import Gradients
from .inputs import group_batches, prepared, text_batch
from .low_rank import truncate
from .processes import ALONE, Processes
from .streams import PairStream
from .towers import TOWERS, Layer, resolve_modules


Direction = Literal["whitened", "gradient"]

DIRECTIONS: tuple[Direction, ...] = ("whitened", "gradient")
_READ_THE_SAME = ("q_proj", "k_proj", "v_proj")
_MOST_TEXTS = 8192  # different captions that are counted before they are run


class InputMoment:
    """
    The second moment `C = E[x xᵀ]` of the inputs of one Linear layer, summed up in float64: whitening divides by its small eigenvalues.

    Args:
        width (`int`): The layer's `in_features`.
        device (`torch.device`): Where it is summed up.
    """

    def __init__(self, width: int, device: torch.device):
        self.dtype = accumulation_dtype(device)
        self.total = torch.zeros(width, width, dtype=self.dtype, device=device)
        self.count = torch.zeros((), dtype=self.dtype, device=device)
        self.token_weights: torch.Tensor | None = None  # (n, tokens); 0 for padding, else how often the row occurs

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].detach().float()
        if self.token_weights is None:
            weights = rows.new_ones(rows.shape[:-1])
        elif rows.ndim == 3:
            weights = self.token_weights
        else:  # pooled: one row a text
            weights = self.token_weights[:, 0]
        rows, weights = rows.reshape(-1, rows.shape[-1]), weights.reshape(-1)
        # a product of float32 has twice the digits of what the layer reads; what adds up over a set is the sum of these
        self.total += ((rows * weights[:, None]).T @ rows).to(self.dtype)
        self.count += weights.sum(dtype=self.dtype)  # no number of Python's: for that a GPU would be waited for


@contextmanager
def record_moments(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, InputMoment]]:
    """
    Records the second moment of what the Linear ones among some modules read while this is open; once where several read the same.

    Args:
        modules (`Mapping[str, nn.Module]`): Modules by name.

    Yields:
        `dict[str, InputMoment]`: By name; modules of another kind are left out.
    """
    moments: dict[str, InputMoment] = {}
    by_source: dict[str, InputMoment] = {}
    handles = []
    try:
        for name, module in modules.items():
            if not isinstance(module, nn.Linear):
                continue
            block, _, own = name.rpartition(".")
            source = block if own in _READ_THE_SAME else name
            if source not in by_source:
                by_source[source] = InputMoment(module.in_features, module.weight.device)
                handles.append(module.register_forward_pre_hook(by_source[source]))
            moments[name] = by_source[source]
        with as_written():
            yield moments
    finally:
        for handle in handles:
            handle.remove()


def sum_up(moments: Mapping[str, InputMoment], processes: Processes = ALONE) -> dict[str, torch.Tensor]:
    """Returns `C` by name, over what all processes have recorded; what several modules read, once."""
    means: dict[int, torch.Tensor] = {}
    for moment in moments.values():
        if id(moment) not in means:
            both = processes.sum({"total": moment.total, "count": moment.count})
            means[id(moment)] = both["total"] / both["count"]
    return {name: means[id(moment)] for name, moment in moments.items()}


@torch.no_grad()
def compute_input_moments(
    model: PreTrainedModel,
    processor: Any,
    layers: Sequence[Layer],
    pairs: Pairs | PairStream,
    batch_size: int = 64,
    processes: Processes = ALONE,
) -> dict[str, torch.Tensor]:
    """
    Computes the second moment `C = E[x xᵀ]` of the inputs of every Linear module of some layers, over the retain set.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        layers (`Sequence[Layer]`): The layers, best only those that will be searched.
        pairs (`Pairs` or [`PairStream`]): The retain set. Equal captions are run once and counted as often as they occur.
        batch_size (`int`, *optional*, defaults to 64): Pairs per forward pass.
        processes ([`Processes`], *optional*): Those that share the batches.

    Returns:
        `dict[str, torch.Tensor]`: (in_features, in_features) matrices in float64 by canonical module name.
    """
    if isinstance(pairs, Pairs):
        batch_size = processes.share(len(pairs), batch_size)
    live = resolve_modules(model, [name for layer in layers for name in layer.modules])
    by_tower: dict[str, dict[str, nn.Module]] = {tower: {} for tower in TOWERS}
    for layer in layers:
        by_tower[layer.tower] |= {name: model.get_submodule(live[name]) for name in layer.modules}
    counts: Counter[str] = Counter()
    with record_moments(by_tower["vision"]) as vision, record_moments(by_tower["text"]) as text:

        def read_counted() -> None:
            texts = list(counts)
            for start in range(0, len(texts), batch_size):
                part = texts[start : start + batch_size]
                batch = text_batch(model, processor, part)
                often = torch.tensor([float(counts[caption]) for caption in part], device=model.device)
                for moment in text.values():
                    moment.token_weights = batch["attention_mask"] * often[:, None]
                embed(model, "text", batch)
            counts.clear()

        groups = group_batches(pairs, batch_size, "retain inputs", hidden=not vision)
        own = (group for _, group in processes.mine(groups))
        for group, batch in prepared(model, processor, own) if vision else ((group, {}) for group in own):
            if vision:
                embed(model, "vision", batch, every_token=True)
            counts.update(group.texts if text else ())
            if len(counts) > _MOST_TEXTS:
                read_counted()
        read_counted()
    return sum_up(vision | text, processes)


def whiten(gradient: torch.Tensor, moment: torch.Tensor, epsilon: float = 0.03) -> torch.Tensor:
    """
    `G (C/mean(diag C) + εI)⁻¹`: turns the gradient of a Linear weight away from what the kept data feeds the layer.

    The matrix is positive definite, so the result still ascends: `⟨G, whiten(G)⟩ > 0`.

    Args:
        gradient (`torch.Tensor`): G of shape (out_features, in_features).
        moment (`torch.Tensor`): C of shape (in_features, in_features).
        epsilon (`float`, *optional*, defaults to 0.03): Damping ε; larger is closer to the plain gradient.

    Returns:
        `torch.Tensor`: Shape and dtype of `gradient`; solved in float64.
    """
    relative = moment.double() / moment.diagonal().double().mean().clamp_min(torch.finfo(torch.float32).tiny)
    damped = relative + epsilon * torch.eye(len(moment), dtype=torch.float64, device=moment.device)
    return torch.linalg.solve(damped, gradient.double().T).T.to(gradient.dtype).contiguous()


def compute_directions(
    gradients: Gradients,
    layers: Sequence[Layer],
    moments: Mapping[str, torch.Tensor] | None = None,
    epsilon: float = 0.03,
    rank: int | Literal["auto"] | None = None,
    tolerance: float = 0.03,
) -> dict[str, torch.Tensor]:
    """
    Computes the ascent direction of every module of some layers.

    Args:
        gradients (`dict[str, torch.Tensor]`): Gradients of the forget loss.
        layers (`Sequence[Layer]`): The layers.
        moments (`Mapping[str, torch.Tensor]`, *optional*):
            What [`compute_input_moments`] returned, for the whitened direction; without, the gradient itself (the
            paper's). A module without a moment (a norm) keeps its gradient.
        epsilon (`float`, *optional*, defaults to 0.03): Damping of the whitening.
        rank (`int` or `"auto"`, *optional*):
            Keep only the strongest so many singular values of each matrix. `"auto"` keeps all where these are few (the gradient of one
            caption has no more than tokens); else the fewest that leave no more than `tolerance`; and the whole matrix where factors of
            that rank are not smaller.
        tolerance (`float`, *optional*, defaults to 0.03): Of the direction, in Frobenius' norm.

    Returns:
        `dict[str, torch.Tensor]`: Directions in float32 by canonical module name.
    """
    moments = moments or {}
    names = [name for layer in layers for name in layer.modules]
    directions = {n: whiten(gradients[n], moments[n], epsilon) if n in moments else gradients[n] for n in names}
    if rank is not None:
        for name, direction in directions.items():
            if direction.ndim == 2:
                directions[name] = truncate(direction, rank, tolerance)
    return directions
