# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Evaluators: each says whether a concept is forgotten, and what is left of the rest."""

from .behaviour import BehaviourEvaluator, PreparedBehaviour
from .defaults import seen_beside, warn_of_zero_shot, zero_shot_evaluators
from .evaluator import Evaluator
from .generation import GenerationEvaluator, generate
from .judges import ClassifierJudge, Judge, ZeroShotJudge
from .prepared import PreparedZeroShot, prepare
from .risk import estimate_risk
from .vqa import VqaEvaluator, matches
from .zero_shot import ZeroShotEvaluator


__all__ = [
    "BehaviourEvaluator",
    "ClassifierJudge",
    "Evaluator",
    "GenerationEvaluator",
    "Judge",
    "PreparedBehaviour",
    "PreparedZeroShot",
    "VqaEvaluator",
    "ZeroShotEvaluator",
    "ZeroShotJudge",
    "estimate_risk",
    "generate",
    "matches",
    "prepare",
    "seen_beside",
    "warn_of_zero_shot",
    "zero_shot_evaluators",
]
