# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The gradient phase as one of several processes, each on a core of its own; `speed.py` starts it.

    torchrun --nproc-per-node 2 benchmarks/speed_worker.py SIZE PAIRS FILE
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from speed_setup import TEMPLATE, load, make_pairs, names, pixels

from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients
from hf_slug.processes import Processes, launched
from hf_slug.scores import score_layers
from hf_slug.towers import candidate_layers, layer_weights


def main(size: str, count: int, written: Path) -> None:
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available() and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    processes = Processes(launched())
    model, processor = load(size)
    layers = candidate_layers(model)
    forget, retain = (make_pairs(count, shown, 7, pixels(size)) for shown in (names()[:1], names()[1:]))
    prompts = [TEMPLATE.format(names()[0])]
    for some in (slice(0, 64 * processes.count), slice(None)):  # once to warm up, once for the time
        processes.gather([rank])  # all begin together
        started = time.perf_counter()
        down = compute_forget_gradients(model, processor, layers, forget[some], prompts, 64, processes)
        up = compute_retain_gradients(model, processor, layers, retain[some], 64, 64, processes)
        seconds = time.perf_counter() - started
    if processes.is_main:  # the scores, for the processes to be compared by
        weights = {name: weight for layer in layers for name, weight in layer_weights(model, layer).items()}
        scores = [[score.importance, score.alignment] for score in score_layers(layers, weights, down, up)]
        written.write_text(json.dumps({"seconds": seconds, "scores": scores}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
