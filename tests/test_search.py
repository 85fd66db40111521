# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import assert_same, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_slug.evaluation import BehaviourEvaluator, Evaluator, PreparedZeroShot
from hf_slug.search import search
from hf_slug.steps import initial_step, new_weights, search_layer
from hf_slug.towers import candidate_layers


LAYER = candidate_layers.__name__  # a layer is only a label here


def run(threshold, steps=10, tolerance=1 / 16):
    """Searches a layer that forgets from a step of `threshold` on; λ₀ is 1."""
    weights, directions = {"w": torch.full((10, 10), 1.0)}, {"w": torch.full((10, 10), 0.1)}
    assert initial_step(weights, directions) == pytest.approx(1.0)
    seen = []

    def measure(changed):
        step = float((changed["w"] - 1.0).mean() / 0.1)
        seen.append(step)
        return {"fa1": float(step < threshold)}

    trials = search_layer(LAYER, weights, directions, measure, lambda m: m["fa1"] == 0, steps, tolerance)
    assert [t.step_size for t in trials] == pytest.approx(seen, rel=1e-4)
    return trials


def test_it_doubles_from_a_tenth_of_the_norm_and_then_bisects():
    steps = [trial.step_size for trial in run(5.0, tolerance=0)]
    assert steps[:7] == pytest.approx([1, 2, 4, 8, 6, 5, 4.5])
    assert len(steps) == 10


def test_it_bisects_downwards_when_the_first_step_already_forgets():
    assert [t.step_size for t in run(0.3, steps=4)] == pytest.approx([1, 0.5, 0.25, 0.375])


@settings(deadline=None)
@given(st.floats(0.05, 200))
def test_the_smallest_forgetting_step_is_found_to_the_tolerance(threshold):
    trials = run(threshold, steps=30)
    smallest = min(t.step_size for t in trials if t.forgotten)
    assert threshold * (1 - 1e-4) <= smallest <= threshold / (1 - 1 / 16) * (1 + 1e-4)
    assert len(trials) < 20


def test_it_never_takes_more_than_k_steps_and_says_when_it_fails():
    trials = run(1e9, steps=6)
    assert [t.step_size for t in trials] == pytest.approx([1, 2, 4, 8, 16, 32])
    assert not any(t.forgotten for t in trials)
    assert trials[-1].relative_change == pytest.approx(3.2)


def test_a_step_that_overflows_the_dtype_ends_the_search():
    weights, directions = {"w": torch.full((4,), 60000.0, dtype=torch.float16)}, {"w": torch.ones(4)}
    trials = search_layer(LAYER, weights, directions, lambda w: {"fa1": 1.0}, lambda m: False, 10)
    assert trials == []


def test_parts_of_a_group_are_scaled_jointly():
    weights = {"a": torch.full((3,), 4.0), "b": torch.full((4,), 1.0)}
    directions = {"a": torch.full((3,), 1.0), "b": torch.full((4,), 3.0)}
    expected = (3 * 16 + 4) ** 0.5 / (10 * (3 + 4 * 9) ** 0.5)
    step = initial_step(weights, directions)
    assert step == pytest.approx(expected)
    changed = new_weights(weights, directions, step)
    assert ((changed["a"] - 4) / 1).mean().item() == pytest.approx(((changed["b"] - 1) / 3).mean().item(), rel=1e-4)


class Drift:
    """A user's evaluator: how far a projection has moved from where it was."""

    primary_metric = "kept"
    greater_is_better = False

    def __init__(self, model, name, ta=None, bare=False):
        self.weight, self.name, self.calls, self.ta, self.bare = (
            model.get_submodule(name).weight.detach().clone(),
            name,
            0,
            ta,
            bare,
        )

    def __call__(self, model):
        self.calls += 1
        moved = float((model.get_submodule(self.name).weight.detach() - self.weight).norm() / self.weight.norm())
        kept = max(0.0, 1 - moved)
        return kept if self.bare else {"kept": kept} | ({"ta": self.ta(moved)} if self.ta else {})


class Gone(Drift):
    """The same the other way round: greater is better."""

    primary_metric = "gone"
    greater_is_better = True

    def __call__(self, model):
        return {"gone": 1 - super().__call__(model)["kept"]}


def directions_of(model, layers):
    torch.manual_seed(0)
    return {name: torch.randn_like(model.get_submodule(name).weight) for layer in layers for name in layer.modules}


