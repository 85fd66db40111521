# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, get_peft_model
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModel, CLIPVisionModelWithProjection

from hf_slug.errors import UnsupportedModelError
from hf_slug.towers import candidate_layers, check_clip_model, layer_weights, resolve_modules


VISION, TEXT = "vision_model.encoder.layers.2.mlp.fc1", "text_model.encoder.layers.0.self_attn.q_proj"
NAMES = [VISION, TEXT, "visual_projection", "text_projection", "text_model.final_layer_norm"]


def test_a_clip_model_has_every_canonical_name():
    model = make_clip()
    assert resolve_modules(model, [*NAMES, "lm_head", "text_model.encoder.layers.9.mlp.fc1"]) == {n: n for n in NAMES}


@pytest.mark.parametrize(
    "cls, part, found",
    [
        (CLIPTextModel, "text_config", {TEXT, "text_model.final_layer_norm"}),
        (CLIPTextModelWithProjection, "text_config", {TEXT, "text_model.final_layer_norm", "text_projection"}),
        (CLIPVisionModel, "vision_config", {VISION}),
        (CLIPVisionModelWithProjection, "vision_config", {VISION, "visual_projection"}),
    ],
)
def test_a_single_tower_has_its_own_and_never_the_others(cls, part, found):
    model = cls(getattr(make_clip().config, part))
    resolved = resolve_modules(model, NAMES)
    assert set(resolved) == found
    for canonical, live in resolved.items():
        assert model.get_submodule(live).weight.shape == make_clip().get_submodule(canonical).weight.shape


def test_wrapped_and_compiled_modules_are_found():
    model = make_clip()
    lora = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert resolve_modules(lora.base_model.model, [TEXT]) == {TEXT: TEXT}  # PEFT wraps its own wrapper
    assert resolve_modules(lora, [TEXT]) == {TEXT: f"base_model.model.{TEXT}"}
    compiled = make_clip()
    compiled.text_model.encoder.layers[0] = torch.compile(compiled.text_model.encoder.layers[0])
    assert compiled.get_submodule(resolve_modules(compiled, [TEXT])[TEXT]).weight.shape == (16, 16)


def test_what_is_wrapped_or_replaced_since_is_found_again():
    model = make_clip()
    assert resolve_modules(model, NAMES) == {name: name for name in NAMES}
    inner = model.get_submodule("text_model.encoder.layers")
    inner[0].self_attn.q_proj = torch.nn.Linear(16, 16)
    layer = next(layer for layer in candidate_layers(model, "text") if layer.name == TEXT)
    assert layer_weights(model, layer)[TEXT] is inner[0].self_attn.q_proj.weight
    inner[0] = torch.compile(inner[0])
    assert layer_weights(model, layer)[TEXT] is inner[0].self_attn.q_proj.weight
    copied = copy.deepcopy(model)
    assert layer_weights(copied, layer)[TEXT] is not layer_weights(model, layer)[TEXT]
    del inner[0]  # the next one has its place
    assert layer_weights(model, layer)[TEXT] is inner[0].self_attn.q_proj.weight
    del model.text_projection
    assert set(resolve_modules(model, NAMES)) == set(NAMES) - {"text_projection"}


def test_two_towers_of_a_kind_are_ambiguous():
    model = torch.nn.ModuleDict({"one": make_clip(), "two": make_clip()})
    with pytest.raises(UnsupportedModelError, match="2 text towers"):
        resolve_modules(model, [TEXT])


def test_candidates_by_granularity():
    model = make_clip()
    count = {g: len(candidate_layers(model, granularity=g)) for g in ("matrix", "attention", "block")}
    assert count == {"matrix": 2 * (3 * 6 + 1), "attention": 2 * (3 * 4 + 1), "block": 2 * (3 * 3 + 1)}
    matrices = [name for layer in candidate_layers(model) for name in layer.modules]
    for granularity in count:  # every matrix is in exactly one layer
        assert sorted(
            n for layer in candidate_layers(model, granularity=granularity) for n in layer.modules
        ) == sorted(matrices)
    assert not any("norm" in name or "embedding" in name or "position" in name for name in matrices)
    with_norms = {layer.name for layer in candidate_layers(model, norms=True)} - {
        layer.name for layer in candidate_layers(model)
    }
    assert len(with_norms) == 2 * (3 * 2 + 1) and all("norm" in name for name in with_norms)
    assert {layer.tower for layer in candidate_layers(model, "text")} == {"text"}
    assert "visual_projection" not in {layer.name for layer in candidate_layers(model, "text")}


@pytest.mark.parametrize("wrong", [{"tower": "audio"}, {"granularity": "head"}])
def test_unknown_choices_are_named(wrong):
    with pytest.raises(ValueError, match="audio|head"):
        candidate_layers(make_clip(), **wrong)


def test_models_that_cannot_be_used_are_refused():
    with pytest.raises(UnsupportedModelError, match="Expected a transformers CLIPModel.*Linear"):
        check_clip_model(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="CLIPTextModel"):
        check_clip_model(CLIPTextModel(make_clip().config.text_config))
    with pytest.raises(UnsupportedModelError, match="carries adapters"):
        check_clip_model(get_peft_model(make_clip(), LoraConfig(target_modules=["q_proj"])).base_model.model)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        check_clip_model(make_clip().to("meta"))
    quantised = make_clip()
    weight = quantised.text_projection.weight
    quantised.text_projection.weight = torch.nn.Parameter(weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match="text_projection.weight is quantised"):
        check_clip_model(quantised)


def test_a_missing_module_is_named():
    layer = candidate_layers(make_clip())[-1]
    with pytest.raises(UnsupportedModelError, match="text_projection"):
        layer_weights(CLIPTextModel(make_clip().config.text_config), layer)
