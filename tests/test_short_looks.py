# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A step of the vision tower is looked at no further once it is certain that it does not forget: that decides nothing otherwise."""

import pytest
from conftest import NAMES, completed_looks, noise_pairs

from hf_slug.evaluation import PreparedZeroShot, ZeroShotEvaluator
from hf_slug.gradients import compute_forget_gradients
from hf_slug.search import search
from hf_slug.steps import new_weights
from hf_slug.towers import candidate_layers, layer_weights


IMAGES = 40  # in parts of 16, 16 and 8


@pytest.fixture
def layers(tiny):
    return candidate_layers(tiny, "vision")[::5]


@pytest.fixture
def evaluator(tiny, processor):
    """Of the name that most of the images are taken for."""
    forget, retain = noise_pairs(IMAGES, seed=1, names=["three"]), noise_pairs(14, seed=2)
    each = [ZeroShotEvaluator(processor, forget, retain, name, NAMES) for name in NAMES]
    return max(each, key=lambda evaluator: evaluator(tiny)["fa1"])


@pytest.fixture
def directions(tiny, processor, layers, evaluator):
    prompt = evaluator.prompts[evaluator.concept]
    return compute_forget_gradients(tiny, processor, layers, evaluator.forget, [prompt])


def decisions(found):
    trials = [(trial.layer, trial.step_size, trial.forgotten) for trial in found.trials]
    return trials, found.chosen.layer, found.chosen.step_size, found.succeeded, found.was_known


def short(found):
    return [trial.metrics["n"] for trial in found.trials if "n" in trial.metrics]


@pytest.mark.parametrize("target, risk", [(0.0, 1.0), (0.0, 0.05), (0.1, 1.0)])
def test_it_decides_as_if_all_had_been_looked_at(tiny, evaluator, layers, directions, target, risk):
    arguments = {"steps": 6, "tolerance": 0.0, "target": target, "risk": risk}
    some = search(tiny, layers, directions, evaluator, **arguments)
    every = search(tiny, layers, directions, evaluator, trajectory="all", **arguments)
    assert decisions(some) == decisions(every) and any(trial.forgotten for trial in some.trials)
    assert short(some) and set(short(some)) <= {8, 16, 24, 32} and not short(every)
    for trial, whole in zip(some.trials, every.trials, strict=True):
        if "n" not in trial.metrics:
            same = trial.metrics.keys() & whole.metrics.keys()
            assert {key: trial.metrics[key] for key in same} == pytest.approx(
                {key: whole.metrics[key] for key in same}
            )
        else:  # more than the target of all are still recognised among those
            assert trial.metrics["fa1"] * trial.metrics["n"] > target * IMAGES and not trial.forgotten


def test_where_no_step_forgets_all_of_them_are_completed(tiny, evaluator, layers, directions):
    arguments = {"steps": 1, "risk": 1.0}
    with completed_looks() as completed:
        some = search(tiny, layers, directions, evaluator, **arguments)
    assert len(completed) > 1
    every = search(tiny, layers, directions, evaluator, trajectory="all", **arguments)
    assert not some.succeeded and not short(some) and decisions(some) == decisions(every)
    for trial, whole in zip(some.trials, every.trials, strict=True):
        for key in ("fa1", "fa5", "risk", "risk_n"):
            assert trial.metrics[key] == pytest.approx(whole.metrics[key]), key


def test_a_layer_that_does_not_forget_beside_others_is_left_at_that(tiny, evaluator, layers, directions, monkeypatch):
    towards = layers[-1]
    # whatever the step, the concept is known the better
    directions |= {name: -directions[name] for name in towards.modules}
    looked_at = []
    plain = PreparedZeroShot.retained

    def note(self, changes):
        looked_at.extend(changes)
        return plain(self, changes)

    monkeypatch.setattr(PreparedZeroShot, "retained", note)
    found = search(tiny, layers, directions, evaluator, steps=6, risk=1.0)
    own = [trial for trial in found.trials if trial.layer == towards]
    assert found.succeeded and own and all("n" in trial.metrics and not trial.forgotten for trial in own)
    assert towards not in [layer for layer, _ in looked_at]
    assert all("ta" not in trial.metrics for trial in own) and "ta" in found.chosen.metrics


@pytest.mark.parametrize("more", [0, 7])
def test_what_was_recorded_of_the_concept_is_not_embedded_again(tiny, evaluator, layers, more):
    evaluator.seen = noise_pairs(7, seed=9, names=["three"])[:more]
    text = candidate_layers(tiny, "text")[0]
    weights = {name: weight.data for name, weight in layer_weights(tiny, text).items()}
    expected = evaluator.prepare(tiny).probe(text)(weights)
    assert expected["risk_n"] == IMAGES + more
    prepared = evaluator.prepare(tiny)
    prepared.expect([layers[0]])
    prepared.probe(layers[0])
    run = []
    tiny.vision_model.register_forward_hook(lambda _, __, output: run.append(len(output.pooler_output)))
    found = prepared.probe(text)(weights)
    assert sum(run) == more
    assert found == pytest.approx(expected) and found["fa1"] == evaluator(tiny)["fa1"]


def test_the_part_that_told_is_asked_first(tiny, evaluator, layers, directions, monkeypatch):
    prepared, layer = evaluator.prepare(tiny), layers[0]
    prepared.expect([layer], enough=0.0)
    weights = layer_weights(tiny, layer)
    measure = prepared.probe(layer)
    asked = []
    forgotten = evaluator.forgotten

    def only_the_last_eight(images, classes):
        asked.append(len(images))
        return forgotten(images, classes) | {"fa1": float(len(images) == 8)}

    monkeypatch.setattr(evaluator, "forgotten", only_the_last_eight)
    changed = new_weights(weights, directions, 0.0)
    assert "n" not in measure(changed)  # the last of three parts
    assert measure(changed)["n"] == 8 and asked == [16, 16, 8, 40, 8, 8]


def test_no_image_that_is_recognised_within_the_target_ends_a_look(tiny, evaluator, layers, directions, monkeypatch):
    """0.29 · 100 is less than 29 to a computer."""
    prepared, layer = evaluator.prepare(tiny), layers[0]
    evaluator.forget = noise_pairs(100, seed=1, names=["three"])
    evaluator.n_forget = 100
    prepared.expect([layer], enough=0.29)
    found = iter([{"fa1": 9 / 25}, {"fa1": 10 / 25}, {"fa1": 10 / 25}, {"fa1": 0.0}, {"fa1": 0.29, "fa5": 1.0}])
    monkeypatch.setattr(evaluator, "forgotten", lambda images, classes: next(found))
    assert "n" not in prepared.probe(layer)(new_weights(layer_weights(tiny, layer), directions, 0.0))