def test_any_evaluator_will_do(tiny):
    layers = [layer for layer in candidate_layers(tiny) if layer.name in ("visual_projection", "text_projection")]
    before = snapshot(tiny)
    for evaluator in (
        Drift(tiny, "visual_projection"),
        Drift(tiny, "visual_projection", bare=True),
        Gone(tiny, "visual_projection"),
    ):
        assert isinstance(evaluator, Evaluator)
        found = search(tiny, layers, directions_of(tiny, layers), evaluator, target=0.5)
        assert found.succeeded and found.chosen.layer.name == "visual_projection"
        assert 0.5 <= found.chosen.relative_change <= 0.5 / (1 - 0.34) + 1e-3
        assert evaluator.calls == len(found.trials) + 1  # once at the original weights
        assert found.was_known
    assert_same(tiny, before)


@pytest.mark.parametrize("tolerance, steps", [(0.0, 10), (0.9, 4)])
def test_a_layer_is_searched_to_the_tolerance_asked_for(tiny, tolerance, steps):
    (layer,) = (layer for layer in candidate_layers(tiny) if layer.name == "visual_projection")
    evaluator = Drift(tiny, "visual_projection")
    found = search(tiny, [layer], directions_of(tiny, [layer]), evaluator, target=0.55, tolerance=tolerance)
    assert found.succeeded and len(found.trials) == steps


def test_among_forgetting_layers_the_best_retained_accuracy_wins(tiny):
    layers = [layer for layer in candidate_layers(tiny) if layer.name in ("visual_projection", "text_projection")]

    class Both:
        primary_metric, greater_is_better = "fa1", False
        originals = {
            name: tiny.get_submodule(name).weight.detach().clone() for name in ("visual_projection", "text_projection")
        }

        def __call__(self, model):
            moved = {n: float((model.get_submodule(n).weight.detach() - w).norm()) for n, w in self.originals.items()}
            return {"fa1": 0.0, "ta": 0.9 if moved["text_projection"] > 0 else 0.5}

    found = search(tiny, layers, directions_of(tiny, layers), Both(), steps=3)
    assert found.chosen.layer.name == "text_projection"
    assert found.chosen.step_size == min(t.step_size for t in found.trials if t.layer.name == "text_projection")


def projections(model):
    """Both projections: their names, their layers, and their weights as they are now."""
    names = ("visual_projection", "text_projection")
    layers = [layer for layer in candidate_layers(model) if layer.name in names]
    return names, layers, [model.get_submodule(name).weight.detach().clone() for name in names]


@pytest.mark.parametrize(
    "kept, moved, wanted",
    [
        ((0.902, 0.898), (0.2, 0.1), "text_projection"),  # as good to a point: what has moved least
        ((0.902, 0.898), (0.1, 0.2), "visual_projection"),
        ((0.93, 0.898), (0.2, 0.1), "visual_projection"),  # over a point better
        ((0.902, 0.898), (None, None), "visual_projection"),  # nobody says what has moved
    ],
)
def test_among_layers_that_keep_as_much_the_one_that_moves_least_wins(tiny, kept, moved, wanted):
    names, layers, originals = projections(tiny)

    class Judge:
        primary_metric, greater_is_better = "fa1", False

        def __call__(self, model):
            changed = [bool((model.get_submodule(n).weight != w).any()) for n, w in zip(names, originals)]
            own = changed.index(True) if any(changed) else 0
            return {"fa1": 0.0, "ta": kept[own]} | ({} if moved[own] is None else {"kl": moved[own]})

    assert search(tiny, layers, directions_of(tiny, layers), Judge(), steps=3).chosen.layer.name == wanted


@pytest.mark.parametrize(
    "kept, needed, wanted",
    [
        ((0.902, 0.898), (20.0, 2.0), "text_projection"),  # as good to a point, and far less is changed
        ((0.902, 0.898), (10.0, 2.0), "visual_projection"),  # up to 16 times the weight what has moved least decides
        ((0.902, 0.898), (40.0, 20.0), "visual_projection"),  # both are beyond
        ((0.93, 0.898), (20.0, 2.0), "visual_projection"),  # over a point better
    ],
)
def test_a_change_of_many_times_the_weight_wins_only_where_it_keeps_more(tiny, kept, needed, wanted):
    names, layers, originals = projections(tiny)

    class Judge:
        primary_metric, greater_is_better = "fa1", False

        def __call__(self, model):
            weights = [model.get_submodule(n).weight.detach() for n in names]
            moved = [float((weight - w).norm() / w.norm()) for weight, w in zip(weights, originals, strict=True)]
            own = int(moved[1] > 0)
            # at the original weights nothing is forgotten, and of the two the first moves less
            return {"fa1": float(moved[own] < needed[own]), "ta": kept[own], "kl": (0.1, 0.2)[own]}

    assert search(tiny, layers, directions_of(tiny, layers), Judge()).chosen.layer.name == wanted


