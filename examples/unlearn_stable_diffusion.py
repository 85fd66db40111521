# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Forgets a concept of a text-to-image pipeline, and shows what it draws before, with the patch, and after taking it off.

    python examples/unlearn_stable_diffusion.py                                  # the embedded pipeline forgets "neon"
    python examples/unlearn_stable_diffusion.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --clip openai/clip-vit-large-patch14 --concept "Van Gogh" --prompt "a house in the style of Van Gogh" --retain R

With --model the forget set is drawn by the pipeline itself from --prompt; --retain is a set of image-text pairs to keep.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

import hf_slug  # gives the pipeline its methods
from hf_slug import zoo


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="folder or Hub id of a pipeline; default: the embedded one, with data of its own")
parser.add_argument("--clip", help="the CLIPModel whose text tower it embeds (with --model)")
parser.add_argument("--component", help="which text encoder, where there are several, e.g. text_encoder_2")
parser.add_argument("--concept", default="neon")
parser.add_argument("--prompt", help="shows the concept (with --model)")
parser.add_argument("--retain", help="image-text pairs to keep (with --model)")
parser.add_argument("--n", type=int, default=50, help="pictures in the generated forget set (with --model)")
parser.add_argument("--output", type=Path, default=Path("forget-it"))
args = parser.parse_args()

if args.model:
    if not (args.clip and args.prompt and args.retain):
        parser.error("--model needs --clip, --prompt and --retain")
    pipe = DiffusionPipeline.from_pretrained(args.model)
    clip, processor = CLIPModel.from_pretrained(args.clip), CLIPProcessor.from_pretrained(args.clip)
    forget = hf_slug.generate_forget_set(pipe, args.prompt, args.n, name=args.concept)
    result = hf_slug.unlearn(
        clip, processor, forget, args.retain, concept=args.concept, host=pipe, component=args.component
    )
    prompt, settings = args.prompt, {}
else:
    pipe = zoo.load_stable_diffusion()
    result = zoo.unlearn_stable_diffusion(args.concept)
    is_digit = zoo.data.kind(args.concept) == "digit"
    prompt = f"a {args.concept} in fire style" if is_digit else f"a seven in {args.concept} style"
    settings = {"num_inference_steps": 15, "guidance_scale": 3.0}
metrics = result.report["metrics"]
print(f"forgotten: {result.succeeded}; before {metrics['before']}, after {metrics['after']}")
result.patch.save_pretrained(args.output)


def draw() -> Image.Image:
    return pipe(prompt, generator=torch.Generator().manual_seed(7), **settings).images[0]


before = draw()
pipe.load_unlearning(args.output, adapter_name="gone")
pipe.load_unlearning(args.output, adapter_name="half", weight=0.5)
print("loaded:", pipe.get_list_unlearning())
pipe.set_unlearning("gone")
after = draw()
pipe.unload_unlearning()
restored = draw()
print("taken off to the bit:", np.array_equal(np.asarray(restored), np.asarray(before)))
width, height = before.size
sheet = Image.new("RGB", (3 * width, height))
for i, picture in enumerate((before, after, restored)):
    sheet.paste(picture, (i * width, 0))
scale = max(1, 256 // height)
sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(args.output / "pictures.png")
print(f"{prompt!r} before, with the patch, and after taking it off: {args.output / 'pictures.png'}")
