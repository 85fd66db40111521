# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The search of every layer for its step, and the choice among layers (SLUG, section 3.3)."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers.utils import logging

from .evaluation import Evaluator, PreparedBehaviour, PreparedZeroShot, prepare
from .evaluation.risk import HARDLY
from .goal import FAR, Goal, preference
from .processes import ALONE, Processes
from .replay import changed_weights
from .stack import start_of
from .steps import TOLERANCE, Measure, Trial, new_weights, search_layer
from .towers import Layer, layer_weights


# Generating pictures and answers is dear: a weight that was changed by six times itself without any effect is given up.
_HOPELESS = 6.0
# A host's search ends where a layer forgets and none of these falls by more than that; else it goes on to the next fronts.
_KEPT, _SPARE = ("ta", "ira", "cra"), 0.01


@dataclass
class Search:
    """
    What a search found.

    Args:
        trials (`list[Trial]`): Everything tried, layer by layer, in the order tried.
        chosen (`Trial`): The best of them.
        succeeded (`bool`): Whether the chosen one reached the target. If no trial did, it is the one that came closest.
        was_known (`bool`): Whether the target was *not* reached at the original weights, i.e. there was something to forget.
    """

    trials: list[Trial]
    chosen: Trial
    succeeded: bool
    was_known: bool = True