class Margins(PreparedZeroShot):
    """Stands for zero-shot images: how far a layer has moved says how safely the concept is forgotten and what is kept."""

    primary_metric, greater_is_better = "fa5", False

    def __init__(self, model, risk, ta):
        self.model, self.risk, self.ta = model, risk, ta

    def prepare(self, model):
        return self

    def expect(self, layers, enough):
        pass

    def _moved(self, layer, weights):
        (name,) = layer.modules
        weight = self.model.get_submodule(name).weight.detach()
        return float((weights[name] - weight).norm() / weight.norm())

    def probe(self, layer):
        return lambda weights: {"fa5": 0.0, "risk": self.risk(self._moved(layer, weights)), "risk_n": 9}

    def retained(self, changes):
        return [{"ta": self.ta(self._moved(*change))} for change in changes]


def falling(moved):
    return 0.02 / max(moved, 0.01)  # at most 5 % from 0.4 of the norm on, a tenth of that from 4


def stepwise(moved):
    return 0.001 if moved > 0.79 else 0.02 if moved > 0.59 else 0.5


@pytest.mark.parametrize(
    "risk, ta, allowed, wanted",
    [
        (falling, lambda moved: 0.9, 0.05, (4, 6.1)),  # safer at no cost
        (falling, lambda moved: 0.9 if moved < 2 else 0.896, 0.05, (4, 6.1)),  # at hardly any
        (falling, lambda moved: 0.9 if moved < 2 else 0.89, 0.05, (0.4, 0.61)),  # too dear
        (lambda moved: max(falling(moved), 0.01), lambda moved: 0.9, 0.05, (0.4, 0.61)),  # out of reach
        (lambda moved: 0.001, lambda moved: 0.9, 0.05, (0, 0.1)),  # as safe already
        (stepwise, lambda moved: 0.9, 0.05, (0.79, 0.81)),  # a step that was looked at before
        (falling, lambda moved: 0.9, 1.0, (0, 0.1)),  # nobody asks for the risk
        (
            lambda moved: 0.2 / max(moved, 0.01),
            lambda moved: 0.9,
            0.05,
            (4, 6.1),
        ),  # safer only at over 16 times the weight
    ],
)
def test_of_the_chosen_layer_a_safer_step_is_taken_where_it_costs_nothing(tiny, risk, ta, allowed, wanted):
    layers = [layer for layer in candidate_layers(tiny) if layer.name == "text_projection"]
    before = snapshot(tiny)
    found = search(tiny, layers, directions_of(tiny, layers), Margins(tiny, risk, ta), risk=allowed)
    assert found.succeeded and wanted[0] <= found.chosen.relative_change <= wanted[1]
    assert found.chosen.step_size == min(trial.step_size for trial in found.trials if trial.forgotten)
    assert_same(tiny, before)


def test_a_target_that_is_reached_without_a_change_is_said(tiny):
    layers = candidate_layers(tiny, "vision")[-1:]
    found = search(tiny, layers, directions_of(tiny, layers), Drift(tiny, "visual_projection"), steps=2, target=1.5)
    assert not found.was_known


def test_failure_is_said_and_the_closest_trial_returned(tiny):
    layers = candidate_layers(tiny, "vision")[-1:]
    found = search(tiny, layers, directions_of(tiny, layers), Drift(tiny, "visual_projection"), steps=2, target=0.1)
    assert not found.succeeded and not found.chosen.forgotten
    assert found.chosen.metrics["kept"] == min(t.metrics["kept"] for t in found.trials)


def test_an_evaluator_that_fails_or_lies_leaves_the_model_as_it_was(tiny):
    layers = candidate_layers(tiny, "vision")[-1:]
    before = snapshot(tiny)

    class Broken:
        primary_metric, greater_is_better = "fa1", False

        def __call__(self, model):
            raise RuntimeError("out of memory")

    class Liar(Broken):
        def __call__(self, model):
            return {"accuracy": 1.0}

    with pytest.raises(RuntimeError, match="out of memory"):
        search(tiny, layers, directions_of(tiny, layers), Broken())
    with pytest.raises(ValueError, match="primary_metric is 'fa1'.*'accuracy'"):
        search(tiny, layers, directions_of(tiny, layers), Liar())
    with pytest.raises(ValueError, match="No layer"):
        search(tiny, [], {}, Broken())
    assert_same(tiny, before)


