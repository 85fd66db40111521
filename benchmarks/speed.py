# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
How long it takes to forget a concept: beside the procedure as published, and beside what the hardware can do.

    python benchmarks/speed.py            # about two hours on two cores that do nothing else; goes on where it was stopped
    python benchmarks/speed.py --quick    # minutes, on a tiny model

Writes `benchmarks/results/speed.md`. Models have the sizes of real ones and random weights. Where there is a GPU, everything runs on it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baselines.published import unlearn_as_published
from speed_report import table
from speed_setup import SIZES, TEMPLATE, collect, load, make_pairs, names, pixels, write_stream
from tables import Runs, measured
from torch.utils.flop_counter import FlopCounterMode

from hf_slug import PairStream, RetainStatistics, compute_retain_statistics, unlearn
from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients, requires_grad_only
from hf_slug.inputs import text_batch
from hf_slug.losses import forget_loss
from hf_slug.towers import candidate_layers, embed, layer_weights


Row = dict[str, Any]
FORGET_SIZES, RETAIN_SIZES, STREAMED = (64, 128, 256, 512), (128, 256, 512, 1024), (1000, 4000, 16000)


def run(task: Row) -> Row:
    """One measurement; `kind` says of what."""
    return RUNS[task["kind"]](task)


def run_pipeline(task: Row) -> Row:
    """Forgets a concept from end to end, by us or as published."""
    model, processor = load(task["size"])
    parts, every = collect(task["size"], *task["counts"])
    own = {part: parts[part] for part in ("forget", "retain", "validation_forget", "validation_retain")}
    with tempfile.TemporaryDirectory() as folder:
        settings: Row = {**parts, "direction": task["direction"], "risk": 1.0, "tower": task["tower"]}
        if task["given"]:  # made in a process of its own, whose memory is not counted here
            made = [task["size"], *map(str, task["counts"]), task["tower"], task["direction"], folder]
            subprocess.run([sys.executable, str(Path(__file__).with_name("speed_setup.py")), *made], check=True)
            settings["retain"] = RetainStatistics.from_pretrained(folder)
        own_pass = partial(forward_and_backward, task["size"], task["tower"])
        own_pass(8)  # what is loaded and allocated at first is nobody's cost
        with measured() as cost:
            if task["method"] == "published":
                prompt = TEMPLATE.format(every[0])
                found = unlearn_as_published(model, processor, own, prompt, every, task["tower"])
                chosen, trials, costs = found.chosen, len(found.trials), {}
                row = {"layer": chosen.layer.name, "step_size": chosen.step_size}
            else:
                result = unlearn(model, processor, concept=every[0], names=every, **settings)
                row, trials = result.report["chosen"], len(result.report["search"])
                row = {"layer": row["layer"], "step_size": row["step_size"]}
                costs = {key: result.report["cost"][key] for key in ("gradient_s", "search_s")}
    count = len(parts["forget"])
    with FlopCounterMode(display=False) as counter:
        own_pass(8)
    return {
        **row,
        **costs,
        "trials": trials,
        "seconds": cost.seconds,
        "peak_bytes": cost.peak_bytes,
        "forget_s": seconds_of(lambda: own_pass(count)),
        "floor_s": counter.get_total_flops() * count / 8 / throughput(model),
    }


def forward_and_backward(size: str, tower: str, count: int) -> None:
    """One forward and backward pass over `count` images that are preprocessed already, and the concept: the least that a concept takes."""
    model, processor = load(size)
    weights = {k: w for layer in candidate_layers(model, tower) for k, w in layer_weights(model, layer).items()}
    images = torch.randn(min(count, 64), 3, pixels(size), pixels(size), device=model.device, dtype=model.dtype)
    said = text_batch(model, processor, [TEMPLATE.format(names()[0])])
    for start in range(0, count, 64):
        batch = {"pixel_values": images[: min(64, count - start)]}
        with requires_grad_only(model, weights), torch.set_grad_enabled(True):
            loss = forget_loss(embed(model, "vision", batch), embed(model, "text", said))
            torch.autograd.grad(loss, list(weights.values()), allow_unused=True)


def run_gradient(task: Row) -> Row:
    """The gradient of one set of a size, beside the seconds that its multiplications take."""
    model, processor = load(task["size"])
    layers = candidate_layers(model, task["tower"])
    what, count = task["set"], task["count"]
    shown = names()[:1] if what == "forget" else names()[1:]
    pairs = make_pairs(count, shown, 7, pixels(task["size"]))

    def differentiate(some: Any) -> None:
        if what == "forget":
            compute_forget_gradients(model, processor, layers, some, [TEMPLATE.format(shown[0])])
        else:
            compute_retain_gradients(model, processor, layers, some)

    differentiate(pairs[: min(8, count)])
    few = pairs[: min(64, count)]
    with FlopCounterMode(display=False) as counter:
        differentiate(few)
    flops = counter.get_total_flops() * count / len(few)
    return {"seconds": seconds_of(lambda: differentiate(pairs)), "flops": flops, "flops_per_second": throughput(model)}


def run_stream(task: Row) -> Row:
    """The memory that retain statistics of a stream take, over that of the model."""
    model, processor = load(task["size"])
    with tempfile.TemporaryDirectory() as folder:
        write_stream(Path(folder), task["count"], pixels(task["size"]))
        warm = PairStream(folder, max_samples=256)
        compute_retain_statistics(model, processor, warm, batch_size=64)
        with measured() as cost:
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
        return {"seconds": float(written.read_text())}


RUNS: dict[str, Callable[[Row], Row]] = {
    "pipeline": run_pipeline,
    "gradient": run_gradient,
    "stream": run_stream,
    "processes": run_processes,
}


def seconds_of(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def throughput(model: Any) -> float:
    """Floating-point operations per second of large matrix products in the model's dtype: the best of five times four."""
    side = 8192 if model.device.type == "cuda" else 1024
    a = torch.randn(side, side, device=model.device).to(model.dtype)
    return max(4 * 2 * side**3 / seconds_of(lambda: [a @ a for _ in range(4)]) for _ in range(5))


def plan(quick: bool) -> list[Row]:
    """All measurements."""
    size, counts = ("tiny", (60, 200)) if quick else ("ViT-B/32", (200, 1000))
    common = {"kind": "pipeline", "size": size, "counts": counts}
    tasks = [
        {**common, "method": method, "tower": tower, "given": given, "direction": direction}
        for method, tower, given, direction in (
            ("ours", "text", "statistics", "gradient"),
            ("ours", "text", "", "gradient"),
            ("ours", "both", "", "gradient"),
            ("ours", "text", "statistics", "whitened"),
            ("ours", "both", "", "whitened"),
            ("published", "text", "", "gradient"),
            ("published", "both", "", "gradient"),
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
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each measurement (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few pairs")
    args = parser.parse_args()
    name = "speed_quick" if args.quick else "speed"
    tasks = [task for task in plan(args.quick) if task["kind"] in args.kinds]
    every = sorted({key for task in plan(args.quick) for key in task})
    runs = Runs(name, every)
    runs.complete(
        run, [{key: task.get(key) for key in every} for task in tasks], 1, lambda rows: table(name, rows), args.threads
    )


if __name__ == "__main__":
    main()
