# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Evaluators under many changes of one model: zero-shot classification runs only what lies above the changed layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from ..data import Pairs
from ..embedding import embed
from ..inputs import image_batches
from ..losses import normalize
from ..recorder import Recorder
from ..replay import changed_weights, record_below, run_above
from ..towers import Layer
from .behaviour import BehaviourEvaluator, PreparedBehaviour
from .risk import estimate_risk
from .zero_shot import Metrics, ZeroShotEvaluator


# Images of the concept go through a changed vision tower in so many parts, so that one may save the others; below so many images a
# part costs hardly less.
_PARTS, _LEAST = 4, 16


class PreparedZeroShot:
    """
    A [`ZeroShotEvaluator`] for one model and many small changes: runs only what lies above the changed layer.

    Args:
        evaluator (`ZeroShotEvaluator`): The evaluator.
        model (`CLIPModel`): The model, at its original weights.
    """

    def __init__(self, evaluator: ZeroShotEvaluator, model: PreTrainedModel):
        self.evaluator, self.model = evaluator, model
        self.enough = math.inf
        self.classes = evaluator.embed_names(model)
        self.near = evaluator.neighbors(self.classes)
        self._images: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None  # the retain images, as the original vision tower sees them
        self._recorder = self._record(())

    def expect(self, layers: Sequence[Layer], enough: float = math.inf) -> None:
        """
        Says which layers will be probed, in this order, so that what they read may be recorded together; and that a change of the vision tower
        need be looked at no further once it is certain that the primary metric is above `enough`.
        """
        self.enough = enough
        self._recorder = self._record([layer for layer in layers if layer.tower == "vision"])

    def _record(self, layers: Sequence[Layer]) -> Recorder:
        evaluator = self.evaluator
        size = min(evaluator.batch_size, max(_LEAST, math.ceil(evaluator.n_forget / _PARTS)))
        return Recorder(self.model, evaluator.processor, evaluator.forget, size, layers)

    def probe(self, layer: Layer, whole: bool = False) -> Callable[[Mapping[str, torch.Tensor]], Metrics]:
        """
        Returns a function, quick to call again and again, from weights of `layer` to `fa1`, `fa5`, `risk`, and `risk_n`, the number of
        images that the risk rests on. Where it stopped early, which `whole` never does, these are of `n` images.
        """
        evaluator, model = self.evaluator, self.model
        enough = math.inf if whole else self.enough

        def score(images: torch.Tensor, classes: torch.Tensor) -> Metrics:
            risk = estimate_risk(evaluator.margins(images, classes))
            found = evaluator.forgotten(images[: evaluator.n_forget], classes)
            return found | {"risk": risk, "risk_n": len(images)}

        if layer.tower == "vision":
            recordings = self._recorder.take(layer)

            def measure(weights: Mapping[str, torch.Tensor]) -> Metrics:
                parts, shown = [], 0.0
                with changed_weights(model, layer, weights):
                    for i, recording in enumerate(recordings):
                        parts.append(run_above(model, layer, recording))
                        found = evaluator.forgotten(parts[-1], self.classes)
                        shown += found[evaluator.primary_metric] * len(parts[-1])
                        if round(shown) / evaluator.n_forget > enough:
                            recordings.insert(0, recordings.pop(i))  # what has told first is asked first
                            break
                images = torch.cat(parts)
                return score(images, self.classes) | ({"n": len(images)} if len(images) < evaluator.n_forget else {})

        else:
            if self._images is None:
                self._images = evaluator.embed_concept(model, self._recorder.embeddings)
            images = self._images
            prompts = evaluator.record_classes(model, layer)

            def measure(weights: Mapping[str, torch.Tensor]) -> Metrics:
                with changed_weights(model, layer, weights):
                    classes = evaluator._classes(model, (layer, prompts))
                return score(images, classes)

        return measure

    def retained(self, changes: Sequence[tuple[Layer, Mapping[str, torch.Tensor]]]) -> list[Metrics]:
        """
        Measures `ta` and `ta_neighbors` of several changes, each alone, in one pass over the retain images; and `kl`, how far what
        they are taken for has moved ([`ZeroShotEvaluator.divergence`]).
        """
        evaluator = self.evaluator
        untouched, *changed = self._embed(evaluator.retain, changes, "retained accuracy")
        scale = float(cast(torch.Tensor, self.model.logit_scale).detach().exp())
        return [
            evaluator.retained(*pair, self.near) | {"kl": evaluator.divergence(untouched, pair, scale)}
            for pair in changed
        ]

    def compare(self, layer: Layer, weights: Mapping[str, torch.Tensor]) -> tuple[Metrics, Metrics, dict[str, Any]]:
        """
        Measures everything before and after one change.

        Returns:
            `tuple[dict, dict, dict]`: Metrics before, metrics after, and for a picture the mean cosine of the images of some
            names with the texts of the same: `names`, `before` and `after` (lists of rows; the concept comes first), and
            `neighbors`, the names that `ta_neighbors` is taken over, and `neighbor_accuracy`, that of each (before, after).
        """
        evaluator, change = self.evaluator, [(layer, weights)]
        forget = self._embed(evaluator.forget, change, "forget accuracy")
        retain = self._embed(evaluator.retain, change, "retained accuracy")
        metrics, cosines, by_name = [], [], []
        shown = [own for own in self.near if bool((evaluator.labels == own).any())]
        others = [int(own) for own in evaluator.labels.unique() if int(own) not in shown]
        shown = [evaluator.concept, *(shown + others)[:9]]
        for (gone, classes), (kept, _) in zip(forget, retain, strict=True):
            metrics.append(evaluator.forgotten(gone, classes) | evaluator.retained(kept, classes, self.near))
            by_name.append(evaluator.accuracies(kept, classes))
            parts = [gone if own == evaluator.concept else kept[evaluator.labels == own] for own in shown]
            rows = torch.stack([(normalize(part) @ classes[shown].T).mean(0) for part in parts])
            cosines.append(rows.nan_to_num().tolist())
        picture: dict[str, Any] = {
            "names": [evaluator.names[i] for i in shown],
            "before": cosines[0],
            "after": cosines[1],
        }
        picture["neighbors"] = [evaluator.names[i] for i in self.near]
        picture["neighbor_accuracy"] = {
            evaluator.names[i]: [found[i] for found in by_name] for i in self.near if i in by_name[0]
        }
        return metrics[0], metrics[1], picture

    def _embed(
        self, pairs: Pairs, changes: Sequence[tuple[Layer, Mapping[str, torch.Tensor]]], description: str
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Embeds images and names at the original weights and under each change, as (images, classes)."""
        evaluator, model = self.evaluator, self.model
        seeing = [i for i, (layer, _) in enumerate(changes) if layer.tower == "vision"]
        original: list[torch.Tensor] = []
        changed: dict[int, list[torch.Tensor]] = {i: [] for i in seeing}
        # many steps of one layer share its recording
        layers = list(dict.fromkeys(changes[i][0] for i in seeing))
        known = self._kept if pairs is evaluator.retain and not layers else None
        batches = image_batches(model, evaluator.processor, pairs, evaluator.batch_size, description)
        for _, batch in batches if known is None else ():
            if layers:
                embeddings, recordings = record_below(model, layers, batch)
            else:
                with torch.no_grad():
                    embeddings, recordings = embed(model, "vision", batch), []
            original.append(embeddings)
            for i in seeing:
                layer, weights = changes[i]
                with changed_weights(model, layer, weights):
                    changed[i].append(run_above(model, layer, recordings[layers.index(layer)]))
        images = torch.cat(original) if known is None else known
        if pairs is evaluator.retain:
            self._kept = images
        result = [(images, self.classes)]
        for i, (layer, weights) in enumerate(changes):
            if layer.tower == "vision":
                result.append((torch.cat(changed[i]), self.classes))
            else:
                prompts = evaluator.record_classes(model, layer)
                with changed_weights(model, layer, weights):
                    result.append((images, evaluator._classes(model, (layer, prompts))))
        return result


def prepare(
    evaluator: Any, model: torch.nn.Module, host: Any = None, target: float = 0.0
) -> PreparedZeroShot | PreparedBehaviour | None:
    """
    Readies an evaluator for many changes of one layer.

    Args:
        evaluator ([`Evaluator`]): The evaluator.
        model (`nn.Module`): Where layers are changed.
        host (`DiffusionPipeline` or `nn.Module`, *optional*): What it is part of.
        target (`float`, *optional*, defaults to 0.0): What counts as forgotten.

    Returns:
        `PreparedZeroShot` or `PreparedBehaviour`, or `None` for an evaluator that can only be called.
    """
    if isinstance(evaluator, BehaviourEvaluator):
        return PreparedBehaviour(evaluator, model if host is None else host, model, target)
    return evaluator.prepare(model) if hasattr(evaluator, "prepare") else None
