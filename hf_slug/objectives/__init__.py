# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Objectives: each says what is differentiated, through what, into the tower."""

from .answers import AnswerObjective
from .contrastive import ContrastiveObjective, contrasted
from .denoising import DenoisingObjective
from .host import DEFAULT_QUESTIONS, default_objective, host_objective
from .objective import HostObjective, Objective


__all__ = [
    "DEFAULT_QUESTIONS",
    "AnswerObjective",
    "ContrastiveObjective",
    "DenoisingObjective",
    "HostObjective",
    "Objective",
    "contrasted",
    "default_objective",
    "host_objective",
]
