# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Which encoders a host has, and which of their layers it reads: held against gradients through the host's own encode path."""

from functools import partial

import pytest
import torch
import transformers
from diffusers import StableUnCLIPPipeline
from peft import LoraConfig, get_peft_model
from tiny_hosts import (
    HOSTS,
    TEXT_LAYERS,
    VISION_LAYERS,
    encode_llava,
    encoder,
    make_clip,
    make_llava,
    make_sd,
    make_sdxl,
    noise,
)

from hf_slug.encoders import find_encoders
from hf_slug.errors import DeadLayerError, UnsupportedModelError
from hf_slug.towers import PROJECTION, TOWER_NORMS


PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
NORMS = ("layer_norm1", "layer_norm2")
BLOCKS = {"text": TEXT_LAYERS, "vision": VISION_LAYERS}


def canonical_names(tower):
    """Every matrix and norm of every block of the whole CLIP's tower, and what follows the last block."""
    blocks = [f"{tower}_model.encoder.layers.{i}.{part}" for i in range(BLOCKS[tower]) for part in (*PARTS, *NORMS)]
    return [*blocks, f"{tower}_model.{TOWER_NORMS[tower]}", PROJECTION[tower]]


def reached(output, weights):
    """The names of the weights that have a gradient from a random projection of the output."""
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad((output * direction).sum(), list(weights.values()), allow_unused=True)
    return {name for name, gradient in zip(weights, gradients) if gradient is not None and gradient.any()}


def check_liveness(host, encode, components=None):
    """Holds `is_live` of every encoder against what the host's own output depends on."""
    encoders = find_encoders(host, components)
    for found in encoders:
        names = canonical_names(found.tower)
        weights = {name: module.weight.requires_grad_() for name, module in found.resolve(names).items()}
        live = reached(encode(host), weights)
        assert live and live == {name for name in weights if found.is_live(name)}, found.component
        # what is not there at all is not live either
        assert {name for name in names if found.is_live(name)} <= set(weights)
        assert found.blocks == len(found.root.encoder.layers) and found.root in [*found.module.modules()]
        assert all(module in [*found.owner.modules()] for module in found.resolve(names).values())
    return encoders


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_a_layer_is_live_if_the_hosts_output_depends_on_it(host):
    model = host.build()
    encoders = check_liveness(model, host.encode)
    if host.components:  # a pipeline: T5 and the safety checker are never among them
        assert [found.component for found in encoders] == list(host.components)


HIDDEN_STATES = [-1, -2, -4, 1, 2, VISION_LAYERS, [-2, -3, 1], [0, 2], [-1, 2]]


@pytest.mark.parametrize("kind", ["Llava", "LlavaNext", "VipLlava", "VideoLlava"])
@pytest.mark.parametrize("layer", HIDDEN_STATES, ids=str)
def test_a_llava_reads_up_to_its_hidden_state(kind, layer):
    if kind == "VipLlava" and isinstance(layer, int):
        layer = [layer]  # it concatenates a list of them
    model = make_llava(kind, vision_feature_layer=layer)
    indices = [layer] if isinstance(layer, int) else layer
    depth = max(i if i >= 0 else VISION_LAYERS + 1 + i for i in indices)
    for found in find_encoders(model):
        assert (found.live_blocks, found.reads_pooled) == (depth, False) and "vision_feature_layer" in found.reason
    check_liveness(model, encode_llava)


def test_a_classifier_averages_what_comes_before_the_last_norm():
    config = make_clip().config
    config.num_labels = 3
    model = transformers.CLIPForImageClassification(config).eval()
    check_liveness(model, lambda model: model(noise(1, 3, 32, 32)).logits)
    assert not find_encoders(model)[0].is_live("vision_model.post_layernorm")


def test_two_encoders_do_not_make_it_an_sdxl():
    # a text encoder without a projection beside a prior's, which has one: all of it is read
    parts = {"text_encoder": encoder("CLIPTextModel", make_clip())}
    parts["prior_text_encoder"] = encoder("CLIPTextModelWithProjection", make_clip(1))
    pipe = type("Pipe", (StableUnCLIPPipeline,), {"components": parts, "__init__": lambda self: None})()
    found = {encoder.component: encoder for encoder in find_encoders(pipe)}
    assert found["text_encoder"].live_blocks == TEXT_LAYERS and found["text_encoder"].reads_pooled
    assert found["prior_text_encoder"].is_live("text_projection")