def search(
    model: nn.Module,
    layers: Sequence[Layer],
    directions: Mapping[str, torch.Tensor],
    evaluator: Evaluator,
    steps: int = 10,
    tolerance: float = TOLERANCE,
    target: float | None = None,
    trajectory: Literal["best", "chosen", "all"] = "best",
    host: Any = None,
    reserve: Iterable[Layer] = (),
    risk: float = 0.05,
    early_stopping: bool = False,
    processes: Processes = ALONE,
) -> Search:
    """
    Searches every layer, and chooses the one that keeps most.

    Within a layer the smallest forgetting step is taken; among layers the best retained accuracy, and where that is equal (zero-shot:
    in whole points) first those that change by at most 16 times their weight, then the one that moves least what retain images are taken for,
    then the smallest change relative to the weight, then the lowest risk. Layers whose risk rests on hardly any images come last. Where no
    layer brings the risk down, the target alone decides. Of the chosen layer a larger step at a tenth of the risk is taken, where there
    is one within those 16 times that keeps as much to half a point.

    Args:
        model (`nn.Module`): The CLIPModel, or a host's encoder; unchanged by this.
        layers (`Sequence[Layer]`): The layers of the front.
        directions (`Mapping[str, torch.Tensor]`): Ascent directions by canonical module name.
        evaluator ([`Evaluator`]):
            Anything with `primary_metric` and `greater_is_better`. One that has `prepare`, as [`ZeroShotEvaluator`] has, runs
            only what lies above the changed layer, and the retained accuracy once for each layer that forgets.
        steps (`int`, *optional*, defaults to 10): At most so many trials per layer; of the chosen one as many again.
        tolerance (`float`, *optional*, defaults to 0.34): See [`search_layer`].
        target (`float`, *optional*):
            Forgotten means a primary metric at or below this, or at or above where greater is better. Defaults to 0 and 1.
        trajectory (`str`, *optional*, defaults to `"best"`):
            Where the retained accuracy is measured: at the `"best"` step of each layer that forgets (of all, if none does), also at
            every step of the `"chosen"` layer, or at `"all"` steps of all layers. With `"best"` a step of the vision tower is looked at no
            further once it is certain that it does not reach the target; `n` says after how many images.
        host (`DiffusionPipeline` or `nn.Module`, *optional*): What an evaluator is called with, if it is not the model.
        reserve (`Iterable[Layer]`, *optional*):
            More layers, best first, searched one by one while none has forgotten the concept and kept the rest; with a
            [`BehaviourEvaluator`] only. An iterator may add a layer's directions just before it yields the layer.
        risk (`float`, *optional*, defaults to 0.05):
            Forgotten also means a `risk`, with an evaluator that estimates it, at or below this (or the target, if that allows more). 1
            leaves it out.
        early_stopping (`bool`, *optional*, defaults to `False`):
            End at the first layer that forgets the concept and keeps the rest, with a [`BehaviourEvaluator`].
        processes ([`Processes`], *optional*):
            Those that share the layers. Where a layer is looked at only if those before it have not done, so many are looked at at a time.

    Returns:
        [`Search`]: All trials and the chosen one.

    Raises:
        ValueError: If there is no layer, no step, or the evaluator does not return its primary metric.
    """
    if not layers:
        raise ValueError("No layer to search: the forget loss does not depend on any candidate.")
    if steps < 1:
        raise ValueError(f"Expected at least one step, found {steps}.")
    goal = Goal.of(evaluator, target, risk)
    key = goal.metric

    def call(layer: Layer) -> Measure:
        def measure(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
            with changed_weights(model, layer, weights):
                result = evaluator(cast(Any, model if host is None else host))
            metrics = dict(result) if isinstance(result, Mapping) else {key: float(result)}
            if key not in metrics:
                raise ValueError(
                    f"The evaluator's primary_metric is {key!r}, and it returned only {', '.join(map(repr, metrics))}."
                )
            metrics[key] = float(metrics[key])
            return metrics

        return measure

    prepared = prepare(evaluator, model, host, goal.target)
    behaviour = prepared if isinstance(prepared, PreparedBehaviour) else None  # dear: looked at only where it decides
    hopeless = math.inf if behaviour is None else _HOPELESS
    left = iter(() if behaviour is None else reserve)
    ends = behaviour is not None and (early_stopping or bool(reserve))  # before everything was looked at
    before: dict[str, Any] | None = None
    by_layer: list[list[Trial]] = []

    def change(trial: Trial) -> tuple[Layer, dict[str, torch.Tensor]]:
        weights, on_them = start_of(model, trial.layer)
        return trial.layer, new_weights(weights, directions, trial.step_size, on_them)

    def measure_retained(prepared: PreparedZeroShot | PreparedBehaviour, trials: Sequence[Trial]) -> None:
        new = [t for t in trials if "ta" not in t.metrics]
        own = list(processes.mine(new))
        found = prepared.retained([change(trial) for _, trial in own]) if own else []
        for i, metrics in processes.gather([(i, metrics) for (i, _), metrics in zip(own, found, strict=True)]):
            new[i].metrics |= metrics

    def keeps_enough() -> bool:
        found = [trial for trial in map(goal.best_of, by_layer) if trial.forgotten]
        measure_retained(cast(PreparedBehaviour, behaviour), found)
        wanted = {name: untouched[name] - _SPARE for name in _KEPT if name in untouched}
        return any(all(trial.metrics[name] >= least for name, least in wanted.items()) for trial in found)

    def make_safer(prepared: PreparedZeroShot, trial: Trial) -> Trial:
        """
        Holds the layer of a trial to a far lower risk, if a larger step of it brings it there and hardly keeps less.

        Returns:
            `Trial`: That step, the smallest there is (and smaller ones don't count as forgetting any more); else the same.
        """
        layer, safer = trial.layer, goal.safer
        if not trial.forgotten or safer.is_forgotten(trial.metrics):
            return trial
        own = [each for each in tried if each.layer == layer]

        def go_on() -> list[Trial]:
            (weights, on_them), measure = start_of(model, layer), prepared.probe(layer)
            return search_layer(
                layer, weights, directions, measure, safer.is_forgotten, steps, tolerance, known=own, stacked=on_them
            )

        found = processes.from_main(go_on)
        own = own + found
        tried.extend(found)
        near = [
            t for t in own if safer.is_forgotten(t.metrics) and t.relative_change <= max(FAR, trial.relative_change)
        ]
        safe = min(near, key=lambda t: t.step_size, default=trial)
        measure_retained(prepared, [safe])
        accepted = safe is not trial and safe.metrics["ta"] >= trial.metrics["ta"] - HARDLY
        for each in own:
            each.forgotten = (safer if accepted else goal).is_forgotten(each.metrics)
        return safe if accepted else trial

    def complete(prepared: PreparedZeroShot | PreparedBehaviour, trials: Sequence[Trial]) -> None:
        """Goes on with looks that stopped early, where no layer forgets: which step comes closest, can't be told otherwise."""
        by_layer: dict[Layer, list[Trial]] = {}
        for trial in trials:
            by_layer.setdefault(trial.layer, []).append(trial)
        own = list(processes.mine(by_layer))
        if isinstance(prepared, PreparedZeroShot):
            prepared.expect([layer for _, layer in own])
        found = []
        for i, layer in own:
            measure = prepared.probe(layer, whole=True)
            found.append((i, [measure(change(trial)[1]) for trial in by_layer[layer]]))
        some = list(by_layer.values())
        for i, metrics in processes.gather(found):
            for trial, new in zip(some[i], metrics, strict=True):
                trial.metrics.pop("n", None)
                trial.metrics |= new

    def look(some: Sequence[Layer]) -> list[list[Trial]]:
        """Searches layers, each in one of the processes; returns the trials of each that had any, in their order."""
        nonlocal before
        found = []
        for i, layer in processes.mine(some):
            weights, on_them = start_of(model, layer)
            measure = prepared.probe(layer) if prepared is not None else call(layer)
            if before is None and i == 0:  # by the same layer, however many processes there are
                before = measure({name: weight.data for name, weight in layer_weights(model, layer).items()})
            rest: dict[str, Any] = {"tolerance": tolerance, "hopeless": hopeless, "stacked": on_them}
            found.append((i, search_layer(layer, weights, directions, measure, goal.is_forgotten, steps, **rest)))
            bar.update()
        return [trials for _, trials in sorted(processes.gather(found), key=lambda own: own[0]) if trials]

    def rounds() -> Iterator[Sequence[Layer]]:
        """What is looked at at a time."""
        size = processes.count if early_stopping and behaviour is not None else len(layers)
        yield from (layers[start : start + size] for start in range(0, len(layers), size))
        while part := list(islice(left, processes.count)):
            yield part

    if isinstance(prepared, PreparedZeroShot):
        enough = goal.target if trajectory == "best" else math.inf
        prepared.expect([layer for _, layer in processes.mine(layers)], enough)
    untouched: dict[str, float] = {}
    if behaviour is not None and ends:
        untouched = processes.from_main(lambda: behaviour.evaluator.retained(behaviour.host))

    def look_until_enough() -> None:
        for part in rounds():
            found = look(part)
            one_by_one = early_stopping or part[0] not in layers  # where several were looked at, as if by one process
            for i, trials in enumerate(found, 1):
                by_layer.append(trials)
                if ends and (one_by_one or i == len(found)) and keeps_enough():
                    return

    # nobody knows how many of the reserve it takes
    total = None if ends else len(range(processes.rank, len(layers), processes.count))
    with logging.tqdm(total=total, desc="search", leave=False) as bar:
        look_until_enough()
    before = next((found for found in processes.gather([before]) if found is not None), None)
    if not by_layer:
        raise ValueError("Even the first step of every layer overflows the model's dtype. Load the model in float32.")
    tried = [trial for trials in by_layer for trial in trials]
    if isinstance(prepared, PreparedZeroShot) and not any(goal.is_reached(trial.metrics) for trial in tried):
        complete(prepared, [trial for trial in tried if "n" in trial.metrics])
    best = [goal.best_of(trials) for trials in by_layer]
    forgetting = [trial for trial in best if trial.forgotten] or [t for t in best if goal.is_reached(t.metrics)]
    if prepared is not None:
        measure_retained(prepared, forgetting or best)
    if behaviour is not None and not forgetting:
        complete(behaviour, best)
    closest = min(goal.distance(trial) for trial in best)
    pool = forgetting or [trial for trial in best if goal.distance(trial) == closest]

    chosen = min(pool, key=preference)
    if isinstance(prepared, PreparedZeroShot) and risk < 1:
        chosen = make_safer(prepared, chosen)
    if prepared is not None and trajectory != "best":
        measure_retained(prepared, [t for t in tried if trajectory == "all" or t.layer == chosen.layer])
    return Search(tried, chosen, bool(forgetting), was_known=before is not None and not goal.is_reached(before))
