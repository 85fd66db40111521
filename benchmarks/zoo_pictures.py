# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the zoo's Stable Diffusion: making them, judging them, and how far they are from real drawings."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from hf_slug import zoo
from hf_slug.zoo.data import DIGITS
from hf_slug.zoo.unlearning import PROMPTS, picture_evaluator


SEED = 50_000  # of reported pictures; no search sees them
Judged = list[tuple[str, tuple[str, ...]]]  # (prompt, names seen)


def wanted(per_prompt: int) -> list[tuple[str, int]]:
    return [(prompt, i) for prompt in PROMPTS for i in range(per_prompt)]


def make(pipe: Any, per_prompt: int, seed: int = SEED) -> list[Image.Image]:
    """Makes so many pictures of every prompt, in the order of [`wanted`]."""
    with torch.autocast("cpu", torch.bfloat16):  # a third faster, and as good
        return picture_evaluator("seven", seed, per_prompt).generate(pipe, wanted(per_prompt), "pictures")


def judge(pictures: Sequence[Image.Image]) -> Judged:
    """Says what each picture of [`make`] shows."""
    names = picture_evaluator("seven").judge(pictures)
    return [(prompt, seen) for (prompt, _), seen in zip(wanted(len(pictures) // len(PROMPTS)), names)]


def score(judged: Judged, gone: tuple[str, ...]) -> dict[str, float]:
    """UA of the concepts that are gone; IRA and CRA over the prompts that show none of them."""
    ua = {c: fmean(c not in seen for prompt, seen in judged if c in PROMPTS[prompt]) for c in gone}
    kept = [(PROMPTS[prompt], seen) for prompt, seen in judged if not set(gone) & set(PROMPTS[prompt])]
    by_kind = [fmean(names[i] in seen for names, seen in kept) for i in (0, 1)]
    result = {"ua": fmean(ua.values()), "worst_ua": min(ua.values()), "digits": by_kind[0], "styles": by_kind[1]}
    if len(gone) == 1:
        result["ira"], result["cra"] = by_kind if gone[0] in DIGITS else by_kind[::-1]
        other = 1 if gone[0] in DIGITS else 0
        result["cra_forget"] = fmean(PROMPTS[p][other] in seen for p, seen in judged if gone[0] in PROMPTS[p])
    return result


@torch.no_grad()
def features(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """What the judge's last layer reads of each picture."""
    model, processor = zoo.load_judge()
    pixels = processor(list(pictures), return_tensors="pt")["pixel_values"]
    return torch.cat([model.resnet(part).pooler_output.flatten(1) for part in pixels.split(256)])


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """
    `‖μ₁ − μ₂‖² + tr(C₁ + C₂ − 2 (C₁C₂)^½)` between two sets of features, as in FID (Heusel et al. 2017, eq. 6).

    Args:
        first, second (`torch.Tensor`): Of shape (pictures, features).

    Returns:
        `float`: 0 for the same mean and covariance.
    """
    first, second = first.double(), second.double()
    one, two = first.T.cov(), second.T.cov()
    # the eigenvalues of a product of two positive matrices are real and not negative, up to rounding
    roots = torch.linalg.eigvals(one @ two).real.clamp_min(0).sqrt().sum()
    return float((first.mean(0) - second.mean(0)).square().sum() + one.trace() + two.trace() - 2 * roots)


def distance_of_kept(pictures: Sequence[Image.Image], gone: str) -> float:
    """The Fréchet distance of pictures of [`make`], but for those of a concept's prompts, from real drawings of the same prompts."""
    made = [
        p for (prompt, _), p in zip(wanted(len(pictures) // len(PROMPTS)), pictures) if gone not in PROMPTS[prompt]
    ]
    drawn = [row["image"] for row in zoo.concept_pairs(gone, "test")[1]]
    return frechet_distance(features(made), features(drawn))
