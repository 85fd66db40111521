# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Which patch fits which encoder: wrong bases, layers that are dead or not there, several encoders, weights that can't be written."""

import logging

import pytest
import torch
from attachment_helpers import CASES, FC1, V_PROJ, Case, assert_state, every_case, make_patch, state, weights_of
from diffusers.hooks import apply_layerwise_casting
from tiny_hosts import HOSTS, SECOND, encoder, make_clip, make_sd
from torch import nn

from hf_slug.encoders import find_encoders
from hf_slug.errors import DeadLayerError, UnsupportedModelError, WrongBaseError


TEXT_BLOCK, VISION_BLOCK = "text_model.encoder.layers.{}.mlp.fc1", "vision_model.encoder.layers.{}.mlp.fc1"


def refuse(host, patch, error, message, **options):
    """Loads a patch that must be refused, and checks that nothing is different afterwards."""
    before = state(host)
    with pytest.raises(error, match=message) as caught:
        host.load_unlearning(patch, **options)
    assert_state(host, before)
    return str(caught.value)


@pytest.mark.parametrize("kind", HOSTS)
def test_a_patch_made_on_a_clip_fits_every_host_of_its_tower(kind):
    host, clip = HOSTS[kind].build(), make_clip()
    base = HOSTS[kind].generate(host)
    towers = {found.tower for found in find_encoders(host)}
    for tower, block in (("text", TEXT_BLOCK), ("vision", VISION_BLOCK)):
        patch = make_patch(clip, (block.format(2),))
        if tower in towers:
            host.load_unlearning(patch)
            assert not torch.equal(HOSTS[kind].generate(host), base)
            host.unload_unlearning()
        else:
            refuse(host, patch, UnsupportedModelError, f"of a {tower} tower")
        assert torch.equal(HOSTS[kind].generate(host), base)


@every_case
def test_another_base_is_refused_unless_it_is_allowed(case):
    host = case.build()
    for found in find_encoders(host):  # a VideoLlava has the tower twice
        for module in found.resolve(case.modules).values():
            module.weight.data[0] *= 1.001
    base = case.generate(host)
    refuse(host, case.patch(case.build()), WrongBaseError, "(?s)computed from user/clip.*found norm.*expected norm")
    assert torch.equal(case.generate(host), base)
    host.load_unlearning(case.patch(case.build()), strict=False, components=case.component)
    assert not torch.equal(case.generate(host), base)
    host.unload_unlearning()
    assert torch.equal(case.generate(host), base)


@every_case
def test_a_layer_that_is_not_there_is_refused(case):
    host = case.build()
    base = case.generate(host)
    clip = case.clip()
    other = "vision" if case.modules[0].startswith("text") else "text"
    wrong = case.patch(host)
    name = case.modules[0]
    for key in [key for key in wrong.tensors if f".{name}." in key]:
        wrong.tensors[key.replace(name, f"{other}_model.encoder.layers.77.mlp.fc1")] = wrong.tensors.pop(key)
    refuse(host, wrong, UnsupportedModelError, "layers.77|none that could be changed")
    if not isinstance(host, type(clip)):  # it has one tower alone
        block = (VISION_BLOCK if other == "vision" else TEXT_BLOCK).format(1)
        refuse(
            host,
            make_patch(clip, (block,)),
            UnsupportedModelError,
            f"of a {other} tower.*none that could be changed.*found",
        )
    assert torch.equal(case.generate(host), base)


DEAD = {
    "sdxl's penultimate hidden state": (
        "sdxl",
        TEXT_BLOCK.format(3),
        "penultimate hidden state of its text_encoder.*first 3",
    ),
    "sdxl's last norm": ("sdxl", "text_model.final_layer_norm", "penultimate"),
    "sd2 is a block shorter": (
        "sd2",
        TEXT_BLOCK.format(3),
        "text_encoder of StableDiffusionPipeline has 3 blocks and no .*s.3.",
    ),
    "sd1 projects nothing": ("sd1", "text_projection", "no text_projection"),
    "flux projects nothing": ("flux", "text_projection", "no text_projection"),
    "llava's last block": (
        "llava",
        VISION_BLOCK.format(4),
        "vision_feature_layer=-2.*first 4 of the 5 blocks of its vision_tower",
    ),
    "llava's last norm": ("llava_next", "vision_model.post_layernorm", "vision_feature_layer=-2"),
    "llava's projection": ("llava", "visual_projection", "no visual_projection.*made for this host"),
    "vipllava's last block": ("vipllava", VISION_BLOCK.format(4), r"vision_feature_layer=\[-2, -3, 1\]"),
    "video_llava's last block": ("video_llava", VISION_BLOCK.format(4), "of its (image|video)_tower"),
    "zoo's LLaVA": ("zoo's LLaVA", "vision_model.encoder.layers.4.self_attn.q_proj", "vision_feature_layer=-2"),
}


