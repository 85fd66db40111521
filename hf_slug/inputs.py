# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From pairs and prompts to what the towers read, batch by batch, and to embeddings."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .data import Pairs
from .errors import ConceptTooLongError
from .towers import embed


logger = logging.get_logger(__name__)


def image_batches(
    model: PreTrainedModel, processor: Any, pairs: Pairs, batch_size: int, description: str | None = None
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """
    Preprocesses the images of pairs, in the order given.

    Yields:
        `tuple[int, dict]`: Index of the batch's first pair, and `pixel_values` on the model's device in its dtype.
    """
    starts = range(0, len(pairs), batch_size)
    # transformers' bar honours its own switch and the Hub's
    for start in logging.tqdm(starts, desc=description, leave=False, disable=description is None or len(starts) < 3):
        images = pairs.images(slice(start, start + batch_size))
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        yield start, {"pixel_values": pixels.to(model.device, model.dtype)}


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
    unique = list(dict.fromkeys(texts))
    parts = [unique[start : start + batch_size] for start in range(0, len(unique), batch_size)]
    embeddings = torch.cat([embed(model, "text", text_batch(model, processor, part)) for part in parts])
    position = {text: i for i, text in enumerate(unique)}
    return embeddings[[position[text] for text in texts]]
