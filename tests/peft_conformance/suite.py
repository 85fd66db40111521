# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What PEFT's generic tests are given: its own small models, and a small CLIP, changed in every supported way."""

import functools
import os

import pytest
import torch
from peft_tests import test_custom_models as custom
from peft_tests.testing_common import PeftCommonTester
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from hf_slug.tuner import SlugConfig


def case(label, model, *targets, **kwargs):
    """PEFT's form of a test case."""
    return (label, model, SlugConfig, {"target_modules": list(targets), **kwargs})


def fill(cases, *new):
    """Change a list of PEFT's in place: its parametrisation marks refer to that object."""
    cases[:] = new


fill(
    custom.TEST_CASES,
    case("one layer", "MLP", "lin0"),
    case("two layers", "MLP", "lin0", "lin1"),
    ("regex", "MLP", SlugConfig, {"target_modules": ".*lin1"}),
    case("two layers of a deeper model", "MLP2", "lin0", "lin1"),
    case("factors", "MLP", "lin0", "lin1", rank=2),
    case("norm", "MLP_LayerNorm", "layernorm0"),
    case("norms and layers", "MLP_LayerNorm", "layernorm0", "layernorm1", "lin0", rank=1),
    case("convolution", "Conv2d", "conv2d"),
    case("convolution and layer, factors", "Conv2d", "conv2d", "lin0", rank=3),
    case("convolution in groups", "Conv2dGroups", "conv2d"),
    case("other part saved", "MLP", "lin0", modules_to_save=["lin1"]),
)
fill(custom.ALL_PEFT_CONFIG_CLASSES, SlugConfig)
fill(
    custom.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES,
    *(
        (f"SLUG {label}", "SLUG", SlugConfig, *({"init_weights": False, **kwargs} for kwargs in pair))
        for label, *pair in (
            ("same layer", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
            ("different layers", {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
            ("overlap, one in factors", {"target_modules": ["lin0", "lin1"]}, {"target_modules": ["lin1"], "rank": 2}),
        )
    ),
)

TestCustomModels = custom.TestPeftCustomModel
TestMultipleActiveAdapters = custom.TestMultipleActiveAdapters
TestRequiresGrad = custom.TestRequiresGrad


@functools.cache
def clip_config():
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {**tower, "vocab_size": 50, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 49}
    return CLIPConfig(text_config=text, vision_config={**tower, "image_size": 12, "patch_size": 6}, projection_dim=8)


class Factory:
    """Stands where PEFT's tests expect a transformers class."""

    def __init__(self, model_cls, config):
        self.model_cls, self.config = model_cls, config

    def from_pretrained(self, name, dtype=None):
        if os.path.isdir(name):  # saved by the test itself
            return self.model_cls.from_pretrained(name, dtype=dtype)
        torch.manual_seed(7)
        model = self.model_cls(self.config()).to(dtype or torch.float32)
        model.name_or_path = model.config._name_or_path = name
        return model


TEXT, VISION = "text_model.encoder.layers.1", "vision_model.encoder.layers.1"
CLIP_CASES = [
    case("matrix", "clip", f"{VISION}.self_attn.out_proj", init_weights=False),
    case("attention", "clip", *(f"{TEXT}.self_attn.{part}_proj" for part in "qkv"), init_weights=False),
    case("block", "clip", f"{VISION}.mlp.fc1", f"{VISION}.mlp.fc2", init_weights=False),
    case("factors", "clip", f"{TEXT}.mlp.fc1", rank=2, init_weights=False),
    case("both towers", "clip", "text_projection", "visual_projection", init_weights=False),
    case("norm and patches", "clip", f"{VISION}.layer_norm1", "patch_embedding", init_weights=False),
]
# `PeftCommonTester` has no tests of its own, only methods that need a model and its inputs.
CLIP_METHODS = [
    "model_attr", "adapter_name", "save_pretrained", "save_pretrained_selected_adapters",
    "save_pretrained_adapter_name_substring", "from_pretrained_config_construction", "load_multiple_adapters",
    "load_model_low_cpu_mem_usage", "merge_layers", "merge_layers_fp16", "merge_layers_nan", "merge_layers_multi",
    "merge_layers_is_idempotent", "safe_merge", "delete_adapter", "delete_inactive_adapter",
    "delete_unknown_adapter_raises", "unload_adapter", "get_base_model_state_dict", "peft_model_device_map",
]  # fmt: skip


class TestClip(PeftCommonTester):
    transformers_class = Factory(CLIPModel, clip_config)

    def prepare_inputs_for_testing(self):
        pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(7))
        return {"input_ids": torch.tensor([[0, 4, 49], [0, 9, 49]]), "pixel_values": pixels}

    @pytest.mark.parametrize("label, model_id, config_cls, kwargs", CLIP_CASES)
    @pytest.mark.parametrize("method", CLIP_METHODS)
    def test_generic(self, method, label, model_id, config_cls, kwargs):
        getattr(self, f"_test_{method}")(model_id, config_cls, dict(kwargs))


class TestClipText(PeftCommonTester):
    """Canonical names on a host that calls its modules otherwise; the conversion test needs hidden states."""

    transformers_class = Factory(CLIPTextModel, lambda: clip_config().text_config)

    def prepare_inputs_for_testing(self):
        return {"input_ids": torch.tensor([[0, 4, 49], [0, 9, 49]])}

    @pytest.mark.parametrize(
        "label, model_id, config_cls, kwargs",
        [case("canonical", "text", f"{TEXT}.mlp.fc1", init_weights=False),
         case("live", "text", "encoder.layers.1.mlp.fc1", init_weights=False)],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "method", ["lora_conversion", "save_pretrained", "load_multiple_adapters", "merge_layers_multi"]
    )
    def test_generic(self, method, label, model_id, config_cls, kwargs):
        getattr(self, f"_test_{method}")(model_id, config_cls, dict(kwargs))
