# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Stacks three patches on one pipeline, weakens one, takes one off, then all.

    python examples/stack_three.py                                    # makes three patches for the embedded pipeline
    python examples/stack_three.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --patches A B C --prompts "…" "…" "…"
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import hf_slug  # noqa: F401  gives the pipeline its methods
from hf_slug import zoo


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="folder or Hub id of a pipeline; default: the embedded one")
parser.add_argument("--patches", nargs="+", help="folders or Hub ids of patches for it (with --model)")
parser.add_argument("--prompts", nargs="+", help="what to draw (with --model)")
parser.add_argument("--output", type=Path, default=Path("stacked.png"))
args = parser.parse_args()

if args.model:
    if not (args.patches and args.prompts):
        parser.error("--model needs --patches and --prompts")
    pipe = DiffusionPipeline.from_pretrained(args.model)
    patches = {f"patch_{i}": source for i, source in enumerate(args.patches)}
    prompts, settings = args.prompts, {}
else:
    pipe = zoo.load_stable_diffusion()
    patches = {concept: zoo.unlearn_stable_diffusion(concept).patch for concept in ("three", "neon", "fire")}
    prompts = ["a three in ink style", "a five in neon style", "a two in fire style", "a five in gold style"]
    settings = {"num_inference_steps": 15, "guidance_scale": 3.0}


def draw() -> list[Image.Image]:
    return [pipe(prompt, generator=torch.Generator().manual_seed(3), **settings).images[0] for prompt in prompts]


rows = [draw()]
for name, source in patches.items():  # the order never matters
    pipe.load_unlearning(source, adapter_name=name)
    rows.append(draw())
print("stacked:", pipe.get_active_unlearning())
first, *rest = patches
pipe.set_unlearning([first, *rest], [0.5, *[1.0] * len(rest)])
rows.append(draw())
pipe.delete_unlearning(first)
rows.append(draw())
print("without the first:", pipe.get_list_unlearning())
pipe.unload_unlearning()
rows.append(draw())
same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(rows[0], rows[-1]))
print("all taken off, to the bit:", same)

width, height = rows[0][0].size
sheet = Image.new("RGB", (len(prompts) * width, len(rows) * height))
for i, row in enumerate(rows):
    for j, picture in enumerate(row):
        sheet.paste(picture, (j * width, i * height))
scale = max(1, 128 // height)
sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(args.output)
print(f"rows: untouched, one, two, three patches, the first halved, the first gone, all gone: {args.output}")
