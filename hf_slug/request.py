# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From the arguments of `hf-slug unlearn` to what `unlearn` is called with."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .beside import read_beside
from .data import Pairs
from .encoders import host_modules
from .errors import UnsupportedModelError
from .loading import host_kind, load_clip, load_host, load_judge
from .names import DEFAULT_TEMPLATE, bare_name, check_templates, collect_names, label, with_names
from .parts import load_parts
from .retain_statistics import RetainStatistics
from .streams import PairStream


_MOST_PROMPTS = 50  # that pictures are generated of, the concept's and the others each
_FEWEST_PICTURES = 50  # of the concept


@dataclass(frozen=True)
class Models:
    """
    The models that a command names.

    Args:
        clip, processor (`CLIPModel` and `CLIPProcessor`, *optional*): The CLIP and its processor.
        host, host_processor (*optional*): The host, and the processor of a LLaVA.
    """

    clip: Any = None
    processor: Any = None
    host: Any = None
    host_processor: Any = None


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


def load_models(args: argparse.Namespace) -> Models:
    """
    Loads the models that a command names; what makes no sense together is refused before.

    Raises:
        ValueError: If something needed is missing.
    """
    check_flags(args)
    clip_name, host_name = _model_names(args)
    clip = processor = host = host_processor = None
    if clip_name is not None:
        clip, processor = load_clip(clip_name, args.dtype, args.device, args.revision)
    if args.host is not None:
        revision = args.revision if host_name == args.model else "main"
        host, host_processor = load_host(args.host, str(host_name), args.dtype, args.device, revision)
    if getattr(args, "gradient_checkpointing", False):
        parts: list[Any] = [clip, *host_modules(host)]
        for part in parts:
            for name in (
                "gradient_checkpointing_enable",
                "enable_gradient_checkpointing",
            ):  # transformers', diffusers'
                if hasattr(part, name):
                    getattr(part, name)()
    return Models(clip, processor, host, host_processor)


def judged_by_host(args: argparse.Namespace, has_clip: bool) -> bool:
    """Whether a search goes by what the host does: where nobody says, if there is no CLIPModel to go by."""
    return (args.evaluate or ("zero-shot" if has_clip else "host")) == "host"


def load_request(args: argparse.Namespace, models: Models | None = None) -> Request:
    """
    Loads the models, the data and the evaluators that a command names.

    Args:
        args (`argparse.Namespace`): The arguments.
        models ([`Models`], *optional*): Those, where they are loaded already.

    Raises:
        ValueError: If something needed is missing.
    """
    models = models or load_models(args)
    names = read_names(args.names) if isinstance(args.names, Path) else args.names
    templates = templates_of(args)
    columns = columns_of(args)
    settings: dict[str, Any] = {"names": names, "template": templates, **columns}
    for what in ("forget", "retain"):
        for part in ("", "validation_", "test_"):
            settings[part + what] = getattr(args, part + what)
    if getattr(args, "retain_stats", None) is not None:
        settings["retain"] = RetainStatistics.from_pretrained(args.retain_stats)
    elif getattr(args, "streaming", False):
        settings["retain"] = PairStream(args.retain, **columns)
    settings["beside"] = read_beside(args.beside)
    if models.host is None:
        return Request(models.clip, models.processor, settings)
    settings |= {
        "host": models.host,
        "objective": args.objective,
        "component": args.component,
        "host_processor": models.host_processor,
    }
    if args.question:
        settings["questions"] = args.question
    if judged_by_host(args, models.clip is not None):
        clip = models.clip, models.processor
        settings |= _host_evaluation(args, settings, columns, clip, models.host_processor)
    return Request(models.clip, models.processor, settings)


def columns_of(args: argparse.Namespace) -> dict[str, Any]:
    """The columns of the data, as [`load_pairs`] is told them."""
    return {f"{what}_column": getattr(args, f"{what}_column") for what in ("image", "text", "name")}


def templates_of(args: argparse.Namespace) -> tuple[str, ...]:
    """How names are said."""
    return tuple(args.template or (DEFAULT_TEMPLATE,))


def _model_names(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """The CLIP and the host: one `--model` may be either, and what is not named is the zoo's."""
    if args.host is None:
        if args.model is None:
            raise ValueError("Give --model, a CLIPModel, or --host, for one of the embedded miniature models.")
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


def check_flags(args: argparse.Namespace) -> None:
    """
    Refuses what would be left unread, before anything is loaded.

    Raises:
        ValueError: If something needed is missing, or does not go together.
    """
    by_host = judged_by_host(args, _model_names(args)[0] is not None)
    statistics = getattr(args, "retain_stats", None)
    in_turn = getattr(args, "in_turn", False)
    if in_turn and args.concepts is None:
        raise ValueError(
            "--in-turn says how the patches of --concepts are made. Give --concepts, or --beside for a single one."
        )
    if (in_turn or args.beside) and (statistics is not None or getattr(args, "streaming", False)):
        raise ValueError(
            "Retain statistics and streams are of the model without patches. With --beside and --in-turn give the pairs with --retain."
        )
    if (statistics is None) == (args.retain is None):
        raise ValueError("Give --retain or --retain-stats, one of them.")
    if getattr(args, "streaming", False) and (args.retain is None or by_host):
        raise ValueError(
            "--streaming reads --retain a few pairs at a time for CLIP's own loss; it goes with --retain, and not with --evaluate host."
        )
    apart = statistics is not None or getattr(args, "streaming", False)
    if apart and None in (args.validation_retain, args.test_retain):
        raise ValueError(
            f"From {'--retain-stats' if statistics is not None else 'a stream'} nothing can be split off to search and to report by. Give "
            f"--validation-retain and --test-retain."
        )
    if statistics is not None and by_host:
        raise ValueError(
            "What a host does is judged by the names and captions of the retain set. Give it with --retain, in place of --retain-stats."
        )
    for flag in ("host_model", "objective", "component", "evaluate", "judge", "question"):
        harmless = (None, "clip" if flag == "objective" else "zero-shot")
        if args.host is None and getattr(args, flag) not in harmless:
            raise ValueError(f"--{flag.replace('_', '-')} says something of a host. Give --host, too.")
    if args.judge is not None and not (by_host and args.host == "stable-diffusion"):
        raise ValueError(
            "--judge says what generated pictures show. Give --host stable-diffusion --evaluate host, too."
        )
    for flag in ("images_per_prompt", "inference_steps", "guidance_scale"):
        if getattr(args, flag) is not None and not (by_host and args.host == "stable-diffusion"):
            raise ValueError(
                f"--{flag.replace('_', '-')} says how pictures are generated to be judged. Give --host stable-diffusion --evaluate host, "
                f"too."
            )
    if args.question and args.host != "llava":
        raise ValueError("--question is what a LLaVA is asked. Give --host llava, or leave it out.")


def _host_evaluation(
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
    own = _spread(dict.fromkeys(parts["forget"].texts, concept))
    prompts = _spread(kept) | own
    given = {"num_inference_steps": args.inference_steps, "guidance_scale": args.guidance_scale}
    drawing: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    # of fewer pictures none may show the concept by chance
    asked = args.images_per_prompt
    count, few = (max(4, math.ceil(_FEWEST_PICTURES / len(own))), 1) if asked is None else (asked, max(1, asked // 4))
    return [
        GenerationEvaluator(judge, prompts, concept, count, few, seed, **drawing)
        for seed in (args.seed, args.seed + 10_000)
    ]


def _spread(shown: dict[str, str]) -> dict[str, tuple[str]]:
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
