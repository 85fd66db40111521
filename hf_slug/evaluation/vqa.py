# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judging a LLaVA by its answers."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean as mean
from typing import Any

from transformers import PreTrainedModel

from ..chat import answer
from ..data import Pairs
from ..names import name_of
from .behaviour import BehaviourEvaluator, Metrics, quarter_first


class VqaEvaluator(BehaviourEvaluator):
    """
    Asks differently worded questions of images and matches the answers with the names.

    An answer is right if it holds the image's name as a word of its own and no other name. Metrics, in [0, 1]: `fa1`, the share of
    right answers about the concept's images; `ira`, that about the other images, macro-averaged over names; with
    `other_questions` `cra`, that of the other questions; `ta`, over the names of all questions.

    Args:
        processor (`ProcessorMixin`): The model's processor.
        forget, retain (`Pairs`): Images with their names; those of the concept in `retain` are left out.
        concept (`str`): The concept's name.
        names (`Sequence[str]`): The possible answers.
        questions (`Sequence[str]`): Every image is asked `per_image` of them.
        other_questions (`Mapping[str, tuple[Sequence[str], Sequence[str]]]`, *optional*):
            For each of other kinds its questions and the right answers about the retain images, in their order.
        per_image (`int`, *optional*): Questions asked of each image, in turn. Defaults to all.
        batch_size (`int`, *optional*, defaults to 64): Images per forward pass.

    Raises:
        ValueError: If there is nothing to ask, or an image's name is not among the names.
    """

    def __init__(
        self,
        processor: Any,
        forget: Pairs,
        retain: Pairs,
        concept: str,
        names: Sequence[str],
        questions: Sequence[str],
        other_questions: Mapping[str, tuple[Sequence[str], Sequence[str]]] | None = None,
        per_image: int | None = None,
        batch_size: int = 64,
    ):
        spelling = {name.casefold(): name for name in names}
        concept = spelling.get(concept.casefold(), concept)
        self.processor, self.concept, self.batch_size = processor, concept, batch_size
        self.names, self.questions = list(names), list(questions)
        own = [name_of(pair, ["{}"]) for pair in retain]
        own = [spelling.get(name.casefold(), name) for name in own]
        kept = [i for i, name in enumerate(own) if name != concept]
        unknown = sorted({own[i] for i in kept} - set(self.names))
        if not self.questions or not len(forget) or not kept or unknown or concept not in self.names:
            raise ValueError(
                f"Expected questions, images of {concept!r} and of others, and all their names. Found {len(self.questions)} "
                f"questions, {len(forget)} and {len(kept)} images; not among the names: "
                f"{', '.join(unknown[:5]) or (concept if concept not in self.names else 'none')}."
            )
        self.forget, self.retain = forget, retain.subset(kept)
        self.labels = [own[i] for i in kept]
        self.other_questions = {
            kind: (list(asked), [right[i] for i in kept]) for kind, (asked, right) in (other_questions or {}).items()
        }
        self.per_image = min(per_image or len(self.questions), len(self.questions))
        self.n_forget, self.n_retain = len(forget) * self.per_image, len(kept) * self.per_image

    def forgotten(self, model: PreTrainedModel, enough: float | None = None) -> Metrics:
        """Asks about the concept's images. See [`BehaviourEvaluator.forgotten`]."""
        right: list[bool] = []
        every = range(len(self.forget))
        for part in [every] if enough is None else quarter_first(every):
            asked = self._ask(model, self.forget, part, self.questions, "questions about the concept")
            right += [matches(text, self.concept, self.names) for _, text in asked]
            if enough is not None and sum(right) > enough * self.n_forget:
                break
        return {"fa1": mean(right), "n": len(right)}

    def retained(self, model: PreTrainedModel) -> Metrics:
        """Asks about the other images."""
        own = self._by_name(model, self.questions, self.labels, self.names)
        others: dict[str, float] = {}
        for questions, labels in self.other_questions.values():
            others |= self._by_name(model, questions, labels, sorted(set(labels)))
        metrics = {"ta": mean([*own.values(), *others.values()]), "ira": mean(own.values())}
        return metrics | ({"cra": mean(others.values())} if others else {})

    def _by_name(
        self, model: PreTrainedModel, questions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> dict[str, float]:
        right: dict[str, list[bool]] = {}
        every = range(len(self.retain))
        for i, text in self._ask(model, self.retain, every, questions, "questions about the rest"):
            right.setdefault(labels[i], []).append(matches(text, labels[i], names))
        return {name: mean(values) for name, values in right.items()}

    def _ask(
        self, model: PreTrainedModel, pairs: Pairs, which: Sequence[int], questions: Sequence[str], description: str
    ) -> list[tuple[int, str]]:
        """Asks `per_image` of the questions of each image, image i beginning with question i."""
        count = min(self.per_image, len(questions))
        places = [(i, (i + k) % len(questions)) for i in which for k in range(count)]
        images = {i: pairs[i].image for i in which}
        texts = answer(
            model,
            self.processor,
            [images[i] for i, _ in places],
            [questions[k] for _, k in places],
            self.batch_size,
            description=description,
        )
        return [(i, text) for (i, _), text in zip(places, texts, strict=True)]


def matches(text: str, name: str, names: Sequence[str]) -> bool:
    """
    Says whether an answer holds a name as a word, and none of the others; upper and lower case are one.

    Of names that lie within each other, such as dog and hot dog, the longest counts.
    """
    longest_first = "|".join(re.escape(other) for other in sorted({*names, name}, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)(?:{longest_first})(?!\w)", text, re.IGNORECASE)
    return {other.casefold() for other in found} == {name.casefold()}
