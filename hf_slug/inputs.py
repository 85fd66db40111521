# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From pairs and prompts to what the towers read, batch by batch, and to embeddings."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .data import Pairs
from .embedding import embed
from .errors import ConceptTooLongError
from .processes import ALONE, Processes
from .streams import PairStream


logger = logging.get_logger(__name__)
T = TypeVar("T")
_END = object()


def image_batches(
    model: PreTrainedModel,
    processor: Any,
    pairs: Pairs,
    batch_size: int,
    description: str | None = None,
    processes: Processes = ALONE,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """
    Preprocesses the images of pairs, in the order given, one batch ahead of what is asked for.

    Yields:
        `tuple[int, dict]`:
            Index of the batch's first pair, and `pixel_values` on the model's device in its dtype; of several processes, this one's batches.
    """
    starts = [start for _, start in processes.mine(range(0, len(pairs), batch_size))]
    # transformers' bar honours its own switch and the Hub's
    bar = logging.tqdm(starts, desc=description, leave=False, disable=description is None or len(starts) < 3)
    groups = (pairs[start : start + batch_size] for start in bar)
    for start, (_, batch) in zip(starts, prepared(model, processor, groups), strict=True):
        yield start, batch


def prepared(
    model: PreTrainedModel, processor: Any, groups: Iterable[Pairs]
) -> Iterator[tuple[Pairs, dict[str, torch.Tensor]]]:
    """Yields groups of pairs with their `pixel_values`, on the model's device in its dtype; one group is read and preprocessed ahead."""

    def see(pairs: Pairs) -> torch.Tensor:
        return processor.image_processor(pairs.images(), return_tensors="pt")["pixel_values"]

    with ThreadPoolExecutor(count := readers(model.device)) as threads:

        def prepare(group: Pairs) -> tuple[Pairs, torch.Tensor]:
            parts = list(threads.map(see, group.groups(-(-len(group) // count))))
            pixels = torch.cat(parts) if len(parts) > 1 else parts[0]  # of one, no copy
            return group, pixels.pin_memory() if model.device.type == "cuda" else pixels

        for group, pixels in ahead(map(prepare, groups)):
            yield group, {"pixel_values": pixels.to(model.device, model.dtype, non_blocking=True)}


def readers(device: torch.device) -> int:
    """How many threads decode and preprocess images: one beside a CPU, which is busy itself; as many as keep up with anything else."""
    return 1 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields what an iterator does; each item is made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield cast(T, item)


def group_batches(pairs: Pairs | PairStream, size: int, description: str, hidden: bool = False) -> Iterator[Pairs]:
    """Yields pairs so many at a time, with a bar where there are more than two groups, or nobody knows how many."""
    count = -(-len(pairs) // size) if isinstance(pairs, Pairs) else None
    off = hidden or (count is not None and count < 3)
    return logging.tqdm(pairs.groups(size), desc=description, total=count, leave=False, disable=off)


def unique_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns the different ones of some texts, and which of them each is."""
    unique = list(dict.fromkeys(texts))
    position = {text: i for i, text in enumerate(unique)}
    return unique, [position[text] for text in texts]


def text_batch(model: PreTrainedModel, processor: Any, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """
    Tokenizes texts at their own length: behind a causal mask, padding changes nothing.

    Returns:
        `dict`: `input_ids` and `attention_mask` of shape (n, longest), truncated at the tower's limit.
    """
    limit = model.config.text_config.max_position_embeddings
    tokens = processor.tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
    return {key: tokens[key].to(model.device) for key in ("input_ids", "attention_mask")}


def _too_long(model: PreTrainedModel, processor: Any, texts: Sequence[str]) -> list[tuple[str, int]]:
    limit = model.config.text_config.max_position_embeddings
    lengths = [len(ids) for ids in processor.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    return [(text, length) for text, length in zip(texts, lengths, strict=True) if length > limit]


def check_prompts(model: PreTrainedModel, processor: Any, prompts: Sequence[str]) -> None:
    """
    Checks that prompts fit into the text tower.

    Raises:
        ConceptTooLongError: If one would be truncated, i.e. another text than the one asked for would be unlearned.
    """
    for text, length in _too_long(model, processor, prompts):
        limit = model.config.text_config.max_position_embeddings
        raise ConceptTooLongError(
            f"{text[:80]!r}{'…' if len(text) > 80 else ''} has {length} tokens, and the text tower reads {limit}: it would be "
            f"truncated, and something else would be unlearned. Shorten the concept or the template."
        )


def warn_of_truncation(model: PreTrainedModel, processor: Any, texts: Sequence[str], what: str) -> int:
    """Warns how many captions will be truncated, and returns the number."""
    long = _too_long(model, processor, list(dict.fromkeys(texts)))
    if long:
        limit = model.config.text_config.max_position_embeddings
        logger.warning(
            f"{len(long)} captions of the {what} are longer than the text tower's {limit} tokens and are truncated, the "
            f"first: {long[0][0][:60]!r} ({long[0][1]} tokens)."
        )
    return len(long)


@torch.no_grad()
def embed_images(
    model: PreTrainedModel, processor: Any, pairs: Pairs, batch_size: int, description: str | None = None
) -> torch.Tensor:
    """Embeds the images of pairs without gradients: (n, d), unnormalised, in the model's dtype."""
    batches = image_batches(model, processor, pairs, batch_size, description)
    return torch.cat([embed(model, "vision", batch) for _, batch in batches])


@torch.no_grad()
def embed_texts(model: PreTrainedModel, processor: Any, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
    """Embeds texts without gradients, each different one once: (n, d), unnormalised, in the model's dtype."""
    unique, rows = unique_texts(texts)
    parts = [unique[start : start + batch_size] for start in range(0, len(unique), batch_size)]
    return torch.cat([embed(model, "text", text_batch(model, processor, part)) for part in parts])[rows]


class CaptionEmbedder:
    """
    Embeds texts without gradients, those that it has met lately not again.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        most (`int`, *optional*, defaults to 1024): How many are remembered.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, most: int = 1024):
        self.model, self.processor, self.most = model, processor, most
        self.known: dict[str, torch.Tensor] = {}

    def __call__(self, texts: Sequence[str], run: Callable[[list[str]], torch.Tensor] | None = None) -> torch.Tensor:
        """Returns (n, d), unnormalised, in the model's dtype, detached; `run` embeds those not met, for who has more to do with them."""
        unique = list(dict.fromkeys(texts))
        new = [text for text in unique if text not in self.known]
        if len(self.known) + len(new) > self.most:
            self.known, new = {}, unique
        if new:
            found = embed_texts(self.model, self.processor, new) if run is None else run(new)
            self.known |= zip(new, found.detach(), strict=True)
        return torch.stack([self.known[text] for text in texts])
