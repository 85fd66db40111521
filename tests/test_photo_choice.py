# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The one rule that chooses the settings and steps of every method on photographs."""

import math
import random
import types

import photo_choice
import photo_data
import photo_methods
import pytest
import torch
from photo_miniature import prints
from photo_sources import FACE_NAMES, NAMES, OBJECT_NAMES

from hf_slug.evaluation import zero_shot_evaluators


pytestmark = pytest.mark.usefixtures("photographs")


SURE = 0.01  # a risk that is allowed, and more than a tenth of what is


@pytest.mark.parametrize(
    "looks, best, taken, without_risk",
    [
        ([(0.5, 1, 0.9), (0, 0.2, 0.4), (0, SURE, 0.1)], 3, 3, 2),  # forgotten for sure
        ([(0, SURE, 0.6), (0, SURE, 0.7)], 2, 2, 2),  # among those what keeps most
        ([(0, SURE, 0.604), (0, SURE, 0.596, 0.1)], 2, 2, 2),  # to a point, then what moves least
        ([(0.5, 1, 0.9), (0.2, 1, 0.1)], 2, 2, 2),  # where none forgets, the nearest to it
        ([(0, SURE, 0.7), *[(0, SURE, 0.6)] * 3, (0, SURE, 0.8)], 1, 4, 1),  # no more patience
        ([(0, 0.001, 0.7), *[(0, 0.001, 0.699)] * 3, (0, SURE, 0.8)], 1, 4, 1),  # nor with what is safe already
        ([(0, 0.1, 0.7), *[(0, 0.1, 0.6)] * 3, (0, SURE, 0.5)], 5, 5, 1),  # which what is on its way does not need
        ([*[(0.5, 1, 0.6)] * 5, (0, SURE, 0.5)], 6, 6, 6),  # which what has not forgotten does not need
        ([(0, SURE, 0.7), *[(0, SURE, 0.699)] * 3, (0, 0.001, 0.698)], 5, 5, 1),  # nor what may get safer for nothing
        ([(0, SURE, 0.7), (0, 0.001, 0.697)], 2, 2, 1),  # far safer, and keeps as much
        ([(0, SURE, 0.7), (0, 0.001, 0.69)], 1, 2, 1),  # too dear
        # the safest was left behind by over half a point
        ([(0, 0.001, 0.697), (0, SURE, 0.71), (0, 0.001, 0.69)], 2, 3, 2),
    ],
)
def test_baselines_are_chosen_by_the_rule_that_chooses_slugs_step(monkeypatch, looks, best, taken, without_risk):
    left = iter(looks)
    look = photo_choice.Look
    monkeypatch.setattr(photo_methods, "Validation", lambda *_: lambda *_: look(*[*next(left), 1.0][:4]))
    monkeypatch.setattr(photo_methods, "ClipLosses", lambda *_, **__: types.SimpleNamespace(random=random.Random(0)))
    model = torch.nn.Linear(2, 2)

    def train(losses, lr, steps, every):
        for i in range(1, len(looks) + 1):
            with torch.no_grad():
                model.weight.fill_(float(i))
            yield i

    monkeypatch.setitem(photo_methods.TRAINERS, "FT", train)
    monkeypatch.setitem(photo_methods.GRIDS, "FT", {"lr": (0.1,), "steps": (9,), "every": (1,)})
    photographs = photo_data.Photographs("x", {"forget": None, "retain": None})
    outcome = photo_methods.apply("FT", model, None, photographs, 0)
    for found, step in ((outcome, best), (outcome.without_risk or outcome, without_risk)):
        assert found.chosen == f"lr 0.1, step {step}" and bool((found.model.weight == step).all())
        assert found.setting == {"lr": 0.1, "step": step}
    assert [(look["step"], look["left"]) for look in outcome.looks] == [(i + 1, looks[i][0]) for i in range(taken)]
    assert outcome.forgotten is (looks[best - 1][0] == 0) and len(list(left)) == len(looks) - taken


def test_what_chooses_is_what_the_search_goes_by(photo_folder):
    model, processor = photo_data.load_model(photo_folder / "model")
    looks = []
    for concept in (
        *FACE_NAMES[:2],
        *OBJECT_NAMES,
    ):  # the model is random: it takes some to be the first, and others not
        photographs = photo_data.collect(concept, 0, objects=12, test_objects=60)
        parts = photographs.parts
        validation = photo_choice.Validation(processor, photographs, model)
        usual, _ = zero_shot_evaluators(model, processor, parts, concept, NAMES, ["a photo of {}"], None, 64)
        assert prints(validation.evaluator.forget) == prints(parts["validation_forget"]) == prints(usual.forget)
        assert prints(validation.evaluator.seen) == prints(usual.seen) and validation.evaluator.k == usual.k == 5
        look, measured = validation(model), usual(model)
        assert (look.left, look.forgets) == (measured["fa5"], measured["fa5"] == 0)
        assert look.kept == pytest.approx(measured["ta"], abs=0.02) and look.moved == pytest.approx(0, abs=1e-6)
        # what is kept is not looked at where it decides nothing
        choice = photo_choice.Choice()
        choice.offer(photo_choice.Look(1.0, 1.0, 1.0, 0.0), None)
        assert validation(model, [choice]) == look
        choice.offer(photo_choice.Look(0.0, 0.0), None)
        decided = look.first() < (True, True, 0.0)
        assert validation(model, [choice, photo_choice.Choice()]) == look  # another may want it
        assert validation(model, [choice]).moved == (math.inf if decided else look.moved)
        looks.append(decided)
    assert any(looks)
    with torch.no_grad():
        model.text_projection.weight.mul_(torch.linspace(0, 2, model.text_projection.weight.shape[0])[:, None])
    assert validation(model).moved > 1e-3
