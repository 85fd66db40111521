# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The paper's objective: CLIP's own losses (SLUG, section 3.1)."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data import Pairs
from ..direction import compute_input_moments
from ..gradient_mean import Gradients
from ..gradients import compute_forget_gradients, compute_retain_gradients
from ..processes import ALONE, Processes
from ..streams import PairStream
from ..towers import Layer


MIN_CONTRAST = 64  # a contrastive loss over a handful of pairs says little; over one, nothing


def contrasted(batch_size: int, retain_batch_size: int | None = None) -> int:
    """How many pairs are contrasted with each other: so many as are asked for, or a batch, if that is enough."""
    return retain_batch_size or max(batch_size, MIN_CONTRAST)


class ContrastiveObjective:
    """
    `1 - cos(v, t)` of the forget images and the concept's prompts; CLIP's symmetric contrastive loss of the retain pairs.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        forget, retain (`Pairs`): The two sets.
        prompts (`Sequence[str]`): Texts of the concept.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.
        contrast (`int`, *optional*, defaults to 64): Pairs contrasted with each other.
        processes ([`Processes`], *optional*): Those that share the work.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        forget: Pairs,
        retain: Pairs | PairStream,
        prompts: Sequence[str],
        batch_size: int = 64,
        contrast: int = 64,
        processes: Processes = ALONE,
    ):
        self.module: Any = model
        self.processor = processor
        self.forget, self.retain, self.prompts = forget, retain, prompts
        self.batch_size, self.contrast, self.processes = batch_size, contrast, processes

    def forget_gradients(self, layers: Sequence[Layer]) -> Gradients:
        """See [`~hf_slug.gradients.compute_forget_gradients`]."""
        return compute_forget_gradients(
            self.module, self.processor, layers, self.forget, self.prompts, self.batch_size, self.processes
        )

    def retain_gradients(self, layers: Sequence[Layer]) -> Gradients:
        """See [`~hf_slug.gradients.compute_retain_gradients`]."""
        return compute_retain_gradients(
            self.module, self.processor, layers, self.retain, self.contrast, self.batch_size, self.processes
        )

    def input_moments(self, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        """See [`~hf_slug.direction.compute_input_moments`]."""
        return compute_input_moments(self.module, self.processor, layers, self.retain, self.batch_size, self.processes)
