# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Every method on the photographs' CLIP, each with its hyper-parameters chosen on the same validation photographs by one rule."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from baselines.clip import ClipLosses, alternate, ascend, dampen, fine_tune, fisher, salun
from photo_choice import RULE, Choice, Look, Validation
from photo_data import Photographs
from photo_sources import NAMES, TEMPLATE
from tables import SEARCH, mark
from transformers import CLIPModel

from hf_slug import UnlearningPatch, UnlearningResult, unlearn
from hf_slug.evaluation.risk import HARDLY


# Three values an axis at least, but for what was settled on development concepts: `ratio`, and how many `steps` are enough. The table says
# how often an end of an axis was chosen, beyond which a better value may lie. `every` so many of them the photographs that choose are looked at.
GRIDS: dict[str, dict[str, tuple]] = {
    "FT": {"lr": (1e-4, 1e-3, 3e-3), "steps": (78,), "every": (26,)},  # thrice through what is kept
    "GA": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "steps": (60,), "every": (2,)},
    # so many that the smallest rate forgets objects, too (of "bird", on which nothing is reported, after 60)
    "GAFT": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "ratio": (2,), "steps": (75,), "every": (5,)},
    "SalUn": {"lr": (1e-5, 3e-5, 1e-4, 3e-4), "ratio": (2,), "steps": (75,), "every": (5,)},
    "SSD": {
        "alpha": (3.0, 10.0, 30.0, 300.0, 3000.0, 10_000.0, 100_000.0, 1_000_000.0),
        "limit": (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
    },
}
# looks at a setting, since it was at its best, that find nothing more to gain: it is as safe as is asked for, or keeps less by half a point
PATIENCE = 3
TRAINERS: dict[str, Callable[..., Iterator[int]]] = {
    "FT": fine_tune,
    "GA": ascend,
    "GAFT": alternate,
    "SalUn": salun,
}
PLAIN = "SLUG, plain gradient"
SLUG: dict[str, dict[str, Any]] = {
    "SLUG": {},
    PLAIN: {"direction": "gradient"},
    "SLUG, as published": {"direction": "gradient", "front_only": True, "risk": 1.0},
}
WIDELY = ("SLUG", PLAIN)  # on all people, and stacked: the direction beside the paper's
METHODS = (*SLUG, *GRIDS)


def settings_of(method: str) -> str:
    """A mark of all that is set for a method: a row of other settings is not one of this table."""
    if method in SLUG:
        return mark([RULE, SEARCH, SLUG[method]])
    return mark([RULE, PATIENCE, "with nothing more to gain", "half precision", GRIDS[method]])


def current(rows: Sequence[dict[str, Any]], weights: str) -> list[dict[str, Any]]:
    """Those of a model, by the settings of today: others stay in the file and out of the tables."""
    known = {method: settings_of(method) for method in METHODS}  # a method of former days may be gone
    return [row for row in rows if (row["weights"], row["settings"]) == (weights, known.get(row["method"]))]


@dataclass
class Outcome:
    """
    What a method made of a model.

    Args:
        model (`CLIPModel`): The model, changed.
        seconds (`float`): Of the processor, with all that was tried: what it takes on a core of its own, whatever else runs.
        one_run (`float`): Of the processor, the chosen setting alone.
        stored_bytes (`int`): Bytes of the weights that differ, in float32; of a patch, its file.
        chosen (`str`): The layer and step, or the setting and step.
        forgotten (`bool`): Whether validation showed it as forgotten.
        risk (`float`, *optional*): The share of further photographs that would be recognised, as validation's margins say. SLUG's is in its report.
        setting (`dict[str, float]`): The setting and step of what has a grid.
        looks (`list[dict[str, float]]`): Each setting and step that was looked at, and what validation said of it.
        without_risk ([`Outcome`], *optional*): What would have been chosen, had the risk not counted, where that is something else.
        patch ([`UnlearningPatch`], *optional*): SLUG's.
    """

    model: CLIPModel
    seconds: float
    one_run: float
    stored_bytes: int
    chosen: str
    forgotten: bool
    setting: dict[str, float] = field(default_factory=dict)
    looks: list[dict[str, float]] = field(default_factory=list)
    risk: float | None = None
    without_risk: "Outcome | None" = None
    patch: UnlearningPatch | None = None


