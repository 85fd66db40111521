# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tuner on a small CLIP: every weight to the bit."""

import copy
import itertools
import pickle
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from tuner_helpers import (
    DTYPES,
    KINDS,
    VISION_FC1,
    VISION_OUT,
    assert_bits,
    bits,
    config,
    inputs,
    make_clip,
    slug_layers,
)

from hf_slug.arithmetic import compose
from hf_slug.tuner import SlugLayer


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_unmerge_and_forward(kind, dtype, rank):
    clip = make_clip(dtype)
    before = bits(clip)
    with torch.no_grad():
        plain = clip(**inputs(dtype)).logits_per_image
    model = get_peft_model(clip, config(KINDS[kind], rank=rank)).eval()
    layer = clip.get_submodule(KINDS[kind])
    delta = layer.get_delta("default").clone()
    expected = (before[f"{KINDS[kind]}.weight"].double() + delta.double()).to(dtype)
    with torch.no_grad():
        unmerged = model(**inputs(dtype)).logits_per_image
        model.merge_adapter(safe_merge=True)
        merged = model(**inputs(dtype)).logits_per_image
    assert torch.equal(layer.weight, expected)
    assert torch.equal(unmerged, merged) and not torch.equal(plain, merged)
    model.unmerge_adapter()
    assert torch.equal(layer.weight, before[f"{KINDS[kind]}.weight"])
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**inputs(dtype)).logits_per_image, plain)
    assert_bits(model.unload(), before)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(["a", "b", "c"]),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.sampled_from(DTYPES),
)
def test_any_order_and_any_number_of_calls(order, cuts, scales, dtype):
    clip = make_clip(dtype)
    model = get_peft_model(clip, config(VISION_FC1), adapter_name="a")
    for name in "bc":
        model.add_adapter(name, config(VISION_FC1))
    layer, before = clip.get_submodule(VISION_FC1), clip.get_submodule(VISION_FC1).weight.detach().clone()
    for name, scale in zip("abc", scales, strict=True):
        layer.set_scale(name, scale)
    expected = compose(before, {name: layer.get_delta(name) for name in "abc"}, dict(zip("abc", scales, strict=True)))
    groups, current = [], [order[0]]
    for cut, name in zip(cuts, order[1:], strict=True):
        if cut:
            groups.append(current)
            current = []
        current.append(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for group in [*groups, current]:
            model.merge_adapter(adapter_names=group)
    assert torch.equal(layer.weight, expected)
    model.unmerge_adapter()
    assert torch.equal(layer.weight, before)


def test_several_active_adapters_on_different_modules(clip):
    before = bits(clip)
    model = get_peft_model(clip, config(VISION_FC1), adapter_name="b")
    model.add_adapter("a", config(VISION_FC1, VISION_OUT, rank=3))
    model.base_model.set_adapter(["b", "a"])
    with torch.no_grad():
        unmerged = model(**inputs()).logits_per_image
        merged = model.merge_and_unload(safe_merge=True)
        assert torch.equal(merged(**inputs()).logits_per_image, unmerged)
    assert not slug_layers(merged)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{VISION_FC1}.weight", f"{VISION_OUT}.weight"}


def test_a_copy_of_a_merged_model_can_be_unmerged(clip):
    before = bits(clip)
    model = get_peft_model(clip, config(VISION_FC1))
    model.merge_adapter()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.unmerge_adapter()
        assert_bits(twin.unload(), before)
    assert slug_layers(model)[f"base_model.model.{VISION_FC1}"].merged


def test_the_kept_original_stays_out_of_files(clip):
    model = get_peft_model(clip, config(VISION_FC1))
    names = set(model.state_dict())
    model.merge_adapter()
    assert set(model.state_dict()) == names
    assert model.base_model.model.get_submodule(VISION_FC1).merged
    assert_bits(model.unload(), bits(make_clip()))  # unloading without merging takes merged adapters off as well


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_after_merging_is_as_one_before(clip, dtype):
    model = get_peft_model(clip, config(VISION_FC1))
    layer = clip.get_submodule(VISION_FC1)
    delta = layer.slug_delta["default"].clone()
    model.merge_adapter()
    model.to(dtype)
    assert layer.slug_delta["default"].dtype == torch.float32 and torch.equal(layer.slug_delta["default"], delta)
    original = make_clip(dtype)
    assert torch.equal(layer.weight, compose(original.get_submodule(VISION_FC1).weight, {"x": delta}, {}))
    assert_bits(model.unload(), bits(original))


def test_a_foreign_change_of_a_merged_weight_is_not_lost(clip):
    model = get_peft_model(clip, config(VISION_FC1))
    model.add_adapter("other", config(VISION_FC1))
    model.merge_adapter()
    layer = clip.get_submodule(VISION_FC1)
    layer.weight.data += 1
    changed = layer.weight.detach().clone()
    for action in (
        model.unmerge_adapter,
        lambda: model.merge_adapter(["other"]),
        lambda: layer.set_scale("default", 2.0),
    ):
        with pytest.raises(RuntimeError, match="something else"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
        assert torch.equal(layer.weight, changed) and layer.merged_adapters == ["default"]


def test_scale_multiplies_the_initial_one(clip):
    model = get_peft_model(clip, config(VISION_FC1))
    layer, before = clip.get_submodule(VISION_FC1), clip.get_submodule(VISION_FC1).weight.detach().clone()
    delta = layer.get_delta("default").clone()
    layer.set_scale("default", 0.8)
    layer.set_scale("default", 0.5)
    layer.scale_layer(3.0)
    assert layer.scaling == {"default": 1.5} and torch.equal(layer.get_delta_weight("default"), delta * 1.5)
    model.merge_adapter()
    layer.unscale_layer(3.0)  # takes effect on a merged weight, too
    assert torch.equal(layer.weight, compose(before, {"x": delta}, {"x": 0.5}))
    layer.set_scale("default", 0.0)
    assert torch.equal(layer.weight, before)
    layer.set_scale("nobody", 2.0)
    layer.unscale_layer()
    assert layer.scaling == {"default": 1.0}


def test_deltas_are_frozen_and_stay_in_float32(patch):
    folder, _ = patch
    for trainable, autocast, meta in itertools.product((False, True), repeat=3):
        clip = make_clip(torch.float16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kwargs = {"autocast_adapter_dtype": autocast, "low_cpu_mem_usage": meta, "is_trainable": trainable}
            model = PeftModel.from_pretrained(clip, folder, **kwargs)
            model.load_adapter(folder, "second", **kwargs)
            model.set_adapter("second")
            model.set_requires_grad("second")
        parameters = [p for layer in slug_layers(model).values() for p in layer.slug_delta.values()]
        assert len(parameters) == 4
        assert all(p.dtype == torch.float32 and not p.requires_grad and not p.is_meta for p in parameters)
        model.half()
        assert all(p.dtype == torch.float32 for p in parameters)


def test_zeros_by_default(clip):
    before = bits(clip)
    model = get_peft_model(clip, config(VISION_FC1, init_weights=True))
    assert not any(p.any() for layer in slug_layers(model).values() for p in layer.slug_delta.values())
    assert_bits(model.merge_and_unload(), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_on_top_of_a_weight_that_can_not_be_read(kind, dtype, monkeypatch):
    clip = make_clip(dtype)
    model = get_peft_model(clip, config(KINDS[kind])).eval()
    with torch.no_grad():
        exact = model(**inputs(dtype)).logits_per_image
        monkeypatch.setattr(SlugLayer, "_is_quantized", lambda self: True)
        on_top = model(**inputs(dtype)).logits_per_image
    torch.testing.assert_close(on_top, exact, rtol=0.05 if dtype != torch.float32 else 1e-4, atol=0.02)
    with pytest.raises(ValueError, match="quantised or offloaded"):
        model.merge_adapter()


def test_around_a_lora_layer(clip):
    lora = get_peft_model(clip, LoraConfig(target_modules=[VISION_FC1], r=2, init_lora_weights=False))
    before = clip.get_submodule(VISION_FC1).weight.detach().clone()
    with torch.no_grad():
        lora_only = lora(**inputs()).logits_per_image
        inject_adapter_in_model(config(VISION_FC1), clip, "forget")
        layer = clip.get_submodule(VISION_FC1)
        assert isinstance(layer, SlugLayer) and not torch.equal(clip(**inputs()).logits_per_image, lora_only)
        unmerged = clip(**inputs()).logits_per_image
        layer.merge()
        torch.testing.assert_close(clip(**inputs()).logits_per_image, unmerged, rtol=1e-4, atol=1e-4)
        layer.unmerge()
        assert torch.equal(layer.weight, before)
    assert layer.unload_and_optionally_merge_module(merge=False) is layer.base_layer


@pytest.mark.parametrize("rank", [None, 2])
def test_weighted_sum_of_adapters(clip, tmp_path, rank):
    model = get_peft_model(clip, config(VISION_FC1, tower="vision", concept="a cat"), adapter_name="a")
    model.add_adapter("b", config(VISION_FC1, VISION_OUT, rank=rank, tower="vision", concept="a dog"))
    model.add_weighted_adapter(["b", "a"], [0.3, -1.7], "sum")
    fc1, out = clip.get_submodule(VISION_FC1), clip.get_submodule(VISION_OUT)
    a, b = fc1.get_delta("a").double(), fc1.get_delta("b").double()
    assert torch.equal(fc1.slug_delta["sum"], (a * -1.7 + b * 0.3).float())
    assert torch.equal(out.slug_delta["sum"], (out.get_delta("b").double() * 0.3).float())
    assert model.active_adapters == ["a"] and model.peft_config["sum"].concept == "a dog, a cat"
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / "sum")
    assert torch.equal(
        loaded.get_submodule(f"base_model.model.{VISION_FC1}").get_delta("default"), fc1.get_delta("sum")
    )
    for wrong in (["a", "x"], [1, 1], "new"), (["a"], [1, 1], "new"), (["a", "a"], [1, 1], "new"), ([], [], "new"), (
            ["a"], [1], "b"), (["a"], [1], "fc1"):  # fmt: skip
        with pytest.raises(ValueError):
            model.add_weighted_adapter(*wrong)
    assert set(model.peft_config) == {"a", "b", "sum"}


def test_deleting_adapters(clip):
    before = bits(clip)
    model = get_peft_model(clip, config(VISION_FC1), adapter_name="a")
    model.add_adapter("b", config(VISION_OUT, rank=2))
    model.delete_adapter("a")
    assert list(get_peft_model_state_dict(model, adapter_name="b")) == [
        f"base_model.model.{VISION_OUT}.slug_{part}" for part in ("up", "down")
    ]
    model.merge_adapter(["b"])
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("b")
    model.unmerge_adapter()
    assert_bits(model.unload(), before)


def test_conversion_to_lora(clip):
    model = get_peft_model(clip, config(VISION_FC1))
    assert model.supports_lora_conversion()
    assert not get_peft_model(make_clip(), config(KINDS["convolution"])).supports_lora_conversion()
