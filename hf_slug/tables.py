# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Tables and verdicts in plain text, for a terminal."""

from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lays out a table in plain text: the first columns (so many) to the left, the others to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, ["─" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


# Every metric of a report that is shown to people, in this order.
TITLES = {
    "fa1": "FA@1 (concept, ↓)",
    "fa5": "FA@5 (concept, ↓)",
    "ta": "TA (the rest, ↑)",
    "ta_neighbors": "TA nearest names",
    "ira": "IRA (same kind, ↑)",
    "cra": "CRA (other kinds, ↑)",
    "cra_forget": "other kinds in the concept's pictures",
}
# What an evaluator's numbers count.
_UNITS = {"ZeroShotEvaluator": "images", "GenerationEvaluator": "generated pictures", "VqaEvaluator": "answers"}


def unit(report: dict[str, Any]) -> str:
    """Returns what the numbers of a report count: images, generated pictures, answers."""
    return _UNITS.get(report["metrics"].get("evaluator", "ZeroShotEvaluator"), "outputs")


def metric_rows(report: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Returns the title of every metric of a report, and its values before and after."""
    before, after = report["metrics"]["before"], report["metrics"]["after"]
    return [(title, before[key], after[key]) for key, title in TITLES.items() if key in after]


def format_metrics(report: dict[str, Any]) -> str:
    """Lays out the metrics before and after, with what they were measured on."""
    metrics = report["metrics"]
    rows = [[title, f"{before:.2%}", f"{after:.2%}"] for title, before, after in metric_rows(report)]
    low, high = metrics["fa_interval"]
    return (
        format_table(["on test data", "before", "after"], rows)
        + f"\n\n{metrics['n_forget']} {unit(report)} of the concept, {metrics['n_retain']} others, {metrics['n_names']} names; "
        + f"95 % interval of FA@1 after: {low:.2%} to {high:.2%}; seed {report['seed']}."
    )


def damage(report: dict[str, Any]) -> str:
    """Says by how much the retained accuracy fell."""
    before, after = report["metrics"]["before"]["ta"], report["metrics"]["after"]["ta"]
    return f"the accuracy of what is kept fell from {before:.1%} to {after:.1%}"


def caution(report: dict[str, Any]) -> str:
    """Says so if a host's patch was judged by its CLIP, which reads less of the tower than the host; else nothing."""
    if report.get("host") is None or report["metrics"].get("evaluator") != "ZeroShotEvaluator":
        return ""
    return f"Judged by the CLIPModel's classification; what the {report['host']['class']} does was not looked at."


def verdict(report: dict[str, Any]) -> str:
    """Says in a line whether the concept is forgotten, what the test set says of it, and what it cost if that was much."""
    metrics, target = report["metrics"], report["target"]
    if not target["known_before"]:
        return "NOT FORGOTTEN: the model did not recognise the concept before, so there was nothing to forget."
    if not report["succeeded"]:
        return "NOT FORGOTTEN: the target was not reached; don't publish this patch."
    left = round(metrics["after"]["fa1"] * metrics["n_forget"])
    price = f", BUT {damage(report)}" if target.get("damages_the_rest") else ""
    return f"FORGOTTEN ({left} of {metrics['n_forget']} test {unit(report)} of the concept are still recognised{' first' if 'fa5' in metrics['after'] else ''}){price}"
