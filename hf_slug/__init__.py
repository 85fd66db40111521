# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Take a concept out of a vision-language model, and publish that as a small patch.

Importing the package makes `"SLUG"` a PEFT type, so that `PeftModel.from_pretrained` loads unlearning patches, and gives
`load_unlearning` and its siblings to diffusers' pipelines and to the CLIP and LLaVA models of transformers. Everything else is
imported when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import methods
from .tuner import SlugConfig, SlugLayer, SlugModel


methods.register()

if TYPE_CHECKING:
    from .captions import filter_captions
    from .composition import compose_patches
    from .data import Pairs, load_pairs
    from .evaluation import (
        ClassifierJudge,
        Evaluator,
        GenerationEvaluator,
        VqaEvaluator,
        ZeroShotEvaluator,
        ZeroShotJudge,
    )
    from .generated import generate_forget_set
    from .hosts import (
        delete_unlearning,
        disable_unlearning,
        enable_unlearning,
        get_active_unlearning,
        get_list_unlearning,
        load_unlearning,
        push_unlearning,
        save_unlearning,
        set_unlearning,
        unload_unlearning,
    )
    from .joint_weights import fit_weights
    from .known_retain import compute_retain_statistics
    from .patch import UnlearningPatch
    from .result import UnlearningResult
    from .retain_statistics import RetainStatistics
    from .streams import PairStream
    from .unlearn import unlearn

__version__ = "0.1.0"

_LAZY = {
    "Evaluator": "evaluation",
    "PairStream": "streams",
    "Pairs": "data",
    "ClassifierJudge": "evaluation",
    "GenerationEvaluator": "evaluation",
    "RetainStatistics": "retain_statistics",
    "UnlearningPatch": "patch",
    "UnlearningResult": "result",
    "VqaEvaluator": "evaluation",
    "ZeroShotEvaluator": "evaluation",
    "ZeroShotJudge": "evaluation",
    "generate_forget_set": "generated",
    "compose_patches": "composition",
    "compute_retain_statistics": "known_retain",
    "fit_weights": "joint_weights",
    "filter_captions": "captions",
    "load_pairs": "data",
    "delete_unlearning": "hosts",
    "disable_unlearning": "hosts",
    "enable_unlearning": "hosts",
    "get_active_unlearning": "hosts",
    "get_list_unlearning": "hosts",
    "load_unlearning": "hosts",
    "push_unlearning": "hosts",
    "save_unlearning": "hosts",
    "set_unlearning": "hosts",
    "unload_unlearning": "hosts",
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
