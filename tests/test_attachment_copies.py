# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Copies of a patched host: independent, shared, pickled, or saved and loaded again."""

import copy
import io

import diffusers
import pytest
import torch
import transformers
from attachment_helpers import (
    CASES,
    FC1,
    assert_state,
    assert_tensors,
    cast,
    every_case,
    make_patch,
    state,
    tensors,
    weights_of,
)
from fresh_interpreter import run
from tiny_hosts import HOSTS, make_clip

from hf_slug.encoders import find_encoders, host_modules


def pickled(host):
    file = io.BytesIO()
    torch.save(host, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def assert_near(output, wanted, base):
    """
    Equal but for the last bits, which depend on how the weights happen to be aligned in memory; and far from the base.
    """
    assert (output - wanted).abs().max() < 1e-3 * (base - wanted).abs().max()


@every_case
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_is_patched_and_independent(case, copied):
    host = case.build()
    base, bits = case.generate(case.build()), tensors(host)
    host.load_unlearning(case.patch(host, 1), "a")
    host.load_unlearning(case.patch(case.build(), 2), "b", weight=0.5)
    if copied is pickled and not isinstance(host, torch.nn.Module):
        twin = copy.copy(host)  # a pipeline itself is not pickled, its models are
        twin.register_modules(**{name: pickled(part) for name, part in host.components.items()})
    else:
        twin = copied(host)
    both, before = case.generate(host), state(host)
    assert_near(case.generate(twin), both, base)
    assert_tensors(twin, tensors(host))
    assert twin.get_list_unlearning() == host.get_list_unlearning() != {}
    twin.delete_unlearning("a")
    only_b = tensors(twin)
    twin.unload_unlearning()
    assert_tensors(twin, bits)
    assert_state(host, before)  # the copy's doings don't reach it
    assert torch.equal(case.generate(host), both)
    twin.load_unlearning(case.patch(case.build(), 2), "b", weight=0.5)
    host.delete_unlearning("a")
    assert_tensors(host, only_b)
    host.unload_unlearning()
    assert_tensors(twin, only_b)
    assert twin.get_active_unlearning() == ["b"] and host.get_active_unlearning() == []
    twin.to(torch.bfloat16)  # what was copied with it acts on the copy
    twin.unload_unlearning()
    assert_tensors(twin, cast(bits, torch.bfloat16))
    assert_tensors(host, bits)


@pytest.mark.slow
def test_a_pickle_is_read_where_nothing_was_imported_before(tmp_path):
    host = make_clip()
    bits = host.get_submodule(FC1).weight.clone()
    host.load_unlearning(make_patch(host), "a")
    torch.save(host, tmp_path / "model.pt")
    code = f"""
import torch
model = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
print(model.get_list_unlearning())
model.unload_unlearning()
torch.save(model.get_submodule({FC1!r}).weight.detach(), {str(tmp_path / "bits.pt")!r})
"""
    assert run(code) == "{'text_model': ['a']}"
    assert torch.equal(torch.load(tmp_path / "bits.pt"), bits)


# shared


SHARED = {
    "sd1": (diffusers.StableDiffusionImg2ImgPipeline, "text_encoder"),
    "sdxl": (diffusers.StableDiffusionXLImg2ImgPipeline, "text_encoder_2"),
    "zoo's Stable Diffusion": (diffusers.StableDiffusionImg2ImgPipeline, "text_encoder"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_pipeline_from_another_shares_its_patches(kind):
    cls, component = SHARED[kind]
    pipe = CASES[kind].build() if kind in CASES else HOSTS[kind].build()
    one, two = (make_patch(pipe, (FC1,), seed, component=component) for seed in (1, 2))
    plain = weights_of(pipe, (FC1,), component)[FC1].clone()
    pipe.load_unlearning(one, "a")
    other = cls.from_pipe(pipe)
    assert getattr(other, component) is getattr(pipe, component)
    assert other.get_list_unlearning() == {component: ["a"]} and other.get_active_unlearning() == ["a"]
    other.load_unlearning(two, "b")
    assert pipe.get_list_unlearning() == {component: ["a", "b"]}
    pipe.delete_unlearning("b")
    other.unload_unlearning()
    assert pipe.get_list_unlearning() == {} and torch.equal(weights_of(pipe, (FC1,), component)[FC1], plain)


@pytest.mark.parametrize("dtype, shared", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_pipeline_from_another_may_cast_what_they_share(dtype, shared):
    pipe = HOSTS["sd1"].build().to(dtype)
    pipe.load_unlearning(make_patch(make_clip()), "a")
    other = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe, torch_dtype=shared)
    assert pipe.text_encoder.dtype == shared  # theirs is one and the same encoder
    cast = HOSTS["sd1"].build().to(dtype).to(shared)
    cast.load_unlearning(make_patch(make_clip()), "a", strict=False)
    assert_tensors(pipe, tensors(cast))
    other.unload_unlearning()
    cast.unload_unlearning()
    assert_tensors(pipe, tensors(cast))
    assert pipe.get_list_unlearning() == {}


def test_an_encoder_carries_its_patches_to_another_pipeline():
    pipe, other = HOSTS["sd1"].build(), HOSTS["sd1_img2img"].build()
    pipe.text_encoder.load_unlearning(make_patch(make_clip()), "a")
    assert pipe.get_list_unlearning() == {"text_encoder": ["a"]}
    other.text_encoder, pipe.text_encoder = pipe.text_encoder, other.text_encoder
    assert (pipe.get_list_unlearning(), other.get_list_unlearning()) == ({}, {"text_encoder": ["a"]})
    other.text_encoder.unload_unlearning()
    assert_tensors(other, tensors(HOSTS["sd1_img2img"].build()))


# saved


@every_case
def test_a_patched_host_that_is_saved_stays_unlearned(case, tmp_path):
    host = case.build()
    base = case.generate(host)
    host.load_unlearning(case.patch(host))
    changed, bits = case.generate(host), tensors(host)
    host.save_pretrained(tmp_path)
    again = type(host).from_pretrained(tmp_path, local_files_only=True)
    for model in host_modules(again):
        model.eval()
    if not isinstance(again, torch.nn.Module):
        again.set_progress_bar_config(disable=True)
    assert_tensors(again, bits)
    assert_near(case.generate(again), changed, base)
    assert again.get_list_unlearning() == {}  # it is a model of its own now
    names = [name for model in host_modules(again) for name, _ in model.named_buffers()]
    assert not any("slug" in name for name in names)


def test_a_state_dict_of_a_patched_model_is_that_of_a_changed_one():
    host = make_clip()
    host.load_unlearning(make_patch(host))
    plain = make_clip()
    plain.load_state_dict(host.state_dict())  # strict: not a key too many
    assert torch.equal(plain.get_submodule(FC1).weight, host.get_submodule(FC1).weight)
    other = transformers.CLIPTextModelWithProjection(host.config.text_config)
    assert find_encoders(other) and not [name for name in host.state_dict() if "slug" in name]


def test_a_parameter_stays_the_same_object_through_everything():
    host = make_clip()
    weight = host.get_submodule(FC1).weight
    optimizer = torch.optim.SGD([weight], lr=1.0)
    pointer = weight.data_ptr()
    host.load_unlearning(make_patch(host), "a")
    host.set_unlearning("a", 0.5)
    host.disable_unlearning()
    host.unload_unlearning()
    assert host.get_submodule(FC1).weight is weight is optimizer.param_groups[0]["params"][0]
    assert weight.data_ptr() == pointer and weight.requires_grad and weight.grad is None
