# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The last vision block works out the class token alone, and nothing that depends on it is another for that."""

import pytest
import torch
from accelerate import cpu_offload
from conftest import assert_same, make_clip, snapshot
from transformers import CLIPModel

from hf_slug.embedding import embed
from hf_slug.towers import candidate_layers, layer_weights


BATCH = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def seen_by(model, part):
    """How many tokens an image has where a part of the last block reads them, in every call."""
    counts = []
    module = model.vision_model.encoder.layers[-1].get_submodule(part)
    module.register_forward_pre_hook(
        lambda _, args, kwargs: counts.append((args or (kwargs["hidden_states"],))[0].shape[1]), with_kwargs=True
    )
    return counts


def untouched(model):
    parts = list(model.modules())
    return not any("forward" in part.__dict__ for part in parts) and not any(
        part._forward_pre_hooks for part in parts if isinstance(part, torch.nn.Linear)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_embeddings_and_gradients_are_those_of_the_whole_block(tiny, attention):
    tiny.set_attn_implementation(attention)
    tiny.double()
    weights = [
        w for layer in candidate_layers(tiny, "vision", norms=True) for w in layer_weights(tiny, layer).values()
    ]
    batch = {key: value.double() for key, value in BATCH.items()}
    found = embed(tiny, "vision", batch)
    expected = embed(tiny, "vision", batch, every_token=True)
    assert torch.equal(expected, CLIPModel.get_image_features(tiny, **batch).pooler_output)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    pull = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(each, weights, pull) for each in (found, expected)]
    for own, full in zip(*gradients, strict=True):
        assert full.abs().max() > 0
        torch.testing.assert_close(own, full, rtol=1e-9, atol=1e-14)
    assert untouched(tiny)


def test_what_the_class_token_does_not_need_is_not_run(tiny):
    whole = (32 // tiny.config.vision_config.patch_size) ** 2 + 1
    tokens = {"self_attn": whole, "self_attn.k_proj": whole, "self_attn.out_proj": 1, "layer_norm2": 1, "mlp.fc1": 1}
    counts = {part: seen_by(tiny, part) for part in tokens}
    with torch.no_grad():
        embed(tiny, "vision", BATCH)
        embed(tiny, "vision", BATCH, every_token=True)
        # what others ask of the model is whole
        assert tiny.vision_model(**BATCH).last_hidden_state.shape[1] == whole
    assert counts == {part: [count, whole, whole] for part, count in tokens.items()}


def test_blocks_that_are_checkpointed_are_left_alone(tiny):
    expected = embed(tiny, "vision", BATCH, every_token=True)
    tiny.gradient_checkpointing_enable()
    tokens = seen_by(tiny, "layer_norm2")
    assert torch.equal(embed(tiny, "vision", BATCH), expected)
    assert tokens[0] > 1


def test_offloaded_weights_are_brought_and_taken_as_ever():
    model, plain = make_clip(), make_clip()
    cpu_offload(model, torch.device("cpu"))
    block = model.vision_model.encoder.layers[-1]
    forwards = {name: part.__dict__.get("forward") for name, part in model.named_modules()}
    assert block.layer_norm1.weight.is_meta and forwards["vision_model.encoder.layers.2.layer_norm1"] is not None
    with torch.no_grad():
        assert torch.equal(embed(model, "vision", BATCH), embed(plain, "vision", BATCH))
    assert {name: part.__dict__.get("forward") for name, part in model.named_modules()} == forwards
    assert all(parameter.is_meta for parameter in block.parameters())


def test_all_is_as_before_after_an_error(tiny):
    before = snapshot(tiny)

    def fail(*_):
        raise RuntimeError("no memory")

    handle = tiny.vision_model.encoder.layers[-1].mlp.fc2.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        embed(tiny, "vision", BATCH)
    handle.remove()
    assert untouched(tiny)
    assert_same(tiny, before)
