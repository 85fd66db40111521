# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judges: say which names a picture shows."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..embedding import embed
from ..gradients import eval_mode
from ..inputs import embed_texts
from ..losses import normalize
from ..names import DEFAULT_TEMPLATE, check_templates, say


class Judge(Protocol):
    """Anything that returns, for each picture, the names it shows: one of each kind that it tells apart."""

    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[str, ...]]: ...


class ClassifierJudge:
    """
    An image classifier of transformers.

    Args:
        model (`PreTrainedModel`): A model for image classification; its `id2label` holds the names.
        processor (`BaseImageProcessor`): Its image processor.
        kinds (`Sequence[Sequence[str]]`, *optional*):
            Groups of labels of which each has its own winner, e.g. digits and styles. Defaults to one group of all labels.
        batch_size (`int`, *optional*, defaults to 256): Pictures per forward pass.

    Raises:
        ValueError: If a kind names something that is no label.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        kinds: Sequence[Sequence[str]] | None = None,
        batch_size: int = 256,
    ):
        known: Any = model.config.id2label
        labels = [known[i] for i in range(len(known))]
        self.kinds = [list(kind) for kind in kinds] if kinds is not None else [labels]
        unknown = [name for kind in self.kinds for name in kind if name not in labels]
        if unknown:
            raise ValueError(
                f"The judge has no label {', '.join(map(repr, unknown[:5]))}. Found: {', '.join(labels)}."
            )
        self.columns = [[labels.index(name) for name in kind] for kind in self.kinds]
        self.model, self.processor, self.batch_size = model, processor, batch_size

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[str, ...]]:
        """Returns the most likely name of each kind."""
        found: list[tuple[str, ...]] = []
        for start in range(0, len(images), self.batch_size):
            pixels = self.processor(list(images[start : start + self.batch_size]), return_tensors="pt")["pixel_values"]
            with eval_mode(self.model):
                logits = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype)).logits
            winners = [logits[:, columns].argmax(1).tolist() for columns in self.columns]
            found += [
                tuple(kind[i] for kind, i in zip(self.kinds, row, strict=True)) for row in zip(*winners, strict=True)
            ]
        return found


class ZeroShotJudge:
    """
    A CLIP that classifies pictures among names, for where there is no classifier. It must not be the one that is changed.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        kinds (`Sequence[Sequence[str]]`): Groups of names of which each has its own winner.
        templates (`str` or `Sequence[str]`, *optional*, defaults to `"a photo of {}"`): How a name is said.
        batch_size (`int`, *optional*, defaults to 64): Pictures per forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        kinds: Sequence[Sequence[str]],
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
        batch_size: int = 64,
    ):
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.kinds = [list(kind) for kind in kinds]
        spoken = check_templates(templates)
        self.classes = []
        with eval_mode(model):
            for kind in self.kinds:
                rows = [normalize(embed_texts(model, processor, say(name, spoken))).mean(0) for name in kind]
                self.classes.append(normalize(torch.stack(rows)))  # now, so that no later change reaches them

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[str, ...]]:
        """Returns the name of each kind whose text is nearest."""
        found: list[tuple[str, ...]] = []
        for start in range(0, len(images), self.batch_size):
            part = list(images[start : start + self.batch_size])
            pixels = self.processor.image_processor(part, return_tensors="pt")["pixel_values"]
            batch = {"pixel_values": pixels.to(self.model.device, self.model.dtype)}
            with eval_mode(self.model):
                seen = normalize(embed(self.model, "vision", batch))
            winners = [(seen @ classes.T).argmax(1).tolist() for classes in self.classes]
            found += [
                tuple(kind[i] for kind, i in zip(self.kinds, row, strict=True)) for row in zip(*winners, strict=True)
            ]
        return found
