# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""How much of each patch a stack needs: patches searched alone, fitted to each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from transformers.utils import logging

from .composition import stacked
from .evaluation import ZeroShotEvaluator, estimate_risk
from .evaluation.risk import AIM
from .hosts import set_unlearning
from .inputs import embed_images
from .patch import UnlearningPatch


logger = logging.get_logger(__name__)

_MOST, _HALVINGS = 2.0, 7  # a weight is known to 1/64
_ROUNDS, _STILL = 6, 0.05  # a round that moves none further is the last
_SPARE = 0.02  # what is at less of the allowed risk is lowered, as more costs what is kept: settled on stacks that no table reports
_ENOUGH = 5  # images of a concept


@dataclass(frozen=True)
class JointWeights:
    """
    What [`fit_weights`] found.

    Args:
        weights (`dict[str, float]`): How much of each patch, by its name.
        allowed (`float`): The risk that was allowed.
        risks (`dict[str, float]`): For each, the risk in the stack that a further image of its concept is recognised.
        unfitted (`dict[str, float]`): The same at weight 1 for all.
        kept (`float`, *optional*): Accuracy on the evaluators' retain images, over the names that no patch forgets.
        unfitted_kept (`float`, *optional*): The same at weight 1 for all.
    """

    weights: dict[str, float]
    allowed: float
    risks: dict[str, float]
    unfitted: dict[str, float]
    kept: float | None = None
    unfitted_kept: float | None = None

    @property
    def failed(self) -> list[str]:
        """The patches whose concept is not forgotten in the stack."""
        return [name for name, risk in self.risks.items() if risk > self.allowed]


def fit_weights(
    model: Any,
    patches: Mapping[str, UnlearningPatch],
    evaluators: Mapping[str, ZeroShotEvaluator],
    risk: float = 0.05,
    cost: float = 0.01,
) -> JointWeights:
    """
    Looks for weights at which a stack of patches forgets every concept, and which are no larger than that takes.

    A step that was searched alone is too small or too large among others: they move the names that the concept has to fall behind.
    So each patch's weight in turn, the others held, is looked at: if an image of its concept is recognised, or there is more than a tenth of
    `risk` that a further one is, the smallest weight up to 2 is bisected that mends it (or at least brings it to `risk`, where that is
    exceeded); if the risk is below a fiftieth, the smallest that keeps it there; until a whole round moves none by more than 0.05 (at
    most six rounds). A larger weight is left where what is kept would pay for it: two patches that are in each other's way would raise
    each other for ever.

    Args:
        model (`CLIPModel`): The base; it is as before afterwards.
        patches (`Mapping[str, UnlearningPatch]`): The patches by name.
        evaluators (`Mapping[str, ZeroShotEvaluator]`):
            By the patch's name, what judges its concept, on images that nothing is reported from. Images of the gradient given as
            `seen` count for the risk where no patch changes the vision tower.
        risk (`float`, *optional*, defaults to 0.05): See [`~evaluation.estimate_risk`].
        cost (`float`, *optional*, defaults to 0.01):
            How much lower than at weight 1 the evaluators' accuracy on their retain images may be, over the names that no patch
            forgets. Not looked at where they have none.

    Returns:
        [`JointWeights`]: A concept that no weight up to 2 forgets at that cost keeps the weight it has, with a warning.

    Raises:
        ValueError: If an evaluator is missing, or has under five images of its concept: too few to say what a further one would do.
        UnsupportedModelError: If the model has patches of its own.
    """
    seeing = any("vision" in patch.modules_by_tower for patch in patches.values())
    for name in patches:
        own = evaluators.get(name)
        count = 0 if own is None else own.n_forget + (0 if seeing else len(own.seen))
        if count < _ENOUGH:
            raise ValueError(
                f"Found {count} images of the concept of {name!r} to fit its weight by. Give at least {_ENOUGH} of each concept: fewer "
                f"don't say what a further one would do."
            )
    weights = dict.fromkeys(patches, 1.0)
    with stacked(model, patches, weights) as adapters:
        measure = _Measure(model, evaluators, seeing)

        def risk_at(name: str, weight: float) -> float:
            weights[name] = weight
            set_unlearning(model, list(adapters.values()), list(weights.values()))
            return measure.risk(name)

        def smallest(name: str, high: float, allowed: float) -> float:
            """The smallest weight that keeps to a risk, as `high` does."""
            low = 0.0
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (low, middle) if risk_at(name, middle) <= allowed else (middle, high)
            return high

        def fit(name: str) -> float:
            """The smallest weight of one patch, the others as they are, that its aim takes."""
            now = weights[name]
            found = risk_at(name, now)
            if found < _SPARE * risk:
                return smallest(name, now, _SPARE * risk)
            for allowed in (AIM * risk, risk):
                if found <= allowed:
                    break
                if risk_at(name, _MOST) <= allowed:
                    enough = smallest(name, _MOST, allowed)
                    risk_at(name, enough)
                    if (measure.kept() or 0.0) >= floor:
                        return enough
            return now

        def all_risks() -> dict[str, float]:
            return {name: risk_at(name, weights[name]) for name in patches}

        unfitted = risks = all_risks()
        unfitted_kept = measure.kept()
        floor = -1.0 if unfitted_kept is None else unfitted_kept - cost
        progress = logging.tqdm(total=_ROUNDS * len(patches), desc="joint weights", leave=False, delay=1)
        for _ in range(_ROUNDS):
            before = dict(weights)
            for name in patches:
                weights[name] = fit(name)
                progress.update()
            risks = all_risks()
            still = max(abs(weights[name] - before[name]) for name in patches) <= _STILL
            if still and max(risks.values()) <= risk:
                break
        progress.close()
        found = JointWeights(weights, risk, risks, unfitted, measure.kept(), unfitted_kept)
    for name in found.failed:
        logger.warning(
            f"In this stack {name!r} stays at an estimated risk of {risks[name]:.1%} (wanted: {risk:.0%}) that a further image of its "
            f"concept is recognised, at a weight of {weights[name]:.2f}: no weight up to {_MOST:g} does better without costing more than "
            f"{100 * cost:g} points of what is kept. Leave out a patch that is in its way, or search it again."
        )
    return found


