# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a host's behaviour is judged by, as the arguments of `hf-slug unlearn` say: pictures that it draws, or answers that it gives."""

import argparse
import math
from collections.abc import Sequence
from typing import Any, cast

from .data import Pairs
from .errors import UnsupportedModelError
from .loading import load_judge
from .names import bare_name, check_templates, collect_names, label, with_names
from .parts import load_parts


_MOST_PROMPTS = 50  # that pictures are generated of, the concept's and the others each
_FEWEST_PICTURES = 50  # of the concept


def host_evaluation(
    args: argparse.Namespace, settings: dict[str, Any], columns: dict[str, str], clip: tuple[Any, Any], processor: Any
) -> dict[str, Any]:
    """The data, loaded, and evaluators that go by what the host does with it."""
    templates = check_templates(settings["template"])
    parts: dict[str, Pairs] = {}
    draws = args.host == "stable-diffusion"  # what is judged needs no images of the data, so none are split off
    for what in ("forget", "retain"):
        given = [settings[part + what] for part in ("", "validation_", "test_")]
        parts |= load_parts(cast(Any, what), given[0], given[1], given[2], args.seed, columns, whole=draws)
    kept = [pairs for part, pairs in parts.items() if part.endswith("retain")]
    names = list(settings["names"] or collect_names(kept, templates))
    own = bare_name(args.concept, templates)
    concept = next((name for name in names if name.casefold() == own.casefold()), own)
    names += [concept] if concept not in names else []
    parts, _ = settings["beside"].leave_out(parts, templates)
    if draws:
        judge = _find_judge(args, names, templates, *clip)
        evaluators = _generation_evaluators(args, judge, parts, concept, names, templates)
    else:
        evaluators = _answer_evaluators(args, processor, parts, concept, names, templates)
    return {**parts, "evaluate": evaluators[0], "test_evaluate": evaluators[1]}


def _find_judge(
    args: argparse.Namespace, names: list[str], templates: Sequence[str], model: Any, processor: Any
) -> Any:
    from .evaluation import ZeroShotJudge

    if args.judge is not None:
        return load_judge(args.judge, names, args.device)
    if model is None:
        raise UnsupportedModelError(
            "Generated pictures must be judged: give --judge, an image classifier, or --model, a CLIPModel."
        )
    return ZeroShotJudge(model, processor, [names], templates)


def _generation_evaluators(
    args: argparse.Namespace,
    judge: Any,
    parts: dict[str, Pairs],
    concept: str,
    names: list[str],
    templates: Sequence[str],
) -> list[Any]:
    """Pictures of the data's own captions; the report goes by other seeds than the search."""
    from .evaluation import GenerationEvaluator

    shown = [names[i] for i in label(parts["retain"], names, templates, "retain set")]
    kept = {text: name for text, name in zip(parts["retain"].texts, shown, strict=True) if name != concept}
    own = spread(dict.fromkeys(parts["forget"].texts, concept))
    prompts = spread(kept) | own
    given = {"num_inference_steps": args.inference_steps, "guidance_scale": args.guidance_scale}
    drawing: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    # of fewer pictures none may show the concept by chance
    asked = args.images_per_prompt
    count, few = (max(4, math.ceil(_FEWEST_PICTURES / len(own))), 1) if asked is None else (asked, max(1, asked // 4))
    return [
        GenerationEvaluator(judge, prompts, concept, count, few, seed, **drawing)
        for seed in (args.seed, args.seed + 10_000)
    ]


def spread(shown: dict[str, str]) -> dict[str, tuple[str]]:
    """At most so many prompts, of all names alike."""
    by_name: dict[str, list[str]] = {}
    for text, name in shown.items():
        by_name.setdefault(name, []).append(text)
    rounds = max(map(len, by_name.values()), default=0)
    order = [(texts[i], (name,)) for i in range(rounds) for name, texts in by_name.items() if i < len(texts)]
    return dict(order[:_MOST_PROMPTS])


def _answer_evaluators(
    args: argparse.Namespace,
    processor: Any,
    parts: dict[str, Pairs],
    concept: str,
    names: list[str],
    templates: Sequence[str],
) -> list[Any]:
    """Questions about the validation images, and about the test images."""
    from .evaluation import VqaEvaluator
    from .objectives import DEFAULT_QUESTIONS

    questions = args.question or DEFAULT_QUESTIONS
    named = {part: with_names(pairs, templates) for part, pairs in parts.items()}
    return [
        VqaEvaluator(
            processor,
            named[f"{part}_forget"],
            named[f"{part}_retain"],
            concept,
            names,
            questions,
            batch_size=args.batch_size,
        )
        for part in ("validation", "test")
    ]
