# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The two ways to apply a patch, PEFT's merge and the host's own methods, give the same bits."""

import copy
import functools
import itertools
import operator

import pytest
import torch
from attachment_helpers import CASES, DTYPES, FC1, QKV, V_PROJ, make_patch, zoo_clip
from peft import PeftModel
from tiny_hosts import HOSTS, make_clip

from hf_slug.tuner import SlugLayer


def part_of(build, path):
    """Builds the tower that a host embeds; the host itself is made once."""
    host = functools.cache(build)
    return lambda: copy.deepcopy(operator.attrgetter(path)(host()))


NORM, VISION = "text_model.final_layer_norm", "vision_model.encoder.layers.1.mlp.fc2"
# host, and the modules of the patches that are stacked on it
TOWERS = {
    "CLIPModel": (make_clip, [QKV, (FC1, V_PROJ), (VISION,), ("text_projection",)]),
    "CLIPTextModel": (HOSTS["CLIPTextModel"].build, [(FC1,), (FC1, NORM)]),
    "CLIPTextModelWithProjection": (
        HOSTS["CLIPTextModelWithProjection"].build,
        [("text_projection", V_PROJ), (V_PROJ,)],
    ),
    "CLIPVisionModelWithProjection": (HOSTS["CLIPVisionModelWithProjection"].build, [(VISION, "visual_projection")]),
    "sd1's encoder": (part_of(HOSTS["sd1"].build, "text_encoder"), [QKV, (V_PROJ,), (FC1,)]),
    "llava's tower": (part_of(HOSTS["llava"].build, "model.vision_tower"), [(VISION,)]),
    "zoo's CLIP": (zoo_clip, [(FC1,), ("visual_projection",), (FC1, V_PROJ)]),
    "zoo's Stable Diffusion": (
        part_of(CASES["zoo's Stable Diffusion"].build, "text_encoder"),
        [(FC1,), (FC1, V_PROJ)],
    ),
    "zoo's LLaVA": (part_of(CASES["zoo's LLaVA"].build, "model.vision_tower"), [(VISION,), (VISION,)]),
}
every_tower = pytest.mark.parametrize("build, stacked", TOWERS.values(), ids=TOWERS.keys())


def patches(build, stacked, rank):
    return {f"patch {i}": make_patch(build(), modules, i, rank=rank) for i, modules in enumerate(stacked)}


def load_peft(model, folders):
    """Several patches by PEFT's own methods, all of them active."""
    peft = None
    for name, folder in folders.items():
        if peft is None:
            peft = PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            peft.load_adapter(folder, name)
    peft.base_model.set_adapter(list(folders))
    return peft


def assert_same(one, other, base):
    """Two models of equal bits, some of which are not the base's."""
    found, wanted, before = one.state_dict(), other.state_dict(), base.state_dict()
    assert list(found) == list(wanted) == list(before)
    for key in wanted:
        assert found[key].dtype == wanted[key].dtype and torch.equal(found[key], wanted[key]), key
    assert any(not torch.equal(found[key], before[key]) for key in before)


@every_tower
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [None, 2])
def test_merging_is_loading_onto_the_host(build, stacked, dtype, rank, tmp_path):
    made = patches(build, stacked, rank)
    for name, patch in made.items():
        patch.save_pretrained(tmp_path / name)
        alone = build().to(dtype)
        alone.load_unlearning(patch, name)
        assert_same(patch.to_peft(build().to(dtype), name).merge_and_unload(), alone, build().to(dtype))
    host = build().to(dtype)
    for name in reversed(made):
        host.load_unlearning(tmp_path / name, name)
    merged = load_peft(build().to(dtype), {name: tmp_path / name for name in made}).merge_and_unload()
    assert_same(merged, host, build().to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [(0.5, -0.3, 2.0), (1.0, 0.0, 1e-3)])
def test_scales_are_weights(dtype, weights, tmp_path):
    build, stacked = TOWERS["sd1's encoder"]
    made = patches(build, stacked, None)
    host = build().to(dtype)
    for (name, patch), weight in zip(made.items(), weights):
        patch.save_pretrained(tmp_path / name)
        host.load_unlearning(patch, name, weight)
    peft = load_peft(build().to(dtype), {name: tmp_path / name for name in made})
    for layer, (name, weight) in itertools.product(peft.modules(), zip(made, weights)):
        if isinstance(layer, SlugLayer):
            layer.set_scale(name, weight)
    assert_same(peft.merge_and_unload(), host, build().to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_unmerged_adapter_computes_what_the_host_computes(dtype):
    # not only the weights: a forward pass through the tuner's layers and one through the changed model
    patch = make_patch(make_clip(), (FC1, V_PROJ))
    host = make_clip().to(dtype)
    host.load_unlearning(patch)
    adapted = patch.to_peft(make_clip().to(dtype))
    ids = torch.tensor([[642, 5, 6, 7, 643]])
    with torch.no_grad():
        outputs = [
            model.text_model(ids).last_hidden_state
            for model in (host, adapted.get_base_model(), make_clip().to(dtype))
        ]
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
