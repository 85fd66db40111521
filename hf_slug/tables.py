# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Tables and verdicts in plain text, for a terminal."""

from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table in plain text: the first column left, the others right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, ["─" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def format_metrics(report: dict[str, Any]) -> str:
    """Lays out the metrics before and after, with what they were measured on."""
    metrics = report["metrics"]
    before, after = metrics["before"], metrics["after"]
    titles = {
        "fa1": "FA@1 (concept, ↓)",
        "fa5": "FA@5 (concept, ↓)",
        "ta": "TA (the rest, ↑)",
        "ta_neighbors": "TA nearest names",
    }
    rows = [[title, f"{before[key]:.2%}", f"{after[key]:.2%}"] for key, title in titles.items()]
    low, high = metrics["fa_interval"]
    return (
        format_table(["on test data", "before", "after"], rows)
        + f"\n\n{metrics['n_forget']} images of the concept, {metrics['n_retain']} others, {metrics['n_names']} names; "
        + f"95 % interval of FA@1 after: {low:.2%} to {high:.2%}; seed {report['seed']}."
    )


def verdict(report: dict[str, Any]) -> str:
    """Says in a line whether the concept is forgotten, and what the test set says of it."""
    metrics, target = report["metrics"], report["target"]
    if not target["known_before"]:
        return "NOT FORGOTTEN: the model did not recognise the concept before, so there was nothing to forget."
    if not report["succeeded"]:
        return "NOT FORGOTTEN: the target was not reached; don't publish this patch."
    left = round(metrics["after"]["fa1"] * metrics["n_forget"])
    return f"FORGOTTEN ({left} of {metrics['n_forget']} test images of the concept are still recognised first)"
