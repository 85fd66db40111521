# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Every method on the photographs' CLIP, each with its hyper-parameters chosen on the same validation photographs by one rule."""

import copy
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from baselines.clip import ClipLosses, alternate, ascend, dampen, fine_tune, fisher, half_precision, salun
from photo_data import Photographs
from tables import mark
from train_photo_clip import NAMES, TEMPLATE
from transformers import CLIPModel

from hf_slug import UnlearningPatch, unlearn
from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk, seen_beside
from hf_slug.evaluation.risk import AIM
from hf_slug.inputs import embed_images
from hf_slug.losses import normalize


RISK = 0.05
# Three values an axis at least, so that the best can lie inside, but for what was settled on development concepts: `ratio`, and how many
# `steps` are enough. `every` so many of them the photographs that choose are looked at.
GRIDS: dict[str, dict[str, tuple]] = {
    "FT": {"lr": (1e-5, 1e-4, 3e-4), "steps": (26,), "every": (13,)},
    "GA": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "steps": (24,), "every": (2,)},
    "GAFT": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "ratio": (2,), "steps": (20,), "every": (4,)},
    "SalUn": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "ratio": (2,), "steps": (20,), "every": (4,)},
    # the second without the embeddings: a name that is one token has a row of their table for itself
    **dict.fromkeys(
        ("SSD", "SSD, layers alone"), {"alpha": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0), "limit": (0.1, 1.0, 10.0)}
    ),
}
PATIENCE = 3  # looks at a setting that forgets, and at none of which more is kept, until the next setting's turn
_BATCH = 100  # photographs embedded at once while something is chosen
KEPT = 2  # settings of a grid, the best of a concept's first seed, that its other seeds try
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


_RULE = "accuracy in points, then what has moved least"  # a row that another rule has chosen is not one of this table


def settings_of(method: str) -> str:
    """A mark of all that is set for a method: a row of other settings is not one of this table."""
    if method in SLUG:
        own = SLUG[method]
        return mark([_RULE, RISK, own, *([f"then {AIM} of it"] if own.get("risk", RISK) < 1 else [])])
    return mark([_RULE, RISK, PATIENCE, KEPT, "half precision", GRIDS[method]])


def current(rows: Sequence[dict[str, Any]], weights: str) -> list[dict[str, Any]]:
    """Those of a model, by the settings of today: others stay in the file and out of the tables."""
    return [row for row in rows if (row["weights"], row["settings"]) == (weights, settings_of(row["method"]))]


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
        ranked (`tuple[dict, ...]`): The settings that were tried, the best first.
        patch ([`UnlearningPatch`], *optional*): SLUG's.
    """

    model: CLIPModel
    seconds: float
    one_run: float
    stored_bytes: int
    chosen: str
    forgotten: bool
    ranked: tuple[dict[str, float], ...] = ()
    patch: UnlearningPatch | None = None


def apply(
    method: str,
    model: CLIPModel,
    processor: Any,
    photographs: Photographs,
    seed: int,
    tried: Sequence[dict[str, float]] | None = None,
) -> Outcome:
    """Lets a method forget the photographs' concept; the model given may be changed. A baseline tries its whole grid, or what is given."""
    if method in SLUG:
        return _apply_slug(model, processor, photographs, seed, SLUG[method])
    grid = [dict(zip(GRIDS[method], values)) for values in itertools.product(*GRIDS[method].values())]
    return _apply_baseline(method, model, processor, photographs, seed, tried or grid)


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
    return Outcome(model, seconds, seconds, result.patch.num_bytes, place, forgotten, patch=result.patch)


