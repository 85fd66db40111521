# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judging a pipeline by the pictures it makes."""

from collections.abc import Mapping, Sequence
from statistics import fmean as mean
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from .behaviour import BehaviourEvaluator, Metrics, quarter_first
from .judges import Judge


class GenerationEvaluator(BehaviourEvaluator):
    """
    Generates pictures from prompts with fixed seeds, and has them judged.

    Metrics, in [0, 1], after UnlearnCanvas: `fa1` (1 − UA), the share of the pictures of the concept's prompts that still show
    it; `ira`, how often the concept's own kind is right over the other prompts; `cra`, how often the other kinds are over all
    prompts, and `cra_forget` over the concept's own; `ta`, all names but the concept's. All but `fa1` are macro-averaged over names.

    Args:
        judge ([`Judge`]): Says which names a picture shows.
        prompts (`Mapping[str, Sequence[str]]`):
            Prompt to the names that its pictures should show, e.g. `{"a seven in neon style": ("seven", "neon")}`.
        concept (`str`): The name that is to be forgotten. The prompts that show it are the forget part.
        images_per_prompt (`int`, *optional*, defaults to 4): Pictures of each of the concept's prompts.
        retain_per_prompt (`int`, *optional*): Pictures of each other prompt. Defaults to `images_per_prompt`.
        seed (`int`, *optional*, defaults to 0): Picture i of a prompt starts from the noise of seed + i.
        num_inference_steps (`int`, *optional*, defaults to 25): Denoising steps.
        guidance_scale (`float`, *optional*, defaults to 7.5): Classifier-free guidance.
        batch_size (`int`, *optional*, defaults to 20): Pictures made together; changes memory, not what is drawn.
        pipe_kwargs (additional keyword arguments, *optional*): Passed on to the pipeline, e.g. `height`.

    Raises:
        ValueError: If no prompt shows the concept, or all do, or no picture is asked for.
    """

    def __init__(
        self,
        judge: Judge,
        prompts: Mapping[str, Sequence[str]],
        concept: str,
        images_per_prompt: int = 4,
        retain_per_prompt: int | None = None,
        seed: int = 0,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        batch_size: int = 20,
        **pipe_kwargs: Any,
    ):
        showing = {prompt: tuple(names) for prompt, names in prompts.items() if concept in names}
        others = {prompt: tuple(names) for prompt, names in prompts.items() if concept not in names}
        if not showing or not others:
            raise ValueError(
                f"{len(showing)} of {len(prompts)} prompts show {concept!r}. Give some that do, and some that don't."
            )
        per_prompt = images_per_prompt if retain_per_prompt is None else retain_per_prompt
        if min(images_per_prompt, per_prompt, batch_size) < 1:
            raise ValueError(
                f"Expected at least one picture of each prompt and in each batch, found images_per_prompt={images_per_prompt}, "
                f"retain_per_prompt={retain_per_prompt} and batch_size={batch_size}."
            )
        self.judge, self.concept, self.seed, self.batch_size = judge, concept, seed, batch_size
        # all prompts once, then all again: the first few pictures already speak for all of them
        self.forget = [(prompt, i) for i in range(images_per_prompt) for prompt in showing]
        self.retain = [(prompt, i) for i in range(per_prompt) for prompt in others]
        # "a seven in neon style" without the seven should still be in neon style
        self.mixed = [(prompt, i) for prompt, i in self.forget if i < per_prompt and len(showing[prompt]) > 1]
        self.n_forget, self.n_retain = len(self.forget), len(self.retain)
        self.shown = showing | others
        self.names = list(dict.fromkeys(name for names in self.shown.values() for name in names))
        # names that occur together with the concept are of another kind
        self.other_kinds = {name for names in showing.values() for name in names} - {concept}
        self.settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, **pipe_kwargs}

    def forgotten(self, pipe: Any, enough: float | None = None) -> Metrics:
        """Generates and judges the concept's prompts. See [`BehaviourEvaluator.forgotten`]."""
        shown, kept = [], []
        # a quarter of the pictures is mostly enough to see that the concept is still there
        stages = [self.forget] if enough is None else quarter_first(self.forget)
        for part in stages:
            judged = self.judge(self.generate(pipe, part, "pictures of the concept"))
            shown += [self.concept in names for names in judged]
            kept += [
                name in names
                for (prompt, _), names in zip(part, judged, strict=True)
                for name in self.shown[prompt]
                if name != self.concept
            ]
            if enough is not None and sum(shown) > enough * self.n_forget:
                break
        return {"fa1": mean(shown), "n": len(shown)} | ({"cra_forget": mean(kept)} if kept else {})

    def retained(self, pipe: Any) -> Metrics:
        """Generates and judges the other prompts; and the concept's own, for the other kinds in them."""
        wanted = [*self.retain, *self.mixed]
        judged = self.judge(self.generate(pipe, wanted, "pictures of the rest"))
        right: dict[str, list[bool]] = {}
        for (prompt, _), names in zip(wanted, judged, strict=True):
            for name in self.shown[prompt]:
                if name != self.concept:
                    right.setdefault(name, []).append(name in names)
        by_name = {name: mean(values) for name, values in right.items()}
        groups = {
            "ta": list(by_name),
            "ira": [name for name in by_name if name not in self.other_kinds],
            "cra": [name for name in by_name if name in self.other_kinds],
        }
        return {key: mean(by_name[name] for name in own) for key, own in groups.items() if own}

    def generate(
        self, pipe: Any, wanted: Sequence[tuple[str, int]], description: str = "pictures"
    ) -> list[Image.Image]:
        """Makes a picture for each (prompt, index), without the pipeline's own progress bar."""
        return generate(pipe, wanted, self.seed, self.batch_size, description, **self.settings)


def generate(
    pipe: Any,
    wanted: Sequence[tuple[str, int]],
    seed: int = 0,
    batch_size: int = 20,
    description: str = "pictures",
    **settings: Any,
) -> list[Image.Image]:
    """
    Makes pictures, each from noise of its own seed, whatever else is in its batch.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        wanted (`Sequence[tuple[str, int]]`): Prompts, each with the number that is added to the seed.
        seed (`int`, *optional*, defaults to 0): Seed of the first picture of a prompt.
        batch_size (`int`, *optional*, defaults to 20): Pictures made together.
        description (`str`, *optional*): Title of the progress bar.
        settings (additional keyword arguments, *optional*): Passed on to the pipeline.

    Returns:
        `list[Image.Image]`: In the order asked for.
    """
    pictures: list[Image.Image] = []
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**bar, "disable": True})
    try:
        starts = range(0, len(wanted), batch_size)
        for start in logging.tqdm(starts, desc=description, leave=False, disable=len(starts) < 3):
            part = wanted[start : start + batch_size]
            generators = [torch.Generator().manual_seed(seed + i) for _, i in part]
            made = pipe([prompt for prompt, _ in part], generator=generators, output_type="pil", **settings)
            pictures += made.images
    finally:
        pipe._progress_bar_config = bar
    return pictures
