# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Every method on the photographs' CLIP, each with its hyper-parameters chosen on the same validation photographs by one rule."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from baselines.clip import ClipLosses, alternate, ascend, dampen, fine_tune, fisher, salun
from photo_data import Photographs
from train_photo_clip import NAMES, TEMPLATE
from transformers import CLIPModel

from hf_slug import UnlearningPatch, unlearn
from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk, seen_beside
from hf_slug.inputs import embed_images


RISK = 0.05
# Learning rates and epochs of the trained ones, α and λ of SSD; every epoch is a candidate, not only the last.
GRIDS: dict[str, dict[str, tuple]] = {
    "FT": {"lr": (3e-4,), "epochs": (2,)},
    "GA": {"lr": (3e-5, 1e-4), "epochs": (8,)},
    "GAFT": {"lr": (1e-4, 3e-4), "epochs": (2,)},
    "SalUn": {"lr": (1e-4, 3e-4), "epochs": (2,)},
    "SSD": {"alpha": (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0), "limit": (0.1, 1.0)},
}
TRAINERS: dict[str, Callable[..., Iterator[int]]] = {
    "FT": fine_tune,
    "GA": ascend,
    "GAFT": alternate,
    "SalUn": salun,
}
SLUG: dict[str, dict[str, Any]] = {
    "SLUG": {},
    "SLUG, plain gradient": {"direction": "gradient"},
    "SLUG, as published": {"direction": "gradient", "front_only": True, "risk": 1.0},
}
METHODS = (*SLUG, *GRIDS)


@dataclass
class Outcome:
    """
    What a method made of a model.

    Args:
        model (`CLIPModel`): The model, changed.
        seconds (`float`): Of the processor, with all that was tried: what it takes on a core of its own, whatever else runs.
        one_run (`float`): Of the processor, the chosen setting alone.
        stored_bytes (`int`): Bytes of the weights that differ, in float32; of a patch, its file.
        chosen (`str`): The layer and step, or the setting and epoch.
        forgotten (`bool`): Whether validation showed it as forgotten.
        patch ([`UnlearningPatch`], *optional*): SLUG's.
    """

    model: CLIPModel
    seconds: float
    one_run: float
    stored_bytes: int
    chosen: str
    forgotten: bool
    patch: UnlearningPatch | None = None


def apply(method: str, model: CLIPModel, processor: Any, photographs: Photographs, seed: int) -> Outcome:
    """Lets a method forget the photographs' concept; the model given may be changed."""
    if method in SLUG:
        return _apply_slug(model, processor, photographs, seed, SLUG[method])
    return _apply_baseline(method, model, processor, photographs, seed)


def _apply_slug(
    model: CLIPModel, processor: Any, photographs: Photographs, seed: int, settings: dict[str, Any]
) -> Outcome:
    # the patch's own report is cut short: what is reported is measured apart, for all methods alike
    parts = photographs.parts | {"test_retain": photographs.parts["test_retain"][:100]}
    started = time.process_time()
    result = unlearn(model, processor, concept=photographs.concept, names=NAMES, seed=seed, **parts, **settings)
    seconds = time.process_time() - started
    report = result.report
    chosen = report["chosen"]
    model.load_unlearning(result.patch)
    place = f"{chosen['layer']}, {chosen['relative_change']:.2f} of its norm"
    forgotten = report["target"]["reached_on_validation"]
    return Outcome(model, seconds, seconds, result.patch.num_bytes, place, forgotten, result.patch)


class _Validation:
    """How well a changed model does on the photographs that choose; ordered so that the greatest is the best."""

    def __init__(self, processor: Any, photographs: Photographs):
        parts = photographs.parts
        self.processor = processor
        self.evaluator = ZeroShotEvaluator(
            processor,
            parts["validation_forget"],
            parts["validation_retain"],
            photographs.concept,
            NAMES,
            batch_size=250,
            seen=seen_beside(parts["validation_forget"], parts["forget"]),
        )

    def __call__(self, model: CLIPModel) -> tuple[bool, bool, float, float]:
        evaluator = self.evaluator
        classes = evaluator.embed_names(model)
        images = evaluator.embed_concept(model)
        accuracy = evaluator.forgotten(images[: evaluator.n_forget], classes)["fa5"]
        risk = estimate_risk(evaluator.margins(images, classes))
        if accuracy > 0:  # what is kept decides only among those that forget
            return False, False, -accuracy, -risk
        kept = embed_images(model, self.processor, evaluator.retain, 250)
        return True, risk <= RISK, evaluator.retained(kept, classes, ())["ta"], -risk


def _apply_baseline(method: str, model: CLIPModel, processor: Any, photographs: Photographs, seed: int) -> Outcome:
    parts, look = photographs.parts, _Validation(processor, photographs)
    original = copy.deepcopy(model.state_dict())
    best: tuple[tuple, str, dict[str, torch.Tensor], float] | None = None
    started = time.process_time()
    for setting, marks in _trials(method, model, processor, photographs.concept, parts, seed, original):
        began = time.process_time()
        for mark in marks:
            found = look(model)
            if best is None or found > best[0]:
                state = {name: value.clone() for name, value in model.state_dict().items()}
                best = found, f"{setting}{mark}", state, time.process_time() - began
    assert best is not None
    seconds = time.process_time() - started
    model.load_state_dict(best[2])
    stored = sum(4 * int((value != original[name]).sum()) for name, value in best[2].items())
    return Outcome(model, seconds, best[3], stored, best[1], best[0][0])


def _trials(
    method: str,
    model: CLIPModel,
    processor: Any,
    concept: str,
    parts: dict[str, Any],
    seed: int,
    original: dict[str, torch.Tensor],
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yields every setting of a grid, and for each an iterator that changes the model and says when it may be looked at."""
    importance = None
    for values in itertools.product(*GRIDS[method].values()):
        settings = dict(zip(GRIDS[method], values))
        model.load_state_dict(original)
        losses = ClipLosses(
            model,
            processor,
            parts["forget"],
            parts["retain"],
            TEMPLATE.format(concept),
            batch_size=4 if method == "SSD" else 64,
            seed=seed,
        )
        name = ", ".join(f"{key} {value:g}" for key, value in settings.items() if key != "epochs")
        if method == "SSD":
            if importance is None:
                importance = [fisher(losses, batches()) for batches in (losses.forget_batches, losses.retain_batches)]
            yield name, _once(losses, importance, settings)
        else:
            yield name, (f", epoch {epoch}" for epoch in TRAINERS[method](losses, **settings))


def _once(losses: ClipLosses, importance: list[dict[str, torch.Tensor]], settings: dict[str, float]) -> Iterator[str]:
    dampen(losses, *importance, **settings)
    yield ""
