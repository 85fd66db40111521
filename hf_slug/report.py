# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The report of a run: what was found, on which data, with which software, at what cost. Fractions are in [0, 1]."""

import hashlib
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers.utils import logging

from .data import Pairs
from .encoders import Encoder, host_modules
from .evaluation import BehaviourEvaluator, Evaluator, ZeroShotEvaluator
from .scores import LayerScore
from .search import Search
from .streams import PairStream
from .tables import damage, unit


logger = logging.get_logger(__name__)

Comparison = tuple[dict[str, float], dict[str, float], dict[str, Any]]  # metrics before and after, and a picture

# On the test set a concept may come back by so much, beyond its interval's lower end, before success is denied.
_TEST_SLACK = 0.1
# A fall of the retained accuracy beyond this is said wherever the result is.
_HEAVY_FALL = 0.05
_SOFTWARE = (
    "hf-slug",
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "safetensors",
)


def wilson_interval(successes: float, total: int) -> tuple[float, float]:
    """
    The 95 % Wilson score interval of a proportion.

    Args:
        successes (`float`): How many of `total`.
        total (`int`): How many there were; at least 1.

    Returns:
        `tuple[float, float]`: Lower and upper end, in [0, 1].
    """
    z = 1.959963984540054
    share = successes / total
    center = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def describe_software() -> dict[str, str]:
    """Returns the versions that a run depends on."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"torch": str(torch.__version__)}  # with its build, which the metadata of some wheels leaves out


def describe_model(model: Any) -> dict[str, Any]:
    """Returns what identifies a base model or pipeline: name, revision, class, dtype, size."""
    config = model.config
    weights = [parameter for module in host_modules(model) for parameter in module.parameters()]
    # a pipeline's config is a mapping
    name = config.get("_name_or_path") if isinstance(config, Mapping) else getattr(config, "_name_or_path", "")
    return {
        "name_or_path": str(name or getattr(model, "name_or_path", "") or ""),
        "revision": getattr(config, "_commit_hash", None),
        "class": type(model).__name__,
        "dtype": str(weights[0].dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in weights),
    }


def describe_host(host: Any, encoder: Encoder) -> dict[str, Any]:
    """Returns what identifies a host, and which encoder of it a patch was made for."""
    return describe_model(host) | {
        "component": encoder.component,
        "blocks": encoder.blocks,
        "live_blocks": encoder.live_blocks,
    }


def describe_data(parts: Mapping[str, Pairs | PairStream], **settings: Any) -> dict[str, Any]:
    """Returns the provenance of every part of the data: source, number, how many were unreadable, a hash."""
    described = {
        name: {"source": pairs.source, "n": len(pairs), "skipped": pairs.skipped, "sha256": pairs.fingerprint()}
        for name, pairs in parts.items()
    }
    return described | settings


def describe_gradients(gradients: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """
    Names the statistics of the retain set that a layer was chosen by: the norm of its gradient, and a hash of it.

    Who has the retain set, or its gradients from another run (`retain_gradients=`), can tell by them whether it is the same.
    """
    return {
        name: {
            "gradient_norm": float(gradient.double().norm()),
            "gradient_sha256": hashlib.sha256(
                gradient.detach().float().cpu().contiguous().numpy().tobytes()
            ).hexdigest(),
        }
        for name, gradient in gradients.items()
    }


def describe_layers(scores: Sequence[LayerScore]) -> list[dict[str, Any]]:
    """Returns the scores of all candidates."""
    return [
        {
            "name": score.layer.name,
            "modules": list(score.layer.modules),
            "tower": score.layer.tower,
            "importance": score.importance,
            "alignment": score.alignment,
            "on_front": score.on_front,
        }
        for score in scores
    ]


def describe_search(found: Search) -> list[dict[str, Any]]:
    """Returns every trial; a metric that was not measured there is `None`."""
    keys = ("fa1", "fa5", "ta")
    return [
        {"layer": trial.layer.name, "step_size": trial.step_size, "relative_change": trial.relative_change}
        | {key: _plain(trial.metrics.get(key)) for key in dict.fromkeys((*keys, *trial.metrics))}
        | {"forgotten": trial.forgotten}
        for trial in found.trials
    ]


def _plain(value: Any) -> Any:
    """What JSON can hold of a metric: a finite number, or `None`; a user's evaluator may return anything."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None if value is None else str(value)
    return number if math.isfinite(number) else None


