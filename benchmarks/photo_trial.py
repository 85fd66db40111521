# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
One concept forgotten in many ways: the steps of `unlearn` joined by hand.

So all variants of one concept share their gradients, and variants that did not become an option can be tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from photo_data import Score, collect
from photo_sources import NAMES, TEMPLATE
from photo_variants import Variant
from transformers import CLIPModel

from hf_slug.direction import InputMoment, compute_directions, compute_input_moments, sum_up, whiten
from hf_slug.embedding import embed
from hf_slug.evaluation import ZeroShotEvaluator, seen_beside
from hf_slug.gradients import eval_mode
from hf_slug.inputs import image_batches, text_batch
from hf_slug.losses import retain_loss
from hf_slug.objectives import ContrastiveObjective
from hf_slug.replay import changed_weights
from hf_slug.scores import score_layers, select_layers
from hf_slug.search import Search, search
from hf_slug.steps import Trial as Step
from hf_slug.steps import new_weights
from hf_slug.towers import TOWERS, Layer, candidate_layers, layer_weights, resolve_modules


class Trial:
    """What all variants share for one concept: gradients of both losses, moments of inputs and outputs."""

    def __init__(self, model: CLIPModel, processor: Any, concept: str, seed: int):
        self.model, self.processor, self.concept = model, processor, concept
        self.photographs = collect(concept, seed, test_objects=1500)
        parts = self.photographs.parts
        self.retain = parts["retain"]
        self.layers = candidate_layers(model, "both", "matrix", False)
        objective = ContrastiveObjective(
            model, processor, parts["forget"], self.retain, [TEMPLATE.format(concept)], 64, 64
        )
        self.forget_gradients = objective.forget_gradients(self.layers)
        self.retain_gradients = objective.retain_gradients(self.layers)
        self.weights = {n: w for layer in self.layers for n, w in layer_weights(model, layer).items()}
        self.moments = {None: objective.input_moments(self.layers)}
        self.outputs: dict[str, torch.Tensor] | None = None
        self.score = Score(self.photographs, "test_", processor, model)
        self.embedded = self.score.embed(model)
        self.before = self.score(model, embedded=self.embedded, struck=(concept,))

    def run(self, variant: Variant) -> dict[str, Any]:
        """One variant: metrics after, and what was chosen."""
        layers = candidate_layers(self.model, variant.tower, variant.granularity, False)
        directions = self._directions(variant, layers)
        candidates = self._choose(variant, layers, directions)
        found = search(
            self.model, candidates, directions, self._evaluator(variant), steps=variant.steps, risk=variant.risk
        )
        chosen = most_accurate(found) if variant.by_accuracy else found.chosen
        if variant.smallest:
            chosen = smallest(found, variant.risk)
        layer = chosen.layer
        changed = new_weights(layer_weights(self.model, layer), directions, chosen.step_size)
        with changed_weights(self.model, layer, changed):
            after = self.score(self.model, embedded=None if layer.tower == "vision" else self.embedded)
        return {"after": after, "layer": layer.name, "succeeded": found.succeeded, "trials": len(found.trials)}

    def _evaluator(self, variant: Variant) -> ZeroShotEvaluator:
        parts = self.photographs.parts
        forget = parts["validation_forget"][: variant.validation]
        return ZeroShotEvaluator(
            self.processor,
            forget,
            parts["validation_retain"],
            self.concept,
            NAMES,
            batch_size=250,
            seen=seen_beside(forget, parts["forget"]) if variant.seen else None,
        )

    def _directions(self, variant: Variant, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
        if variant.direction == "gradient":
            return compute_directions(self.forget_gradients, layers, rank=variant.rank)
        moments = self._moments(variant.inputs)
        gradients = self.forget_gradients
        if variant.direction == "two-sided":
            gradients = {n: whiten(g.T, self._output_moments()[n], variant.epsilon).T for n, g in gradients.items()}
        directions = compute_directions(gradients, layers, moments, variant.epsilon, variant.rank)
        if variant.direction == "projected":
            kept = compute_directions(self.retain_gradients, layers, moments, variant.epsilon)
            for name, retain in self.retain_gradients.items():
                if name in directions:  # so that to first order the retain loss stays as it is
                    share = (directions[name] * retain).sum() / (kept[name] * retain).sum()
                    directions[name] = directions[name] - share * kept[name]
        return directions

    def _moments(self, inputs: int | None) -> Mapping[str, torch.Tensor]:
        if inputs not in self.moments:
            part = self.retain[:inputs]
            self.moments[inputs] = compute_input_moments(self.model, self.processor, self.layers, part)
        return self.moments[inputs]

    def _output_moments(self) -> dict[str, torch.Tensor]:
        """`E[g gᵀ]` of the retain loss's gradient g by what each layer puts out."""
        if self.outputs is None:
            names = [name for layer in self.layers for name in layer.modules]
            live = resolve_modules(self.model, names)
            modules = {name: self.model.get_submodule(live[name]) for name in names}
            moments = {
                n: InputMoment(m.out_features, m.weight.device)
                for n, m in modules.items()
                if hasattr(m, "out_features")
            }
            handles = [
                modules[n].register_full_backward_hook(lambda module, _, grads, n=n: moments[n](module, grads))
                for n in moments
            ]
            with eval_mode(self.model):
                for start, batch in image_batches(self.model, self.processor, self.retain, 64):
                    texts = self.retain.texts[start : start + 64]
                    said = embed(self.model, "text", text_batch(self.model, self.processor, texts))
                    retain_loss(embed(self.model, "vision", batch), said, self.model.logit_scale).backward()
            for handle in handles:
                handle.remove()
            self.model.zero_grad()
            self.outputs = sum_up(moments)
        return self.outputs

    def _choose(
        self, variant: Variant, layers: Sequence[Layer], directions: Mapping[str, torch.Tensor]
    ) -> list[Layer]:
        forget: Mapping[str, torch.Tensor] = self.forget_gradients
        retain: Mapping[str, torch.Tensor] = self.retain_gradients
        if variant.choose == "whitened":
            forget, retain = (
                directions,
                compute_directions(retain, layers, self._moments(variant.inputs), variant.epsilon),
            )
        scores = score_layers(layers, self.weights, forget, retain)
        if variant.choose in ("front", "whitened"):
            return [score.layer for score in select_layers(scores, variant.minimum, variant.minimum == 1)]
        if variant.choose == "signed":  # all are positive then, and stand in the order of their signed alignments
            signed = [replace(score, alignment=1 + score.alignment) for score in scores]
            return [score.layer for score in select_layers(signed, variant.minimum)]
        chosen = []
        for tower in TOWERS:
            own = [score for score in scores if score.layer.tower == tower]
            chosen += sorted(own, key=lambda score: -score.importance)[: variant.minimum]
        return [score.layer for score in chosen]


def most_accurate(found: Search) -> Step:
    """Of the layers that forget, if any do, the one of the highest retained accuracy, which is measured at each one's best step alone."""
    measured = [trial for trial in found.trials if "ta" in trial.metrics]
    pool = [trial for trial in measured if trial.forgotten] or [found.chosen]
    return min(pool, key=lambda trial: (-trial.metrics["ta"], trial.relative_change))


def smallest(found: Search, risk: float) -> Step:
    """Of the chosen layer the smallest step that forgets at a risk, where a larger one was taken to be safer."""
    own = [trial for trial in found.trials if trial.layer == found.chosen.layer]
    done = [t for t in own if t.metrics["fa5"] == 0 and t.metrics["risk"] <= risk]
    return min(done or [found.chosen], key=lambda trial: trial.step_size)
