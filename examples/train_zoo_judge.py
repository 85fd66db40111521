# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Trains the zoo's judge: a small `ResNetForImageClassification` that says which digit a picture shows, in which style.

    python examples/train_zoo_judge.py --output hf_slug/zoo/judge

A few minutes on one core. It can be stopped at any time and started again with the same command: it goes on from its
last checkpoint. The judge shares nothing with the zoo's CLIP; it is there to say what the zoo's Stable Diffusion
generates, before and after unlearning. The first ten of its twenty logits are the digits, the last ten the styles. The
handwriting of the validation and test splits is never trained on, and the test split is read only once, at the end.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from hf_slug.zoo.data import DIGITS, STYLES, handwriting, load_pairs
from hf_slug.zoo.drawing import draw, place


def build_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def build_model() -> ResNetForImageClassification:
    labels = [*DIGITS, *STYLES]
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[48, 80],
        depths=[2, 2],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return ResNetForImageClassification(config)


def draw_batch(step: int, size: int, scans: np.ndarray, digits: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Random training samples drawn anew: pixels in [-1, 1], digits, styles. The same for a step, run after run."""
    generator = np.random.default_rng(step)
    chosen = generator.integers(len(scans), size=size)
    styles = generator.integers(len(STYLES), size=size)
    names = list(STYLES)
    pictures = [
        draw(place(scans[i], generator, augment=generator.random() < 0.85), names[style], generator)
        for i, style in zip(chosen, styles)
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.from_numpy(digits[chosen]), torch.from_numpy(styles)


def spoil(pixels: torch.Tensor, step: int) -> torch.Tensor:
    """
    Blurs, dims and dirties pictures at random, so that what a VAE decoded is judged by what it shows.

    A quarter of the batch goes through a lower resolution, half of it through a Gaussian blur; then every picture gets
    its own contrast, tint and grain, and every other one a grey patch.
    """
    generator = torch.Generator().manual_seed(step)
    n = len(pixels)
    quarter, half = n // 4, n // 2
    small = int(torch.randint(16, 29, (), generator=generator))
    coarse = F.interpolate(pixels[:quarter], size=small, mode="bicubic", antialias=True)
    pixels = torch.cat([F.interpolate(coarse, size=32, mode="bicubic"), pixels[quarter:]])
    sigma = 0.3 + 0.8 * torch.rand((), generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 5)
    middle = slice(n // 8, n // 8 + half)  # overlaps the quarter above: some get both, some neither
    blurred = F.conv2d(F.pad(pixels[middle], (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    blurred = F.conv2d(blurred, kernel.transpose(2, 3), groups=3)
    pixels = torch.cat([pixels[: middle.start], blurred, pixels[middle.stop :]])
    contrast = 0.8 + 0.35 * torch.rand(n, 1, 1, 1, generator=generator)
    tint = 0.08 * torch.randn(n, 3, 1, 1, generator=generator)
    grain = 0.12 * torch.rand(n, 1, 1, 1, generator=generator)
    pixels = pixels * contrast + tint + grain * torch.randn(pixels.shape, generator=generator)
    corners = torch.randint(0, 27, (half, 2), generator=generator).tolist()
    for i, (top, left) in zip(range(0, n, 2), corners):
        pixels[i, :, top : top + 6, left : left + 6] = 0
    return pixels.clamp(-1, 1)


@torch.no_grad()
def accuracy(model: ResNetForImageClassification, split: str) -> dict[str, float]:
    rows = load_pairs(split)
    pixels = build_processor()([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    logits = torch.cat([model(part).logits for part in pixels.split(500)])
    found = {"digit": logits[:, :10].argmax(1).tolist(), "style": logits[:, 10:].argmax(1).tolist()}
    names = {"digit": list(DIGITS), "style": list(STYLES)}
    right = {
        kind: float(np.mean([names[kind][i] == row[kind] for i, row in zip(found[kind], rows)])) for kind in names
    }
    return {"n": len(rows), **right}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hf_slug/zoo/judge"))
    parser.add_argument("--checkpoint", type=Path, default=Path("zoo-judge-checkpoint.pt"))
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model()
    average = copy.deepcopy(model)  # what is shipped: an exponential moving average over the last few hundred steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.05)
    start = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    scans, digits = handwriting("train")
    began = time.time()
    for step in tqdm(range(start, args.steps), initial=start, total=args.steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 100)
            group["lr"] = args.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        pixels, digit, style = draw_batch(step, 128, scans, digits)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(spoil(pixels, step)).logits
        logits = logits.float()
        loss = F.cross_entropy(logits[:, :10], digit, label_smoothing=0.1)
        loss = loss + 0.3 * F.cross_entropy(logits[:, 10:], style, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), model.state_dict().values()):
                if slow.is_floating_point():  # batch norm's statistics too, but not its count
                    slow.lerp_(fast, 0.005 if step > 200 else 1.0)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            score = accuracy(average.eval(), "validation")
            numbers = {"step": step + 1, "loss": round(loss.item(), 4), "s": round(time.time() - began), **score}
            print(json.dumps(numbers), flush=True)
            state = {"model": model.state_dict(), "average": average.state_dict(), "step": step + 1}
            temporary = args.checkpoint.with_suffix(".tmp")
            torch.save({**state, "optimizer": optimizer.state_dict()}, temporary)
            temporary.replace(args.checkpoint)
    average.half().save_pretrained(args.output)
    build_processor().save_pretrained(args.output)
    shipped = ResNetForImageClassification.from_pretrained(args.output, dtype=torch.float32).eval()
    print("unseen handwriting (test):", json.dumps(accuracy(shipped, "test")))


if __name__ == "__main__":
    main()
