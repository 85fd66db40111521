# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""SLUG as a PEFT method. Importing this package makes it a PEFT type."""

from .config import SlugConfig
from .guard import guard_peft, guard_transformers
from .layer import SlugLayer, SlugLinear
from .model import SlugModel
from .registration import register


__all__ = ["SlugConfig", "SlugLayer", "SlugLinear", "SlugModel"]

register(SlugConfig, SlugModel)
guard_peft()
guard_transformers()
