# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The zoo's data: scikit-learn's 1,797 handwritten digits, each drawn in ten styles and captioned."""

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..errors import MissingDependencyError
from .drawing import STYLES, draw, place


Split = Literal["train", "validation", "test"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONCEPTS = (*DIGITS, *STYLES)
CAPTION = "a {digit} in {style} style"
# Zero-shot prompts of the two kinds of concept; the text tower was trained on both, beside the full captions.
TEMPLATES = {"digit": "a {}", "style": "a digit in {} style"}


def kind(concept: str) -> Literal["digit", "style"]:
    """
    Says whether a concept of the zoo is a digit or a style.

    Raises:
        ValueError: If the zoo has no such concept.
    """
    if concept not in CONCEPTS:
        raise ValueError(f"The zoo has no concept {concept!r}. Choose one of: {', '.join(CONCEPTS)}.")
    return "digit" if concept in DIGITS else "style"


def names(concept_kind: Literal["digit", "style"]) -> list[str]:
    """Returns the ten names among which a zero-shot classifier of that kind chooses."""
    return list(DIGITS if concept_kind == "digit" else STYLES)


@lru_cache
def handwriting(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns the 8x8 scans (n, 8, 8) and their digits (n,) of one split.

    The split is by handwriting sample, stratified by digit and fixed for ever: 70 % train, 15 % validation, 15 % test. No
    sample is in two splits, so whatever was trained on `"train"` has never seen the handwriting of the others in any style.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", extra="demo", purpose="the zoo's handwriting") from error
    if split not in ("train", "validation", "test"):
        raise ValueError(f"Unknown split {split!r}. Expected 'train', 'validation' or 'test'.")
    scans, digits = load_digits(return_X_y=True)
    chosen = []
    for digit in range(10):
        indices = np.random.default_rng(digit).permutation(np.flatnonzero(digits == digit))
        first, second = round(0.7 * len(indices)), round(0.85 * len(indices))
        chosen.append({"train": indices[:first], "validation": indices[first:second], "test": indices[second:]}[split])
    order = np.sort(np.concatenate(chosen))
    return scans.reshape(-1, 8, 8)[order], digits[order]


def load_pairs(split: Split, seed: int = 0, limit_per_digit: int | None = None) -> list[dict[str, Any]]:
    """
    Draws every handwriting sample of a split in all ten styles.

    Args:
        split (`str`): `"train"`, `"validation"` or `"test"`.
        seed (`int`, *optional*, defaults to `0`): Seed of the positions and the grain, and of which samples are kept.
        limit_per_digit (`int`, *optional*): At most so many handwriting samples of each digit.

    Returns:
        `list[dict]`: Rows `image` (`PIL.Image`, 32x32), `text` (the caption), `digit` and `style` (names), in random order.
    """
    generator = np.random.default_rng([seed, ("train", "validation", "test").index(split)])
    scans, digits = handwriting(split)
    rows = []
    for digit, name in enumerate(DIGITS):
        for index in generator.permutation(np.flatnonzero(digits == digit))[:limit_per_digit]:
            for style in STYLES:
                image = Image.fromarray(draw(place(scans[index], generator), style, generator))
                rows.append(
                    {"image": image, "text": CAPTION.format(digit=name, style=style), "digit": name, "style": style}
                )
    return [rows[i] for i in generator.permutation(len(rows))]