def apply(method: str, model: CLIPModel, processor: Any, photographs: Photographs, seed: int) -> Outcome:
    """Lets a method forget the photographs' concept; the model given may be changed. A baseline tries its whole grid."""
    way = _apply_slug if method in SLUG else _apply_baseline
    return way(method, model, processor, photographs, seed)


def search_patch(
    model: CLIPModel, processor: Any, photographs: Photographs, seed: int, **settings: Any
) -> UnlearningResult:
    """Makes a patch; its own report is cut short: what is reported is measured apart, for all methods alike."""
    parts = photographs.parts | {"test_retain": photographs.parts["test_retain"][:100]}
    return unlearn(model, processor, concept=photographs.concept, names=NAMES, seed=seed, **parts, **settings)


def _apply_slug(method: str, model: CLIPModel, processor: Any, photographs: Photographs, seed: int) -> Outcome:
    started = time.process_time()
    result = search_patch(model, processor, photographs, seed, **SLUG[method])
    seconds = time.process_time() - started
    report = result.report
    chosen = report["chosen"]
    model.load_unlearning(result.patch)
    place = f"{chosen['layer']}, {chosen['relative_change']:.2f} of its norm"
    forgotten = report["target"]["reached_on_validation"]
    return Outcome(model, seconds, seconds, result.patch.num_bytes, place, forgotten, patch=result.patch)


@dataclass
class _Candidate:
    """A setting at a step, with the weights it has led to and the seconds that took."""

    setting: dict[str, float]
    weights: dict[str, torch.Tensor]
    seconds: float


def _apply_baseline(method: str, model: CLIPModel, processor: Any, photographs: Photographs, seed: int) -> Outcome:
    validation, choices = Validation(processor, photographs, model), (Choice(), Choice(by_risk=False))
    original, dampens = copy.deepcopy(model.state_dict()), method not in TRAINERS
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
    importance = _fishers(losses) if dampens else None
    shared = time.process_time() - started  # what every setting of it needs
    looks: list[dict[str, float]] = []
    for values in itertools.product(*GRIDS[method].values()):
        settings = dict(zip(GRIDS[method], values))
        model.load_state_dict(original)
        losses.random.seed(seed)
        own: Look | None = None
        began, idle = time.process_time(), 0
        marks = _dampen(losses, importance, settings) if importance else TRAINERS[method](losses, **settings)
        for step in marks:
            look = validation(model, choices)
            if own is None or look.rank() > own.rank():
                own, idle = look, 0
            else:
                idle += look.safe or (look.sure and look.kept < own.kept - HARDLY)
            told = {key: value for key, value in settings.items() if key not in ("steps", "every")}
            told |= {"step": step} if step else {}
            looks.append(told | look.describe())
            if any(choice.wants(look) for choice in choices):
                weights = {name: value.clone() for name, value in model.state_dict().items()}
                candidate = _Candidate(told, weights, shared + time.process_time() - began)
                for choice in choices:
                    choice.offer(look, candidate)
            if idle == PATIENCE:
                break
    seconds = time.process_time() - started

    def outcome(look: Look, chosen: _Candidate) -> Outcome:
        changed = copy.deepcopy(model)
        changed.load_state_dict(chosen.weights)
        stored = sum(4 * int((value != original[name]).sum()) for name, value in chosen.weights.items())
        said = ", ".join(f"{key} {value:g}" for key, value in chosen.setting.items())
        told = {"setting": chosen.setting, "looks": looks, "risk": look.risk}
        return Outcome(changed, seconds, chosen.seconds, stored, said, look.forgets, **told)

    made, loose = (choice.made() for choice in choices)
    found = outcome(*made)
    if loose[1] is not made[1]:
        found.without_risk = outcome(*loose)
    return found


def _fishers(losses: ClipLosses) -> list[dict[str, torch.Tensor]]:
    # a squared mean over a batch shrinks with it, so batches of both sets are alike
    size = min(losses.batch_size, len(losses.forget_pixels))
    return [fisher(losses, batches) for batches in (losses.forget_batches(), losses.retain_batches(size))]


def _dampen(
    losses: ClipLosses, importance: list[dict[str, torch.Tensor]], settings: dict[str, float]
) -> Iterator[int]:
    dampen(losses, *importance, **settings)
    yield 0
