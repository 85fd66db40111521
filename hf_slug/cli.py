# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The command line: `hf-slug demo`, `unlearn`, `retain-stats`, `inspect`, `push`, `verify`, `compose` and `export`.

Exit codes: 0 forgotten (or confirmed), 1 not (the patch is saved all the same, and says so), 2 nothing was done.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .loading import HOSTS
from .output import check_output, finish


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(prog="hf-slug", description="Take a concept out of a model, as a small patch.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="forget a digit or a style of the embedded miniature models")
    demo.add_argument(
        "--host",
        choices=HOSTS,
        help="show it on the miniature Stable Diffusion or LLaVA (default: on the CLIP itself)",
    )
    demo.add_argument("--objective", choices=("clip", "host"), help="with --host: whose loss; see `unlearn`")
    demo.add_argument("--concept", default="seven", help="zero … nine, or one of the ten styles (default: seven)")
    demo.add_argument(
        "--output", type=Path, default=Path("hf-slug-demo"), help="holds patch/ and plots/ (default: hf-slug-demo)"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the data (default: 0)")
    demo.add_argument("--json", action="store_true", help="print the report instead of a table")
    demo.set_defaults(run=run_demo)

    unlearn = commands.add_parser("unlearn", help="forget a concept of any CLIPModel, Stable Diffusion or LLaVA")
    add = unlearn.add_argument
    _add_models(unlearn)
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
    add("--forget", required=True, help="pairs of the concept: image folder, .parquet, .jsonl, .csv, .tar, or Hub id")
    add("--retain", help="pairs to keep, likewise")
    add(
        "--retain-stats", metavar="STATS", help="in place of --retain, what `retain-stats` made: a folder, or a Hub id"
    )
    add("--concept", required=True, metavar="TEXT", help="the concept's name")
    add("--output", required=True, type=Path, metavar="DIR", help="where the patch is saved")
    add("--tower", choices=("vision", "text", "both"), default="both")
    add("--granularity", choices=("matrix", "attention", "block"), default="matrix")
    add("--direction", choices=("whitened", "gradient"), default="whitened")
    for part in ("validation", "test"):
        for what in ("forget", "retain"):
            add(f"--{part}-{what}", metavar="SET", help=f"{what} pairs for {part}; split off --{what} if not given")
    _add_data(unlearn)
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
        help="of further images that may be recognised (default: 0.05)",
    )
    add("--steps", type=int, default=10, metavar="K", help="trials per layer")
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
    add("--plots", type=Path, metavar="DIR", help="draw pictures into this folder (extra `plots`)")
    add("--json", action="store_true", help="print the report instead of a table")
    unlearn.set_defaults(run=run_unlearn)

    stats = commands.add_parser("retain-stats", help="what unlearning needs of a retain set, once for all concepts")
    add = stats.add_argument
    add("--model", required=True, help="folder or Hub id of a CLIPModel")
    add("--retain", required=True, help="pairs to keep: image folder, .parquet, .jsonl, .csv, .tar, or Hub id")
    add("--output", type=Path, metavar="DIR", help="where they are saved")
    add("--push", metavar="REPO", help="repository id of the Hub, to which they are published")
    add("--private", action="store_true", help="a new repository is private")
    add("--tower", choices=("vision", "text", "both"), default="both")
    add("--direction", choices=("whitened", "gradient"), default="whitened", help="gradient: without input moments")
    _add_data(stats)
    add("--retain-batch-size", type=int, metavar="N", help="pairs contrasted with each other; as in unlearn")
    stats.set_defaults(run=run_retain_stats)

    inspect = commands.add_parser("inspect", help="show what a patch changes, without loading any model")
    _add_patch(inspect)
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    inspect.set_defaults(run=run_inspect)
    _add_sharing(commands)
    return parser


def _add_sharing(commands: Any) -> None:
    """`push`, `verify`, `compose` and `export`."""
    push = commands.add_parser("push", help="publish a patch on the Hub, in one commit")
    add = push.add_argument
    add("patch", metavar="DIR", help="folder of a patch")
    add("repo", metavar="REPO", help="repository id, user/name; made if it does not exist")
    add("--private", action="store_true", help="a new repository is private")
    add("--create-pr", action="store_true", help="open a pull request instead of committing")
    add("--commit-message", metavar="TEXT")
    add("--revision", metavar="BRANCH", help="branch to commit to")
    add("--subfolder", metavar="DIR", help="a folder of the repository, where that holds several patches")
    add("--license", metavar="ID", help="licence of the delta, e.g. apache-2.0")
    add("--anyway", action="store_true", help="even if the concept was not forgotten")
    add("--json", action="store_true", help="print the address as JSON")
    push.set_defaults(run=lambda args: _sharing("push", args))

    verify = commands.add_parser("verify", help="measure the numbers of a patch's card again")
    add = verify.add_argument
    _add_patch(verify)
    _add_models(verify)
    add("--component", metavar="NAME", help="which encoder of the host, where there are several")
    add("--forget", required=True, metavar="SET", help="pairs of the concept, all for the measurement")
    add("--retain", required=True, metavar="SET", help="pairs of other names, likewise")
    add("--concept", metavar="TEXT", help="default: the patch's")
    _add_data(verify)
    add("--json", action="store_true", help="print it as JSON")
    verify.set_defaults(run=lambda args: _sharing("verify", args))

    compose = commands.add_parser("compose", help="make one patch out of several on the same base")
    add = compose.add_argument
    add("patches", nargs="+", metavar="PATCH", help="folders or Hub ids")
    add("--weights", nargs="+", type=float, metavar="W", help="how much of each (default: 1 each)")
    add("--output", required=True, type=Path, metavar="DIR", help="where the patch is saved")
    add("--model", help="folder or Hub id of the base: measures every concept untouched, alone and together")
    add("--forget", action="append", metavar="SET", help="with --model: pairs of each concept, in the patches' order")
    add(
        "--validation-forget",
        action="append",
        metavar="SET",
        help="with --model, in place of --weights: pairs of each concept, others than in --forget, to fit the weights to each other by",
    )
    add("--retain", metavar="SET", help="with --model: pairs of other names")
    _add_data(compose)
    add("--json", action="store_true", help="print the report as JSON")
    compose.set_defaults(run=lambda args: _sharing("compose", args))

    export = commands.add_parser("export", help="turn a patch into a standard LoRA, for tools without hf_slug")
    add = export.add_argument
    _add_patch(export)
    add("--output", required=True, type=Path, metavar="DIR")
    add("--format", choices=("peft", "diffusers", "kohya"), default="peft", help="whose keys (default: peft)")
    add(
        "--component",
        default="text_encoder",
        metavar="NAME",
        help="text encoder of a pipeline (default: text_encoder)",
    )
    add("--rank", type=int, metavar="R", help="default: the smallest that leaves --tol of the delta")
    add("--tol", type=float, default=1e-4, metavar="T", help="residual, relative to the delta (default: 1e-4)")
    add("--json", action="store_true", help="print rank and residual as JSON")
    export.set_defaults(run=lambda args: _sharing("export", args))


def _rank(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _add_patch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patch", metavar="PATCH", help="folder or Hub id of a patch")
    parser.add_argument("--patch-revision", metavar="R", help="branch, tag or commit of the patch on the Hub")
    parser.add_argument("--subfolder", metavar="DIR", help="folder of the patch in its repository")


def _add_models(parser: argparse.ArgumentParser) -> None:
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


def _add_data(parser: argparse.ArgumentParser) -> None:
    """How data is read, and how models are run."""
    add = parser.add_argument
    add(
        "--names",
        type=Path,
        metavar="FILE",
        help="names to classify among, one a line or a JSON list; default: from the data",
    )
    add("--template", action="append", metavar="TEXT", help="how a name is said, with {} for it; may be repeated")
    add("--image-column", default="image", metavar="C")
    add("--text-column", default="text", metavar="C")
    add("--name-column", default="name", metavar="C")
    add("--batch-size", type=int, default=64, metavar="N")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", metavar="D")
    add("--device", metavar="D", help="cpu, cuda, …; default: what accelerate finds")
    add("--revision", default="main", metavar="R", help="revision of the model on the Hub")
    add("--seed", type=int, default=0)


def run_demo(args: argparse.Namespace) -> int:
    """Forgets a concept of the zoo; see `hf_slug/demo.py`."""
    from .demo import run

    return run(args)


def run_unlearn(args: argparse.Namespace) -> int:
    """Forgets a concept of the user's model."""
    from .request import load_request
    from .unlearn import unlearn

    check_output(args.output)
    if args.plots is not None:
        from . import plots

        plots.check_installed()  # not after minutes of work
    request = load_request(args)
    result = unlearn(
        request.model,
        request.processor,
        concept=args.concept,
        tower=args.tower,
        granularity=args.granularity,
        direction=args.direction,
        fa_at=args.fa_at,
        risk=args.risk,
        steps=args.steps,
        front_only=args.front_only,
        early_stopping=args.early_stopping,
        rank=args.rank,
        trajectory=args.trajectory,
        batch_size=args.batch_size,
        retain_batch_size=args.retain_batch_size,
        seed=args.seed,
        **request.settings,
    )
    result.patch.save_pretrained(args.output)
    files = plots.save_plots(result.report, args.plots) if args.plots is not None else []
    return finish(result, [args.output, *files], args.json)


def run_retain_stats(args: argparse.Namespace) -> int:
    """Computes the statistics of a retain set; see `hf_slug/known_retain.py`."""
    from .known_retain import run

    return run(args)


def run_inspect(args: argparse.Namespace) -> int:
    """Shows what a patch changes; see `hf_slug/inspection.py`."""
    from .inspection import run_inspect

    return run_inspect(args)


def _sharing(command: str, args: argparse.Namespace) -> int:
    """What becomes of a patch once it is made; see `hf_slug/sharing.py`."""
    from . import sharing

    return int(getattr(sharing, f"run_{command}")(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ‖ is no reason to fail
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"hf-slug: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
