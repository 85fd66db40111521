# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""LoRAs beside patches, on the very same layers: neither takes the other off, and a fused LoRA is never wiped out."""

from functools import partial

import pytest
import torch
from attachment_helpers import CASES, DTYPES, FC1, V_PROJ, assert_state, make_patch, state, weights_of
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from tiny_hosts import HOSTS, make_clip

from hf_slug.encoders import find_encoders
from hf_slug.errors import ChangedWeightError, WrongBaseError


TARGETS = {"text_encoder": ["fc1", "v_proj"], "text_encoder_2": ["fc1", "v_proj"], "unet": ["to_q"]}
KINDS = {"sd1": HOSTS["sd1"].build, "sdxl": HOSTS["sdxl"].build, "zoo's SD": CASES["zoo's Stable Diffusion"].build}
pipelines = pytest.mark.parametrize("build", KINDS.values(), ids=KINDS.keys())
generate = HOSTS["sd1"].generate


@pytest.fixture(scope="session")
def loras(tmp_path_factory):
    """A function that gives the folder of a LoRA, in diffusers' format, on the text encoders and the UNet of a pipeline."""
    made = {}

    def make(build, seed=0):
        if (build, seed) not in made:
            pipe, layers = build(), {}
            torch.manual_seed(seed)
            for name, part in pipe.components.items():
                if name in TARGETS and part is not None:
                    part.add_adapter(LoraConfig(r=2, target_modules=TARGETS[name], init_lora_weights=False))
                    layers[f"{name}_lora_layers"] = get_peft_model_state_dict(part)
            made[build, seed] = str(tmp_path_factory.mktemp("lora"))
            pipe.save_lora_weights(made[build, seed], **layers)
        return made[build, seed]

    return make


def load_lora(pipe, folder, **settings):
    """With the file's name, which diffusers below 0.42 wants when offline."""
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors", **settings)


def text_patch(build, seed=0):
    return make_patch(build(), (FC1, V_PROJ), seed, component="text_encoder")


def weights(pipe):
    """The weights of the two layers inside of the LoRA's wrappers."""
    found = find_encoders(pipe, "text_encoder")[0].resolve([FC1, V_PROJ])
    return [found[name].weight.detach().clone() for name in (FC1, V_PROJ)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pipelines
@pytest.mark.parametrize("first", ["patch", "lora"])
def test_neither_takes_the_other_off(build, loras, first):
    pipe, lora, patch = build(), loras(build), text_patch(build)
    base, before = generate(pipe), weights(pipe)
    load_lora(pipe, lora, adapter_name="a")
    only_lora = generate(pipe)
    pipe.unload_lora_weights()
    pipe.load_unlearning(patch, "p")
    only_patch, patched = generate(pipe), weights(pipe)
    if first == "lora":
        pipe.unload_unlearning()
        load_lora(pipe, lora, adapter_name="a")
        pipe.load_unlearning(patch, "p")
    else:
        load_lora(pipe, lora, adapter_name="a")
    load_lora(pipe, loras(build, 1), adapter_name="b")
    pipe.set_adapters("a")
    both = generate(pipe)
    outputs = [base, only_lora, only_patch, both]
    assert not any(torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])

    for turn, expected in (
        (pipe.disable_lora, only_patch),
        (pipe.enable_lora, both),
        (partial(pipe.set_adapters, "a", 0.0), only_patch),
        (partial(pipe.set_adapters, ["a"], [1.0]), both),
        (partial(pipe.delete_adapters, "b"), both),
        (pipe.disable_unlearning, only_lora),
        (pipe.enable_unlearning, both),
    ):
        turn()
        assert torch.equal(generate(pipe), expected) and pipe.get_list_unlearning() == {"text_encoder": ["p"]}
        assert same(weights(pipe), before if turn == pipe.disable_unlearning else patched)
    if first == "lora":
        pipe.unload_unlearning()
        assert torch.equal(generate(pipe), only_lora) and same(weights(pipe), before)
        pipe.unload_lora_weights()
    else:
        pipe.unload_lora_weights()
        assert torch.equal(generate(pipe), only_patch) and same(weights(pipe), patched)
        pipe.unload_unlearning()
    assert torch.equal(generate(pipe), base) and same(weights(pipe), before)


@pipelines
def test_the_order_of_loading_does_not_matter(build, loras):
    outputs = []
    for first in ("patch", "lora"):
        pipe = build()
        if first == "lora":
            load_lora(pipe, loras(build))
        pipe.load_unlearning(text_patch(build))
        if first == "patch":
            load_lora(pipe, loras(build))
        outputs.append(generate(pipe))
    assert torch.equal(*outputs)


# fused


def parts(build):
    return [name for name in TARGETS if name in build().components]


