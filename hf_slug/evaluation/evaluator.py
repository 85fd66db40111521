# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the search needs to know of an evaluator."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Evaluator(Protocol):
    """
    Measures a model. Any object with these three works for [`unlearn`]; sentence-transformers' evaluators look like this.

    Args:
        primary_metric (`str`): Key of the metric that says how much of the concept is left, e.g. `"fa1"`.
        greater_is_better (`bool`):
            Which way that metric should go for the concept to be *forgotten*: `False` for what is recognised of it
            (forgotten at or below the target), `True` for what is not (forgotten at or above the target).

    Calling it returns the metrics, or the primary one alone as a number. A key `"ta"`, in [0, 1], if there is one, is what is
    left of the rest, and decides between layers that all forget; where there is a key `"kl"`, how far the rest has moved, it decides between
    those that keep as much to a point.
    """

    primary_metric: str
    greater_is_better: bool

    def __call__(self, model: Any, /) -> dict[str, Any] | float: ...
