# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The tables: each concept, the means of both kinds, and what others published."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tables import markdown, percent, percents

from .protocol import Canvas


Row = dict[str, Any]
METRICS = ("ua", "ira", "cra", "cra_others")
HEADER = (
    "UA",
    "IRA",
    "CRA",
    "CRA, other pictures",
    "FID",
    "untouched UA",
    "IRA",
    "CRA",
    "FID",
    "s, gradients",
    "s, search",
    "peak GB",
    "stored MB",
)
# UA / IRA / CRA in percent, FID, seconds, GB of memory, GB stored
PUBLISHED = (
    ("ESD", "98.6 / 81.0 / 94.0", "92.2 / 55.8 / 44.2", "65.6", "6163", "17.8", "4.3"),
    ("UCE", "98.4 / 60.2 / 47.7", "94.3 / 39.4 / 34.7", "182", "434", "5.1", "1.7"),
    ("CA", "60.8 / 96.0 / 92.7", "46.7 / 90.1 / 82.0", "54.2", "734", "10.1", "4.2"),
    ("SalUn", "86.3 / 90.4 / 95.1", "86.9 / 96.4 / 99.6", "61.1", "667", "30.8", "4.0"),
    ("SPM", "60.9 / 92.4 / 84.3", "71.3 / 90.8 / 81.7", "59.8", "29700", "6.9", "0"),
    ("SEOT", "56.9 / 94.7 / 84.3", "23.3 / 95.6 / 82.7", "62.4", "95", "7.3", "0"),
    ("SLUG", "86.3 / 84.6 / 88.4", "75.4 / 77.5 / 81.2", "-", "39", "3.6", "0.04"),
)


def tell(rows: Sequence[Row], canvas: Canvas, per_model: int) -> list[str]:
    """
    Writes the report.

    Args:
        rows (`Sequence[dict]`): Of each concept that is done: `concept`, the metrics, `untouched`, `fid`, `reached`, costs.
        canvas ([`Canvas`]): Says which are styles and which objects.
        per_model (`int`): Pictures that each model was judged by.

    Returns:
        `list[str]`: Paragraphs and tables.
    """
    parts = [
        "# UnlearnCanvas",
        f"{per_model:,} pictures of each model: {len(canvas.styles)} styles × {len(canvas.objects)} objects, a picture each with every seed. In "
        "percent; higher is better for UA, IRA and CRA. UA: the concept's pictures that no longer show it. IRA: other names of its kind "
        "that are still seen. CRA: names of the other kind, in all pictures as the authors count, and in those of other prompts. Means "
        "with half their 95 % interval over concepts. Untouched: the model without a patch, judged as if it had forgotten the concept. Peak GB: of "
        "the GPU, or where there is none of the whole process.",
        "Layer and step were chosen by the benchmark's own classifiers and prompts, on pictures of other seeds. The published methods' settings are "
        "one for all concepts; no script of theirs goes by these classifiers. All prompts of a seed start from one noise (as the authors do "
        "for UCE) and are sampled by DDIM (as they do for the others).",
    ]
    for title, names in (("Styles", canvas.painted), ("Objects", canvas.objects)):
        own = [row for row in rows if row["concept"] in names]
        if own:
            body = [[row["concept"] + ("" if row["reached"] else " †"), *_cells(row)] for row in own]
            body += [_mean(own)] if len(own) > 1 else []
            parts += [f"## {title} ({len(own)} of {len(names)})", markdown(["", *HEADER], body)]
    if not all(row["reached"] for row in rows):
        parts.append(
            "† The search found no step at which none of its own pictures showed the concept; this is the best it found."
        )
    if any(row["fid"] is None for row in rows):
        parts.append("FID: not measured. It needs `pip install torchmetrics torch-fidelity`.")
    if canvas != Canvas():
        return [*parts, "Not the official canvas or prompt: these numbers can't be compared with published ones."]
    return [
        *parts,
        "## Published",
        "UA / IRA / CRA as quoted from the tables of UnlearnCanvas (arXiv 2402.11846), and for SLUG from its paper (arXiv 2407.11867); nothing in "
        "this table was measured here.",
        markdown(("method", "styles", "objects", "FID", "s", "GB memory", "GB stored"), PUBLISHED),
    ]


def _cells(row: Row) -> list[str]:
    untouched = row["untouched"]
    return [
        *(percent(row[key]) for key in METRICS),
        _distance([row["fid"]]),
        *(percent(untouched[key]) for key in METRICS[:3]),
        _distance([row["fid_untouched"]]),
        *(f"{seconds:.0f}" for seconds in row["seconds"]),
        f"{row['peak_bytes'] / 1e9:.1f}",
        f"{row['stored_bytes'] / 1e6:.2f}",
    ]


def _distance(values: Sequence[float | None]) -> str:
    measured = [value for value in values if value is not None]
    return f"{fmean(measured):.1f}" if measured else "-"


def _mean(rows: Sequence[Row]) -> list[str]:
    return [
        "**mean**",
        *(percents([row[key] for row in rows]) for key in METRICS),
        _distance([row["fid"] for row in rows]),
        *(percents([row["untouched"][key] for row in rows]) for key in METRICS[:3]),
        _distance([row["fid_untouched"] for row in rows]),
        *(f"{fmean(seconds):.0f}" for seconds in zip(*(row["seconds"] for row in rows))),
        f"{max(row['peak_bytes'] for row in rows) / 1e9:.1f}",
        f"{fmean(row['stored_bytes'] for row in rows) / 1e6:.2f}",
    ]
