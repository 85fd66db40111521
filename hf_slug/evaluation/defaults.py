# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the search and the report go by where nobody says: zero-shot classification of the parts of the data."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PreTrainedModel
from transformers.utils import logging

from ..data import Pairs
from ..errors import EmptyDatasetError
from ..inputs import warn_of_truncation
from ..names import collect_names
from .zero_shot import ZeroShotEvaluator


logger = logging.get_logger(__name__)

_ENOUGH = 30  # images of the concept, to tell how widely they differ


def zero_shot_evaluators(
    model: PreTrainedModel,
    processor: Any,
    parts: Mapping[str, Pairs],
    concept: str,
    names: Sequence[str] | Mapping[str, Sequence[str]] | None,
    templates: Sequence[str],
    fa_at: Literal[1, 5] | None,
    batch_size: int,
    known: Sequence[str] = (),
) -> tuple[ZeroShotEvaluator, ZeroShotEvaluator]:
    """
    Makes the evaluators of the validation part and of the test part.

    Args:
        model (`CLIPModel`): The model.
        processor (`CLIPProcessor`): Its processor.
        parts (`Mapping[str, Pairs]`): What [`load_parts`] returned.
        concept (`str`): The concept's name.
        names (`Sequence[str]` or `Mapping`, *optional*): What is classified among. Defaults to all names in the retain parts.
        templates (`Sequence[str]`): How a name is said.
        fa_at, batch_size: See [`ZeroShotEvaluator`].
        known (`Sequence[str]`, *optional*): Names of a retain set that is not among the parts.

    Returns:
        `tuple[ZeroShotEvaluator, ZeroShotEvaluator]`: For the search, and for the report.

    Raises:
        EmptyDatasetError: If a retain part shows nothing but the concept.
    """
    if names is None:
        shown = [parts[key] for key in ("retain", "validation_retain", "test_retain") if key in parts]
        names = list(dict.fromkeys([*known, *collect_names(shown, templates)]))
    made = []
    for part in ("validation", "test"):
        forget, retain = parts[f"{part}_forget"], parts[f"{part}_retain"]
        seen = seen_beside(forget, parts["forget"]) if part == "validation" else None
        made.append(ZeroShotEvaluator(processor, forget, retain, concept, names, templates, fa_at, batch_size, seen))
        if not len(made[-1].retain):
            raise EmptyDatasetError(f"The {part} part of the retain set shows nothing but the concept {concept!r}.")
    warn_of_truncation(model, processor, made[-1].prompts, "names")
    return made[0], made[1]


def seen_beside(validation: Pairs, forget: Pairs) -> Pairs:
    """
    Chooses images of the gradient that make up thirty with those that validate: enough to tell how widely a concept's images differ.

    Args:
        validation (`Pairs`): The concept's images that validate.
        forget (`Pairs`): Those of the gradient.

    Returns:
        `Pairs`: Some of `forget`, from everywhere in it; none where `validation` has thirty. What a [`ZeroShotEvaluator`] takes as `seen`.
    """
    count = max(0, min(_ENOUGH - len(validation), len(forget)))
    return forget.subset(i * len(forget) // count for i in range(count))


def warn_of_zero_shot(host: Any) -> None:
    """Says that what a CLIP no longer recognises, its host may still know."""
    logger.warning(
        f"What is forgotten is judged by the CLIPModel's classification, which is cheap; what the {type(host).__name__} does was not "
        f"looked at, and it reads more of the tower than that. To be sure pass `evaluate` and `test_evaluate` (a "
        f"GenerationEvaluator or a VqaEvaluator each; `--evaluate host`)."
    )
