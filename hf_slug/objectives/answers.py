# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The objective of LLaVA: the language loss of its answers, through the frozen language model into the vision tower."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.utils import logging

from ..chat import ask
from ..data import Pairs
from ..encoders import Encoder
from ..processes import ALONE, Processes
from .objective import HostObjective


IGNORED = -100  # a token that no loss is taken of


class AnswerObjective(HostObjective):
    """
    `−log p(answer | image, question)`, averaged over the answer's tokens; a pair's answer is its name (or its text).

    Args:
        model (`PreTrainedModel`): A model of the LLaVA family. Left as it is.
        processor (`ProcessorMixin`): Its processor.
        encoder ([`Encoder`]): Its vision tower.
        forget, retain (`Pairs`): Images, and names as answers.
        questions (`Sequence[str]`): Questions that a name answers; the pairs take them in turn.
        batch_size (`int`, *optional*, defaults to 32): Images per forward pass.
        processes ([`Processes`], *optional*): Those that share the batches.

    Raises:
        ValueError: If there is no question.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        encoder: Encoder,
        forget: Pairs,
        retain: Pairs,
        questions: Sequence[str],
        batch_size: int = 32,
        processes: Processes = ALONE,
    ):
        if not questions:
            raise ValueError("There is no question to ask. Give `questions` that the concept's name answers.")
        super().__init__([model], encoder, forget, retain, processes)
        self.model, self.processor = model, processor
        self.questions, self.batch_size = list(questions), batch_size

    def losses(self, pairs: Pairs, description: str) -> Iterator[tuple[torch.Tensor, float]]:
        """Yields the mean loss of a batch's answers."""
        starts = [start for _, start in self.processes.mine(range(0, len(pairs), self.batch_size))]
        for start in logging.tqdm(starts, desc=description, leave=False, disable=len(starts) < 3):
            batch = pairs[start : start + self.batch_size]
            yield self._loss(batch, start), len(batch) / len(pairs)

    def _loss(self, batch: Pairs, first: int) -> torch.Tensor:
        inputs, labels = self._inputs(batch, first)
        logits = self.model(**inputs).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
        counts = (labels[:, 1:] != IGNORED).sum(1).clamp_min(1)
        return (losses.sum(1) / counts).mean()

    def encode(self, pairs: Pairs) -> None:
        """Runs the vision tower on every image."""
        for _, start in self.processes.mine(range(0, len(pairs), self.batch_size)):
            inputs, _ = self._inputs(pairs[start : start + self.batch_size], start)
            self.model(**inputs)

    def _inputs(self, batch: Pairs, first: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        questions = [self.questions[(first + i) % len(self.questions)] for i in range(len(batch))]
        answers = [pair.name or pair.text for pair in batch]
        inputs = ask(self.model, self.processor, batch.images(), questions, answers)
        labels = inputs.pop("labels")
        return inputs, labels
