# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Hosts and patches to put on them, and all that a patch could leave behind."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from packaging.version import Version
from tiny_hosts import HOSTS, SECOND, SIZE, draw, encode_clip, make_clip, noise

import hf_slug
from hf_slug import SlugConfig, UnlearningPatch, zoo
from hf_slug.encoders import find_encoders, host_modules
from hf_slug.fingerprint import compute_fingerprint


TEXT = "text_model.encoder.layers.1.{}"
VISION = "vision_model.encoder.layers.1.{}"
FC1, V_PROJ = TEXT.format("mlp.fc1"), TEXT.format("self_attn.v_proj")


@dataclass(frozen=True)
class Case:
    """A host, one of its encoders, a live layer of that, and the CLIP whose tower it is."""

    build: Callable[[], Any]
    generate: Callable[[Any], torch.Tensor]
    component: str
    modules: tuple[str, ...]
    clip: Callable[[], Any] = make_clip

    def patch(self, host: Any, seed: int = 0, **settings: Any) -> UnlearningPatch:
        return make_patch(host, self.modules, seed, component=self.component, **settings)

    def weights(self, host: Any) -> dict[str, torch.Tensor]:
        return weights_of(host, self.modules, self.component)


def weights_of(host: Any, modules: tuple[str, ...], component: str | None = None) -> dict[str, torch.Tensor]:
    """The live weights of one encoder by canonical name."""
    for encoder in find_encoders(host, component):
        found = encoder.resolve(modules)
        if found:
            return {name: found[name].weight.data for name in modules}
    raise AssertionError(f"no {modules}")


def make_patch(
    host: Any,
    modules: tuple[str, ...] = (FC1,),
    seed: int = 0,
    *,
    component: str | None = None,
    rank: int | None = None,
    fingerprint: bool = True,
    size: float = 0.5,
) -> UnlearningPatch:
    """A patch of random deltas, half as large as the weights that they are for."""
    generator = torch.Generator().manual_seed(seed)
    weights = weights_of(host, modules, component)
    deltas = {
        name: size * weight.float().norm() / weight.numel() ** 0.5 * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
    }
    config = SlugConfig(
        target_modules=list(modules),
        tower="vision" if "vis" in modules[0] else "text",
        concept="mira",
        rank=rank,
        base_model_name_or_path="user/clip",
        base_fingerprint=compute_fingerprint(weights) if fingerprint else None,
        inference_mode=True,
    )
    return UnlearningPatch.from_deltas(deltas, config)


def expected(weight: torch.Tensor, *shares: tuple[float, torch.Tensor]) -> torch.Tensor:
    """The plain reference: what a weight should become of `(weight, delta)` pairs, in the order of their names."""
    total = weight.double()
    for scale, delta in shares:
        total = total + scale * delta.double()
    return total.to(weight.dtype)


def state(host: Any) -> dict[str, Any]:
    """
    All that a patch could leave behind: every attribute of every module, parameters and buffers with their bits and order, the
    state dict, and what the reports say.
    """
    found: dict[str, Any] = {}
    for i, model in enumerate(host_modules(host)):
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                if name in ("_parameters", "_buffers"):
                    found |= {(i, path, name, key): (tensor, copied(tensor)) for key, tensor in value.items()}
                    value = tuple(value)
                elif name in ("_modules", "_non_persistent_buffers_set"):
                    value = tuple(value)
                found[i, path, name] = value
        found |= {(i, "state_dict", key): (value, copied(value)) for key, value in model.state_dict().items()}
    found["active"], found["list"] = hf_slug.get_active_unlearning(host), hf_slug.get_list_unlearning(host)
    return found


def copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def assert_state(host: Any, before: dict[str, Any]) -> None:
    after = state(host)
    assert list(after) == list(before)
    for key, old in before.items():
        new = after[key]
        if isinstance(old, tuple) and old and isinstance(old[0], torch.Tensor):
            # the very tensor, or the very memory where the state dict makes an alias of it
            assert new[0] is old[0] or new[0].data_ptr() == old[0].data_ptr() == new[0].data_ptr(), key
            assert new[1].dtype == old[1].dtype and torch.equal(new[1], old[1]), key
        elif isinstance(old, (tuple, list, dict, str, bool, int)) or key in ("active", "list"):
            assert new == old, key
        else:
            assert new is old, key


