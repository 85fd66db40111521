# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What is checked of the arguments of `unlearn` before any work is done."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from .direction import DIRECTIONS
from .evaluation import BehaviourEvaluator, GenerationEvaluator, VqaEvaluator, ZeroShotEvaluator


def check_settings(
    direction: str,
    trajectory: str,
    steps: int,
    tolerance: float,
    risk: float,
    epsilon: float,
    rank: int | Literal["auto"] | None,
    batch_size: int,
    retain_batch_size: int | None,
    draws: int,
) -> None:
    """
    Checks the numbers and choices of a run.

    Raises:
        ValueError: Naming all that are wrong.
    """
    wrong = {
        f"direction={direction!r}: expected one of {', '.join(DIRECTIONS)}": direction not in DIRECTIONS,
        f"trajectory={trajectory!r}: expected best, chosen or all": trajectory not in ("best", "chosen", "all"),
        f"steps={steps}: expected at least 1": steps < 1,
        f"tolerance={tolerance}: expected a share, at least 0 and below 1": not 0 <= tolerance < 1,
        f"risk={risk}: expected a share, above 0 and at most 1": not 0 < risk <= 1,
        f"epsilon={epsilon}: expected a positive number": not 0 < epsilon < float("inf"),
        f"rank={rank!r}: expected at least 1, 'auto', or None": rank not in (None, "auto")
        and (not isinstance(rank, int) or rank < 1),
        f"batch_size={batch_size}: expected at least 1": batch_size < 1,
        f"draws={draws!r}: expected a whole number, at least 1": not isinstance(draws, int) or draws < 1,
        f"retain_batch_size={retain_batch_size}: expected at least 2": (retain_batch_size or 2) < 2,
    }
    found = [message for message, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(f"Wrong setting: {'; '.join(found)}.")


def check_gradients(gradients: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """
    Checks that gradients given are those of these weights.

    Raises:
        ValueError: If one is missing or of another shape.
    """
    wrong = [
        name for name, weight in weights.items() if name not in gradients or gradients[name].shape != weight.shape
    ]
    if wrong:
        raise ValueError(
            f"retain_gradients are not those of this model and these candidates: {wrong[0]} and {len(wrong) - 1} others are "
            f"missing or of another shape. Leave them out to compute them again."
        )


def check_combination(
    model: Any, host: Any, objective: str, evaluate: Any, test_evaluate: Any, early_stopping: bool = False
) -> None:
    """
    Checks that what is asked for can be had from what is given.

    Raises:
        ValueError: If not, saying what is missing.
    """
    if objective not in ("clip", "host"):
        raise ValueError(f"Unknown objective {objective!r}. Expected 'clip' or 'host'.")
    if objective == "host" and host is None:
        raise ValueError(
            "objective='host' is the loss of a host, and none was given. Pass `host=`, or use objective='clip'."
        )
    if objective == "clip" and model is None:
        raise ValueError("objective='clip' needs the CLIPModel and its processor; found `model=None`.")
    if model is None and (evaluate is None or test_evaluate is None):
        raise ValueError(
            "Without a CLIPModel there is no zero-shot classification to go by. Give both `evaluate` and `test_evaluate`, e.g. a "
            "GenerationEvaluator or a VqaEvaluator each, with different seeds or images."
        )
    if model is None and isinstance(evaluate, ZeroShotEvaluator):
        raise ValueError(
            "A ZeroShotEvaluator goes by the CLIPModel, and none was given. Pass it, or another `evaluate`."
        )
    if early_stopping and not isinstance(evaluate, BehaviourEvaluator):
        raise ValueError(
            "early_stopping (--early-stopping) ends a search that goes by a host's behaviour, which is dear; other searches look at every "
            "layer. Give a GenerationEvaluator or a VqaEvaluator as `evaluate` (--evaluate host), or leave it out."
        )
    if test_evaluate is not None and not isinstance(test_evaluate, BehaviourEvaluator):
        raise ValueError(
            f"Expected a BehaviourEvaluator (GenerationEvaluator, VqaEvaluator or your own) as `test_evaluate`, found "
            f"{type(test_evaluate).__name__}."
        )
    for given in (evaluate, test_evaluate):
        if isinstance(given, BehaviourEvaluator) and host is None:
            raise ValueError(f"A {type(given).__name__} judges what a host does, and none was given. Pass `host=`.")
    if evaluate is not None and (evaluate is test_evaluate or _looks_at_the_same(evaluate, test_evaluate)):
        raise ValueError(
            "`evaluate` and `test_evaluate` look at the same: what chose the step can't report how good it is. Give the second "
            "other images, seeds or questions."
        )


def _looks_at_the_same(first: Any, second: Any) -> bool:
    """Whether a picture or an answer would both choose and report."""
    if isinstance(first, GenerationEvaluator) and isinstance(second, GenerationEvaluator):
        seen = {(prompt, first.seed + i) for prompt, i in first.forget}
        return not seen.isdisjoint((prompt, second.seed + i) for prompt, i in second.forget)
    if isinstance(first, VqaEvaluator) and isinstance(second, VqaEvaluator):
        asked = not set(first.questions).isdisjoint(second.questions)
        return asked and first.forget.fingerprint() == second.forget.fingerprint()
    return False
