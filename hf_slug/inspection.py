# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a patch changes, without loading any model."""

import argparse
import json
from typing import Any

from .patch import UnlearningPatch
from .patch_files import understood
from .tables import caution, format_metrics, format_table, verdict


def describe_patch(patch: UnlearningPatch) -> dict[str, Any]:
    """Returns all that a patch says of itself: what it changes, of which base, made how, from which data, and how well it did."""
    config, report = patch.config, patch.report
    known = config.base_fingerprint or {}
    changes: list[dict[str, Any]] = []
    for name, delta in patch.deltas.items():
        norm, base = float(delta.double().norm()), known.get(name, {})
        changes.append(
            {
                "module": name,
                "shape": list(delta.shape),
                "delta_norm": norm,
                "relative_change": norm / base["norm"] if base.get("norm") else None,
                "base_sha256": base.get("sha256", {}).get(base.get("dtype", "float32")),
            }
        )
    return {
        "concept": config.concept,
        "base_model": config.base_model_name_or_path,
        "revision": config.revision,
        "tower": config.tower,
        "step_size": config.step_size,
        "direction": config.direction,
        "granularity": config.granularity,
        "rank": config.rank,
        "bytes": patch.num_bytes,
        "changes": changes,
        **{key: report.get(key) for key in _FROM_REPORT},
    }


_FROM_REPORT = (
    *(
        "succeeded",
        "host",
        "objective",
        "target",
        "metrics",
        "data",
        "retain_statistics",
        "composed_of",
        "beside",
        "interference",
        "stacked",
    ),
    *("cost", "software", "seed"),
)


def run_inspect(args: argparse.Namespace) -> int:
    """Shows what a patch changes, and what its report says of it."""
    patch = UnlearningPatch.from_pretrained(args.patch, subfolder=args.subfolder, revision=args.patch_revision)
    with understood(patch.report):
        text = json.dumps(describe_patch(patch), indent=2) if args.json else _show(patch)
    # a stranger's words must not steer the terminal
    print("".join(sign for sign in text if sign.isprintable() or sign == "\n"))
    return 0


def _show(patch: UnlearningPatch) -> str:
    found, report = describe_patch(patch), patch.report
    lines: list[str] = []
    kind = f"rank-{found['rank']} factors" if found["rank"] else "dense"
    revision = f" at {found['revision']}" if found["revision"] else ""
    tower = f"{found['tower']} tower" if found["tower"] else "both towers"
    lines.append(
        f"Forgets {found['concept']!r} in {found['base_model'] or 'an unnamed base model'}{revision} ({tower})."
    )
    step = f"Step size {found['step_size']}, " if found["step_size"] is not None else ""
    lines.append(f"{step}{kind}, {found['bytes']:,} bytes.\n")
    rows = [
        [c["module"], "×".join(map(str, c["shape"])), f"{c['delta_norm']:.4g}"]
        + [f"{c['relative_change']:.1%}" if c["relative_change"] is not None else "?"]
        + [f"{c['base_sha256'][:12]}…" if c["base_sha256"] else "unknown"]
        for c in found["changes"]
    ]
    lines.append(format_table(["module", "shape", "‖Δ‖", "‖Δ‖/‖W‖", "weights of the base"], rows))
    for part in report.get("composed_of", []):
        lines.append(
            f"\nMade of {part['name']}: {part['concept']!r}, weight {part['weight']:g}, {', '.join(part['modules'])}"
        )
    for other in report.get("beside") or []:
        lines.append(f"\nMade beside the patch of {other['concept']!r} ({other['source'] or 'from memory'}).")
    if report.get("host"):
        lines.append(
            f"\nMade for the {report['host']['component']} of a {report['host']['class']}, objective {report['objective']}."
        )
    if "metrics" in report:
        lines.append("\n" + format_metrics(report))
        lines.append("\n".join(filter(None, [verdict(report), caution(report)])))
    for part, known in (report.get("data") or {}).items():
        if isinstance(known, dict):
            lines.append(f"{part:18} {known['n']} pairs of {known['source']}, sha256 {known['sha256']}")
    if report.get("software"):
        lines.append("made with " + ", ".join(f"{name} {version}" for name, version in report["software"].items()))
    return "\n".join(lines)