def peak_memory(device: torch.device) -> int:
    """Returns the most memory used so far, in bytes: of the GPU if the model is on one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def build_report(
    *,
    concept: str,
    prompts: Sequence[str],
    base_model: dict[str, Any],
    settings: dict[str, Any],
    scores: Sequence[LayerScore],
    found: Search,
    chooser: Evaluator,
    target: float | None,
    tester: ZeroShotEvaluator | BehaviourEvaluator,
    compared: Comparison,
    cost: dict[str, Any],
    data: dict[str, Any],
    retain_statistics: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """
    Joins what a run found into `unlearning_report.json`.

    `succeeded` means that the model knew the concept before, that the search reached its target on the validation set, *and*
    that the test set does not contradict it: the 95 % interval of its FA must begin within 0.1 of the target. What it cost is
    said apart: `damages_the_rest` is true if the retained accuracy fell by more than five points.
    """
    before, after, similarity = compared
    best, key = found.chosen, tester.primary_metric
    n_forget, n_retain = tester.n_forget, tester.n_retain
    goal = target if target is not None else float(chooser.greater_is_better)
    # a user's evaluator has units of its own; the test is always by FA
    allowed = _TEST_SLACK + (goal if chooser.primary_metric == key else 0.0)
    contradicted = wilson_interval(after[key] * n_forget, n_forget)[0] > allowed
    return {
        "concept": concept,
        "prompts": list(prompts),
        "succeeded": bool(found.was_known and found.succeeded and not contradicted),
        "base_model": base_model,
        **settings,
        "target": {
            "evaluator": type(chooser).__name__,
            "metric": chooser.primary_metric,
            "value": goal,
            "known_before": found.was_known,
            "reached_on_validation": found.succeeded,
            "risk": _plain(best.metrics.get("risk")),
            "contradicted_by_test": bool(contradicted),
            "damages_the_rest": bool(before["ta"] - after["ta"] > _HEAVY_FALL),
        },
        "layers": describe_layers(scores),
        "search": describe_search(found),
        "chosen": {
            "layer": best.layer.name,
            "modules": list(best.layer.modules),
            "step_size": best.step_size,
            "relative_change": best.relative_change,
        },
        "metrics": {
            "evaluator": type(tester).__name__,
            "before": before,
            "after": after,
            "n_forget": n_forget,
            "n_retain": n_retain,
            "n_names": len(tester.names),
            "names": list(tester.names),
            "templates": list(getattr(tester, "templates", ())),
            "neighbors": similarity.pop("neighbors", []),
            "neighbor_accuracy": similarity.pop("neighbor_accuracy", {}),
            "fa_interval": list(wilson_interval(round(after["fa1"] * n_forget), n_forget)),
        },
        "similarity": similarity,
        "cost": cost,
        "data": data,
        "retain_statistics": retain_statistics,
        "software": describe_software(),
        "seed": seed,
    }


def warn_of_failure(report: dict[str, Any], key: str) -> None:
    """Says loudly if a concept was not forgotten, or never known, or at a price; `key` is the metric that the test goes by."""
    concept, target, metrics = report["concept"], report["target"], report["metrics"]
    if not target["known_before"]:
        logger.warning(
            f"There was nothing to forget: without any change, {target['metric']} on the validation set already reaches the "
            f"target for {concept!r}. The model does not recognise it under these prompts and names ({report['prompts'][0]!r}, …)."
        )
    elif not report["succeeded"]:
        logger.warning(
            f"{concept!r} was NOT forgotten: {key} is {metrics['after'][key]:.1%} of {metrics['n_forget']} test {unit(report)} "
            f"({metrics['before'][key]:.1%} before). Try more steps, another tower, or a larger forget set."
        )
    elif target["risk"] is not None and target["risk"] > max(report["risk"], target["value"]):
        logger.warning(
            f"No layer forgets {concept!r} by a wide margin: of further images of it {target['risk']:.0%} may still be recognised. Give "
            f"more of them to forget, or allow more steps."
        )
    if target["damages_the_rest"]:
        logger.warning(
            f"The rest suffers: {damage(report)}. Try another tower, a larger retain set, weight= below 1 when it is loaded"
            + (", or an evaluator of what the host does (`evaluate=`)." if report["host"] else ".")
        )