def tensors(host: Any) -> dict[tuple[int, str], torch.Tensor]:
    """A copy of everything in the state dicts of a host."""
    models = enumerate(host_modules(host))
    return {(i, key): value.clone() for i, model in models for key, value in model.state_dict().items()}


def assert_tensors(host: Any, wanted: dict[tuple[int, str], torch.Tensor]) -> None:
    found = tensors(host)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


def cast(bits: dict[tuple[int, str], torch.Tensor], dtype: torch.dtype) -> dict[tuple[int, str], torch.Tensor]:
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in bits.items()}


# hosts


def tiny(host: str, component: str, *modules: str) -> Case:
    is_second = host in ("sdxl", "sd3") and component == "text_encoder_2"
    clip = partial(make_clip, 1, SECOND) if is_second else make_clip
    return Case(HOSTS[host].build, HOSTS[host].generate, component, modules, clip)


def zoo_clip() -> Any:
    return zoo.load_clip()[0]


def zoo_sd() -> Any:
    pipe = zoo.load_stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def zoo_llava() -> Any:
    return zoo.load_llava()[0]


@torch.no_grad()
def embed(model: Any) -> torch.Tensor:
    return encode_clip(model)


@torch.no_grad()
def answer(model: Any) -> torch.Tensor:
    pixels = noise(1, 3, SIZE, SIZE).to(model.dtype)
    tokens = torch.cat([*model.get_image_features(pixel_values=pixels).pooler_output]).flatten(0, -2).shape[0]
    ids = [1, *[model.config.image_token_id] * tokens, 5, 6, 7]
    return model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits


QKV = tuple(TEXT.format(f"self_attn.{part}_proj") for part in "qkv")
VISION_MLP = (VISION.format("mlp.fc1"), VISION.format("mlp.fc2"))
VISION_V = VISION.format("self_attn.v_proj")
CASES = {
    "sd1": tiny("sd1", "text_encoder", FC1),
    "sd1 with a safety checker": tiny("sd1_safety", "text_encoder", *QKV),
    "sd2": tiny("sd2", "text_encoder", "text_model.final_layer_norm"),
    "sdxl, first": tiny("sdxl", "text_encoder", V_PROJ),
    "sdxl, second": tiny("sdxl", "text_encoder_2", "text_projection"),
    "sd3, first": tiny("sd3", "text_encoder", TEXT.format("mlp.fc2")),
    "sd3, second": tiny("sd3", "text_encoder_2", V_PROJ),
    "flux": tiny("flux", "text_encoder", TEXT.format("self_attn.out_proj")),
    "CLIPModel, text": tiny("CLIPModel", "text_model", *QKV),
    "CLIPModel, vision": tiny("CLIPModel", "vision_model", "visual_projection"),
    "CLIPTextModel": tiny("CLIPTextModel", "text_model", FC1),
    "CLIPTextModelWithProjection": tiny("CLIPTextModelWithProjection", "text_model", "text_projection"),
    "CLIPVisionModel": tiny("CLIPVisionModel", "vision_model", "vision_model.post_layernorm"),
    "CLIPVisionModelWithProjection": tiny("CLIPVisionModelWithProjection", "vision_model", *VISION_MLP),
    "llava": tiny("llava", "vision_tower", *VISION_MLP),
    "llava_next": tiny("llava_next", "vision_tower", VISION.format("self_attn.out_proj")),
    "vipllava": tiny("vipllava", "vision_tower", VISION.format("layer_norm2")),
    "video_llava": tiny("video_llava", "image_tower", VISION.format("mlp.fc1")),  # and on the video tower, its twin
    "zoo's CLIP, text": Case(zoo_clip, embed, "text_model", (FC1,), zoo_clip),
    "zoo's CLIP, vision": Case(zoo_clip, embed, "vision_model", (VISION_V,), zoo_clip),
    "zoo's Stable Diffusion": Case(zoo_sd, draw, "text_encoder", (V_PROJ,), zoo_clip),
    "zoo's LLaVA": Case(zoo_llava, answer, "vision_tower", VISION_MLP, zoo_clip),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check_group_offload():
    """Up to diffusers 0.40 it looks for an accelerator even where everything stays on the CPU."""
    if Version(diffusers.__version__) < Version("0.41") and torch.accelerator.current_accelerator() is None:
        pytest.skip("this version of diffusers groups nothing on a machine without an accelerator")
