# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Evaluators: each says whether a concept is forgotten, and what is left of the rest."""

from .evaluator import Evaluator
from .zero_shot import PreparedZeroShot, ZeroShotEvaluator


__all__ = ["Evaluator", "PreparedZeroShot", "ZeroShotEvaluator"]
