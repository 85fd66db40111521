# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What `speed.py` measured, in tables and a picture."""

from collections.abc import Sequence
from typing import Any

import tables
from speed_goals import exponent, goals, largest_difference, of_pass_and_search, times_as_fast
from tables import markdown, write


Row = dict[str, Any]
HOSTS = {
    "ViT-L/14": "Stable Diffusion 1.5's text encoder",
    "ViT-H/14": "Stable Diffusion 2.1's, but for one block",
    "ViT-L/14, 336 px": "LLaVA-1.5's vision tower",
}


def table(name: str, rows: Sequence[Row]) -> None:
    """Writes what there is."""
    parts = ["# Speed"]
    if reached := goals(rows):
        small = "These are goals of a real model's size: of a tiny one, whose seconds are not its multiplications', they say little. "
        said = small if any(row["size"] == "tiny" for row in rows if row["kind"] != "stream") else ""
        parts += [
            f"Every goal of speed and memory that was set beforehand, but that of loading (`loading.md`). {said}How each was measured is said below.",
            reached,
        ]
    pipelines = [row for row in rows if row["kind"] == "pipeline"]
    if pipelines:
        first = pipelines[0]
        parts += [
            f"## One concept, from end to end ({first['size']}, {first['forget']} forget and {first['retain']} retain pairs)",
            "Validation 100 + 500 images, 100 names, 10 steps for each layer of the front. *As published*: gradients of every parameter of both "
            "towers, texts padded to 77 tokens and run as often as they occur, and for each step a copy of the model and a whole evaluation, for which "
            "images are decoded and preprocessed anew. Both decide by the same rules. By its *defaults* ours does more, and less: it whitens the "
            "direction, looks for steps at a lower risk, and ends a layer's search once its step is known to a third; published has nothing like that, so its times "
            "beside those are of another result. "
            "Seconds are of a single run, ours with the report's test. Memory is how far it rose over what model and data take. *Plain pass*: one "
            "forward and backward of the tower over the forget set, preprocessed before. *Floors*: the operations that can't be done without, counted, "
            "at the rate of large matrix products: that pass; and of the search all validation images and names once, and what lies above the changed "
            "layer for each step. torch counts none inside attention on a CPU, so floors are a few percent too low.",
            pipeline_table(pipelines),
        ]
    gradients = [row for row in rows if row["kind"] == "gradient"]
    for what in ("forget", "retain"):
        own = sorted((r for r in gradients if r["set"] == what and r["tower"] == "both"), key=lambda r: r["count"])
        if len(own) > 1:
            parts += [
                f"## Pairs to {what}",
                ("Each with a caption of its own. " if what == "retain" else "")
                + f"Seconds grow with the number of pairs to the power of {exponent(own):.3f}; between the two largest numbers, {exponent(own[-2:]):.3f}.",
                floor_table(own),
            ]
    if draw(name, [row for row in gradients if row["tower"] == "both"]):
        parts.append(f"![Seconds by pairs, beside the floor]({name}.png)")
    own = [row for row in gradients if row["tower"] != "both"]
    if own:
        known = "; ".join(f"{hosts} is that of {name}" for name, hosts in HOSTS.items())
        parts += [
            "## Models",
            f"The forget gradient by the layers of one tower; that of the text tower takes the images' embeddings, and one prompt. {known}.",
            floor_table(own),
        ]
    streams = sorted((row for row in rows if row["kind"] == "stream"), key=lambda row: row["count"])
    if streams:
        grown = f" Seconds grow with the pairs to the power of {exponent(streams):.3f}." if len(streams) > 1 else ""
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
            f"Retain statistics of a `PairStream` ({streams[0]['size']} model).{grown}",
            markdown(["pairs", "s", "resident, MiB", "more than the first", "over the model, MiB"], lines),
        ]
    shared = sorted((row for row in rows if row["kind"] == "processes"), key=lambda row: row["processes"])
    if shared:
        lines = [
            [
                row["processes"],
                f"{row['seconds']:.1f}",
                f"{shared[0]['seconds'] / row['seconds']:.2f}",
                f"{largest_difference(row['scores'], shared[0]['scores']):.1e}",
            ]
            for row in shared
        ]
        header = ["processes", "s", "times as fast", "largest difference of a score"]
        parts += [
            "## Processes",
            f"The gradient phase of {shared[0]['count']} + {shared[0]['count']} pairs, each process on one core.",
            markdown(header, lines),
        ]
    threads = f"{rows[0]['threads']} threads" + (
        f", {rows[0]['device']}, bfloat16" if rows[0]["device"] != "cpu" else ""
    )
    write(name, parts, rows=rows, note=f"{threads}.")


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
    """Every run: seconds and floors of its parts, memory, what was chosen, and how it does beside the published one."""
    header = [
        "",
        "towers",
        "given",
        "s",
        "gradient, s",
        "its floor",
        "search, s",
        "its floor",
        "layers",
        "steps tried",
        "peak MiB",
        "chosen",
        "step",
        "times as fast",
        "memory",
    ]
    published = {row["tower"]: row for row in rows if row["method"] == "published"}
    lines = []
    for row in rows:
        ours = row["method"] == "ours"
        base = published.get(row["tower"]) if ours else None
        name = "hf_slug" if row["direction"] == "gradient" else "hf_slug, defaults"
        lines.append(
            [
                name if ours else "as published",
                row["tower"],
                row["given"],
                f"{row['seconds']:.1f}",
                f"{row['gradient_s']:.1f}" if "gradient_s" in row else "",
                f"{row['gradient_floor_s']:.1f}",
                f"{row['search_s']:.1f}" if "search_s" in row else "",
                f"{row['search_floor_s']:.1f}",
                row["layers"],
                row["trials"],
                f"{row['peak_bytes'] / 2**20:.0f}",
                row["layer"],
                f"{row['step_size']:.4g}",
                f"{times_as_fast(row, base):.1f}" if base else "",
                f"{row['peak_bytes'] / base['peak_bytes']:.2f}" if base and base["peak_bytes"] else "",
            ]
        )
    text = [markdown(header, lines)]
    given = [row for row in rows if row["given"]]
    if given:
        text += [
            "With retain statistics: a further concept, all of it, beside a plain pass and its own search; and its gradient beside the floor.",
            further_table(given),
        ]
    return "\n\n".join(text)


def further_table(rows: Sequence[Row]) -> str:
    """What another concept costs where the retain set is known."""
    lines = [
        [
            row["tower"],
            row["direction"],
            f"{row['seconds']:.1f}",
            f"{row['forget_s']:.1f}",
            f"{of_pass_and_search(row):.2f}",
            f"{row['gradient_s'] / row['gradient_floor_s']:.2f}",
            f"{row['seconds'] / (row['gradient_floor_s'] + row['search_floor_s']):.2f}",
        ]
        for row in rows
    ]
    header = [
        "towers",
        "direction",
        "s",
        "plain pass, s",
        "÷ (pass + search)",
        "gradient ÷ floor",
        "all ÷ both floors",
    ]
    return markdown(header, lines)


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
