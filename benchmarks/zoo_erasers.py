# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""How each method forgets a concept of the zoo's Stable Diffusion: on the same data, searched by the same validation pictures."""

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from baselines.conditioning import embed_prompts
from baselines.esd import esd
from baselines.salun import salun
from baselines.uce import uce
from tables import SEARCH, mark, measured
from tqdm.auto import tqdm

from hf_slug import zoo
from hf_slug.data import load_pairs
from hf_slug.evaluation import GenerationEvaluator
from hf_slug.zoo import data
from hf_slug.zoo.unlearning import PROMPTS, SEARCH_SEED, TEST_SEED, picture_evaluator


# A search needs no finer pictures than these, but so many: with 4 of each prompt, or in 4 steps, a tenth of further pictures of
# "three" was left (which is not reported). The reported ones have all their steps.
SEARCH_STEPS, FORGET_PER_PROMPT, KEPT_PER_PROMPT = 6, 10, 1
_SLUG = {"rank": 8, "early_stopping": True}  # factors instead of a dense delta, and a host's looks are dear
SLUG_SETTINGS: dict[str, dict[str, Any]] = {
    "SLUG": _SLUG,
    "SLUG, plain gradient": {**_SLUG, "direction": "gradient"},
    # dense, and searched to the end
    "SLUG as published": {"objective": "clip", "direction": "gradient", "front_only": True},
}
DRAWING_STEPS = 15  # of a picture of the zoo; ESD's are drawn in as many

# What is tried for each concept: all combinations of each part. A quick run takes the first alone.
GRIDS: dict[str, list[dict[str, Sequence[Any]]]] = {
    "ESD": [
        {"variant": ("x",), "lr": (3e-5, 1e-4, 1e-5), "steps": (1000,)},
        {"variant": ("u",), "lr": (1e-5, 3e-5), "steps": (1000,)},
    ],
    # the same solution for the same ratios, so the preserve scale is left at 1 (the authors' 1, 0.1 and λ 0.1 are 10 and 1 here)
    "UCE": [{"target": ("neighbour", "empty"), "erase_scale": (10.0, 3.0, 1.0), "damping": (1.0, 0.1, 10.0)}],
    "SalUn": [{"lr": (3e-5, 1e-4, 1e-5), "alpha": (1.0, 0.3, 10.0), "steps": (200,)}],
}
QUICK = {"ESD": {"steps": 100}, "UCE": {}, "SalUn": {"steps": 100}}


@dataclass
class Erasure:
    """
    What forgetting took.

    Args:
        setting (`dict`): The setting that was chosen, by its name.
        seconds (`float`): Of the processor, for the one training at that setting; of SLUG, all but its search.
        seconds_all (`float`): Of the processor, the search among settings or steps included.
        peak_bytes (`float`): How far memory rose in training.
        stored_bytes (`int`): What the method's authors store of it.
        changed_bytes (`int`): What has changed: whole parameters or, where that is less, the weights that did and a bit for each.
    """

    setting: dict[str, Any]
    seconds: float
    seconds_all: float
    peak_bytes: float
    stored_bytes: int
    changed_bytes: int


def search_evaluator(concept: str) -> GenerationEvaluator:
    """The validation pictures of every method."""
    evaluator = picture_evaluator(concept, SEARCH_SEED, FORGET_PER_PROMPT, KEPT_PER_PROMPT)
    evaluator.settings["num_inference_steps"] = SEARCH_STEPS
    evaluator.batch_size = 50
    return evaluator


def forget_by_slug(pipe: Any, method: str, concept: str, seed: int) -> Erasure:
    """SLUG's search is part of it; its own report, cut short, is not: what is reported here is measured apart, as of all methods."""
    zoo.concept_pairs(concept, "train", seed, 1), zoo.load_clip()  # importing libraries is nobody's cost
    started = time.process_time()
    report, reported = timed(picture_evaluator(concept, TEST_SEED, 1, 1))
    report.settings["num_inference_steps"] = 1
    with measured() as cost:
        evaluator, spent = timed(search_evaluator(concept))
        result = zoo.unlearn_stable_diffusion(concept, seed, evaluator, report, pipe, **SLUG_SETTINGS[method])
    seconds = time.process_time() - started - reported[0]
    with tempfile.TemporaryDirectory() as folder:
        result.patch.save_pretrained(folder)
        stored = (Path(folder) / "adapter_model.safetensors").stat().st_size
        pipe.load_unlearning(folder)
    chosen = {key: result.report["chosen"][key] for key in ("layer", "relative_change")}
    return Erasure(chosen, seconds - spent[0], seconds, cost.peak_bytes, stored, stored)