class _Measure:
    """What the patches do as they are loaded; images are embedded once where no patch changes that."""

    def __init__(self, model: Any, evaluators: Mapping[str, ZeroShotEvaluator], seeing: bool):
        self.model, self.evaluators, self.seeing = model, evaluators, seeing
        self.gone = {own.names[own.concept].casefold() for own in evaluators.values()}
        self._embedded: dict[tuple[str, str], torch.Tensor] = {}

    def risk(self, name: str) -> float:
        """The risk that a further image of a concept is recognised."""
        evaluator = self.evaluators[name]
        images, classes = self._embed(name, "concept"), evaluator.embed_names(self.model)
        recognised = evaluator.forgotten(images[: evaluator.n_forget], classes)[evaluator.primary_metric]
        return 1.0 if recognised else estimate_risk(evaluator.margins(images, classes))

    def kept(self) -> float | None:
        """Accuracy over the names that no patch forgets, those of all evaluators."""
        found = []
        for name, evaluator in self.evaluators.items():
            if evaluator.n_retain:
                by_name = evaluator.accuracies(self._embed(name, "retain"), evaluator.embed_names(self.model))
                found += [value for own, value in by_name.items() if evaluator.names[own].casefold() not in self.gone]
        return fmean(found) if found else None

    def _embed(self, name: str, what: str) -> torch.Tensor:
        if self.seeing:
            return self._run(name, what)
        if (name, what) not in self._embedded:
            self._embedded[name, what] = self._run(name, what)
        return self._embedded[name, what]

    def _run(self, name: str, what: str) -> torch.Tensor:
        evaluator = self.evaluators[name]
        if what == "concept" and not self.seeing:
            return evaluator.embed_concept(self.model)
        images = evaluator.forget if what == "concept" else evaluator.retain
        return embed_images(self.model, evaluator.processor, images, evaluator.batch_size)