class Behaviour(BehaviourEvaluator):
    """A host that forgets once a given layer has moved, at a price that depends on the layer; looks stop at a quarter."""

    names, n_forget, n_retain = ["a", "b"], 8, 8

    def __init__(self, model, prices, forgets=True):
        self.originals = {name: model.get_submodule(name).weight.detach().clone() for name in prices}
        self.prices, self.forgets, self.whole = prices, forgets, 0

    def moved(self, model):
        weights = {name: model.get_submodule(name).weight.detach() for name in self.originals}
        return [name for name, weight in weights.items() if not torch.equal(weight, self.originals[name])]

    def forgotten(self, model, enough=None):
        self.whole += enough is None
        if self.forgets and self.moved(model):
            return {"fa1": 0.0, "n": 8}
        return {"fa1": 1.0, "n": 2} if enough is not None else {"fa1": 0.9 - 0.1 * len(self.moved(model)), "n": 8}

    def retained(self, model):
        price = sum(self.prices[name] for name in self.moved(model))
        return {"ta": 0.9 - price / 2, "ira": 0.9 - price}


def search_behaviour(model, prices, first, forgets=True, **settings):
    """Searches the `first` of the layers named in `prices`, with the rest in reserve; returns also what was taken of that."""
    layers = [next(layer for layer in candidate_layers(model) if layer.name == name) for name in prices]
    every, directions, taken = directions_of(model, layers), {}, []
    directions |= {name: every[name] for layer in layers[:first] for name in layer.modules}

    def reserve():
        for layer in layers[first:]:
            taken.append(layer.name)
            directions.update({name: every[name] for name in layer.modules})
            yield layer

    evaluator = Behaviour(model, prices, forgets)
    found = search(model, layers[:first], directions, evaluator, steps=2, host=model, reserve=reserve(), **settings)
    return found, taken, evaluator


BLOCK = "vision_model.encoder.layers.0.self_attn."


@pytest.mark.parametrize(
    ("prices", "wanted"),
    [
        ([0.0, 0.5, 0.0, 0.0], 0),  # the front has one that keeps everything: no need for more
        (
            [0.5, 0.015, 0.009, 0.0],
            1,
        ),  # one and a half points of `ira` are too much, though `ta` falls by less than one
        ([0.5, 0.5, 0.5, 0.4], 2),  # to the end of the reserve
    ],
)
def test_the_next_fronts_are_searched_until_a_layer_forgets_and_keeps(tiny, prices, wanted):
    named = {f"{BLOCK}{name}": price for name, price in zip(("q_proj", "k_proj", "v_proj", "out_proj"), prices)}
    before = snapshot(tiny)
    found, taken, _ = search_behaviour(tiny, named, first=2)
    assert taken == list(named)[2 : 2 + wanted]
    assert found.succeeded and named[found.chosen.layer.name] == min(list(named.values())[: 2 + wanted])
    assert_same(tiny, before)


@pytest.mark.parametrize(
    ("prices", "searched"),
    [([0.0, 0.0, 0.0], 1), ([0.5, 0.009, 0.0], 2), ([0.5, 0.5, 0.0], 3), ([0.5, 0.5, 0.5], 3)],
)
def test_early_stopping_ends_at_the_first_layer_that_forgets_and_keeps(tiny, prices, searched):
    named = {f"{BLOCK}{name}": price for name, price in zip(("q_proj", "k_proj", "v_proj"), prices)}
    for first in (1, 2, 3):  # wherever the front ends
        found, _, _ = search_behaviour(tiny, named, first, early_stopping=True)
        assert found.succeeded and len({trial.layer for trial in found.trials}) == searched
        assert named[found.chosen.layer.name] == min(prices[:searched])


def test_where_nothing_forgets_all_is_tried_and_the_closest_looked_at_to_the_end(tiny):
    named = {f"{BLOCK}{name}": 0.0 for name in ("q_proj", "k_proj", "v_proj")}
    found, taken, evaluator = search_behaviour(tiny, named, first=1, forgets=False)
    assert not found.succeeded and taken == list(named)[1:]
    assert found.chosen.metrics["n"] == 8 and evaluator.whole == 3  # the best of each layer once, and no other
