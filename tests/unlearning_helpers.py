# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Quick runs for hosts, on noise, and an evaluator that needs no pictures."""

from typing import Any

from conftest import noise_pairs
from tiny_hosts import FIRST, SECOND, make_clip

from hf_slug import unlearn, zoo
from hf_slug.encoders import find_encoders, host_modules
from hf_slug.evaluation import BehaviourEvaluator
from hf_slug.result import UnlearningResult


FORGET = noise_pairs(8, names=["three"])
RETAIN = noise_pairs(16, 1, ["one", "two", "four", "zero"])


def quick(host: Any, model: Any = None, **settings: Any) -> UnlearningResult:
    """A run on a few pictures of noise; by default all of them are for the gradient."""
    sets = {"validation_forget": FORGET, "validation_retain": RETAIN, "test_forget": FORGET, "test_retain": RETAIN}
    defaults = {"concept": "three", "steps": 2, "draws": 1, "component": None}
    settings = {**sets, **defaults, **settings}
    return unlearn(model, zoo.load_clip()[1], FORGET, RETAIN, host=host, **settings)


def clip_of(component: str | None = None) -> Any:
    """The CLIP whose tower a tiny pipeline's encoder is."""
    return make_clip(1, SECOND) if component == "text_encoder_2" else make_clip(0, FIRST)


class Fading(BehaviourEvaluator):
    """The concept fades as weights move away from where they were, and what is kept a tenth as fast."""

    names = ["three", "one"]
    n_forget = n_retain = 10

    def __init__(self, host: Any):
        self.host, self.looks = host, 0
        self.before = self._weights()

    def _weights(self) -> list[Any]:
        encoders = {id(encoder.root): encoder.root for encoder in find_encoders(self.host)}
        return [value.clone() for root in encoders.values() for value in root.state_dict().values()]

    def _moved(self) -> float:
        pairs = zip(self._weights(), self.before)
        return max(float((now - before).float().norm() / before.float().norm()) for now, before in pairs)

    def forgotten(self, host: Any, enough: float | None = None) -> dict[str, float]:
        assert host is self.host
        self.looks += 1
        return {"fa1": max(0.0, round(1 - 5 * self._moved(), 6))}

    def retained(self, host: Any) -> dict[str, float]:
        return {"ta": max(0.0, 1 - 0.5 * self._moved())}


def host_state(host: Any) -> list[tuple[str, Any]]:
    """Every value of a host, and which of its parts train."""
    parts = host_modules(host)
    values = [(name, value.clone()) for part in parts for name, value in part.state_dict().items()]
    return values + [("training", module.training) for part in parts for module in part.modules()]
