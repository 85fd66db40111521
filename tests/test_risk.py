# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import noise_pairs
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk
from hf_slug.evaluation.risk import student_cdf
from hf_slug.losses import normalize
from hf_slug.search import search
from hf_slug.towers import candidate_layers, layer_weights


@given(st.floats(-40, 40), st.integers(1, 400))
def test_students_distribution_is_scipys(x, degrees):
    assert student_cdf(x, degrees) == pytest.approx(t.cdf(x, degrees), abs=1e-9)


@pytest.mark.parametrize("n", [3, 8])
def test_a_further_picture_is_recognised_as_seldom_as_it_says(n):
    """Of samples that promise at most 5 % the next one breaks the promise, whatever the spread, in at most 5 % of all cases."""
    generator = torch.Generator().manual_seed(n)
    samples, another = torch.randn(4000, n, generator=generator), torch.randn(4000, generator=generator)
    # margins of a step by which `another` is just not recognised any more
    promised = [estimate_risk(sample - one) <= 0.05 for sample, one in zip(samples, another)]
    assert sum(promised) / len(promised) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    "margins, expected",
    [
        ([1.0, -0.1, 1.0, 1.0], None),  # the share that is recognised already is the least there is
        ([0.3, 0.3, 0.3], 0.0),
        ([0.3], 0.0),
        ([-0.3], 1.0),
        ([0.0, 0.0], 1.0),  # a tie counts as recognised, as it does in FA
        ([1.0, float("nan")], 1.0),
        ([1.0, 3.0], t.cdf(-2 / (2**0.5 * 1.5**0.5), 1)),
    ],
)
def test_by_hand(margins, expected):
    found = estimate_risk(torch.tensor(margins))
    assert found >= 0.25 if expected is None else found == pytest.approx(expected)


def test_more_or_wider_margins_lower_it():
    near, far = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([1.1, 1.3, 1.2])
    assert estimate_risk(far) < estimate_risk(near)
    assert estimate_risk(near.repeat(5)) < estimate_risk(near)


@pytest.mark.parametrize("k", [1, 5])
def test_margins_and_accuracy_agree(tiny, processor, k):
    names = [f"thing {i}" for i in range(9)]
    pairs = noise_pairs(12)
    evaluator = ZeroShotEvaluator(processor, pairs, pairs.subset([]), names[0], names, k=k)
    generator = torch.Generator().manual_seed(k)
    images, classes = torch.randn(40, 8, generator=generator), normalize(torch.randn(9, 8, generator=generator))
    recognised = (evaluator.margins(images, classes) <= 0).double().mean()
    assert float(recognised) == pytest.approx(evaluator.forgotten(images, classes)[f"fa{k}"])
    assert 0 < recognised < 1
    evaluator.k = 9  # fewer others than that: every picture shows it
    assert bool((evaluator.margins(images, classes) == -torch.inf).all())


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_pictures_of_the_gradient_count_in_the_risk_and_not_in_fa(tiny, processor, tower):
    pairs, more = noise_pairs(3), noise_pairs(5, seed=7)
    names = ["a", "b", "c"]
    layer = next(layer for layer in candidate_layers(tiny, tower))
    weights = {name: weight.data for name, weight in layer_weights(tiny, layer).items()}
    given = [ZeroShotEvaluator(processor, pairs, pairs.subset([]), "a", names, seen=seen) for seen in (None, more)]
    alone, both = (evaluator.prepare(tiny).probe(layer)(weights) for evaluator in given)
    assert {key: alone[key] for key in ("fa1", "fa5")} == {key: both[key] for key in ("fa1", "fa5")}
    # those of the gradient say too much good of a changed vision tower
    assert (alone["risk"] == both["risk"]) is (tower == "vision")


class Narrow:
    """Forgotten from a step of 0.2 on; the risk falls from there on, if it does."""

    primary_metric, greater_is_better = "fa1", False

    def __init__(self, model, falls):
        self.start, self.falls = model.text_projection.weight.detach().clone(), falls

    def __call__(self, model):
        moved = float((model.text_projection.weight.detach() - self.start).norm() / self.start.norm())
        return {"fa1": float(moved < 0.2), "risk": max(0.0, 1 - moved) if self.falls else 0.5, "ta": 1.0}


def test_what_hardly_any_images_say_is_believed_last(tiny):
    """Two pictures may be forgotten by chance, and a changed vision tower has no others to go by."""
    layers = [layer for layer in candidate_layers(tiny) if layer.name in ("text_projection", "visual_projection")]
    directions = {layer.name: torch.ones_like(tiny.get_submodule(layer.name).weight) for layer in layers}

    class Few:
        primary_metric, greater_is_better = "fa1", False
        start = tiny.text_projection.weight.detach().clone()

        def __call__(self, model):
            text = not torch.equal(model.text_projection.weight, self.start)
            return {"fa1": 0.0, "risk": 0.0, "risk_n": 8 if text else 2, "ta": 0.8 if text else 0.9}

    assert search(tiny, layers, directions, Few()).chosen.layer.name == "text_projection"
    vision = [layer for layer in layers if layer.tower == "vision"]
    assert search(tiny, vision, directions, Few()).chosen.layer.name == "visual_projection"


def test_a_step_is_taken_that_lowers_the_risk_where_there_is_one(tiny):
    layer = next(layer for layer in candidate_layers(tiny) if layer.name == "text_projection")
    directions = {"text_projection": torch.ones_like(tiny.text_projection.weight)}

    def found(falls, **settings):
        return search(tiny, [layer], directions, Narrow(tiny, falls), **settings)

    plain, careful, hopeless = found(True, risk=1.0), found(True, risk=0.05), found(False, risk=0.05)
    assert plain.succeeded and plain.chosen.relative_change == pytest.approx(0.2)
    assert careful.succeeded and 0.95 <= careful.chosen.relative_change < 1.6
    assert hopeless.succeeded and not hopeless.chosen.forgotten  # the target alone decides
    assert hopeless.chosen.relative_change == pytest.approx(0.2)
    assert found(True, risk=0.05, target=0.6).chosen.relative_change < careful.chosen.relative_change