@pipelines
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_lora_is_not_wiped_out_and_unfusing_mends_it(build, dtype, loras):
    pipe = build().to(dtype)
    before = weights(pipe)
    pipe.load_unlearning(text_patch(build))
    patched = weights(pipe)
    load_lora(pipe, loras(build))
    pipe.fuse_lora(components=parts(build), lora_scale=0.7)
    fused = state(pipe)
    for change in (
        pipe.unload_unlearning,
        pipe.disable_unlearning,
        partial(pipe.delete_unlearning, "default_0"),
        partial(pipe.set_unlearning, "default_0", 0.5),
        partial(pipe.load_unlearning, text_patch(build, 1)),
    ):
        with pytest.raises(ChangedWeightError, match="unfuse_lora"):
            change()
        assert_state(pipe, fused)
    pipe.unfuse_lora(components=parts(build))
    assert not same(weights(pipe), patched)  # rounding is left behind, on top of the patch
    pipe.unload_unlearning()
    assert same(weights(pipe), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("times", [1, 3])
def test_rounding_is_told_from_a_lora_that_stayed(dtype, times, loras):
    build = KINDS["sd1"]
    pipe = build().to(dtype)
    before = weights(pipe)
    pipe.load_unlearning(text_patch(build))
    load_lora(pipe, loras(build), adapter_name="a")
    for _ in range(times):
        pipe.fuse_lora(components=parts(build))
        pipe.unfuse_lora(components=parts(build))
    pipe.disable_unlearning()
    pipe.enable_unlearning()
    pipe.fuse_lora(components=parts(build), lora_scale=0.01)
    pipe.unload_lora_weights()  # its weights stay in the model
    with pytest.raises(ChangedWeightError):
        pipe.unload_unlearning()
    load_lora(pipe, loras(build, 1), adapter_name="b")  # another one, that is not fused, does not explain them
    with pytest.raises(ChangedWeightError):
        pipe.unload_unlearning()
    assert not same(weights(pipe), before) and pipe.get_active_unlearning() == ["default_0"]


def test_even_a_fused_lora_as_faint_as_rounding_is_not_wiped_out():
    host = make_clip().to(torch.bfloat16)
    host.load_unlearning(make_patch(make_clip()))
    weight = host.get_submodule(FC1).weight
    patched = weight.detach().clone()
    lora = get_peft_model(host, LoraConfig(target_modules=["fc1"], init_lora_weights=False))
    layer = host.get_submodule(FC1)
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(0.01 * patched.abs().max() / layer.get_delta_weight("default").abs().max())
    lora.merge_adapter()
    assert not torch.equal(weight, patched) and (weight - patched).abs().max() <= 0.02 * patched.abs().max()
    with pytest.raises(ChangedWeightError):
        host.unload_unlearning()
    lora.unmerge_adapter()
    host.unload_unlearning()
    assert torch.equal(weight, make_clip().to(torch.bfloat16).get_submodule(FC1).weight)


def test_a_patch_is_refused_where_a_lora_is_fused_already(loras):
    build = KINDS["sd1"]
    pipe = build()
    load_lora(pipe, loras(build))
    pipe.fuse_lora(components=parts(build))
    fused = weights(pipe)
    before = state(pipe)
    with pytest.raises(WrongBaseError, match="other weights"):
        pipe.load_unlearning(text_patch(build))
    assert_state(pipe, before)
    pipe.load_unlearning(text_patch(build), strict=False)
    assert not same(weights(pipe), fused)
    pipe.unload_unlearning()
    assert same(weights(pipe), fused)


# PEFT without diffusers


MODELS = {"CLIPModel": FC1, "CLIPTextModelWithProjection": V_PROJ, "llava": "vision_model.encoder.layers.1.mlp.fc1"}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("first", ["patch", "lora"])
def test_pefts_own_verbs_leave_the_patch_on(kind, first):
    build, run = HOSTS[kind].build, HOSTS[kind].generate
    patch = make_patch(make_clip(), (MODELS[kind],))
    base, patched = build(), build()
    patched.load_unlearning(patch)

    def wrapped(model):
        torch.manual_seed(0)
        return get_peft_model(model, LoraConfig(target_modules=["fc1", "v_proj"], init_lora_weights=False)).eval()

    host = build()
    if first == "patch":
        host.load_unlearning(patch)
        lora = wrapped(host)
    else:
        lora = wrapped(host)
        lora.load_unlearning(patch)  # found through PEFT's wrapper
    both = run(host)
    (component,) = host.get_list_unlearning()
    with lora.disable_adapter():
        assert torch.equal(run(host), run(patched))
    assert torch.equal(run(host), both) and lora.get_active_unlearning() == ["default_0"]
    lora.merge_adapter()
    with pytest.raises(ChangedWeightError):
        host.unload_unlearning()
    lora.unmerge_adapter()
    lora.unload_unlearning()
    assert lora.get_list_unlearning() == {}
    # merging has left its rounding in the other layers, which are not ours to mend
    assert all(torch.equal(*both) for both in zip(*(weights_of(h, patch.modules).values() for h in (host, base))))
    lora.load_unlearning(patch, "again")
    assert lora.unload() is host and host.get_list_unlearning() == {component: ["again"]}
