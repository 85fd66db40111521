# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug push`, `verify` and `export`: what becomes of a patch once it is made."""

import argparse
import json
from pathlib import Path
from typing import Any

from .output import check_output
from .tables import format_table


def run_push(args: argparse.Namespace) -> int:
    """Publishes a local patch on the Hub."""
    from .patch import UnlearningPatch

    patch = UnlearningPatch.from_pretrained(args.patch)
    if patch.report.get("succeeded") is False and not args.anyway:
        raise ValueError(
            f"{args.patch} did not make the model forget {patch.config.concept!r}, and its card says so. Publish it with --anyway."
        )
    address = patch.push_to_hub(
        args.repo,
        private=args.private or None,
        commit_message=args.commit_message,
        create_pr=args.create_pr,
        revision=args.revision,
        subfolder=args.subfolder,
        license=args.license,
    )
    print(json.dumps({"url": address}) if args.json else address)
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Measures the numbers of a card again; 0 if they are confirmed, 1 if not."""
    from .beside import read_beside
    from .patch import UnlearningPatch
    from .verification import verify_patch

    patch = UnlearningPatch.from_pretrained(args.patch, subfolder=args.subfolder, revision=args.patch_revision)
    metrics = patch.report.get("metrics") or {}
    args.concept = args.concept or patch.config.concept
    args.names = args.names or metrics.get("names")
    args.template = args.template or metrics.get("templates") or None
    args.beside = read_beside(args.beside)
    evaluator, host = _load_evaluator(args)
    done = verify_patch(patch, host, evaluator, args.beside)
    if args.json:
        summary = {"confirmed": done.confirmed, "same_data": done.same_data, "metrics": done.rows}
        print(json.dumps(summary | {"n_forget": done.n_forget, "n_retain": done.n_retain}, indent=2))
        return 0 if done.confirmed else 1
    rows = [
        [row["title"]]
        + [f"{row[key]:.2%}" for key in ("card_before", "found_before", "card", "found")]
        + ["yes" if row["agree"] else "NO"]
        for row in done.rows
    ]
    print(format_table(["", "before: card", "now", "after: card", "now", "agrees"], rows))
    n, m = metrics["n_forget"], metrics["n_retain"]
    print(f"\nThe card: n = {n} and {m}. Now: n = {done.n_forget} and {done.n_retain}, ", end="")
    print("the same data by their hash." if done.same_data else "other data: the 95 % intervals must meet.")
    print("CONFIRMED" if done.confirmed else "NOT CONFIRMED: the card says something else than this measurement.")
    return 0 if done.confirmed else 1


def _load_evaluator(args: argparse.Namespace) -> tuple[Any, Any]:
    """What measures, and what is measured: by the loading of `hf-slug unlearn`, with all of the data for the report."""
    from .evaluation import ZeroShotEvaluator
    from .names import check_templates, collect_names
    from .parts import load_parts
    from .request import load_request

    for part in ("validation", "test"):
        for what in ("forget", "retain"):
            setattr(args, f"{part}_{what}", getattr(args, what))
    args.objective, args.evaluate = None, "host" if args.host is not None else None
    request = load_request(args)
    settings = request.settings
    if args.host is not None:
        return settings["test_evaluate"], settings["host"]
    templates = check_templates(settings["template"])
    columns = {key: settings[key] for key in ("image_column", "text_column", "name_column")}
    parts: dict[str, Any] = {}
    for what in ("forget", "retain"):
        parts |= load_parts(what, settings[what], None, None, args.seed, columns, whole=True)  # type: ignore[arg-type]
    names = settings["names"] or collect_names([parts["retain"]], templates)
    parts, _ = settings["beside"].leave_out(parts, templates)
    own = (request.processor, parts["forget"], parts["retain"], args.concept, names, templates)
    return ZeroShotEvaluator(*own, batch_size=args.batch_size), request.model


def run_export(args: argparse.Namespace) -> int:
    """Turns a patch into a standard LoRA."""
    from .patch import UnlearningPatch

    check_output(args.output)
    patch = UnlearningPatch.from_pretrained(args.patch, subfolder=args.subfolder, revision=args.patch_revision)
    lora = patch.to_lora(args.rank, args.tol)
    file = lora.save_pretrained(args.output, args.format, args.component)
    size = Path(file).stat().st_size
    if args.json:
        print(json.dumps(lora.report | {"file": str(file), "bytes": size}, indent=2))
        return 0
    for name, left in lora.residual.items():
        print(f"{name}: rank {lora.rank}, {left:.2e} of the delta left out")
    print(f"Saved: {file} ({size:,} bytes)")
    print("Lost: the check of the base, taking it off to the bit, stacking to the bit. Keep the patch for that.")
    return 0
