# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches saved and loaded, on hosts of other names and through transformers."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel, CLIPVisionModelWithProjection
from transformers.utils.peft_utils import find_adapter_config_file
from tuner_helpers import DTYPES, TEXT_FC1, VISION_FC1, VISION_OUT, assert_bits, bits, config, make_clip, slug_layers

from hf_slug.fingerprint import compute_fingerprint
from hf_slug.tuner import SlugConfig


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_save_and_load(tmp_path, dtype, rank):
    clip = make_clip(dtype)
    before = bits(clip)
    model = get_peft_model(clip, config(TEXT_FC1, VISION_OUT, rank=rank))
    model.save_pretrained(tmp_path)
    expected = bits(model.merge_and_unload())
    for meta in (False, True):
        loaded = PeftModel.from_pretrained(make_clip(dtype), tmp_path, low_cpu_mem_usage=meta, adapter_name="other")
        assert_bits(copy.deepcopy(loaded).merge_and_unload(), expected)
        assert_bits(loaded.unload(), before)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    parts = ["slug_delta"] if rank is None else ["slug_down", "slug_up"]
    assert sorted(stored) == [f"base_model.model.{n}.{p}" for n in (TEXT_FC1, VISION_OUT) for p in parts]
    assert all(value.dtype == torch.float32 for value in stored.values())


@pytest.mark.parametrize(
    "host, targets",
    [
        (CLIPTextModel, [TEXT_FC1, "text_model.final_layer_norm"]),
        (CLIPVisionModel, [VISION_FC1, VISION_OUT]),
        (CLIPVisionModelWithProjection, [VISION_FC1, "visual_projection"]),
    ],
)
def test_files_carry_canonical_names_whatever_the_host(tmp_path, host, targets):
    clip = make_clip()
    get_peft_model(clip, config(*targets)).save_pretrained(tmp_path / "clip")
    part = clip.config.text_config if host is CLIPTextModel else clip.config.vision_config
    part.projection_dim = clip.config.projection_dim
    torch.manual_seed(1)
    model = PeftModel.from_pretrained(host(part), tmp_path / "clip")
    assert len(slug_layers(model)) == 2
    model.save_pretrained(tmp_path / "host")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("clip", "host"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "host/adapter_config.json").read_text())["target_modules"] == sorted(targets)
    again = PeftModel.from_pretrained(make_clip(), tmp_path / "host")
    assert torch.equal(again.get_submodule(f"base_model.model.{targets[0]}").get_delta("default"), next(
        value for name, value in first.items() if targets[0] in name))  # fmt: skip


def test_long_lists_keep_their_canonical_names(tmp_path):
    names = [n for n, m in make_clip().named_modules() if isinstance(m, nn.Linear) and n.startswith("text_model")]
    names += [n for n, m in make_clip().named_modules() if isinstance(m, nn.LayerNorm) and n.startswith("text_model")]
    get_peft_model(make_clip(), config(*names)).save_pretrained(tmp_path)
    assert len(names) > 20 and json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == sorted(
        names
    )
    loaded = PeftModel.from_pretrained(CLIPTextModel(make_clip().config.text_config), tmp_path)
    assert len(slug_layers(loaded)) == len(names)


@pytest.mark.parametrize("host", [CLIPModel, CLIPTextModel])
@pytest.mark.parametrize("dtype", DTYPES)
def test_through_transformers(tmp_path, host, dtype):
    clip = make_clip()
    get_peft_model(clip, config(TEXT_FC1)).save_pretrained(tmp_path / "patch")
    delta = clip.get_submodule(TEXT_FC1).slug_delta["default"]
    torch.manual_seed(1)
    model = host(clip.config if host is CLIPModel else clip.config.text_config).to(dtype)
    model.load_adapter(tmp_path / "patch", "forget")
    (layer,) = slug_layers(model).values()
    assert torch.equal(layer.slug_delta["forget"], delta) and not layer.slug_delta["forget"].requires_grad
    model.save_pretrained(tmp_path / "again")
    stored = load_file(tmp_path / "again/adapter_model.safetensors")
    assert list(stored) == [f"base_model.model.{TEXT_FC1}.slug_delta"]
    model.add_adapter(SlugConfig(target_modules=[TEXT_FC1], init_weights=False), "second")
    assert model.active_adapters() == ["second"]
    model.set_adapter(["forget", "second"])
    layer.merge()
    layer.unmerge()
    model.disable_adapters()
    model.enable_adapters()
    model.delete_adapter("second")
    assert list(layer.scaling) == ["forget"]


def test_patch_of_another_base_is_refused(tmp_path):
    clip = make_clip()
    fingerprint = compute_fingerprint({TEXT_FC1: clip.get_submodule(TEXT_FC1).weight})
    get_peft_model(clip, config(TEXT_FC1, base_fingerprint=fingerprint)).save_pretrained(tmp_path)
    for dtype in DTYPES:
        PeftModel.from_pretrained(make_clip(dtype), tmp_path)
    model = get_peft_model(make_clip(), config(TEXT_FC1))
    model.merge_adapter()
    model.load_adapter(tmp_path, "second")  # a merged weight is not the base: the kept original is compared
    other = make_clip()
    other.get_submodule(TEXT_FC1).weight.data += 1
    before = bits(other)
    with pytest.raises(ValueError, match="another"):
        PeftModel.from_pretrained(other, tmp_path)
    assert_bits(other, before)
    assert not slug_layers(other)


def test_other_ways_through_transformers(tmp_path):
    clip = make_clip()
    clip.save_pretrained(tmp_path / "base")
    adapter = config(TEXT_FC1, base_model_name_or_path=str(tmp_path / "base"))
    get_peft_model(clip, adapter).save_pretrained(tmp_path / "repo" / "patch")
    delta = clip.get_submodule(TEXT_FC1).slug_delta["default"]
    (tmp_path / "repo/patch/adapter_config.json").write_text(  # PEFT writes the model's own name there
        json.dumps({**adapter.to_dict(), "base_model_name_or_path": str(tmp_path / "base"), "init_weights": True})
    )
    through_model = CLIPModel.from_pretrained(tmp_path / "repo/patch", dtype=torch.bfloat16)
    in_subfolder, from_tensors, with_lora = make_clip(), make_clip(), make_clip()
    if find_adapter_config_file(str(tmp_path / "repo"), subfolder="patch"):
        in_subfolder.load_adapter(tmp_path / "repo", adapter_kwargs={"subfolder": "patch"})
    else:  # this transformers looks into subfolders of Hub repositories only
        in_subfolder.load_adapter(tmp_path / "repo" / "patch")
    tensors = load_file(tmp_path / "repo/patch/adapter_model.safetensors")
    from_tensors.load_adapter(None, "default", SlugConfig(target_modules=[TEXT_FC1]), tensors)
    for model in (through_model, in_subfolder, from_tensors):
        assert torch.equal(model.get_submodule(TEXT_FC1).slug_delta["default"], delta)
    broken = {name: torch.full_like(value, torch.nan) for name, value in tensors.items()}
    with pytest.raises(ValueError, match="NaN"):
        make_clip().load_adapter(None, "default", SlugConfig(target_modules=[TEXT_FC1]), broken)
    get_peft_model(make_clip(), LoraConfig(target_modules=["fc1"], r=2)).save_pretrained(tmp_path / "lora")
    with_lora.load_adapter(tmp_path / "lora")  # other methods pass the guard
    assert not slug_layers(with_lora) and with_lora.active_adapters() == ["default"]
