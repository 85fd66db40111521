# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The command line: `hf-slug demo`, `hf-slug unlearn`, `hf-slug inspect`.

Exit codes: 0 forgotten, 1 not forgotten (the patch is saved all the same, and says so), 2 nothing was done.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NoSuchFolderError, UnsupportedModelError
from .tables import format_metrics, format_table, verdict


if TYPE_CHECKING:
    from .unlearn import UnlearningResult


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(prog="hf-slug", description="Take a concept out of a model, as a small patch.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="forget a digit or a style of the embedded miniature CLIP")
    demo.add_argument("--concept", default="seven", help="zero … nine, or one of the ten styles (default: seven)")
    demo.add_argument(
        "--output", type=Path, default=Path("hf-slug-demo"), help="holds patch/ and plots/ (default: hf-slug-demo)"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the data (default: 0)")
    demo.add_argument("--json", action="store_true", help="print the report instead of a table")
    demo.set_defaults(run=run_demo)

    unlearn = commands.add_parser("unlearn", help="forget a concept of any CLIPModel")
    add = unlearn.add_argument
    add("--model", required=True, help="folder or Hub id of a CLIPModel")
    add("--forget", required=True, help="pairs of the concept: image folder, .parquet, .jsonl, .csv, .tar, or Hub id")
    add("--retain", required=True, help="pairs to keep, likewise")
    add("--concept", required=True, metavar="TEXT", help="the concept's name")
    add("--output", required=True, type=Path, metavar="DIR", help="where the patch is saved")
    add("--tower", choices=("vision", "text", "both"), default="both")
    add("--granularity", choices=("matrix", "attention", "block"), default="matrix")
    add("--direction", choices=("whitened", "gradient"), default="whitened")
    for part in ("validation", "test"):
        for what in ("forget", "retain"):
            add(f"--{part}-{what}", metavar="SET", help=f"{what} pairs for {part}; split off --{what} if not given")
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
    add(
        "--retain-batch-size",
        type=int,
        metavar="N",
        help="pairs contrasted with each other; default: --batch-size, at least 64",
    )
    add("--steps", type=int, default=10, metavar="K", help="trials per layer")
    add("--fa-at", type=int, choices=(1, 5), help="target FA@1 or FA@5; default: 5, or 1 under 50 names")
    add("--front-only", action="store_true", help="never search beyond the first front (the paper's way)")
    add("--rank", type=int, metavar="R", help="restrict the delta to rank R and store its factors")
    add(
        "--trajectory",
        choices=("best", "chosen", "all"),
        default="best",
        help="where retained accuracy is measured: at each layer's best step, at every step of the chosen layer, or at all",
    )
    add("--plots", type=Path, metavar="DIR", help="draw pictures into this folder (extra `plots`)")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", metavar="D")
    add("--device", metavar="D", help="cpu, cuda, …; default: what accelerate finds")
    add("--revision", default="main", metavar="R", help="revision of the model on the Hub")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print the report instead of a table")
    unlearn.set_defaults(run=run_unlearn)

    inspect = commands.add_parser("inspect", help="show what a patch changes")
    inspect.add_argument("patch", metavar="PATCH", help="folder or Hub id of a patch")
    inspect.add_argument("--json", action="store_true", help="print it as JSON")
    inspect.set_defaults(run=run_inspect)
    return parser


def run_demo(args: argparse.Namespace) -> int:
    """Forgets a concept of the zoo's CLIP; saves the patch and the pictures."""
    from . import plots, zoo

    check_output(args.output)
    plots.check_installed()
    result = zoo.unlearn_clip(args.concept, seed=args.seed, trajectory="chosen")
    result.patch.save_pretrained(args.output / "patch")
    files = plots.save_plots(result.report, args.output / "plots")
    return _finish(result, args, [args.output / "patch", *files])


def run_unlearn(args: argparse.Namespace) -> int:
    """Forgets a concept of the user's CLIP."""
    from .unlearn import unlearn

    check_output(args.output)
    if args.plots is not None:
        from . import plots

        plots.check_installed()  # not after minutes of work
    model, processor = load_model(args.model, args.dtype, args.device, args.revision)
    result = unlearn(
        model,
        processor,
        args.forget,
        args.retain,
        concept=args.concept,
        tower=args.tower,
        granularity=args.granularity,
        direction=args.direction,
        validation_forget=args.validation_forget,
        validation_retain=args.validation_retain,
        test_forget=args.test_forget,
        test_retain=args.test_retain,
        names=read_names(args.names) if args.names else None,
        template=args.template or "a photo of {}",
        fa_at=args.fa_at,
        steps=args.steps,
        front_only=args.front_only,
        rank=args.rank,
        trajectory=args.trajectory,
        batch_size=args.batch_size,
        retain_batch_size=args.retain_batch_size,
        image_column=args.image_column,
        text_column=args.text_column,
        name_column=args.name_column,
        seed=args.seed,
    )
    result.patch.save_pretrained(args.output)
    files = plots.save_plots(result.report, args.plots) if args.plots is not None else []
    return _finish(result, args, [args.output, *files])


def run_inspect(args: argparse.Namespace) -> int:
    """Shows what a patch changes, and what its report says of it."""
    from .patch import UnlearningPatch

    patch = UnlearningPatch.from_pretrained(args.patch)
    config, report = patch.config, patch.report
    known = config.base_fingerprint or {}
    changes: list[dict[str, Any]] = []
    for name, delta in patch.deltas.items():
        norm = float(delta.double().norm())
        base = known.get(name, {}).get("norm")
        relative = norm / base if base else None
        changes.append({"module": name, "shape": list(delta.shape), "delta_norm": norm, "relative_change": relative})
    summary = {
        "concept": config.concept,
        "base_model": config.base_model_name_or_path,
        "revision": config.revision,
        "tower": config.tower,
        "step_size": config.step_size,
        "rank": config.rank,
        "bytes": patch.num_bytes,
        "changes": changes,
        "succeeded": report.get("succeeded"),
        "metrics": report.get("metrics"),
    }
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    kind = f"rank-{config.rank} factors" if config.rank else "dense"
    print(
        f"Forgets {config.concept!r} in {config.base_model_name_or_path or 'an unnamed base model'} ({config.tower} tower)."
    )
    print(f"Step size {config.step_size}, {kind}, {patch.num_bytes:,} bytes.\n")
    rows = [
        [c["module"], "×".join(map(str, c["shape"])), f"{c['delta_norm']:.4g}"]
        + [f"{c['relative_change']:.1%}" if c["relative_change"] is not None else "?"]
        for c in changes
    ]
    print(format_table(["module", "shape", "‖Δ‖", "‖Δ‖/‖W‖"], rows))
    if "metrics" in report:
        print("\n" + format_metrics(report))
    return 0


def load_model(name: str, dtype: str, device: str | None, revision: str) -> tuple[Any, Any]:
    """
    Loads a `CLIPModel` and its processor onto a device.

    Raises:
        UnsupportedModelError: If the checkpoint is of another kind.
    """
    import torch
    from accelerate import PartialState
    from safetensors import SafetensorError
    from transformers import AutoConfig, CLIPModel, CLIPProcessor

    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise NoSuchFolderError(name, "a CLIPModel")
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type != "clip":
        raise UnsupportedModelError(
            f"{name} is a {config.model_type!r} model. Expected a checkpoint of CLIPModel (both towers), such as "
            f"openai/clip-vit-base-patch32."
        )
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = CLIPModel.from_pretrained(name, dtype=kind, revision=revision)
        model = model.eval().to(device or PartialState().default_device)
    except (SafetensorError, AssertionError) as error:  # damaged weights; a device that this torch was not built for
        raise UnsupportedModelError(f"{name} can't be loaded on {device or 'the default device'}: {error}") from error
    return model, CLIPProcessor.from_pretrained(name, revision=revision)


def check_output(folder: Path) -> None:
    """
    Checks, before minutes of work, that a folder can be written to.

    Raises:
        NotADirectoryError: If it, or what it would lie in, is a file.
    """
    blocking = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise NotADirectoryError(f"{blocking} is a file. Give a folder for --output.")


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


def _finish(result: "UnlearningResult", args: argparse.Namespace, files: Sequence[Path]) -> int:
    report = result.report
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        chosen, cost = report["chosen"], report["cost"]
        print(f"Concept {report['concept']!r}: {chosen['layer']}, step size {chosen['step_size']:.4g} ", end="")
        print(f"(changes the layer by {chosen['relative_change']:.0%} of its norm)\n")
        print(format_metrics(report))
        print(
            f"\nGradient {cost['gradient_s']:.1f} s, search {cost['search_s']:.1f} s, patch {cost['patch_bytes']:,} bytes."
        )
        print("Saved: " + "\n       ".join(str(file) for file in files))
        print(verdict(report))
    return 0 if result.succeeded else 1


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
