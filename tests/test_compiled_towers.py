# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Compiled code takes no notice of hooks: towers that were compiled, and have run, are unlearned in as they are written."""

import pytest
import torch
from conftest import NAMES, make_clip, noise_pairs
from tiny_hosts import PIPELINES

from hf_slug import unlearn
from hf_slug.encoders import find_encoders
from hf_slug.objectives import DenoisingObjective
from hf_slug.towers import candidate_layers


def wrap(owner, name, backend="eager"):
    """As users do: what is compiled is put in its place."""
    setattr(owner, name, torch.compile(getattr(owner, name), backend=backend))


def in_place(owner, name, backend="eager"):
    getattr(owner, name).compile(backend=backend)


@pytest.mark.parametrize("how", [wrap, in_place])
def test_a_model_with_compiled_towers_is_unlearned_in_as_any_other(processor, graphs, how):
    sets = noise_pairs(30, names=["three"]), noise_pairs(60, seed=2)
    settings = {"concept": "three", "names": NAMES, "template": "{}", "steps": 3, "batch_size": 8}
    expected = unlearn(make_clip(), processor, *sets, **settings)
    model = make_clip()
    for tower in ("vision_model", "text_model"):
        how(model, tower)
    pixels = torch.zeros(2, 3, 32, 32)
    tokens = processor.tokenizer(["a three", "one"], padding=True, return_tensors="pt")
    for _ in range(2):
        with torch.no_grad():
            model(pixel_values=pixels, **tokens)
    compiled = graphs()
    assert compiled > 0
    got = unlearn(model, processor, *sets, **settings)
    assert graphs() == compiled
    with torch.no_grad():
        model(pixel_values=torch.zeros(3, 3, 32, 32), **tokens)
    assert graphs() > compiled  # from then on what is compiled is again
    for key in ("layers", "search", "chosen", "metrics"):
        assert got.report[key] == expected.report[key], key
    assert got.patch.deltas.keys() == expected.patch.deltas.keys()
    assert all(torch.equal(got.patch.deltas[name], delta) for name, delta in expected.patch.deltas.items())


def objective_of(pipe):
    """The loss of a pipeline, and some layers to differentiate it by."""
    (encoder,) = find_encoders(pipe)
    layers = [layer for layer in candidate_layers(encoder.module, "text") if layer.block == 0]
    return DenoisingObjective(pipe, encoder, noise_pairs(2, names=["three"]), noise_pairs(7, seed=1)), layers


@pytest.mark.parametrize("how", [wrap, in_place])
def test_a_compiled_pipeline_in_float16_is_differentiated_as_any_other(graphs, how):
    def gradients(pipe):
        objective, layers = objective_of(pipe)
        return objective.forget_gradients(layers)

    expected = gradients(PIPELINES["sd1"]().to(torch.float16))
    pipe = PIPELINES["sd1"]().to(torch.float16)
    for part in ("unet", "text_encoder"):
        how(pipe, part, "aot_eager")
    got = gradients(pipe)
    assert graphs() == 0
    assert all(torch.equal(got[name], gradient) and gradient.any() for name, gradient in expected.items())


@pytest.mark.parametrize("how", [wrap, in_place])
def test_what_a_compiled_encoder_of_a_pipeline_reads_is_recorded(graphs, how):
    def moments(pipe):
        objective, layers = objective_of(pipe)
        return objective.input_moments(layers)

    expected = moments(PIPELINES["sd1"]())
    pipe = PIPELINES["sd1"]()
    how(pipe, "text_encoder")
    for _ in range(2):
        pipe.encode_prompt("a three", "cpu", 1, False)
    compiled = graphs()
    assert compiled > 0
    got = moments(pipe)
    assert graphs() == compiled and got.keys() == expected.keys()
    assert all(torch.equal(got[name], moment) for name, moment in expected.items())