@pytest.mark.parametrize("kind, module, message", DEAD.values(), ids=DEAD.keys())
def test_a_dead_layer_is_refused(kind, module, message):
    case = CASES.get(kind) or Case(HOSTS[kind].build, HOSTS[kind].generate, "", ())
    host, clip = case.build(), case.clip()
    base = case.generate(host)
    for strict in (True, False):
        text = refuse(host, make_patch(clip, (module,)), DeadLayerError, message, strict=strict)
    assert "unlearn(..., host=...)" in text
    # one dead part is enough
    live = (
        module.partition("_model")[0].replace("ual", "ion").replace("_projection", "")
        + "_model.encoder.layers.0.mlp.fc2"
    )
    refuse(host, make_patch(clip, (live, module)), DeadLayerError, message)
    assert torch.equal(case.generate(host), base)


# several encoders


def test_the_fingerprint_chooses_the_encoder():
    pipe = HOSTS["sdxl"].build()
    pipe.load_unlearning(make_patch(make_clip(0)), "first")
    pipe.load_unlearning(make_patch(make_clip(1, SECOND)), "second")
    assert pipe.get_list_unlearning() == {"text_encoder": ["first"], "text_encoder_2": ["second"]}
    assert pipe.get_active_unlearning() == ["first", "second"]
    with pytest.raises(ValueError, match="'first' already"):  # a name is one for the whole host
        pipe.load_unlearning(make_patch(make_clip(1, SECOND), (V_PROJ,)), "first", components="text_encoder_2")
    pipe.set_unlearning("second")
    assert pipe.get_active_unlearning() == ["second"]
    pipe.delete_unlearning("first")
    assert pipe.get_list_unlearning() == {"text_encoder_2": ["second"]}


def test_the_encoder_that_was_chosen_must_fit():
    pipe = HOSTS["sdxl"].build()
    refuse(
        pipe,
        make_patch(make_clip(0)),
        WrongBaseError,
        r"text_encoder_2 .* has shape \(48, 24\)",
        components="text_encoder_2",
    )
    text = refuse(
        HOSTS["video_llava"].build(), make_patch(make_clip(1), (VISION_BLOCK.format(1),)), WrongBaseError, "sha256"
    )
    assert "user/clip" in text


def test_the_error_is_that_of_the_encoder_that_comes_nearest():
    pipe = HOSTS["sdxl"].build()
    second = make_clip(1, SECOND)
    refuse(pipe, make_patch(make_clip(2, SECOND)), WrongBaseError, "found norm")  # the first has another shape
    refuse(
        pipe, make_patch(make_clip(2, SECOND), ("text_projection",)), WrongBaseError, "found norm"
    )  # the first has none
    to_int8(pipe.text_encoder_2.text_model.encoder.layers[1].mlp.fc1)
    refuse(pipe, make_patch(second), UnsupportedModelError, "is quantised")


def twins():
    """A VideoLlava whose two towers have equal shapes, and a patch that says nothing of its base."""
    return HOSTS["video_llava"].build(), make_patch(make_clip(), (VISION_BLOCK.format(1),), fingerprint=False)


def test_a_patch_that_fits_two_encoders_by_shape_alone_needs_a_choice():
    host, patch = twins()
    refuse(host, patch, ValueError, "fits video_tower, image_tower of VideoLlava.*Choose with `components=`")
    host.load_unlearning(patch, components="image_tower")
    assert host.get_list_unlearning() == {"image_tower": ["default_0"]}
    host.unload_unlearning()
    host.load_unlearning(patch, components=["image_tower", "video_tower"])
    assert host.get_list_unlearning() == {"video_tower": ["default_0"], "image_tower": ["default_0"]}


