# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Running only what lies above a layer gives the bits of a full forward pass, and does run nothing below."""

from contextlib import suppress

import pytest
import torch
from conftest import assert_same, make_clip, snapshot

from hf_slug.embedding import embed, tower_inputs
from hf_slug.replay import changed_weights, record_below, run_above
from hf_slug.towers import GRANULARITIES, candidate_layers, layer_weights


BATCH = {
    "pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    "input_ids": torch.tensor([[642, 5, 7, 643, 643], [642, 8, 9, 4, 643]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
}


def cases():
    model = make_clip()
    layers = {layer.name: layer for g in GRANULARITIES for layer in candidate_layers(model, granularity=g, norms=True)}
    return list(layers.values())


@pytest.mark.parametrize("layer", cases(), ids=lambda layer: layer.name)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_replay_equals_a_full_forward(tiny, layer, attention):
    tiny.set_attn_implementation(attention)
    batch = tower_inputs(layer.tower, BATCH)
    before = snapshot(tiny)
    embeddings, (recording,) = record_below(tiny, [layer], batch)
    with torch.no_grad():
        assert torch.equal(embeddings, embed(tiny, layer.tower, batch))
    torch.manual_seed(1)
    other = {name: weight + 0.3 * torch.randn_like(weight) for name, weight in layer_weights(tiny, layer).items()}
    with changed_weights(tiny, layer, other), torch.no_grad():
        full = embed(tiny, layer.tower, batch)
        assert torch.equal(run_above(tiny, layer, recording), full)
    assert not torch.allclose(full, embeddings, atol=1e-4)
    assert torch.equal(run_above(tiny, layer, recording), embeddings)
    assert_same(tiny, before)
    assert not any("forward" in module.__dict__ for module in tiny.modules())


def test_several_layers_are_recorded_in_one_pass(tiny):
    layers = candidate_layers(tiny, "vision")
    passes = []
    handle = tiny.vision_model.embeddings.register_forward_hook(lambda *_: passes.append(1))
    embeddings, recordings = record_below(tiny, layers, tower_inputs("vision", BATCH))
    handle.remove()
    assert len(passes) == 1
    assert all(torch.equal(run_above(tiny, layer, r), embeddings) for layer, r in zip(layers, recordings))


@pytest.mark.parametrize("layer", cases(), ids=lambda layer: layer.name)
def test_nothing_below_the_layer_runs(tiny, layer):
    _, (recording,) = record_below(tiny, [layer], tower_inputs(layer.tower, BATCH))
    ran = []
    for name, module in tiny.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Embedding)):
            # hooks see calls of replaced containers too, so ask the matrices themselves
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    run_above(tiny, layer, recording)
    order = [(module, each.block) for each in candidate_layers(tiny, layer.tower) for module in each.modules]
    names, first = [name for name, _ in order], layer.modules[0]
    if first in names:
        below = names[: names.index(first)]
        if first.endswith(("q_proj", "k_proj", "v_proj")):  # the three lie side by side
            below = [name for name in below if name.rpartition(".")[0] != first.rpartition(".")[0]]
        assert first in ran
    else:  # a norm
        below = [name for name, block in order if block < layer.block]
    assert not set(ran) & {*below, "vision_model.embeddings.patch_embedding", "text_model.embeddings.token_embedding"}


def test_weights_and_forwards_come_back_after_an_error(tiny):
    layer = candidate_layers(tiny, "vision")[4]
    before = snapshot(tiny)
    _, (recording,) = record_below(tiny, [layer], tower_inputs("vision", BATCH))
    wrong = {name: torch.zeros(3, 3) for name in layer.modules}
    with suppress(RuntimeError), changed_weights(tiny, layer, wrong):
        run_above(tiny, layer, recording)
        pytest.fail("a weight of another shape ran")
    assert_same(tiny, before)
    assert not any("forward" in module.__dict__ for module in tiny.modules())
