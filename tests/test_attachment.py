# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What `load_unlearning` and its siblings promise, on every kind of host and on the zoo."""

import shutil

import torch
from attachment_helpers import (
    assert_state,
    assert_tensors,
    every_case,
    expected,
    make_patch,
    state,
    tensors,
    weights_of,
)
from safetensors.torch import load_file

import hf_slug
from hf_slug.patch_files import WEIGHTS


pytestmark = every_case


def test_loading_changes_the_output_and_unloading_gives_everything_back(case):
    host = case.build()
    base = case.generate(host)
    before = state(host)
    name = host.load_unlearning(case.patch(host))
    assert name == "default_0" and not torch.equal(case.generate(host), base)
    assert [key for key in state(host) if "state_dict" in key] == [key for key in before if "state_dict" in key]
    host.unload_unlearning()
    assert_state(host, before)
    assert torch.equal(case.generate(host), base)
    host.unload_unlearning()  # nothing is left to do
    assert_state(host, before)


def test_the_weight_is_the_original_plus_the_delta_rounded_once(case):
    host = case.build()
    patch = case.patch(host)
    before = {name: weight.clone() for name, weight in case.weights(host).items()}
    base = case.generate(host)
    host.load_unlearning(patch, weight=0)
    assert torch.equal(case.generate(host), base)
    outputs = [base]
    for weight in (0.5, 1.0, -1.0):
        host.set_unlearning("default_0", weight)
        for name, live in case.weights(host).items():
            assert torch.equal(live, expected(before[name], (weight, patch.deltas[name])))
        outputs.append(case.generate(host))
    assert not any(torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    host.unload_unlearning()
    host.load_unlearning(patch, weight=0.5)  # as if set later
    assert torch.equal(case.generate(host), outputs[1])


def test_what_is_saved_and_loaded_again_gives_the_same_output(case, tmp_path):
    host = case.build()
    patch = case.patch(host)
    host.load_unlearning(patch, "mine", weight=0.7)
    changed, encoders = case.generate(host), list(host.get_list_unlearning())
    host.save_unlearning(tmp_path / "patch")
    host.unload_unlearning()
    shutil.copy(tmp_path / "patch" / WEIGHTS, tmp_path / "lone.safetensors")  # a file that says nothing of its base
    tensors = load_file(tmp_path / "patch" / WEIGHTS)
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    sources = {
        "folder": tmp_path / "patch",
        "folder by its name": str(tmp_path / "patch"),
        "file": tmp_path / "patch" / WEIGHTS,
        "lone file": tmp_path / "lone.safetensors",
        "dict": tensors,
        "patch": patch,
    }
    for what, source in sources.items():
        # what says nothing of its base fits by shape alone, so it may have to be said which encoders are meant
        components = encoders if what in ("lone file", "dict") else None
        host.load_unlearning(source, "mine", weight=0.7, components=components)
        assert torch.equal(case.generate(host), changed), what
        host.unload_unlearning()
    assert list(tensors) == list(kept) and all(torch.equal(tensors[key], kept[key]) for key in kept)


def test_patches_stack_and_come_off_one_by_one(case):
    host = case.build()
    base, before = case.generate(host), state(host)
    a, b = case.patch(host, seed=1), case.patch(host, seed=2)

    def shown():
        return host.get_active_unlearning(), host.get_list_unlearning().get(case.component), case.generate(host)

    host.load_unlearning(a, "a")
    *reports, only_a = shown()
    assert reports == [["a"], ["a"]]
    host.load_unlearning(b, "b")
    *reports, both = shown()
    assert reports == [["a", "b"], ["a", "b"]]

    host.disable_unlearning()
    *reports, output = shown()
    assert reports == [[], ["a", "b"]] and torch.equal(output, base)
    host.disable_unlearning()
    host.enable_unlearning()
    *reports, output = shown()
    assert reports == [["a", "b"], ["a", "b"]] and torch.equal(output, both)

    host.set_unlearning("b")
    *reports, only_b = shown()
    assert reports == [["b"], ["a", "b"]]
    different = [base, only_a, only_b, both]
    assert not any(torch.equal(x, y) for i, x in enumerate(different) for y in different[:i])
    host.set_unlearning([])
    *reports, output = shown()
    assert reports == [[], ["a", "b"]] and torch.equal(output, base)
    host.set_unlearning(["b", "a"], [1.0, None])
    *reports, output = shown()
    assert reports == [["a", "b"], ["a", "b"]] and torch.equal(output, both)

    host.delete_unlearning("b")
    *reports, output = shown()
    assert reports == [["a"], ["a"]] and torch.equal(output, only_a)
    host.load_unlearning(b, "b")  # a name that was free again
    assert torch.equal(case.generate(host), both)
    host.delete_unlearning(["a", "b"])
    assert_state(host, before)
    assert torch.equal(case.generate(host), base)


def test_half_precision_is_patched_from_the_half_precision_weights(case):
    for dtype in (torch.bfloat16, torch.float16):
        host = case.build().to(dtype)
        before = state(host)
        original = {name: weight.clone() for name, weight in case.weights(host).items()}
        patch = case.patch(case.build())  # of the float32 model
        host.load_unlearning(patch)
        for name, live in case.weights(host).items():
            assert live.dtype == dtype and torch.equal(live, expected(original[name], (1.0, patch.deltas[name])))
        host.unload_unlearning()
        assert_state(host, before)


def test_casting_a_patched_host_is_patching_a_cast_one(case):
    host, plain = case.build(), case.build()
    patch = case.patch(host)
    host.load_unlearning(patch)
    names = list(host.get_list_unlearning())
    for dtype in (
        torch.bfloat16,
        torch.float32,
    ):  # and back: the original has been rounded on the way, like all the others
        base = tensors(plain.to(dtype))
        plain.load_unlearning(patch, strict=dtype is torch.bfloat16, components=names)
        assert_tensors(host.to(dtype), tensors(plain))
        plain.unload_unlearning()
        assert_tensors(plain, base)
    host.unload_unlearning()
    assert_tensors(host, base)


def test_a_patch_made_on_the_clip_fits_the_host_that_embeds_its_tower(case, tmp_path):
    clip, host = case.clip(), case.build()
    make_patch(clip, case.modules).save_pretrained(tmp_path)
    clip.load_unlearning(tmp_path)
    base = case.generate(host)
    host.load_unlearning(tmp_path)
    assert case.component in host.get_list_unlearning()
    wanted = weights_of(clip, case.modules)
    assert all(torch.equal(weight, wanted[name]) for name, weight in case.weights(host).items())
    assert not torch.equal(case.generate(host), base)


def test_the_functions_are_the_methods(case):
    host, other = case.build(), case.build()
    patch = case.patch(host)
    assert hf_slug.load_unlearning(host, patch, "a", weight=0.5) == other.load_unlearning(patch, "a", weight=0.5)
    assert hf_slug.get_list_unlearning(host) == other.get_list_unlearning() != {}
    assert hf_slug.get_active_unlearning(host) == other.get_active_unlearning() == ["a"]
    assert torch.equal(case.generate(host), case.generate(other))
    hf_slug.unload_unlearning(host)
    other.unload_unlearning()
    assert hf_slug.get_list_unlearning(host) == {} and torch.equal(case.generate(host), case.generate(other))
