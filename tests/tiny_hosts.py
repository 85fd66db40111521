# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Tiny random models and pipelines of every class that a patch may be loaded into.

Every CLIP encoder in them is a copy of a tower of `make_clip(seed)` (the second text encoder of SDXL and SD3: of
`make_clip(seed + 1, SECOND)`), so that a patch made for that model fits, as it does between a CLIP and its hosts.
"""

import copy
import inspect
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import nn
from transformers import CLIPConfig, CLIPModel

from hf_slug import zoo


PROMPT = "a photo of a red circle"
TEXT_LAYERS, VISION_LAYERS = 4, 5
FIRST, SECOND = 16, 24  # widths of a pipeline's text encoders
SIZE, PATCHES, FRAMES = 32, 4, 2  # of a picture and a film
VOCAB, IMAGE_TOKEN, VIDEO_TOKEN = 48, 40, 41  # of the language models


@dataclass(frozen=True)
class Host:
    """One kind of host."""

    name: str
    build: Callable[..., Any]  # build(seed=0, **options): the model or pipeline, on the CPU, in eval mode
    # encode(host, **options): flat and with gradient, what the rest of the host reads of its encoders; a pipeline's
    # options are those of its `encode_prompt`, such as `clip_skip`
    encode: Callable[..., torch.Tensor]
    generate: Callable[..., torch.Tensor]  # generate(host, seed=0): what a short run puts out
    components: tuple[str, ...] = ()  # a pipeline's CLIP encoders that shape its pictures


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def flat(tensors: Iterable[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors if tensor is not None])


# CLIP


def make_clip(seed: int = 0, width: int = FIRST) -> CLIPModel:
    """A random CLIPModel that understands the zoo's processor."""
    torch.manual_seed(seed)
    tower = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 2, "projection_dim": width}
    tokens = {"vocab_size": 644, "max_position_embeddings": 16, "bos_token_id": 642, "eos_token_id": 643}
    config = CLIPConfig(
        text_config={**tower, **tokens, "num_hidden_layers": TEXT_LAYERS, "pad_token_id": 643},
        vision_config={**tower, "num_hidden_layers": VISION_LAYERS, "image_size": SIZE, "patch_size": SIZE // 2},
        projection_dim=width,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # the default initialisation is too small for the towers to tell anything apart
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def encoder(kind: str, clip: CLIPModel, layers: int | None = None) -> nn.Module:
    """A model of one of a CLIP's towers, with its weights; fewer `layers` leave out the last ones."""
    tower = "text" if "Text" in kind else "vision"
    config = copy.deepcopy(getattr(clip.config, f"{tower}_config"))
    config.num_hidden_layers = layers or config.num_hidden_layers
    model = getattr(transformers, kind)(config)
    # since transformers 5.6 only the classes with a projection have a `text_model` or `vision_model`
    source = clip if hasattr(model, f"{tower}_model") else clip.get_submodule(f"{tower}_model")
    assert not model.load_state_dict(source.state_dict(), strict=False).missing_keys
    return model.eval()


def clip_tokenizer() -> transformers.CLIPTokenizer:
    return transformers.CLIPTokenizer.from_pretrained(zoo.CLIP_FOLDER, local_files_only=True)


def encode_clip(model: nn.Module, seed: int = 0) -> torch.Tensor:
    kind, inputs = type(model).__name__, {}
    if "Vision" not in kind:
        inputs["input_ids"] = clip_tokenizer()(PROMPT, padding="max_length", return_tensors="pt").input_ids
    if "Text" not in kind:
        inputs["pixel_values"] = noise(1, 3, SIZE, SIZE, seed=seed)
    outputs = model(**inputs)
    embeddings = [outputs[key] for key in ("image_embeds", "text_embeds") if key in outputs]
    return flat(embeddings or (outputs.last_hidden_state, outputs.pooler_output))


def clip_host(kind: str) -> Host:
    build = make_clip if kind == "CLIPModel" else lambda seed=0: encoder(kind, make_clip(seed))
    return Host(kind, build, encode_clip, torch.no_grad()(encode_clip))


# diffusers


def assemble(kind: str, parts: dict[str, Any], **settings: Any) -> Any:
    pipeline = getattr(diffusers, kind)(**parts, **settings)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def text_parts(seed: int, *kinds: str) -> dict[str, Any]:
    parts = {}
    for i, (suffix, width, kind) in enumerate(zip(("", "_2"), (FIRST, SECOND), kinds)):
        parts[f"text_encoder{suffix}"] = encoder(kind, make_clip(seed + i, width))
        parts[f"tokenizer{suffix}"] = clip_tokenizer()
    return parts


def t5_parts(suffix: str, width: int) -> dict[str, Any]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    tokenizer = transformers.T5TokenizerFast(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = transformers.T5Config(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    return {f"text_encoder{suffix}": transformers.T5EncoderModel(config), f"tokenizer{suffix}": tokenizer}


def make_vae(**settings: Any) -> nn.Module:
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    settings = {**kinds, "block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 4, **settings}
    return diffusers.AutoencoderKL(**settings)


def make_unet(width: int, cls: Any = diffusers.UNet2DConditionModel, **settings: Any) -> nn.Module:
    kinds = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    if cls is diffusers.UNet2DConditionModel:
        kinds |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "sample_size": SIZE // 2}
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 2}
    return cls(cross_attention_dim=width, **kinds, **sizes, **settings)


def make_sd(kind: str, seed: int = 0, version: int = 1, safety_checker: bool = False) -> Any:
    """Stable Diffusion 1.x; or 2.x, with a text encoder that is one layer shorter than its CLIP's."""
    clip, parts = make_clip(seed), {"tokenizer": clip_tokenizer(), "safety_checker": None, "feature_extractor": None}
    parts["text_encoder"] = encoder("CLIPTextModel", clip, TEXT_LAYERS - (version == 2))
    channels = 9 if "Inpaint" in kind else 4
    parts["unet"] = make_unet(FIRST, in_channels=channels, use_linear_projection=version == 2)
    parts["vae"] = make_vae()
    prediction = "v_prediction" if version == 2 else "epsilon"
    parts["scheduler"] = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type=prediction)
    if "ControlNet" in kind:
        settings = {"cls": diffusers.ControlNetModel, "conditioning_embedding_out_channels": (8, 16)}
        parts["controlnet"] = make_unet(FIRST, **settings)
    if safety_checker:
        checker = StableDiffusionSafetyChecker._from_config(clip.config, attn_implementation="eager")
        checker.load_state_dict(clip.state_dict(), strict=False)
        extractor = transformers.CLIPImageProcessor.from_pretrained(zoo.CLIP_FOLDER, local_files_only=True)
        parts |= {"safety_checker": checker, "feature_extractor": extractor}
    return assemble(kind, parts, requires_safety_checker=safety_checker)


def make_sdxl(kind: str, seed: int = 0) -> Any:
    parts = text_parts(seed, "CLIPTextModel", "CLIPTextModelWithProjection")
    times = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + SECOND}
    parts["unet"] = make_unet(FIRST + SECOND, use_linear_projection=True, addition_embed_type="text_time", **times)
    parts |= {"vae": make_vae(), "scheduler": diffusers.EulerDiscreteScheduler(steps_offset=1)}
    return assemble(kind, parts, add_watermarker=False)


def make_sd3(seed: int = 0, t5: bool = True) -> Any:
    width = FIRST + SECOND
    parts = text_parts(seed, *["CLIPTextModelWithProjection"] * 2)
    parts |= t5_parts("_3", width) if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    sizes = {"sample_size": SIZE // 2, "pos_embed_max_size": SIZE // 2, "in_channels": 4, "out_channels": 4}
    sizes |= {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    sizes |= {"joint_attention_dim": width, "pooled_projection_dim": width}
    parts["transformer"] = diffusers.SD3Transformer2DModel(**sizes)
    parts |= {"vae": make_vae(shift_factor=0.1), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    return assemble("StableDiffusion3Pipeline", parts)


def make_flux(seed: int = 0) -> Any:
    parts = text_parts(seed, "CLIPTextModel") | t5_parts("_2", SECOND)
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
    sizes |= {"num_attention_heads": 2, "joint_attention_dim": SECOND, "pooled_projection_dim": FIRST}
    parts["transformer"] = diffusers.FluxTransformer2DModel(**sizes, axes_dims_rope=(4, 4, 8))
    parts |= {"vae": make_vae(shift_factor=0.1), "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    return assemble("FluxPipeline", parts)


def accepted(function: Callable, **offered: Any) -> dict[str, Any]:
    return {name: value for name, value in offered.items() if name in inspect.signature(function).parameters}


def encode_prompt(pipe: Any, **options: Any) -> torch.Tensor:
    offered = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    offered |= {"prompt_2": None, "prompt_3": None, "max_sequence_length": 32}
    return flat(pipe.encode_prompt(PROMPT, **accepted(pipe.encode_prompt, **offered), **options))


def draw(pipe: Any, seed: int = 0) -> torch.Tensor:
    """A picture of shape (1, 3, SIZE, SIZE), after two steps; from a random picture if the pipeline takes one."""
    offered = {"image": noise(1, 3, SIZE, SIZE, seed=seed), "mask_image": noise(1, 1, SIZE, SIZE, seed=seed + 1)}
    offered |= {"strength": 1.0, "height": SIZE, "width": SIZE, "max_sequence_length": 32}
    settings = accepted(pipe.__call__, **offered)
    generator = torch.Generator().manual_seed(seed)
    return pipe(PROMPT, num_inference_steps=2, generator=generator, output_type="pt", **settings).images


# LLaVA


def make_llava(kind: str, seed: int = 0, **settings: Any) -> nn.Module:
    """A model of the LLaVA family; settings of its config, such as `vision_feature_layer`, may be given."""
    clip = make_clip(seed)
    config_of = getattr(transformers, f"{kind}Config")
    own: dict[str, dict[str, Any]] = {
        "LlavaNext": {"image_grid_pinpoints": [[2 * SIZE, 2 * SIZE]]},
        "VipLlava": {"vision_feature_layer": [-2, -3, 1]},  # by default [-2, -5, -8, -11, 6] of 24
        "VideoLlava": {"video_token_index": VIDEO_TOKEN},
    }
    settings = {"image_token_index": IMAGE_TOKEN, "image_seq_length": PATCHES, **own.get(kind, {}), **settings}
    if kind == "VipLlava" and not hasattr(config_of(), "vision_feature_layer"):  # it was called otherwise
        settings["vision_feature_layers"] = settings.pop("vision_feature_layer")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings |= {"text_config": transformers.LlamaConfig(vocab_size=VOCAB, **sizes)}
    config = config_of(vision_config=clip.config.vision_config, **settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    for tower in ("image_tower", "video_tower") if kind == "VideoLlava" else ("vision_tower",):
        model.get_submodule(f"model.{tower}").load_state_dict(clip.vision_model.state_dict())
    return model.eval()


def llava_inputs(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    if model.config.model_type == "llava_next":  # the whole picture and its quarters
        return {"pixel_values": noise(1, 5, 3, SIZE, SIZE, seed=seed), "image_sizes": torch.tensor([[50, 40]])}
    asked = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters  # compiled or not
    inputs = {"pixel_values" if "pixel_values" in asked else "pixel_values_images": noise(1, 3, SIZE, SIZE, seed=seed)}
    if model.config.model_type == "video_llava":
        inputs["pixel_values_videos"] = noise(1, FRAMES, 3, SIZE, SIZE, seed=seed + 1)
    return inputs


def llava_features(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What the language model is given in place of the image tokens and, for a film, of the video tokens."""
    inputs = dict(inputs)
    film = inputs.pop("pixel_values_videos", None)
    # VideoLlava has called its images otherwise, too
    image = inputs.pop("pixel_values", None)
    outputs = [model.get_image_features(inputs.pop("pixel_values_images") if image is None else image, **inputs)]
    if film is not None:
        outputs.append(model.model.get_video_features(film))
    return [torch.cat([*output.pooler_output]).flatten(0, -2) for output in outputs]


def encode_llava(model: nn.Module, seed: int = 0) -> torch.Tensor:
    return flat(llava_features(model, llava_inputs(model, seed)))


@torch.no_grad()
def answer(model: nn.Module, seed: int = 0) -> torch.Tensor:
    """Logits of one forward pass over a picture (and a film) and a few words."""
    inputs, ids = llava_inputs(model, seed), [1]
    for token, features in zip((IMAGE_TOKEN, VIDEO_TOKEN), llava_features(model, inputs)):
        ids += [token] * len(features)
    return model(input_ids=torch.tensor([[*ids, 5, 6, 7]]), **inputs).logits


ENCODERS = ("text_encoder", "text_encoder_2")
CLIP_KINDS = ("Model", "TextModel", "TextModelWithProjection", "VisionModel", "VisionModelWithProjection")
PIPELINES = {
    "sd1": partial(make_sd, "StableDiffusionPipeline"),
    "sd1_safety": partial(make_sd, "StableDiffusionPipeline", safety_checker=True),
    "sd1_img2img": partial(make_sd, "StableDiffusionImg2ImgPipeline"),
    "sd1_inpaint": partial(make_sd, "StableDiffusionInpaintPipeline"),
    "sd1_controlnet": partial(make_sd, "StableDiffusionControlNetPipeline"),
    "sd2": partial(make_sd, "StableDiffusionPipeline", version=2),
    "sdxl": partial(make_sdxl, "StableDiffusionXLPipeline"),
    "sdxl_img2img": partial(make_sdxl, "StableDiffusionXLImg2ImgPipeline"),
    "sd3": make_sd3,
    "sd3_without_t5": partial(make_sd3, t5=False),
    "flux": make_flux,
}
LLAVA_KINDS = {"llava": "Llava", "llava_next": "LlavaNext", "vipllava": "VipLlava", "video_llava": "VideoLlava"}
HOSTS: dict[str, Host] = {f"CLIP{kind}": clip_host(f"CLIP{kind}") for kind in CLIP_KINDS}
HOSTS |= {
    name: Host(name, build, encode_prompt, draw, ENCODERS[: 2 if name.startswith(("sdxl", "sd3")) else 1])
    for name, build in PIPELINES.items()
}
HOSTS |= {name: Host(name, partial(make_llava, kind), encode_llava, answer) for name, kind in LLAVA_KINDS.items()}
