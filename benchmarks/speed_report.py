# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What `speed.py` measured, in tables and a picture."""

from collections.abc import Sequence
from typing import Any

import numpy
import tables
import torch
from tables import markdown, write


Row = dict[str, Any]
GOALS = {("both", ""): 8, ("text", ""): 12, ("text", "statistics"): 25}


def exponent(rows: Sequence[Row]) -> float:
    """That of the power of the number of pairs which seconds grow with, fitted in logarithms."""
    counts, seconds = ([row[key] for row in rows] for key in ("count", "seconds"))
    return float(numpy.polyfit(numpy.log(counts), numpy.log(seconds), 1)[0])


def table(name: str, rows: Sequence[Row]) -> None:
    """Writes what there is."""
    parts = ["# Speed"]
    pipelines = [row for row in rows if row["kind"] == "pipeline"]
    if pipelines:
        first = pipelines[0]
        parts += [
            f"## One concept, from end to end ({first['size']}, {first['counts'][0]} forget and {first['counts'][1]} retain pairs)",
            "Validation 100 + 500 images, 100 names, at most 10 steps for each layer of the front. *As published*: gradients of every parameter of both "
            "towers, texts padded to 77 tokens and run as often as they occur, and for each step a copy of the model and a whole evaluation. Both decide "
            "by the same rules. Memory is how far it rose over what model and data take. *Plain pass*: one forward and backward of the tower over the "
            "forget set, preprocessed before; *floor*: its operations, counted, at the rate of large matrix products.",
            pipeline_table(pipelines),
        ]
    gradients = [row for row in rows if row["kind"] == "gradient"]
    for what in ("forget", "retain"):
        own = sorted((r for r in gradients if r["set"] == what and r["tower"] == "both"), key=lambda r: r["count"])
        if len(own) > 1:
            parts += [
                f"## Pairs to {what}",
                f"Seconds grow with the number of pairs to the power of {exponent(own):.3f}.",
                floor_table(own),
            ]
    if draw(name, [row for row in gradients if row["tower"] == "both"]):
        parts.append(f"![Seconds by pairs, beside the floor]({name}.png)")
    own = [row for row in gradients if row["tower"] != "both"]
    if own:
        parts += ["## Models", floor_table(own)]
    streams = sorted((row for row in rows if row["kind"] == "stream"), key=lambda row: row["count"])
    if streams:
        lines = [
            [
                row["count"],
                f"{row['seconds']:.1f}",
                f"{row['resident_bytes'] / 2**20:.0f}",
                f"{row['resident_bytes'] / streams[0]['resident_bytes'] - 1:+.1%}",
                f"{row['peak_bytes'] / 2**20:.0f}",
            ]
            for row in streams
        ]
        parts += [
            "## Streams",
            "Retain statistics of a `PairStream`.",
            markdown(["pairs", "s", "resident, MiB", "more than the first", "over the model, MiB"], lines),
        ]
    shared = sorted((row for row in rows if row["kind"] == "processes"), key=lambda row: row["processes"])
    if shared:
        lines = [
            [row["processes"], f"{row['seconds']:.1f}", f"{shared[0]['seconds'] / row['seconds']:.2f}"]
            for row in shared
        ]
        parts += [
            "## Processes",
            "The gradient phase, each process on one core.",
            markdown(["processes", "s", "times as fast"], lines),
        ]
    write(name, parts, rows=rows, note=f"{torch.get_num_threads()} threads." if torch.get_num_threads() else "")


def draw(name: str, rows: Sequence[Row]) -> bool:
    """Draws seconds by the number of pairs, beside what the multiplications alone take; if there is more than one."""
    if len(rows) < 2:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    for what, color in (("forget", "C0"), ("retain", "C1")):
        own = sorted((row for row in rows if row["set"] == what), key=lambda row: row["count"])
        counts = [row["count"] for row in own]
        axis.loglog(counts, [row["seconds"] for row in own], "o-", color=color, label=f"{what}: measured")
        floor = [row["flops"] / row["flops_per_second"] for row in own]
        axis.loglog(counts, floor, ":", color=color, label=f"{what}: its multiplications alone")
    axis.set(xlabel="pairs", ylabel="seconds of the gradient")
    axis.legend()
    figure.savefig(tables.RESULTS / f"{name}.png", dpi=110)
    pyplot.close(figure)
    return True


def pipeline_table(rows: Sequence[Row]) -> str:
    header = [
        "",
        "towers",
        "direction",
        "given",
        "s",
        "gradient, s",
        "search, s",
        "plain pass, s",
        "gradient ÷ floor",
        "with search ÷ plain pass with search",
        "peak MiB",
        "chosen",
        "step",
        "times as fast",
        "memory",
    ]
    by = {(row["method"], row["tower"]): row for row in rows if row["method"] == "published"}
    lines = []
    for row in rows:
        base = (
            by.get(("published", row["tower"])) if row["direction"] == "gradient" and row["method"] == "ours" else None
        )
        goal = GOALS.get((row["tower"], row["given"]))
        lines.append(
            [
                "as published" if row["method"] == "published" else "hf_slug",
                row["tower"],
                row["direction"],
                row["given"],
                f"{row['seconds']:.1f}",
                *(f"{row[key]:.1f}" if key in row else "" for key in ("gradient_s", "search_s", "forget_s")),
                *beside_plain_pass(row),
                f"{row['peak_bytes'] / 2**20:.0f}",
                row["layer"],
                f"{row['step_size']:.4g}",
                f"{base['seconds'] / row['seconds']:.1f} (goal {goal})" if base else "",
                f"{row['peak_bytes'] / base['peak_bytes']:.2f} (goal 0.6)" if base and base["peak_bytes"] else "",
            ]
        )
    return markdown(header, lines)


def beside_plain_pass(row: Row) -> list[str]:
    """Where statistics are given: the gradient over its floor, and all of it over a plain pass with the same search."""
    if not row["given"]:
        return ["", ""]
    whole = (row["gradient_s"] + row["search_s"]) / (row["forget_s"] + row["search_s"])
    return [f"{row['gradient_s'] / row['floor_s']:.2f} (goal 1.5)", f"{whole:.2f} (goal 1.3)"]


def floor_table(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["size"],
            row["tower"],
            row["count"],
            f"{row['seconds']:.2f}",
            f"{row['flops'] / 1e9:,.0f}",
            f"{row['flops'] / row['flops_per_second']:.2f}",
            f"{row['seconds'] * row['flops_per_second'] / row['flops']:.2f}",
        ]
        for row in rows
    ]
    return markdown(["model", "towers", "pairs", "s", "GFLOP", "floor, s", "× floor"], lines)
