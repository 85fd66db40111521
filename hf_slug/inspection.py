# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a patch changes, without loading any model."""

import argparse
import json
from typing import Any

from .tables import format_metrics, format_table


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
