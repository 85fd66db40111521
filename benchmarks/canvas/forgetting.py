# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One patch for one concept: its data, and what the search and the patch's own report go by."""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_slug import GenerationEvaluator, UnlearningPatch, unlearn

from .classifiers import CanvasJudge
from .dataset import Dataset
from .protocol import PHOTO, Canvas, said


SEARCH_SEED, REPORT_SEED = 0, 10_000  # the first of each; the official ones are looked at by neither


@dataclass(frozen=True)
class Budget:
    """
    How much a patch is made from.

    Args:
        forget (`int`, *optional*, defaults to 60): Pictures of the concept.
        retain (`int`, *optional*, defaults to 300): Pictures of the rest.
        pictures (`int`, *optional*, defaults to 40): Pictures of the concept's prompts that the search looks at, at least.
        kept (`int`, *optional*, defaults to 100): Pictures of other prompts that it looks at.
        steps (`int`, *optional*, defaults to 25): Denoising steps of these.
        rank (`int`, *optional*, defaults to 8): Of the patch. `None` stores a dense one.
        early_stopping (`bool`, *optional*, defaults to `True`): End at the first layer that forgets and keeps the rest: looks are dear.
    """

    forget: int = 60
    retain: int = 300
    pictures: int = 40
    kept: int = 100
    steps: int = 25
    rank: int | None = 8
    early_stopping: bool = True


def make_evaluator(
    judge: CanvasJudge, canvas: Canvas, concept: str, seed: int, budget: Budget, **drawing: Any
) -> GenerationEvaluator:
    """
    Judges a pipeline by pictures of the concept's prompts and of a sample of the others, the photographs left out.

    Args:
        judge ([`CanvasJudge`]): Says what a picture shows.
        canvas ([`Canvas`]): The prompts.
        concept (`str`): What is forgotten.
        seed (`int`): Seed of the first picture of each prompt.
        budget ([`Budget`]): How many pictures.
        drawing (additional keyword arguments): Guidance and the like.
    """
    own, others = ([cell for cell in canvas.spread(concept, shown) if PHOTO not in cell] for shown in (True, False))
    prompts = {canvas.say(cell): cell for cell in [*own, *others[: budget.kept]]}
    per_prompt = math.ceil(budget.pictures / len(own))
    return GenerationEvaluator(
        judge, prompts, concept, per_prompt, 1, seed, num_inference_steps=budget.steps, **drawing
    )


def searched_seeds(canvas: Canvas, budget: Budget) -> set[int]:
    """All seeds that the searches and the patches' own reports look at."""
    fewest = min(len(canvas.painted), len(canvas.objects))
    most = math.ceil(budget.pictures / fewest)
    return {first + i for first in (SEARCH_SEED, REPORT_SEED) for i in range(most)}


def make_patch(
    pipe: Any,
    judge: CanvasJudge,
    dataset: Dataset,
    concept: str,
    folder: Path,
    budget: Budget,
    batch_size: int,
    **drawing: Any,
) -> UnlearningPatch:
    """
    Returns the patch in a folder, or makes it and saves it there, whole or not at all.

    Args:
        pipe (`DiffusionPipeline`): The pipeline, untouched. Left as it is.
        judge ([`CanvasJudge`]): What the search goes by.
        dataset ([`Dataset`]): Forget and retain sets.
        concept (`str`): A style or an object.
        folder (`Path`): The patch's.
        budget ([`Budget`]): How much it is made from.
        batch_size (`int`): Pictures per pass through the UNet.
        drawing (additional keyword arguments): Guidance and the like.
    """
    if folder.is_dir():
        return UnlearningPatch.from_pretrained(folder)
    canvas = dataset.canvas
    search, report = (
        make_evaluator(judge, canvas, concept, seed, budget, batch_size=batch_size, **drawing)
        for seed in (SEARCH_SEED, REPORT_SEED)
    )
    result = unlearn(
        None,
        None,
        dataset.pairs(concept, True, budget.forget),
        dataset.pairs(concept, False, budget.retain),
        concept=said(concept),
        host=pipe,
        evaluate=search,
        test_evaluate=report,
        batch_size=batch_size,
        rank=budget.rank,
        early_stopping=budget.early_stopping,
    )
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    result.patch.save_pretrained(unfinished)
    os.replace(unfinished, folder)
    return result.patch
