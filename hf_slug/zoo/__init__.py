# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The zoo: miniature models in the real classes, small enough to ship, trained on real handwriting."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import data


if TYPE_CHECKING:
    from ..unlearn import UnlearningResult

CLIP_FOLDER = Path(__file__).parent / "clip"


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


def unlearn_clip(concept: str, seed: int = 0, **settings: Any) -> "UnlearningResult":
    """
    Forgets a concept of the zoo's CLIP.

    The gradient comes from handwriting the model was trained on, the search and the report each from handwriting of their own.

    Args:
        concept (`str`): A digit's or a style's name.
        seed (`int`, *optional*, defaults to `0`): Seed of which handwriting is taken and how it is drawn.
        settings (additional keyword arguments, *optional*): Passed on to [`~hf_slug.unlearn`].

    Returns:
        [`UnlearningResult`]
    """
    from ..unlearn import unlearn

    kind = data.kind(concept)
    model, processor = load_clip()
    forget, retain = concept_pairs(concept, "train", seed, limit_per_digit=12)
    validation, validation_retain = concept_pairs(concept, "validation", seed)
    validation_retain = validation_retain[:900]  # every layer searched runs through them; a hundred a name will do
    test, test_retain = concept_pairs(concept, "test", seed)
    return unlearn(
        model,
        processor,
        forget,
        retain,
        concept=concept,
        validation_forget=validation,
        validation_retain=validation_retain,
        test_forget=test,
        test_retain=test_retain,
        names=data.names(kind),
        template=data.TEMPLATES[kind],
        seed=seed,
        **settings,
    )