# choosing


def test_components_choose_encoders():
    pipe = make_sdxl("StableDiffusionXLPipeline")
    names = {c: [e.component for e in find_encoders(pipe, c)] for c in ("text_encoder", "text_encoder_2")}
    assert names == {"text_encoder": ["text_encoder"], "text_encoder_2": ["text_encoder_2"]}
    assert len(find_encoders(pipe, ["text_encoder_2", "text_encoder"])) == 2
    assert len(find_encoders(pipe, iter(["text_encoder"]))) == 1
    assert [e.component for e in find_encoders(make_clip(), "vision_model")] == ["vision_model"]
    assert [e.component for e in find_encoders(make_llava("VideoLlava"), "image_tower")] == ["image_tower"]


@pytest.mark.parametrize("wrong", ["unet", "text_encoder_3", "", [], ["text_encoder", "vae"]])
def test_an_unknown_component_is_named_with_those_there_are(wrong):
    with pytest.raises(ValueError, match="has no CLIP encoder .*Found: text_encoder") as caught:
        find_encoders(make_sd("StableDiffusionPipeline"), wrong)
    assert not isinstance(wrong, str) or repr(wrong) in str(caught.value)


def test_the_safety_checker_is_an_encoder_only_when_it_is_asked_for():
    pipe = make_sd("StableDiffusionPipeline", safety_checker=True)
    assert [e.component for e in find_encoders(pipe)] == ["text_encoder"]
    asked = find_encoders(pipe, "safety_checker")
    assert [(e.component, e.tower) for e in asked] == [("safety_checker", "vision")]
    name = "vision_model.encoder.layers.0.mlp.fc1"
    (fc1,) = (part for path, part in pipe.safety_checker.named_modules() if path.endswith("encoder.layers.0.mlp.fc1"))
    assert asked[0].resolve([name]) == {name: fc1}


def without_clip():
    pipe = HOSTS["sd3"].build()
    pipe.text_encoder = pipe.text_encoder_2 = None
    return pipe


@pytest.mark.parametrize("build", [without_clip, partial(torch.nn.Linear, 2, 2), object, lambda: None])
def test_a_host_without_clip_is_refused(build):
    with pytest.raises(UnsupportedModelError, match="embeds no CLIP encoder.*Expected a diffusers pipeline"):
        find_encoders(build())


def test_a_dead_layer_is_refused_with_the_reason():
    found = find_encoders(make_sdxl("StableDiffusionXLPipeline"), "text_encoder")[0]
    found.check_live(["text_model.encoder.layers.2.mlp.fc1"], "host")
    with pytest.raises(DeadLayerError, match="layers.3.mlp.fc1 can't.*penultimate.*first 3 of the 4 blocks.*host="):
        found.check_live(["text_model.encoder.layers.2.mlp.fc1", "text_model.encoder.layers.3.mlp.fc1"], "host")


# wrappers


def add_lora(model):
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "fc1"], init_lora_weights=False)).eval()


def compile_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPERS = {
    "peft": add_lora,
    "compiled": partial(torch.compile, backend="eager"),
    "compiled in place": compile_in_place,
    "compiled peft": lambda model: torch.compile(add_lora(model), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("kind", ["CLIPModel", "CLIPTextModelWithProjection", "llava", "video_llava"])
def test_wrapped_models_are_entered(kind, wrap):
    model = HOSTS[kind].build()
    plain = find_encoders(model)
    before = [found.resolve(canonical_names(found.tower)) for found in plain]
    wrapped = find_encoders(wrap(model))
    assert [(e.component, e.live_blocks, e.reads_pooled, e.root) for e in wrapped] == [
        (e.component, e.live_blocks, e.reads_pooled, e.root) for e in plain
    ]
    for found, modules in zip(wrapped, before):
        assert found.resolve(canonical_names(found.tower)) == modules  # the very modules, inside of the wrappers


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrapped_components_of_a_pipeline_are_entered(wrap):
    pipe = make_sdxl("StableDiffusionXLPipeline")
    pipe.text_encoder = wrap(pipe.text_encoder)
    encoders = check_liveness(pipe, HOSTS["sdxl"].encode)
    assert [(e.component, e.live_blocks) for e in encoders] == [("text_encoder", 3), ("text_encoder_2", 4)]
