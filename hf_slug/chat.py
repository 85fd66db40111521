# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Questions to models of the LLaVA family, and their answers, in batches."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import logging


def ask(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    answers: Sequence[str] | None = None,
) -> dict[str, torch.Tensor]:
    """
    Makes a batch of inputs, padded on the left, one image and one question each.

    Args:
        model (`PreTrainedModel`): The model; says device and dtype.
        processor (`ProcessorMixin`): Its processor. Its chat template is used; without one, LLaVA-1.5's own format.
        images (`Sequence[Image.Image]`): The images.
        questions (`Sequence[str]`): As many questions.
        answers (`Sequence[str]`, *optional*): As many answers to be read after the questions.

    Returns:
        `dict[str, torch.Tensor]`: The model's inputs; with answers also `labels`, -100 everywhere but at an answer's tokens.
    """
    prompts = [_prompt(processor, question) for question in questions]
    if answers is None:
        return _tokenize(model, processor, images, prompts)
    # a blank belongs to the answer's first token, a line break to the prompt
    prompts = [prompt.rstrip(" ") for prompt in prompts]
    asked = _tokenize(model, processor, images, prompts)["attention_mask"].sum(1)
    end = processor.tokenizer.eos_token or ""
    spaced = [prompt if prompt.endswith("\n") else f"{prompt} " for prompt in prompts]
    whole = [f"{prompt}{answer}{end}" for prompt, answer in zip(spaced, answers, strict=True)]
    inputs = _tokenize(model, processor, images, whole)
    # what comes last is the answer: padding is on the left
    answered = inputs["attention_mask"].sum(1) - asked
    width = inputs["input_ids"].shape[1]
    place = torch.arange(width, device=answered.device)
    inputs["labels"] = inputs["input_ids"].masked_fill(place < width - answered[:, None], -100)
    return inputs


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    batch_size: int = 64,
    max_new_tokens: int = 12,
    description: str | None = None,
) -> list[str]:
    """
    Asks one question of each image, and returns the answers, greedily decoded.

    Args:
        model, processor, images, questions: See [`ask`].
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.
        max_new_tokens (`int`, *optional*, defaults to 12): Longest answer.
        description (`str`, *optional*): Title of a progress bar.

    Returns:
        `list[str]`: One answer an image.
    """
    answers: list[str] = []
    starts = range(0, len(images), batch_size)
    for start in logging.tqdm(starts, desc=description, leave=False, disable=description is None or len(starts) < 3):
        part = slice(start, start + batch_size)
        inputs = ask(model, processor, images[part], questions[part])
        ids: Any = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)  # type: ignore[operator]
        new = ids[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def _prompt(processor: Any, question: str) -> str:
    if not getattr(processor, "chat_template", None):
        return f"USER: <image>\n{question} ASSISTANT:"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _tokenize(
    model: PreTrainedModel, processor: Any, images: Sequence[Image.Image], texts: Sequence[str]
) -> dict[str, torch.Tensor]:
    batch = processor(images=list(images), text=list(texts), return_tensors="pt", padding=True, padding_side="left")
    return {
        key: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for key, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
