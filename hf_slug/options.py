# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The options of `hf-slug unlearn` and `retain-stats`, and those that other commands share with them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .loading import HOSTS


_CHECKPOINTING = "less memory, a third more time for gradients"
_STREAMING = "read the pairs to keep a few at a time, however many there are"


def add_unlearn(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """`hf-slug unlearn`."""
    unlearn = commands.add_parser("unlearn", help="forget a concept of any CLIPModel, Stable Diffusion or LLaVA")
    add = unlearn.add_argument
    add_models(unlearn)
    add(
        "--objective",
        choices=("clip", "host"),
        help="the paper's losses, or the host's own through its frozen rest (default: the host's own where it is known: pipelines "
        "with a UNet, LLaVA)",
    )
    add("--component", metavar="NAME", help="which encoder of the host, e.g. text_encoder_2, where there are several")
    add(
        "--evaluate",
        choices=("zero-shot", "host"),
        help="what the search and the report go by: the CLIPModel's classification (default, cheap), or what the host does: "
        "generated pictures judged by a classifier, answers matched with names (default without a CLIPModel)",
    )
    add("--forget", help="pairs of the concept: image folder, .parquet, .jsonl, .csv, .tar, or Hub id; see --concepts")
    add("--retain", help="pairs to keep, likewise")
    add(
        "--retain-stats", metavar="STATS", help="in place of --retain, what `retain-stats` made: a folder, or a Hub id"
    )
    what = unlearn.add_mutually_exclusive_group(required=True)
    what.add_argument("--concept", metavar="TEXT", help="the concept's name")
    what.add_argument(
        "--concepts",
        type=Path,
        metavar="FILE",
        help="many, a patch each in a folder of --output; what is done is not done again. One name a line, where --forget holds "
        "them all by name or has {} for it; or JSON lines with concept, forget, validation_forget, test_forget, output",
    )
    add_beside(
        unlearn,
        "folder or Hub id of a patch that this one will be loaded with: it is on while this one is made; may be repeated",
    )
    add(
        "--in-turn",
        action="store_true",
        help="with --concepts: make each patch beside those that are done, for a model that all are loaded on",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="where the patch is saved")
    add(
        "--streaming", action="store_true", help=_STREAMING + "; then --validation-retain and --test-retain are needed"
    )
    add("--tower", choices=("vision", "text", "both"), default="both")
    add("--granularity", choices=("matrix", "attention", "block"), default="matrix")
    add("--direction", choices=("whitened", "gradient"), default="whitened")
    for part in ("validation", "test"):
        for what in ("forget", "retain"):
            add(f"--{part}-{what}", metavar="SET", help=f"{what} pairs for {part}; split off --{what} if not given")
    add_data(unlearn)
    add(
        "--retain-batch-size",
        type=int,
        metavar="N",
        help="pairs contrasted with each other; default: --batch-size, at least 64",
    )
    add(
        "--risk",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of further images that may be recognised; a tenth of it is aimed at where that costs nothing (default: 0.05)",
    )
    add("--steps", type=int, default=10, metavar="K", help="trials per layer, at most (default: 10)")
    add(
        "--tolerance",
        type=float,
        default=0.34,
        metavar="SHARE",
        help="a layer's search ends once its smallest forgetting step is known to this share; 0: all steps (default: 0.34)",
    )
    add("--fa-at", type=int, choices=(1, 5), help="target FA@1 or FA@5; default: 5, or 1 under 50 names")
    add("--front-only", action="store_true", help="never search beyond the first front (the paper's way)")
    add(
        "--early-stopping",
        action="store_true",
        help="with --evaluate host: end at the first layer that forgets and keeps the rest",
    )
    add(
        "--rank",
        type=_rank,
        metavar="R",
        help="restrict the delta to rank R and store its factors; auto: the lowest that loses next to nothing",
    )
    add(
        "--trajectory",
        choices=("best", "chosen", "all"),
        default="best",
        help="where retained accuracy is measured: at each layer's best step, at every step of the chosen layer, or at all",
    )
    add("--gradient-checkpointing", action="store_true", help=_CHECKPOINTING)
    add("--plots", type=Path, metavar="DIR", help="draw pictures into this folder (extra `plots`)")
    add("--json", action="store_true", help="print the report instead of a table")
    unlearn.set_defaults(run=run)


def add_retain_stats(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """`hf-slug retain-stats`."""
    stats = commands.add_parser("retain-stats", help="what unlearning needs of a retain set, once for all concepts")
    add = stats.add_argument
    add("--model", required=True, help="folder or Hub id of a CLIPModel")
    add("--retain", required=True, help="pairs to keep: image folder, .parquet, .jsonl, .csv, .tar, or Hub id")
    add("--streaming", action="store_true", help=_STREAMING)
    add("--gradient-checkpointing", action="store_true", help=_CHECKPOINTING)
    add("--output", type=Path, metavar="DIR", help="where they are saved")
    add("--push", metavar="REPO", help="repository id of the Hub, to which they are published")
    add("--private", action="store_true", help="a new repository is private")
    add("--tower", choices=("vision", "text", "both"), default="both")
    add("--direction", choices=("whitened", "gradient"), default="whitened", help="gradient: without input moments")
    add_reading(stats)
    add("--retain-batch-size", type=int, metavar="N", help="pairs contrasted with each other; as in unlearn")
    stats.set_defaults(run=run)


def add_models(parser: argparse.ArgumentParser) -> None:
    """What a CLIP, a host and the judge of its pictures are loaded from."""
    add = parser.add_argument
    add("--model", help="folder or Hub id of a CLIPModel; with --host it may be left out, or be the host itself")
    add("--host", choices=HOSTS, help="Stable Diffusion or LLaVA: what the patch is for")
    add("--host-model", metavar="MODEL", help="folder or Hub id of the host; default: the embedded miniature one")
    add("--judge", metavar="MODEL", help="image classifier for generated pictures; default: the CLIPModel, zero-shot")
    add(
        "--question", action="append", metavar="TEXT", help="what a LLaVA is asked of an image's name; may be repeated"
    )
    add(
        "--images-per-prompt",
        type=int,
        metavar="N",
        help="pictures generated of each prompt of the concept; default: so many that there are fifty, at least 4",
    )
    add("--inference-steps", type=int, metavar="N", help="denoising steps of generated pictures (default: 25)")
    add("--guidance-scale", type=float, metavar="G", help="guidance of generated pictures (default: 7.5)")


def add_beside(parser: argparse.ArgumentParser, what: str) -> None:
    """Which patches are on while another is made, or measured."""
    parser.add_argument("--beside", action="append", default=[], metavar="PATCH", help=what)


def add_data(parser: argparse.ArgumentParser) -> None:
    """How data is read, split and classified, and how models are run."""
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="names to classify among, one a line or a JSON list; default: from the data",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How data is read, and how models are run."""
    add = parser.add_argument
    add("--template", action="append", metavar="TEXT", help="how a name is said, with {} for it; may be repeated")
    add("--image-column", default="image", metavar="C")
    add("--text-column", default="text", metavar="C")
    add("--name-column", default="name", metavar="C")
    add("--batch-size", type=int, default=64, metavar="N")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", metavar="D")
    add(
        "--device",
        metavar="D",
        help="cpu, cuda, …; auto: the parts of a LLaVA where they fit; default: what accelerate finds",
    )
    add("--revision", default="main", metavar="R", help="revision of the model on the Hub")


def _rank(text: str) -> int | str:
    return text if text == "auto" else int(text)
