# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Objectives: each says what is differentiated, through what, into the tower."""

from .answers import AnswerObjective
from .contrastive import MIN_CONTRAST, ContrastiveObjective
from .denoising import DenoisingObjective
from .host import DEFAULT_QUESTIONS, default_objective, host_objective
from .objective import HostObjective, Objective


__all__ = [
    "DEFAULT_QUESTIONS",
    "MIN_CONTRAST",
    "AnswerObjective",
    "ContrastiveObjective",
    "DenoisingObjective",
    "HostObjective",
    "Objective",
    "default_objective",
    "host_objective",
]
