# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Which names and modules the tuner takes."""

import warnings

import pytest
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from tuner_helpers import TEXT_FC1, VISION_FC1, VISION_OUT, assert_bits, bits, config, make_clip, slug_layers

from hf_slug.tuner import SlugConfig


@pytest.fixture
def clip():
    return make_clip()


@pytest.mark.parametrize("wrong", ["text_model.embeddings.token_embedding", "vision_model.encoder", "vision_model"])
def test_unsupported_modules_leave_the_model_as_it_was(clip, wrong):
    before, names = bits(clip), [name for name, _ in clip.named_modules()]
    with pytest.raises(TypeError, match=r"nn.Linear"):
        get_peft_model(clip, config("visual_projection", TEXT_FC1, wrong))
    assert_bits(clip, before)
    assert [name for name, _ in clip.named_modules()] == names
    assert not hasattr(clip, "peft_config") and all(p.requires_grad for p in clip.parameters())


def test_attention_of_torch_is_refused():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    with pytest.raises(TypeError, match="MultiheadAttention"):
        get_peft_model(model, config("out_proj"))
    assert not slug_layers(model)


@pytest.mark.parametrize(
    "name", ["", " ", "a.b", "a/b", "a\\b", "mlp", "fc1", "encoder", "vision_model", "weight", "layers", "2",
    "logit_scale",
             "slug", "slug_", "lug", "slug_x", "my_slug_patch", "keys"]
)  # fmt: skip
def test_bad_adapter_names(clip, name):
    before = bits(clip)
    with pytest.raises(ValueError, match="adapter name"):
        get_peft_model(clip, config(VISION_FC1), adapter_name=name)
    assert_bits(clip, before)
    model = get_peft_model(clip, config(VISION_OUT))
    after = bits(model)
    with pytest.raises(ValueError, match="adapter name"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_adapter(name, config(VISION_FC1))
    assert list(model.peft_config) == ["default"]
    assert_bits(model, after)


def test_names_of_other_adapters_are_not_module_names(clip):
    lora = get_peft_model(clip, LoraConfig(target_modules=[VISION_FC1], modules_to_save=["text_projection"]))
    assert inject_adapter_in_model(config(VISION_OUT), lora.base_model.model, "forget").get_submodule(VISION_OUT)


def test_no_match_is_peft_s_own_error(clip):
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(clip, config("vision_model.encoder.layers.77.mlp.fc1"))
    with pytest.raises(ValueError, match="specify `target_modules`"):
        get_peft_model(clip, SlugConfig())
    assert not slug_layers(clip)


def test_peft_s_ways_to_name_modules():
    def found(**kwargs):
        return set(slug_layers(get_peft_model(make_clip(), SlugConfig(**kwargs)).base_model.model))

    layers = [f"{tower}_model.encoder.layers.{i}.mlp.fc1" for tower in ("text", "vision") for i in range(3)]
    assert found(target_modules=["fc1"]) == set(layers)
    assert found(target_modules=r".*vision.*\.fc1") == set(layers[3:])
    assert found(target_modules=VISION_FC1) == {VISION_FC1}
    assert found(target_modules=["fc1"], layers_to_transform=[1]) == {layers[1], layers[4]}
    assert found(target_modules=["fc1"], exclude_modules=[VISION_FC1, "layers.0.mlp.fc1"]) == set(
        layers[1:3] + layers[4:5]
    )
    assert found(target_modules=[VISION_FC1, "text_projection"]) == {VISION_FC1, "text_projection"}
    linear = {name for name, module in make_clip().named_modules() if isinstance(module, nn.Linear)}
    assert found(target_modules="all-linear") == linear
    model = get_peft_model(make_clip(), SlugConfig(target_modules="all-linear"))
    model.add_adapter("second", SlugConfig(target_modules="all-linear"))
    assert all(set(layer.scaling) == {"default", "second"} for layer in slug_layers(model).values())
