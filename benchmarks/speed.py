# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
How long it takes to forget a concept: beside the procedure as published, and beside what the hardware can do.

    python benchmarks/speed.py            # about three hours on two cores that do nothing else; goes on where it was stopped
    python benchmarks/speed.py --quick    # minutes, on a tiny model

Writes `benchmarks/results/speed.md`. Models have the sizes of real ones and random weights. Where there is a GPU, everything runs on it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baselines.published import unlearn_as_published
from speed_floor import (
    contrast,
    count_flops,
    forward_and_backward,
    forward_and_backward_flops,
    search_flops,
    seconds_of,
    throughput,
)
from speed_report import table
from speed_setup import SIZES, TEMPLATE, collect, load, make_pairs, names, pixels, write_stream
from tables import SEARCH, Runs, describe_machine, measured

from hf_slug import PairStream, RetainStatistics, compute_retain_statistics, unlearn
from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients
from hf_slug.steps import TOLERANCE
from hf_slug.towers import candidate_layers


Row = dict[str, Any]
# what is published: all ten steps of each layer; and what a user of the library gets unasked
ALL_STEPS: Row = {"direction": "gradient", "risk": 1.0, "tolerance": 0.0}
DEFAULTS: Row = {"direction": "whitened", "risk": 0.05, "tolerance": TOLERANCE}
FORGET_SIZES, RETAIN_SIZES, STREAMED = (64, 128, 256, 512), (128, 256, 512, 1024), (1000, 4000, 16000)


def run(task: Row) -> Row:
    """One measurement; `kind` says of what."""
    return RUNS[task["kind"]](task)


def run_pipeline(task: Row) -> Row:
    """Forgets a concept from end to end, by us or as published."""
    size, tower, counts = task["size"], task["tower"], (task["forget"], task["retain"])
    model, processor = load(size)
    parts, every = collect(size, *counts)
    own = {part: parts[part] for part in ("forget", "retain", "validation_forget", "validation_retain")}
    with tempfile.TemporaryDirectory() as folder:
        settings: Row = {**parts, **{key: task[key] for key in ("tower", "direction", "risk", "tolerance")}}
        if task["given"]:  # made in a process of its own, whose memory is not counted here
            made = [size, *map(str, counts), tower, task["direction"], folder]
            subprocess.run([sys.executable, str(Path(__file__).with_name("speed_setup.py")), *made], check=True)
            settings["retain"] = RetainStatistics.from_pretrained(folder)
        forward_and_backward(size, tower, 8)  # what is loaded and allocated at first is nobody's cost
        with measured(model.device) as cost:
            if task["method"] == "published":
                prompt = TEMPLATE.format(every[0])
                found = unlearn_as_published(model, processor, own, prompt, every, tower)
                chosen, tried, costs = found.chosen, [(trial.layer, None) for trial in found.trials], {}
                kept = {layer for layer, _ in tried}
                row = {"layer": chosen.layer.name, "step_size": chosen.step_size}
            else:
                report = unlearn(model, processor, concept=every[0], names=every, **settings).report
                by_name = {layer.name: layer for layer in candidate_layers(model)}
                tried = [(by_name[trial["layer"]], trial.get("n")) for trial in report["search"]]
                kept = {by_name[trial["layer"]] for trial in report["search"] if trial.get("ta") is not None}
                row = {key: report["chosen"][key] for key in ("layer", "step_size")}
                costs = {key: report["cost"][key] for key in ("gradient_s", "search_s")}
    images, prompt = forward_and_backward_flops(size, tower)
    rate = throughput(model.device, model.dtype)
    return {
        **row,
        **costs,
        "trials": len(tried),
        "layers": len(dict(tried)),
        "seconds": cost.seconds,
        "peak_bytes": cost.peak_bytes,
        "forget_s": min(seconds_of(lambda: forward_and_backward(size, tower, task["forget"])) for _ in range(2)),
        "gradient_floor_s": (images * task["forget"] + prompt) / rate,
        "search_floor_s": search_flops(size, tried, kept, parts, every) / rate,
    }


