# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From the arguments of `hf-slug unlearn` to what `unlearn` is called with."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .data import Pairs
from .errors import UnsupportedModelError
from .loading import host_kind, load_clip, load_host, load_judge
from .names import check_templates, collect_names, name_of
from .parts import load_parts


_MOST_PROMPTS = 50  # that pictures are generated of, the concept's and the others each


@dataclass
class Request:
    """
    What a command asks for.

    Args:
        model (`CLIPModel`, *optional*): The CLIP.
        processor (`CLIPProcessor`, *optional*): Its processor.
        settings (`dict[str, Any]`): Further arguments of [`unlearn`]: data, names, host, evaluators.
    """

    model: Any
    processor: Any
    settings: dict[str, Any]


def load_request(args: argparse.Namespace) -> Request:
    """
    Loads the models, the data and the evaluators that a command names.

    Raises:
        ValueError: If something needed is missing.
    """
    clip_name, host_name = _model_names(args)
    model = processor = None
    if clip_name is not None:
        model, processor = load_clip(clip_name, args.dtype, args.device, args.revision)
    names = read_names(args.names) if args.names else None
    templates = tuple(args.template or ("a photo of {}",))
    columns = {f"{what}_column": getattr(args, f"{what}_column") for what in ("image", "text", "name")}
    settings: dict[str, Any] = {"names": names, "template": templates, **columns}
    for what in ("forget", "retain"):
        for part in ("", "validation_", "test_"):
            settings[part + what] = getattr(args, part + what)
    if args.host is None:
        return Request(model, processor, settings)

    host, host_processor = load_host(args.host, str(host_name), args.dtype, args.device)
    settings |= {
        "host": host,
        "objective": args.objective,
        "component": args.component,
        "host_processor": host_processor,
    }
    if args.question:
        settings["questions"] = args.question
    if (args.evaluate or ("host" if model is None else "zero-shot")) == "host":
        parts: dict[str, Pairs] = {}
        for what in ("forget", "retain"):
            given = [settings[part + what] for part in ("", "validation_", "test_")]
            parts |= load_parts(cast(Any, what), given[0], given[1], given[2], args.seed, columns)
        settings |= parts
        known = names or list(collect_names(list(parts.values()), check_templates(templates)))
        make = _generation_evaluators if args.host == "stable-diffusion" else _answer_evaluators
        evaluators = make(args, host_processor, parts, known, templates, model, processor)
        settings |= {"evaluate": evaluators[0], "test_evaluate": evaluators[1]}
    return Request(model, processor, settings)


def _model_names(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """The CLIP and the host: one `--model` may be either, and what is not named is the zoo's."""
    if args.host is None:
        if args.model is None:
            raise ValueError("Give --model, a CLIPModel, or --host, for one of the embedded miniature models.")
        for flag in ("host_model", "objective", "component", "evaluate", "judge", "question"):
            if getattr(args, flag) not in (None, "clip" if flag == "objective" else "zero-shot"):
                raise ValueError(f"--{flag.replace('_', '-')} says something of a host. Give --host, too.")
        return args.model, None
    from . import zoo

    embedded = zoo.STABLE_DIFFUSION_FOLDER if args.host == "stable-diffusion" else zoo.LLAVA_FOLDER
    is_host = args.model is not None and host_kind(args.model, args.revision) == args.host
    if is_host and args.host_model is not None:
        raise ValueError(f"Found two hosts: --model {args.model} and --host-model {args.host_model}. Give one.")
    if is_host:
        return None, args.model
    if args.model is None:
        return (None, args.host_model) if args.host_model is not None else (str(zoo.CLIP_FOLDER), str(embedded))
    return args.model, args.host_model or str(embedded)


def _generation_evaluators(
    args: argparse.Namespace,
    _: Any,
    parts: dict[str, Pairs],
    names: list[str],
    templates: Sequence[str],
    model: Any,
    processor: Any,
) -> list[Any]:
    """Pictures of the data's own captions; the report goes by other seeds than the search."""
    from .evaluation import GenerationEvaluator, ZeroShotJudge

    names = names if args.concept in names else [*names, args.concept]
    if args.judge is not None:
        judge = load_judge(args.judge, names, args.device)
    elif model is not None:
        judge = ZeroShotJudge(model, processor, [names], templates)
    else:
        raise UnsupportedModelError(
            "Generated pictures must be judged: give --judge, an image classifier, or --model, a CLIPModel."
        )
    prompts: dict[str, tuple[str]] = {}
    for what in ("forget", "retain"):
        shown = {pair.text: args.concept if what == "forget" else name_of(pair, templates) for pair in parts[what]}
        taken = _spread(shown)
        prompts |= {text: (name,) for text, name in taken.items() if what == "forget" or name != args.concept}
    drawing = {"num_inference_steps": args.inference_steps, "guidance_scale": args.guidance_scale}
    return [
        GenerationEvaluator(
            judge, prompts, args.concept, args.images_per_prompt, max(1, args.images_per_prompt // 4), seed, **drawing
        )
        for seed in (args.seed, args.seed + 10_000)
    ]


def _spread(shown: dict[str, str]) -> dict[str, str]:
    """At most so many prompts, of all names alike."""
    by_name: dict[str, list[str]] = {}
    for text, name in shown.items():
        by_name.setdefault(name, []).append(text)
    rounds = max(len(texts) for texts in by_name.values())
    order = [(texts[i], name) for i in range(rounds) for name, texts in by_name.items() if i < len(texts)]
    return dict(order[:_MOST_PROMPTS])


def _answer_evaluators(
    args: argparse.Namespace,
    host_processor: Any,
    parts: dict[str, Pairs],
    names: list[str],
    templates: Sequence[str],
    *_: Any,
) -> list[Any]:
    """Questions about the validation images, and about the test images."""
    from .evaluation import VqaEvaluator
    from .objectives import DEFAULT_QUESTIONS

    names = names if args.concept in names else [*names, args.concept]
    questions = args.question or DEFAULT_QUESTIONS
    return [
        VqaEvaluator(
            host_processor,
            parts[f"{part}_forget"],
            parts[f"{part}_retain"],
            args.concept,
            names,
            questions,
            batch_size=args.batch_size,
        )
        for part in ("validation", "test")
    ]


def read_names(path: Path) -> list[str]:
    """
    Reads names: a JSON list, or one a line.

    Raises:
        ValueError: If there is none, or one occurs twice.
    """
    text = path.read_text(encoding="utf-8")
    names = (
        json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
    )
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} holds no names. Expected one a line, or a JSON list of strings.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} holds {', '.join(twice[:5])} more than once. Every name may occur once.")
    return names