def timed(evaluator: GenerationEvaluator) -> tuple[GenerationEvaluator, list[float]]:
    """An evaluator whose looks are timed: what a search takes is hardly anything else. Returns it, and the processor's seconds so far."""
    spent = [0.0]

    def wrap(look: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return look(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - started

        return run

    for name in ("forgotten", "retained"):
        setattr(evaluator, name, wrap(getattr(evaluator, name)))
    return evaluator, spent


def forget_by_tuning(pipe: Any, method: str, concept: str, seed: int, quick: bool = False) -> Erasure:
    """Trains with every setting of a method's grid, and keeps the best by [`best_of`] on the validation pictures."""
    evaluator, original = search_evaluator(concept), copy.deepcopy(pipe.unet.state_dict())
    started = time.process_time()
    train = TRAININGS[method](pipe, concept, seed)
    looks, runs, peaks = [], [], []
    for setting in tqdm(settings(method, quick), desc=f"{method}: settings", leave=False):
        pipe.unet.load_state_dict(original)
        training = time.process_time()
        with measured() as cost:
            train(**setting)
        training = time.process_time() - training
        peaks.append(cost.peak_bytes)
        looks.append(evaluator(pipe))
        runs.append((setting, training, copy.deepcopy(pipe.unet.state_dict())))
    setting, training, state = runs[best_of(looks)]
    pipe.unet.load_state_dict(state)
    seconds_all = time.process_time() - started
    stored = sum(value.nbytes for value in original.values())
    changed = sum(changed_bytes(original[name], value) for name, value in state.items())
    return Erasure(setting, training, seconds_all, max(peaks), stored, changed)


def settings(method: str, quick: bool = False) -> list[dict[str, Any]]:
    """All settings of a method's grid, or the first one made quick."""
    found = [dict(zip(part, values)) for part in GRIDS[method] for values in itertools.product(*part.values())]
    return [found[0] | QUICK[method]] if quick else found


def settings_of(method: str) -> str:
    """A mark of all that is set for a method: a row of other settings is not one of this table."""
    told = [SEARCH_STEPS, FORGET_PER_PROMPT, KEPT_PER_PROMPT, SLUG_SETTINGS.get(method, GRIDS.get(method))]
    return mark([*told, SEARCH] if method in SLUG_SETTINGS else told)


def best_of(looks: Sequence[Mapping[str, float]]) -> int:
    """Of what forgets within a point of the highest UA (a misjudged picture decides nothing) the highest mean of IRA and CRA."""
    least = min(look["fa1"] for look in looks) + 0.01
    enough = [i for i, look in enumerate(looks) if look["fa1"] <= least + 1e-9]
    return max(enough, key=lambda i: fmean((looks[i]["ira"], looks[i]["cra"])))


def changed_bytes(before: torch.Tensor, after: torch.Tensor) -> int:
    """Bytes of what has changed in a tensor: all of it, or the values that did and a bit for each."""
    changed = int((before != after).sum())
    return 0 if not changed else min(after.nbytes, changed * after.element_size() + -(-after.numel() // 8))


def neighbour(pipe: Any, concept: str) -> str:
    """The name of the same kind whose prompts are nearest to the concept's: by the cosine of their mean embeddings, as SLUG's."""
    names = data.names(data.kind(concept))
    said = {name: [prompt for prompt in PROMPTS if name in PROMPTS[prompt]] for name in names}
    means = {name: F.normalize(embed_prompts(pipe, prompts).mean(1), dim=-1) for name, prompts in said.items()}
    return max((n for n in names if n != concept), key=lambda n: float((means[n] * means[concept]).sum(-1).mean()))


def split_prompts(concept: str) -> tuple[list[str], list[str]]:
    """Prompts of the concept, and the others."""
    own = [prompt for prompt, names in PROMPTS.items() if concept in names]
    return own, [prompt for prompt in PROMPTS if prompt not in own]


def prepare_esd(pipe: Any, concept: str, seed: int) -> Callable[..., Any]:
    own, _ = split_prompts(concept)
    return lambda **setting: esd(pipe, own, num_inference_steps=DRAWING_STEPS, seed=seed, **setting)


def prepare_uce(pipe: Any, concept: str, seed: int) -> Callable[..., Any]:
    own, keep = split_prompts(concept)
    near = neighbour(pipe, concept)

    def train(target: str, **setting: Any) -> None:
        targets = [prompt.replace(concept, near) if target == "neighbour" else "" for prompt in own]
        uce(pipe, own, targets, keep, **setting)

    return train


def prepare_salun(pipe: Any, concept: str, seed: int) -> Callable[..., Any]:
    forget, retain = zoo.concept_pairs(concept, "train", seed, limit_per_digit=10)  # as SLUG's
    pairs = load_pairs(forget, progress=False), load_pairs(retain[:300], progress=False)
    near = neighbour(pipe, concept)
    mistaken = {prompt: prompt.replace(concept, near) for prompt in split_prompts(concept)[0]}
    return lambda **setting: salun(pipe, *pairs, mistaken, seed=seed, **setting)


TRAININGS = {"ESD": prepare_esd, "UCE": prepare_uce, "SalUn": prepare_salun}
