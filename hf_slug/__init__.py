# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Take a concept out of a vision-language model, and publish that as a small patch.

Importing the package makes `"SLUG"` a PEFT type, so that `PeftModel.from_pretrained` loads unlearning patches. Everything else
is imported when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .tuner import SlugConfig, SlugLayer, SlugModel


if TYPE_CHECKING:
    from .captions import filter_captions
    from .data import Pairs, load_pairs
    from .evaluation import Evaluator, ZeroShotEvaluator
    from .patch import UnlearningPatch
    from .result import UnlearningResult
    from .unlearn import unlearn

__version__ = "0.1.0"

_LAZY = {
    "Evaluator": "evaluation",
    "Pairs": "data",
    "UnlearningPatch": "patch",
    "UnlearningResult": "result",
    "ZeroShotEvaluator": "evaluation",
    "filter_captions": "captions",
    "load_pairs": "data",
}

__all__ = ["SlugConfig", "SlugLayer", "SlugModel", "unlearn", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    # `unlearn` is a function and, by its file, a module. Importing a submodule sets it as an attribute of its package, which
    # would hide the function from then on.
    @property
    def unlearn(self) -> Any:
        return import_module(".unlearn", __name__).unlearn

    @unlearn.setter
    def unlearn(self, module: ModuleType) -> None:
        pass


if not TYPE_CHECKING:
    sys.modules[__name__].__class__ = _Package
