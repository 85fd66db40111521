# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_slug.scores import importance_and_alignment, pareto_fronts, score_layers, select_layers
from hf_slug.towers import Layer


numbers = st.floats(0, 1, allow_nan=False) | st.sampled_from([0.0, 0.5, 1.0])  # ties are the hard part
points = st.lists(st.tuples(numbers, numbers), max_size=14)


def worse(a, b):
    """Point a is dominated by point b."""
    return (b[0] >= a[0] and b[1] < a[1]) or (b[0] > a[0] and b[1] <= a[1])


@given(points)
def test_the_first_front_is_what_nothing_dominates(values):
    fronts = pareto_fronts(values)
    expected = {i for i, p in enumerate(values) if not any(worse(p, q) for q in values)}
    assert (set(fronts[0]) if fronts else set()) == expected


@given(points)
def test_fronts_peel_everything_once(values):
    fronts = pareto_fronts(values)
    assert sorted(i for front in fronts for i in front) == list(range(len(values)))
    for upper, lower in zip(fronts, fronts[1:]):
        assert all(any(worse(values[i], values[j]) for j in upper) for i in lower)


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = pareto_fronts([values[i] for i in order])
    assert [{order[i] for i in front} for front in shuffled] == [set(front) for front in pareto_fronts(values)]


def test_a_group_is_scored_as_one_long_vector():
    torch.manual_seed(0)
    weights, forget, retain = ([torch.randn(3, 4), torch.randn(5, 2)] for _ in range(3))
    w, f, r = (torch.cat([t.flatten() for t in tensors]).double() for tensors in (weights, forget, retain))
    importance, alignment = importance_and_alignment(weights, forget, retain)
    assert importance == pytest.approx((f.norm() / w.norm()).item(), rel=1e-12)
    assert alignment == pytest.approx((f @ r / (f.norm() * r.norm())).item(), rel=1e-12)


def test_a_vanishing_gradient_is_no_division_by_zero():
    assert importance_and_alignment([torch.ones(2)], [torch.zeros(2)], [torch.ones(2)]) == (0.0, 0.0)
    assert importance_and_alignment([torch.zeros(2)], [torch.ones(2)], [torch.ones(2)])[0] == 0.0


def scored(values):
    """One matrix a layer, made to have the importance and alignment asked for."""
    layers = [
        Layer(f"{tower}.{i}", (f"{tower}.{i}",), tower, i) for tower, part in values.items() for i in range(len(part))
    ]
    flat = [value for part in values.values() for value in part]
    weights = {layer.name: torch.tensor([1.0, 0.0]) for layer in layers}
    forget = {layer.name: torch.tensor([value[0], 0.0]) for layer, value in zip(layers, flat)}
    retain = {layer.name: torch.tensor([value[1], (1 - value[1] ** 2) ** 0.5]) for layer, value in zip(layers, flat)}
    return score_layers(layers, weights, forget, retain)


def test_the_front_is_a_towers_own():
    scores = scored({"vision": [(0.9, 0.1), (0.8, -0.05), (0.7, 0.2)], "text": [(0.2, 0.9), (0.1, 0.95)]})
    assert [score.on_front for score in scores] == [True, True, False, True, False]


def test_a_small_front_is_filled_up_and_the_papers_is_not():
    values = [(0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5), (0.4, 0.6)]  # each dominates the next
    scores = scored({"vision": values})
    assert [s.layer.block for s in select_layers(scores)] == [0, 1, 2, 3, 4]
    assert [s.layer.block for s in select_layers(scores, front_only=True)] == [0]
    assert [s.on_front for s in scores] == [True] + [False] * 5


def test_layers_without_a_gradient_are_never_searched():
    scores = scored({"vision": [(0.0, 0.0), (0.5, 0.3)]})
    assert [s.layer.block for s in select_layers(scores)] == [1]