@pytest.mark.parametrize("strict", [True, False])
def test_a_patch_without_a_fingerprint_says_so(strict, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_slug"), "propagate", True)
    host, patch = twins()
    with caplog.at_level("WARNING"):
        host.load_unlearning(patch, components="image_tower", strict=strict)
    assert ("carries no fingerprint" in caplog.text) == strict


def test_a_patch_may_be_loaded_while_unlearning_is_disabled(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_slug"), "propagate", True)
    pipe = HOSTS["sdxl"].build()
    before = weights_of(pipe, (FC1,), "text_encoder_2")[FC1].clone()
    pipe.load_unlearning(make_patch(make_clip(0)), "first")
    pipe.disable_unlearning()
    with caplog.at_level("WARNING"):
        pipe.load_unlearning(make_patch(make_clip(1, SECOND)), "second")
    assert "'second' is loaded, and off until `enable_unlearning()`" in caplog.text
    assert torch.equal(weights_of(pipe, (FC1,), "text_encoder_2")[FC1], before) and pipe.get_active_unlearning() == []
    pipe.enable_unlearning()
    assert not torch.equal(weights_of(pipe, (FC1,), "text_encoder_2")[FC1], before)
    assert pipe.get_active_unlearning() == ["first", "second"]


def test_a_component_that_is_no_text_encoder_is_patched_when_it_is_asked_for():
    pipe = make_sd("StableDiffusionPipeline", safety_checker=True)
    before = state(pipe)
    patch = make_patch(make_clip(), (VISION_BLOCK.format(1),))
    refuse(pipe, patch, UnsupportedModelError, r"found text_encoder \(text\)")
    pipe.load_unlearning(patch, "seen", components="safety_checker")
    pipe.load_unlearning(make_patch(make_clip()), "said")
    assert pipe.get_list_unlearning() == {"text_encoder": ["said"], "safety_checker": ["seen"]}
    pipe.set_unlearning(["seen", "said"], 0.5)
    (checker,) = find_encoders(pipe, "safety_checker")
    assert not torch.equal(*[weights_of(h, patch.modules[:1])[patch.modules[0]] for h in (checker.owner, make_clip())])
    pipe.unload_unlearning()
    assert_state(pipe, before)


# weights that can't be written


class Packed(nn.Parameter):
    """As bitsandbytes and torchao do: a parameter of their own class, whose values are not the weights."""


def to_int8(linear):
    linear.weight = nn.Parameter(linear.weight.detach().mul(100).to(torch.int8), requires_grad=False)


def to_packed(linear):
    linear.weight = Packed(linear.weight.detach().view(torch.uint8)[:, ::2].contiguous(), requires_grad=False)


def to_packed_float(linear):
    linear.weight = Packed(linear.weight.detach().clone())


def to_float8(linear):
    apply_layerwise_casting(linear, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


@pytest.mark.parametrize("quantise", [to_int8, to_packed, to_packed_float, to_float8])
@pytest.mark.parametrize("kind", ["sd1", "CLIPModel", "llava"])
def test_a_quantised_weight_is_refused_with_advice(quantise, kind):
    host = HOSTS[kind].build()
    module = (VISION_BLOCK if kind == "llava" else TEXT_BLOCK).format(1)
    found = {name: part for e in find_encoders(host) for name, part in e.resolve([module]).items()}
    quantise(found[module])
    patch = make_patch(make_clip(), (module,))
    for strict in (True, False):
        refuse(
            host,
            patch,
            UnsupportedModelError,
            f"{module} is quantised.*Load this encoder unquantised.*PeftModel",
            strict=strict,
        )
    # the rest of the model is as good as before
    other = module.replace("fc1", "fc2")
    host.load_unlearning(make_patch(make_clip(), (other,)))
    host.unload_unlearning()


@pytest.mark.filterwarnings(
    "ignore:.*quantize_dynamic.*:DeprecationWarning", "ignore:torch.ao.quantization:DeprecationWarning"
)
def test_a_dynamically_quantised_encoder_is_refused():
    quantised = torch.ao.quantization.quantize_dynamic(encoder("CLIPTextModel", make_clip()), {nn.Linear})
    pipe = HOSTS["sd1"].build()
    pipe.text_encoder = quantised
    with pytest.raises(UnsupportedModelError, match="is quantised.*unquantised"):
        pipe.load_unlearning(make_patch(make_clip()))
    assert pipe.get_list_unlearning() == {}


def test_a_model_without_its_weights_is_refused():
    for kind in ("CLIPModel", "llava"):
        host = HOSTS[kind].build().to("meta")
        with pytest.raises(UnsupportedModelError, match="not in memory.*meta device.*Load this encoder onto"):
            host.load_unlearning(make_patch(make_clip(), (VISION_BLOCK.format(1),)))
        assert host.get_list_unlearning() == {}
