# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Whatever is called in whatever order, the weights and the lists are those of a plain model of what is loaded."""

import pytest
import torch
from attachment_helpers import DTYPES, FC1, V_PROJ, expected, make_patch, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiny_hosts import HOSTS, make_clip


NORM = "text_model.encoder.layers.1.layer_norm1"
TOUCHED = (FC1, V_PROJ, "text_projection", NORM)
# they overlap, one is stored as factors, and their names sort differently from how they are written
MODULES = {"zoe": (FC1,), "Mickey": (FC1, V_PROJ), "a style": ("text_projection", V_PROJ), "10": (NORM,)}
weights = st.floats(-3, 3, allow_nan=False).map(lambda w: round(w, 3)) | st.sampled_from([0, 1, -0.0, 1e-6])
names = st.lists(st.sampled_from(sorted(MODULES)), unique=True)


def make_patches():
    clip = make_clip()
    return {
        name: make_patch(clip, modules, seed, rank=2 if name == "a style" else None)
        for seed, (name, modules) in enumerate(MODULES.items())
    }


PATCHES = make_patches()
DELTAS = {name: patch.deltas for name, patch in PATCHES.items()}


def reference(originals, scales):
    """The weights that these patches make of the originals: one sum in the order of their names, rounded once."""
    return {
        module: expected(weight, *[(scales[n], DELTAS[n][module]) for n in sorted(scales) if module in DELTAS[n]])
        for module, weight in originals.items()
    }


def originals_of(host):
    return {name: weight.clone() for name, weight in weights_of(host, TOUCHED).items()}


def assert_weights(host, wanted):
    for name, live in weights_of(host, TOUCHED).items():
        assert live.dtype == wanted[name].dtype and torch.equal(live, wanted[name]), name


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.permutations(sorted(MODULES)), st.lists(weights, min_size=4, max_size=4), st.sampled_from(DTYPES))
def test_the_order_of_loading_never_matters(order, chosen, dtype):
    host = make_clip().to(dtype)
    originals = originals_of(host)
    scales = dict(zip(sorted(MODULES), chosen))
    for name in order:
        host.load_unlearning(PATCHES[name], name, scales[name])
    assert_weights(host, reference(originals, scales))
    for name in sorted(order):
        host.delete_unlearning(name)
        del scales[name]
        assert_weights(host, reference(originals, scales))
    assert_weights(host, originals)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 37, 16 * 31, 10**9])
def test_a_sum_by_blocks_is_the_sum(monkeypatch, dtype, block):
    monkeypatch.setattr("hf_slug.stack._BLOCK", block)
    host = make_clip().to(dtype)
    originals = originals_of(host)
    scales = dict.fromkeys(MODULES, 0.7)
    for name in MODULES:
        host.load_unlearning(PATCHES[name], name, 0.7)
    assert_weights(host, reference(originals, scales))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_order_of_loading_never_matters_to_a_picture(kind):
    outputs = []
    for order in (["zoe", "Mickey", "10"], ["10", "zoe", "Mickey"]):
        pipe = HOSTS[kind].build()
        for name in order:
            pipe.load_unlearning(PATCHES[name], name, 0.5)
        outputs.append(HOSTS[kind].generate(pipe))
    assert torch.equal(*outputs)
    pipe.delete_unlearning("10")
    assert not torch.equal(HOSTS[kind].generate(pipe), outputs[0])


class AnyCalls(RuleBasedStateMachine):
    """Calls at random, and beside them a dictionary of what should be loaded."""

    @initialize(dtype=st.sampled_from(DTYPES))
    def build(self, dtype):
        self.host = make_clip().to(dtype)
        self.originals = originals_of(self.host)
        self.loaded, self.active, self.enabled = {}, set(), True

    @rule(name=st.sampled_from(sorted(MODULES)), weight=weights)
    def load(self, name, weight):
        if name in self.loaded:
            with pytest.raises(ValueError, match="already"):
                self.host.load_unlearning(PATCHES[name], name, weight)
        else:
            self.host.load_unlearning(PATCHES[name], name, weight)
            self.loaded[name] = float(weight)
            self.active.add(name)

    @rule(chosen=names, given=st.none() | weights | st.lists(st.none() | weights, max_size=4))
    def set(self, chosen, given):
        each = given if isinstance(given, list) else [given] * len(chosen)
        if not set(chosen) <= set(self.loaded) or len(each) != len(chosen):
            with pytest.raises(ValueError, match="no unlearning patch|weights for"):
                self.host.set_unlearning(chosen, given)
        else:
            self.host.set_unlearning(chosen, given)
            self.loaded |= {name: 1.0 if w is None else float(w) for name, w in zip(chosen, each)}
            self.active, self.enabled = set(chosen), True

    @rule(chosen=names)
    def delete(self, chosen):
        if not set(chosen) <= set(self.loaded):
            with pytest.raises(ValueError, match="no unlearning patch"):
                self.host.delete_unlearning(chosen)
        else:
            self.host.delete_unlearning(chosen)
            self.loaded = {name: w for name, w in self.loaded.items() if name not in chosen}
            self.active &= set(self.loaded)
            self.enabled |= not self.loaded

    @rule()
    def disable(self):
        self.host.disable_unlearning()
        self.enabled = not self.loaded

    @rule()
    def enable(self):
        self.host.enable_unlearning()
        self.enabled = True

    @precondition(lambda self: self.loaded)
    @rule()
    def unload(self):
        self.host.unload_unlearning()
        self.loaded, self.active, self.enabled = {}, set(), True

    @precondition(lambda self: hasattr(self, "host"))
    @invariant()
    def everything_is_as_it_should_be(self):
        on = {name: w for name, w in self.loaded.items() if self.enabled and name in self.active}
        assert self.host.get_active_unlearning() == list(on)
        assert self.host.get_list_unlearning() == ({"text_model": list(self.loaded)} if self.loaded else {})
        assert_weights(self.host, reference(self.originals, on))


AnyCalls.TestCase.settings = settings(derandomize=True, deadline=None, max_examples=25, stateful_step_count=15)
TestAnyCalls = AnyCalls.TestCase
