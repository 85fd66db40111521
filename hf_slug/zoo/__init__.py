# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The zoo: miniature models in the real classes, small enough to ship, trained on real handwriting."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import data


if TYPE_CHECKING:
    from .unlearning import unlearn_clip, unlearn_llava, unlearn_stable_diffusion

CLIP_FOLDER = Path(__file__).parent / "clip"
LLAVA_FOLDER = Path(__file__).parent / "llava"
STABLE_DIFFUSION_FOLDER = Path(__file__).parent / "stable_diffusion"
JUDGE_FOLDER = Path(__file__).parent / "judge"


def load_clip(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """
    Loads the zoo's CLIP from the package, without any network.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Dtype of the weights.

    Returns:
        `tuple[CLIPModel, CLIPProcessor]`: The model in eval mode, and its processor.
    """
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(CLIP_FOLDER, dtype=dtype, local_files_only=True)
    return model.eval(), CLIPProcessor.from_pretrained(CLIP_FOLDER, local_files_only=True)


def load_llava(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """
    Loads the zoo's LLaVA, whose vision tower is the one of the zoo's CLIP, from the package, without any network.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Dtype of the weights.

    Returns:
        `tuple[LlavaForConditionalGeneration, LlavaProcessor]`: The model in eval mode, and its processor.
    """
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(LLAVA_FOLDER, dtype=dtype, local_files_only=True)
    return model.eval(), LlavaProcessor.from_pretrained(LLAVA_FOLDER, local_files_only=True)


def load_stable_diffusion(dtype: torch.dtype = torch.float32) -> Any:
    """
    Loads the zoo's Stable Diffusion from the package, without any network.

    Its text encoder is the zoo CLIP's text tower.

    Args:
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Dtype of the weights.

    Returns:
        `StableDiffusionPipeline`: The pipeline, its models in eval mode. It draws 32x32 pictures; 15 steps are enough.
    """
    from diffusers import StableDiffusionPipeline

    # stored in half precision but for the text encoder, and loaded in float32
    pipeline = StableDiffusionPipeline.from_pretrained(STABLE_DIFFUSION_FOLDER, local_files_only=True)
    for model in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        # not `pipeline.to`, which warns, and not an argument above, whose name depends on diffusers' version
        torch.nn.Module.to(model.eval(), dtype)
    return pipeline


def load_judge() -> tuple[Any, Any]:
    """
    Loads the zoo's judge, a classifier trained apart from the other models, from the package, without any network.

    Returns:
        `tuple[ResNetForImageClassification, ViTImageProcessorPil]`: The model in eval mode, and its
            processor. The first ten of its twenty logits are the digits, the last ten the styles.
    """
    from transformers import ResNetForImageClassification, ViTImageProcessorPil

    # the weights are stored in half precision
    model = ResNetForImageClassification.from_pretrained(JUDGE_FOLDER, dtype=torch.float32, local_files_only=True)
    return model.eval(), ViTImageProcessorPil.from_pretrained(JUDGE_FOLDER, local_files_only=True)


def concept_pairs(
    concept: str, split: data.Split, seed: int = 0, limit_per_digit: int | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Returns pictures of a concept and pictures of the others of its kind (digits or styles), with that kind as `name`.

    Args:
        concept (`str`): A digit's or a style's name.
        split (`str`): `"train"`, `"validation"` or `"test"` handwriting.
        seed (`int`, *optional*, defaults to `0`): See [`~hf_slug.zoo.data.load_pairs`].
        limit_per_digit (`int`, *optional*): See [`~hf_slug.zoo.data.load_pairs`].

    Returns:
        `tuple[list[dict], list[dict]]`: Rows of the concept, rows of the rest.
    """
    kind = data.kind(concept)
    rows = [{**row, "name": row[kind]} for row in data.load_pairs(split, seed, limit_per_digit)]
    return [row for row in rows if row["name"] == concept], [row for row in rows if row["name"] != concept]


def __getattr__(name: str) -> Any:
    # the recipes bring the whole method with them, which loading a model does not need
    if name in ("unlearn_clip", "unlearn_llava", "unlearn_stable_diffusion"):
        from . import unlearning

        return getattr(unlearning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
