# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug compose`: one patch out of several, their weights fitted to each other, and what they do together."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .output import check_output
from .tables import format_table


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
    if args.validation_retain and not args.validation_forget:
        raise ValueError(
            "Found --validation-retain without --validation-forget, by which weights are fitted. Give both."
        )
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
        if fitted.kept is not None:
            print(f"Kept on validation: {fitted.kept:.2%} ({fitted.unfitted_kept:.2%} with every weight 1)\n")
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
    from .request import columns_of, read_names

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
    columns = columns_of(args)
    pairs = {
        flag: [
            load_pairs(own, what=f"{flag} of {source}", **columns)
            for source, own in zip(patches, sources, strict=True)
        ]
        for flag, sources in given.items()
        if sources
    }
    retain = {"--forget": load_pairs(args.retain, what="retain set", **columns)}
    if args.validation_retain is not None:
        retain["--validation-forget"] = load_pairs(args.validation_retain, what="--validation-retain", **columns)
    for what, known_parts in (("forget", pairs), ("retain", {flag: [own] for flag, own in retain.items()})):
        parts = {
            f"{'test_' if flag == '--forget' else ''}{i}": own
            for flag, sets in known_parts.items()
            for i, own in enumerate(sets)
        }
        if overlap := count_overlap(parts):
            raise ValueError(
                f"{overlap} images of --{what} are also in --validation-{what}. What chose the weights can't be what is reported: give "
                f"other images to one of them."
            )
    model, processor = load_clip(args.model, args.dtype, args.device, args.revision)
    concepts = [str(patch.config.concept) for patch in patches.values()]
    gone = {concept.casefold() for concept in concepts}
    for flag, own in retain.items():
        kept = [i for i, pair in enumerate(own) if name_of(pair, templates).casefold() not in gone]
        retain[flag] = own.subset(kept)
    none = retain["--forget"].subset([])
    names = read_names(args.names) if args.names else _names_of(metrics)
    names = names or list(collect_names(list(retain.values()), templates))
    names += [concept for concept in concepts if concept.casefold() not in {name.casefold() for name in names}]

    targets = {(patch.report.get("target") or {}).get("metric") for patch in patches.values()}
    k = {"fa1": 1, "fa5": 5}.get(str(targets.pop())) if len(targets) == 1 else None
    return model, {
        flag: {
            source: ZeroShotEvaluator(
                processor, own, retain.get(flag, none), concept, names, templates, k, args.batch_size
            )
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
