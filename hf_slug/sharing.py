# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug push`, `verify`, `compose` and `export`: what becomes of a patch once it is made."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
    from .patch import UnlearningPatch
    from .verification import verify_patch

    patch = UnlearningPatch.from_pretrained(args.patch, subfolder=args.subfolder, revision=args.patch_revision)
    metrics = patch.report.get("metrics") or {}
    args.concept = args.concept or patch.config.concept
    args.names = args.names or metrics.get("names")
    args.template = args.template or metrics.get("templates") or None
    evaluator, host = _load_evaluator(args)
    done = verify_patch(patch, host, evaluator)
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
    own = (request.processor, parts["forget"], parts["retain"], args.concept, names, templates)
    return ZeroShotEvaluator(*own, batch_size=args.batch_size), request.model


def run_compose(args: argparse.Namespace) -> int:
    """Makes one patch out of several, fits their weights to each other if asked to, and says how they get in each other's way."""
    from .composition import check_same_base, compose_patches, measure_stack
    from .joint_weights import fit_weights
    from .patch import UnlearningPatch

    check_output(args.output)
    if len(set(args.patches)) < len(args.patches):
        raise ValueError(f"Every patch may be named once; found {', '.join(args.patches)}.")
    if args.weights and args.validation_forget:
        raise ValueError("Found --weights and --validation-forget, by which weights are fitted. Give one of them.")
    patches = {source: UnlearningPatch.from_pretrained(source) for source in args.patches}
    check_same_base(patches)
    model, by_flag = _load_evaluators(args, patches)
    weights, fitted = args.weights, None
    if "--validation-forget" in by_flag:
        fitted = fit_weights(model, patches, by_flag["--validation-forget"])
        weights = list(fitted.weights.values())
    composed = compose_patches(patches, weights)
    if fitted is not None:
        composed.report |= {"joint_weights": asdict(fitted), "succeeded": not fitted.failed}
    measured = {}
    if "--forget" in by_flag:
        measured = measure_stack(model, patches, weights or [1.0] * len(patches), by_flag["--forget"])
        composed.report["stacked"] = measured
    composed.save_pretrained(args.output)
    failed = [] if fitted is None else fitted.failed
    if args.json:
        print(json.dumps(composed.report, indent=2))
        return 1 if failed else 0
    rows = [
        [f"{pair['first']} + {pair['second']}", ", ".join(pair["shared"]) or "none", f"{pair['overall']:+.3f}"]
        for pair in composed.report["interference"]
    ]
    if rows:
        print(format_table(["patches", "shared layers", "cosine"], rows, left=2) + "\n")
    if fitted is not None:
        lines = [
            [name, f"{fitted.unfitted[name]:.1%}", f"{weight:.2f}", f"{fitted.risks[name]:.1%}"]
            for name, weight in fitted.weights.items()
        ]
        print(format_table(["", "risk at weight 1", "fitted weight", "risk"], lines) + "\n")
    if measured:
        header = ["", "FA@1 untouched", "alone", "stacked", "TA untouched", "alone", "stacked", "n"]
        lines = [
            [name]
            + [f"{found[when][key]:.2%}" for key in ("fa1", "ta") for when in ("untouched", "alone", "stacked")]
            + [f"{found['n_forget']} + {found['n_retain']}"]
            for name, found in measured.items()
        ]
        print(format_table(header, lines) + "\n")
    print(f"Saved: {args.output} ({len(composed.modules)} layers, {composed.num_bytes:,} bytes)")
    if failed:
        print(f"NOT forgotten together at any weight up to 2: {', '.join(failed)}.")
    return 1 if failed else 0


def _load_evaluators(args: argparse.Namespace, patches: dict[str, Any]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The CLIPModel, and by the flag its images came with an evaluator for each patch's concept; none of the others counts as kept."""
    from .data import load_pairs
    from .evaluation import ZeroShotEvaluator
    from .loading import load_clip
    from .names import DEFAULT_TEMPLATE, check_templates, collect_names, name_of
    from .parts import count_overlap
    from .request import read_names

    given = {"--forget": args.forget or [], "--validation-forget": args.validation_forget or []}
    if args.model is None:
        if any(given.values()) or args.retain is not None:
            raise ValueError(
                "Found sets of pairs, but no model to measure with. Give --model, the base of the patches."
            )
        return None, {}
    if (
        not any(given.values())
        or args.retain is None
        or any(len(own) not in (0, len(patches)) for own in given.values())
    ):
        found = ", ".join(f"{flag} {len(own)} times" for flag, own in given.items())
        raise ValueError(
            f"To measure {len(patches)} patches together give --forget {len(patches)} times, in the order of the patches, and "
            f"--retain; to fit their weights to each other --validation-forget likewise. Found {found}, and --retain "
            f"{0 if args.retain is None else 1} times. Without --model nothing is measured."
        )
    metrics = [patch.report.get("metrics") or {} for patch in patches.values()]
    known = [tuple(found["templates"]) for found in metrics if found.get("templates")]
    templates = check_templates(args.template or next(iter(known), DEFAULT_TEMPLATE))
    columns = {f"{what}_column": getattr(args, f"{what}_column") for what in ("image", "text", "name")}
    pairs = {
        flag: [
            load_pairs(own, what=f"{flag} of {source}", **columns)
            for source, own in zip(patches, sources, strict=True)
        ]
        for flag, sources in given.items()
        if sources
    }
    overlap = count_overlap(
        {
            f"{'test_' if flag == '--forget' else ''}{i}": own
            for flag, sets in pairs.items()
            for i, own in enumerate(sets)
        }
    )
    if overlap:
        raise ValueError(
            f"{overlap} images of --forget are also in --validation-forget. What chose the weights can't be what is reported: give "
            f"other images to one of them."
        )
    model, processor = load_clip(args.model, args.dtype, args.device, args.revision)
    retain = load_pairs(args.retain, what="retain set", **columns)
    concepts = [str(patch.config.concept) for patch in patches.values()]
    gone = {concept.casefold() for concept in concepts}
    retain = retain.subset([i for i, pair in enumerate(retain) if name_of(pair, templates).casefold() not in gone])
    names = read_names(args.names) if args.names else _names_of(metrics) or list(collect_names([retain], templates))
    names += [concept for concept in concepts if concept.casefold() not in {name.casefold() for name in names}]

    targets = {(patch.report.get("target") or {}).get("metric") for patch in patches.values()}
    k = {"fa1": 1, "fa5": 5}.get(str(targets.pop())) if len(targets) == 1 else None
    return model, {
        flag: {
            source: ZeroShotEvaluator(processor, own, retain, concept, names, templates, k, args.batch_size)
            for source, concept, own in zip(patches, concepts, sets, strict=True)
        }
        for flag, sets in pairs.items()
    }


def _names_of(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names that all patches were searched and reported among; a concept is easily forgotten among fewer."""
    known = [list(found["names"]) for found in metrics if found.get("names")]
    if any({name.casefold() for name in names} != {name.casefold() for name in known[0]} for names in known):
        raise ValueError(
            "The patches were searched among different names. Say with --names FILE among which they are measured."
        )
    return known[0] if known else []


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
