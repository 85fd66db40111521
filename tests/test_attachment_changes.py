# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Weights that something else has changed, replaced or removed since, and weights of inference mode."""

import accelerate
import pytest
import torch
from attachment_helpers import FC1, QKV, assert_state, assert_tensors, make_patch, state, tensors
from tiny_hosts import make_clip

from hf_slug.errors import ChangedWeightError


VERBS = {
    "load": lambda host, patch: host.load_unlearning(patch, "new"),
    "set": lambda host, patch: host.set_unlearning(["a", "b"], [2.0, 0.5]),
    "disable": lambda host, patch: host.disable_unlearning(),
    "enable": lambda host, patch: host.enable_unlearning(),
    "delete": lambda host, patch: host.delete_unlearning("b"),
    "unload": lambda host, patch: host.unload_unlearning(),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_something_else_has_changed_is_not_wiped(verb, dtype):
    host = make_clip().to(dtype)
    patch = make_patch(make_clip(), QKV)
    host.load_unlearning(patch, "a")
    host.load_unlearning(patch, "b")
    weight = host.get_submodule(QKV[1]).weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 4] *= 1.01 if dtype is torch.float32 else 1.1
    before = state(host)
    with pytest.raises(
        ChangedWeightError, match=f"{QKV[1]} is not what a, b left there.*Nothing was changed.*unfuse_lora"
    ):
        verb(host, patch)
    assert_state(host, before)
    with torch.no_grad():
        weight.copy_(kept)
    verb(host, patch)
    host.unload_unlearning()
    assert_tensors(host, tensors(make_clip().to(dtype)))


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_where_the_original_has_been_put_back_there_is_nothing_to_lose(verb):
    host, plain = make_clip(), make_clip()
    patch = make_patch(make_clip(), QKV)
    for each in (host, plain):
        each.load_unlearning(patch, "a")
        each.load_unlearning(patch, "b")
    host.load_state_dict(make_clip().state_dict())
    verb(host, patch)
    verb(plain, patch)
    assert_tensors(host, tensors(plain))
    host.unload_unlearning()
    assert_tensors(host, tensors(make_clip()))


def test_a_part_that_was_removed_does_not_hinder_the_others():
    host = make_clip()
    last = FC1.replace("layers.1", "layers.3")
    before = host.get_submodule(FC1).weight.clone()
    host.load_unlearning(make_patch(make_clip(), (FC1, last)), "a")
    del host.text_model.encoder.layers[3]
    host.set_unlearning("a", 0.5)
    assert not torch.equal(host.get_submodule(FC1).weight, before)
    host.unload_unlearning()
    assert torch.equal(host.get_submodule(FC1).weight, before) and host.get_list_unlearning() == {}


def test_a_part_that_was_replaced_is_left_alone():
    host = make_clip()
    host.load_unlearning(make_patch(host))
    block = make_clip(1).text_model.encoder.layers[1]
    host.text_model.encoder.layers[1] = block
    kept = block.mlp.fc1.weight.clone()
    host.unload_unlearning()
    assert torch.equal(block.mlp.fc1.weight, kept) and host.get_list_unlearning() == {}


# inference mode


@pytest.mark.parametrize(
    "built, loaded, unloaded", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
)
def test_inference_mode_makes_no_difference(built, loaded, unloaded):
    with torch.inference_mode(bool(built)):
        host = make_clip()
    before = state(host)
    with torch.inference_mode(bool(loaded)):
        host.load_unlearning(make_patch(make_clip()), "a")
        host.load_unlearning(make_patch(make_clip(), seed=1), "b", weight=0.5)
    plain = make_clip()
    plain.load_unlearning(make_patch(make_clip()), "a")
    plain.load_unlearning(make_patch(make_clip(), seed=1), "b", weight=0.5)
    assert torch.equal(host.get_submodule(FC1).weight, plain.get_submodule(FC1).weight)
    with torch.inference_mode(bool(unloaded)):
        host.delete_unlearning("b")
        host.unload_unlearning()
    assert_state(host, before)
    if not built:  # and it can be trained
        host.get_submodule(FC1)(torch.ones(1, 16)).sum().backward()
        assert host.get_submodule(FC1).weight.grad.abs().sum() > 0


def test_weights_that_were_offloaded_in_inference_mode_are_written():
    with torch.inference_mode():
        host = accelerate.cpu_offload(make_clip(), execution_device=torch.device("cpu"))
    offloaded = host.get_submodule(FC1)._hf_hook.weights_map["weight"]
    assert offloaded.is_inference()
    before = offloaded.clone()
    host.load_unlearning(make_patch(make_clip()))
    assert torch.equal(offloaded, make_patch(make_clip()).new_weights(make_clip())[FC1])
    host.unload_unlearning()
    assert torch.equal(offloaded, before)
