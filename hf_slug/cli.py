# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The command line: `hf-slug demo`, `unlearn`, `retain-stats`, `inspect`, `push`, `verify`, `compose` and `export`.

Exit codes: 0 forgotten (or confirmed), 1 not (the patch is saved all the same, and says so), 2 nothing was done.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import processes
from .errors import describe
from .loading import HOSTS
from .options import add_beside, add_data, add_models, add_retain_stats, add_unlearn
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

    add_unlearn(commands, run_unlearn)
    add_retain_stats(commands, run_retain_stats)

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
    add_models(verify)
    add("--component", metavar="NAME", help="which encoder of the host, where there are several")
    add("--forget", required=True, metavar="SET", help="pairs of the concept, all for the measurement")
    add("--retain", required=True, metavar="SET", help="pairs of other names, likewise")
    add("--concept", metavar="TEXT", help="default: the patch's")
    add_beside(verify, "a patch that this one was made beside; may be repeated")
    add_data(verify)
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
    add(
        "--validation-retain",
        metavar="SET",
        help="with --validation-forget: pairs of other names, others than in --retain, whose accuracy no fitted weight may lower much",
    )
    add_data(compose)
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


def _add_patch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patch", metavar="PATCH", help="folder or Hub id of a patch")
    parser.add_argument("--patch-revision", metavar="R", help="branch, tag or commit of the patch on the Hub")
    parser.add_argument("--subfolder", metavar="DIR", help="folder of the patch in its repository")


# arguments of `unlearn` that are called the same on the command line
_SAME = (
    *("concept", "tower", "granularity", "direction", "fa_at", "risk", "steps", "front_only", "early_stopping"),
    *("tolerance", "rank", "trajectory", "batch_size", "retain_batch_size", "seed"),
)


def run_demo(args: argparse.Namespace) -> int:
    """Forgets a concept of the zoo; see `hf_slug/demo.py`."""
    from .demo import run

    return run(args)


def run_unlearn(args: argparse.Namespace) -> int:
    """Forgets a concept of the user's model, or several."""
    check_output(args.output)
    if args.plots is not None:
        from . import plots

        plots.check_installed()  # not after minutes of work
    if args.concept is not None and args.forget is None:
        raise ValueError("There is no forget set. Give --forget, pairs of the concept.")
    state = processes.launched(args.device)
    if args.concepts is not None:
        from . import batch

        return batch.run(args, _unlearn, state, None if args.plots is None else plots.save_plots)
    from .request import load_models

    result = _unlearn(args, load_models(args), {"accelerator": state})

    def save() -> int:
        result.patch.save_pretrained(args.output)
        files = plots.save_plots(result.report, args.plots) if args.plots is not None else []
        return finish(result, [args.output, *files], args.json)

    return processes.Processes(state).exit_code(save)


def _unlearn(args: argparse.Namespace, models: Any, more: Mapping[str, Any]) -> Any:
    from .request import load_request
    from .unlearn import unlearn

    request = load_request(args, models)
    settings = {key: getattr(args, key) for key in _SAME} | request.settings | dict(more)
    return unlearn(request.model, request.processor, **settings)


def run_retain_stats(args: argparse.Namespace) -> int:
    """Computes the statistics of a retain set; see `hf_slug/known_retain.py`."""
    from .known_retain import run

    return run(args, processes.launched(args.device))


def run_inspect(args: argparse.Namespace) -> int:
    """Shows what a patch changes; see `hf_slug/inspection.py`."""
    from .inspection import run_inspect

    return run_inspect(args)


def _sharing(command: str, args: argparse.Namespace) -> int:
    """What becomes of a patch once it is made; see `hf_slug/sharing.py` and `hf_slug/compose_command.py`."""
    from . import compose_command, sharing

    return int(getattr(compose_command if command == "compose" else sharing, f"run_{command}")(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ‖ is no reason to fail
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"hf-slug: error: {describe(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
