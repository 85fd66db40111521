# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From the arguments of `hf-slug unlearn` to what `unlearn` is called with."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .beside import read_beside
from .encoders import host_modules
from .host_evaluation import host_evaluation
from .loading import host_kind, load_clip, load_host
from .names import DEFAULT_TEMPLATE
from .retain_statistics import RetainStatistics
from .streams import PairStream


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
        settings |= host_evaluation(args, settings, columns, clip, models.host_processor)
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
