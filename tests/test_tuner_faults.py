# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Damaged and foreign files: refused, and the model as it was."""

import pickle

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from tuner_helpers import TEXT_FC1, VISION_FC1, VISION_OUT, assert_bits, bits, config, slug_layers

from hf_slug.errors import CorruptPatchError


def break_file(folder, tensors, fault):
    path, tensors = folder / "adapter_model.safetensors", dict(tensors)
    name = sorted(tensors)[0]
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "garbage":
        path.write_bytes(b"PK\x03\x04" * 50)
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "code":
        path.unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    else:
        if fault == "missing":
            del tensors[name]
        elif fault == "renamed":
            tensors[name.replace("text", "txt")] = tensors.pop(name)
        elif fault == "extra delta":
            tensors[f"base_model.model.{VISION_FC1}.slug_delta"] = torch.zeros(64, 32)
        elif fault == "base weight":
            tensors["base_model.model.visual_projection.weight"] = torch.zeros(16, 32)
        elif fault == "shape":
            tensors[name] = tensors[name][:3].clone()
        elif fault == "integers":
            tensors[name] = tensors[name].int()
        else:
            tensors[name] = tensors[name].clone()
            tensors[name][0, 0] = float(fault)
        save_file(tensors, path)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


FAULTS = ["truncated", "garbage", "empty", "code", "missing", "renamed", "extra delta", "base weight", "shape",
          "integers", "nan", "inf"]  # fmt: skip


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_leave_the_model_as_it_was(clip, patch, fault, meta):
    folder, tensors = patch
    break_file(folder, tensors, fault)
    before = bits(clip)
    with pytest.raises(ValueError, match="weights"):
        PeftModel.from_pretrained(clip, folder, low_cpu_mem_usage=meta)
    assert_bits(clip, before)
    assert not slug_layers(clip) and not hasattr(clip, "peft_config")
    assert all(p.requires_grad for p in clip.parameters())

    model = get_peft_model(clip, config(TEXT_FC1, VISION_OUT))
    before = bits(model)
    with pytest.raises(ValueError, match="weights"):
        model.load_adapter(folder, "second", low_cpu_mem_usage=meta)
    assert_bits(model, before)
    assert list(model.peft_config) == ["default"] and model.active_adapters == ["default"]


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_through_transformers(clip, patch, fault):
    folder, tensors = patch
    break_file(folder, tensors, fault)
    before = bits(clip)
    with pytest.raises(ValueError, match="weights"):
        clip.load_adapter(folder)
    assert_bits(clip, before)
    assert not slug_layers(clip)


def test_a_delta_is_float32_or_none(clip, patch):
    folder, tensors = patch
    save_file({name: value.half() for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    for meta in (False, True):
        with pytest.raises(CorruptPatchError, match="not float32"):
            PeftModel.from_pretrained(clip, folder, low_cpu_mem_usage=meta)
    assert not slug_layers(clip)


def test_broken_delta_is_not_merged_safely(clip):
    model = get_peft_model(clip, config(VISION_FC1))
    layer, before = clip.get_submodule(VISION_FC1), clip.get_submodule(VISION_FC1).weight.detach().clone()
    layer.slug_delta["default"].data[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match="NaNs detected in the merged weights. The adapter default seems to be broken"
    ):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.weight, before) and not layer.merged
    model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(layer.weight, before)