def run_gradient(task: Row) -> Row:
    """The gradient of one set of a size, beside the seconds that the multiplications of a plain pass over it take."""
    model, processor = load(task["size"])
    layers = candidate_layers(model, task["tower"])
    what, count = task["set"], task["count"]
    # what is forgotten has one caption; of what is kept each pair has its own, as one that is met again costs nothing
    shown = names()[:1] if what == "forget" else names(count + 1)[1:]
    pairs = make_pairs(count, shown, 7, pixels(task["size"]))

    def differentiate(some: Any) -> None:
        if what == "forget":
            compute_forget_gradients(model, processor, layers, some, [TEMPLATE.format(shown[0])])
        else:
            compute_retain_gradients(model, processor, layers, some)

    differentiate(pairs[: min(8, count)])
    least = forward_and_backward if what == "forget" else contrast
    half, whole = (count_flops(lambda n=n: least(task["size"], task["tower"], min(n, count))) for n in (32, 64))
    # what does not grow with the number of pairs, the prompt, is counted once; of pairs that are kept, groups of 64 are contrasted
    flops = whole + (whole - half) / 32 * max(0, count - 64)
    seconds = min(seconds_of(lambda: differentiate(pairs)) for _ in range(2))
    return {"seconds": seconds, "flops": flops, "flops_per_second": throughput(model.device, model.dtype)}


def run_stream(task: Row) -> Row:
    """The memory that retain statistics of a stream take, over that of the model."""
    model, processor = load(task["size"])
    with tempfile.TemporaryDirectory() as folder:
        write_stream(Path(folder), task["count"], pixels(task["size"]))
        warm = PairStream(folder, max_samples=256)
        compute_retain_statistics(model, processor, warm, batch_size=64)
        with measured(model.device) as cost:
            compute_retain_statistics(model, processor, PairStream(folder), batch_size=64)
    return {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes, "resident_bytes": cost.highest}


def run_processes(task: Row) -> Row:
    """The gradient phase in so many processes, each on a core of its own."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "seconds"
        start = [sys.executable] if task["processes"] == 1 else [sys.executable, "-m", "torch.distributed.run"]
        start += [] if task["processes"] == 1 else ["--standalone", f"--nproc-per-node={task['processes']}"]
        script = Path(__file__).with_name("speed_worker.py")
        subprocess.run(
            [*start, str(script), task["size"], str(task["count"]), str(written)],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return json.loads(written.read_text())


RUNS: dict[str, Callable[[Row], Row]] = {
    "pipeline": run_pipeline,
    "gradient": run_gradient,
    "stream": run_stream,
    "processes": run_processes,
}


def plan(quick: bool, threads: int) -> list[Row]:
    """All measurements, each with all fields; a row of another machine, number of threads or search is not the same."""
    size, counts = ("tiny", (60, 200)) if quick else ("ViT-B/32", (200, 1000))
    common = {"kind": "pipeline", "size": size, "forget": counts[0], "retain": counts[1], "search": SEARCH}
    tasks: list[Row] = [
        {**common, "method": method, "tower": tower, "given": given, **settings}
        for method, tower, given, settings in (
            ("ours", "text", "statistics", ALL_STEPS),
            ("ours", "both", "statistics", ALL_STEPS),
            ("ours", "text", "", ALL_STEPS),
            ("ours", "both", "", ALL_STEPS),
            ("ours", "text", "statistics", DEFAULTS),
            ("ours", "both", "", DEFAULTS),
            ("published", "text", "", ALL_STEPS),
            ("published", "both", "", ALL_STEPS),
        )
    ]
    smaller = 8 if quick else 1
    for what, several in (("forget", FORGET_SIZES), ("retain", RETAIN_SIZES)):
        tasks += [
            {"kind": "gradient", "size": size, "tower": "both", "set": what, "count": count // smaller}
            for count in several
        ]
    sizes = ("tiny",) if quick else tuple(name for name in SIZES if name != "tiny")
    tasks += [
        {"kind": "gradient", "size": name, "tower": tower, "set": "forget", "count": 16}
        for name in sizes
        for tower in ("vision", "text")
    ]
    tasks += [{"kind": "stream", "size": "tiny", "count": count // (40 if quick else 1)} for count in STREAMED]
    alone = torch.cuda.is_available() and torch.cuda.device_count() < 2  # two can't share a GPU
    tasks += [
        {"kind": "processes", "size": size, "count": 64 if quick else 256, "processes": n}
        for n in ((1,) if alone else (1, 2))
    ]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    every = sorted({key for task in tasks for key in task})
    place = {"device": where, "machine": describe_machine(), "threads": threads}
    return [{**dict.fromkeys(every), **task, **place} for task in tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each measurement (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few pairs")
    args = parser.parse_args()
    name = "speed_quick" if args.quick else "speed"
    tasks = plan(args.quick, args.threads)
    runs = Runs(name, list(tasks[0]))
    known = {runs.key(task) for task in tasks}
    runs.complete(
        run,
        [task for task in tasks if task["kind"] in args.kinds],
        1,
        lambda rows: table(name, [row for row in rows if runs.key(row) in known]),
        args.threads,
    )


if __name__ == "__main__":
    main()
