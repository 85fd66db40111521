# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The one rule by which every method's settings and steps are chosen on validation photographs: that of `unlearn`'s search, but for how many
times its weight one layer changes, which means nothing where a method changes them all.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from baselines.clip import half_precision
from photo_data import Photographs
from photo_sources import NAMES
from transformers import CLIPModel

from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk, seen_beside
from hf_slug.evaluation.risk import AIM, HARDLY
from hf_slug.inputs import embed_images


RISK = 0.05
# a row that another rule has chosen is not one of the tables of today
RULE = f"{RISK}, accuracy in points, then what has moved least; then the smallest at {AIM} of it where that costs {HARDLY}"
_BATCH = 250  # photographs embedded at once


@dataclass(frozen=True)
class Look:
    """
    What validation photographs say of a changed model.

    Args:
        left (`float`): FA@5.
        risk (`float`): The share of further photographs that would be recognised, by the margins of those at hand.
        kept (`float`): Accuracy on the rest, the mean over names; 0 where it was not measured, as something before it decides.
        moved (`float`): How far what the rest is taken for has moved (KL).
    """

    left: float
    risk: float
    kept: float = 0.0
    moved: float = math.inf

    @property
    def forgets(self) -> bool:
        return self.left == 0

    @property
    def sure(self) -> bool:
        return self.forgets and self.risk <= RISK

    def rank(self, by_risk: bool = True) -> tuple[float, ...]:
        """
        The greatest is the best: those that forget come before those that don't; among them those of a low risk, then those that keep
        more, in whole points, then what has moved least. Of those that don't forget the lowest FA@5 to a twentieth comes first.
        """
        return (*self.first(by_risk), round(self.kept, 2), -self.moved)

    def first(self, by_risk: bool = True) -> tuple[float, ...]:
        """What comes before anything that is kept."""
        return (self.forgets, self.sure if by_risk else self.forgets, -round(20 * self.left) / 20)

    def describe(self) -> dict[str, float]:
        """What was measured, in four digits."""
        kept = {"kept": round(self.kept, 4), "moved": round(self.moved, 4)} if self.moved < math.inf else {}
        return {"left": round(self.left, 4), "risk": round(self.risk, 4), **kept}

    @property
    def safe(self) -> bool:
        return self.forgets and self.risk <= AIM * RISK


class Choice:
    """
    Of what is offered the best, and the best of those that are far safer, each with what it was a look at.

    Args:
        by_risk (`bool`, *optional*, defaults to `True`): Whether the risk counts, or the photographs at hand alone.
    """

    def __init__(self, by_risk: bool = True) -> None:
        self.by_risk = by_risk
        self.best: tuple[Look, Any] | None = None
        self.safest: tuple[Look, Any] | None = None

    def is_beyond(self, look: Look) -> bool:
        """Whether something better has been found already, whatever this keeps."""
        return self.best is not None and look.first(self.by_risk) < self.best[0].first(self.by_risk)

    def wants(self, look: Look) -> bool:
        """Whether it is better than what there is."""
        return self._beats(look, self.best) or (look.safe and self._beats(look, self.safest))

    def offer(self, look: Look, found: Any) -> None:
        """Takes it, if it is better than what there is."""
        if look.safe and self._beats(look, self.safest):
            self.safest = look, found
        if self._beats(look, self.best):
            self.best = look, found

    def made(self) -> tuple[Look, Any]:
        """The best, or one at a tenth of the allowed risk if that keeps as much to half a point."""
        assert self.best is not None
        if (
            not self.by_risk
            or self.safest is None
            or self.best[0].safe
            or self.safest[0].kept < self.best[0].kept - HARDLY
        ):
            return self.best
        return self.safest

    def _beats(self, look: Look, other: tuple[Look, Any] | None) -> bool:
        return other is None or look.rank(self.by_risk) > other[0].rank(self.by_risk)


class Validation:
    """How well a changed model does on the photographs that choose."""

    def __init__(self, processor: Any, photographs: Photographs, original: CLIPModel):
        parts = photographs.parts
        own = (parts["validation_forget"], parts["validation_retain"], photographs.concept, NAMES)
        seen = seen_beside(parts["validation_forget"], parts["forget"])
        self.processor = processor
        self.evaluator = ZeroShotEvaluator(processor, *own, batch_size=_BATCH, seen=seen)
        self.scale = float(original.logit_scale.detach().exp())
        self.untouched = torch.cat(list(self._embed(original))), self.evaluator.embed_names(original)

    def _embed(self, model: CLIPModel) -> Iterator[torch.Tensor]:
        retain = self.evaluator.retain
        for start in range(0, len(retain), _BATCH):
            with half_precision():
                part = embed_images(model, self.processor, retain[start : start + _BATCH], _BATCH)
            yield part.float()

    def __call__(self, model: CLIPModel, choices: Sequence[Choice] = ()) -> Look:
        """Looks at a model; what is kept is measured only where nothing before it decides beside what has been chosen so far."""
        evaluator = self.evaluator
        classes = evaluator.embed_names(model)
        images = evaluator.embed_concept(model)
        left = evaluator.forgotten(images[: evaluator.n_forget], classes)["fa5"]
        look = Look(left, estimate_risk(evaluator.margins(images, classes)))
        if choices and all(choice.is_beyond(look) for choice in choices):
            return look
        kept = torch.cat(list(self._embed(model))), classes
        moved = evaluator.divergence(self.untouched, kept, self.scale)
        return Look(look.left, look.risk, evaluator.retained(*kept, ())["ta"], moved)
