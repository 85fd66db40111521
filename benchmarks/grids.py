# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What became of the axes of a search grid."""

from collections.abc import Mapping, Sequence
from typing import Any


def ends_chosen(axes: Mapping[str, Sequence[float]], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says how often an end of an axis was chosen, beyond which a better value may lie."""
    return [
        f"{key.replace('_', ' ')} {end:g} {count} times"
        for key, values in axes.items()
        for end in dict.fromkeys((min(values), max(values)))
        if (count := sum(setting[key] == end for setting in settings))
    ]