class _Validation:
    """
    How well a changed model does on the photographs that choose; ordered so that the greatest is the best.

    Those that forget come before those that don't; among them those of a low risk, then those that keep more: in whole points, then by
    how far what is taken for what has moved, as `unlearn` chooses among layers. Of those that don't forget the lowest FA@5 to a
    twentieth is best, then what keeps more.
    """

    def __init__(self, processor: Any, photographs: Photographs, original: CLIPModel):
        parts = photographs.parts
        names = parts["validation_retain"].names
        counts = Counter(names)
        # rare names first: a photograph of theirs says most about the mean over names
        retain = parts["validation_retain"].subset(sorted(range(len(names)), key=lambda i: counts[names[i]]))
        self.processor = processor
        self.evaluator = ZeroShotEvaluator(
            processor,
            parts["validation_forget"],
            retain,
            photographs.concept,
            NAMES,
            batch_size=_BATCH,
            seen=seen_beside(parts["validation_forget"], parts["forget"]),
        )
        self.share = torch.tensor([1 / (counts[name] * len(counts)) for name in self.evaluator.retain.names])
        self.scale = float(original.logit_scale.detach().exp())
        self.untouched = torch.cat(list(self._embed(original))), self.evaluator.embed_names(original)

    def _embed(self, model: CLIPModel) -> Iterator[torch.Tensor]:
        retain = self.evaluator.retain
        for start in range(0, len(retain), _BATCH):
            with half_precision():
                part = embed_images(model, self.processor, retain[start : start + _BATCH], _BATCH)
            yield part.float()

    def __call__(self, model: CLIPModel, beat: tuple | None = None) -> tuple[bool, bool, float, float, float]:
        """
        Looks at a model; what is kept is measured only as far as it decides beside the best so far: not at all (given as 0) where
        something before it does, and else until the photographs left can't make up for those that are wrong (given is what these leave).
        """
        evaluator = self.evaluator
        classes = evaluator.embed_names(model)
        images = evaluator.embed_concept(model)
        left = evaluator.forgotten(images[: evaluator.n_forget], classes)["fa5"]
        risk = estimate_risk(evaluator.margins(images, classes))
        found = (left == 0, left == 0 and risk <= RISK, -round(20 * left) / 20)
        if beat is not None and found < beat[:3]:
            return *found, 0.0, 0.0
        needed = beat[3] if beat is not None and found == beat[:3] else 0.0
        parts: list[torch.Tensor] = []
        most, start = 1.0, 0
        for part in self._embed(model):
            wrong = (normalize(part) @ classes.T).argmax(1) != evaluator.labels[start : start + len(part)]
            most -= float(self.share[start : start + len(part)][wrong].sum())
            start += len(part)
            parts.append(part)
            if start < evaluator.n_retain and round(most, 2) < needed:
                return *found, round(most, 2), 0.0
        kept = torch.cat(parts), classes
        moved = evaluator.divergence(self.untouched, kept, self.scale)
        return *found, round(evaluator.retained(*kept, ())["ta"], 2), -moved


def _apply_baseline(
    method: str,
    model: CLIPModel,
    processor: Any,
    photographs: Photographs,
    seed: int,
    tried: Sequence[dict[str, Any]],
) -> Outcome:
    look = _Validation(processor, photographs, model)
    original, dampens = copy.deepcopy(model.state_dict()), method not in TRAINERS
    best: tuple[tuple, str, dict[str, torch.Tensor], float] | None = None
    started = time.process_time()
    losses = ClipLosses(
        model,
        processor,
        photographs.parts["forget"],
        photographs.parts["retain"],
        TEMPLATE.format(photographs.concept),
        batch_size=len(NAMES) - 1 if dampens else 64,
        seed=seed,
        half=True,  # as the photographs' CLIP was trained
    )
    importance = _fishers(losses, method != "SSD") if dampens else None
    shared = time.process_time() - started  # what every setting of it needs
    reached: list[tuple] = []  # by each setting
    for settings in tried:
        model.load_state_dict(original)
        losses.random.seed(seed)
        name = ", ".join(f"{key} {value:g}" for key, value in settings.items() if key not in ("steps", "every"))
        began, own, idle = time.process_time(), None, 0
        marks = _dampen(losses, importance, settings) if importance else TRAINERS[method](losses, **settings)
        for step in marks:
            found = look(model, None if best is None else best[0])
            idle = 0 if own is None or found > own or not found[0] else idle + 1
            own = found if own is None else max(own, found)
            if best is None or found > best[0]:
                state = {name: value.clone() for name, value in model.state_dict().items()}
                took = shared + time.process_time() - began
                best = found, f"{name}, step {step}" if step else name, state, took
            if idle == PATIENCE:
                break
        reached.append(own or ())
    assert best is not None
    seconds = time.process_time() - started
    model.load_state_dict(best[2])
    stored = sum(4 * int((value != original[name]).sum()) for name, value in best[2].items())
    order = sorted(range(len(tried)), key=lambda i: reached[i], reverse=True)
    return Outcome(model, seconds, best[3], stored, best[1], best[0][0], tuple(tried[i] for i in order))


def _fishers(losses: ClipLosses, layers_alone: bool) -> list[dict[str, torch.Tensor]]:
    # a squared mean over a batch shrinks with it, so batches of both sets are alike
    size = min(losses.batch_size, len(losses.forget_pixels))
    found = [fisher(losses, batches) for batches in (losses.forget_batches(), losses.retain_batches(size))]
    return [{name: own for name, own in one.items() if not (layers_alone and ".embeddings." in name)} for one in found]


def _dampen(
    losses: ClipLosses, importance: list[dict[str, torch.Tensor]], settings: dict[str, float]
) -> Iterator[int]:
    dampen(losses, *importance, **settings)
    yield 0
