# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Models of real sizes with random weights, and data that takes as long to read as photographs: what `speed.py` is timed on."""

import io
import json
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from hf_slug import compute_retain_statistics, zoo
from hf_slug.data import Pairs, load_pairs
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.inputs import embed_images
from hf_slug.losses import normalize


# hidden size, blocks and heads of the vision and of the text tower, patch size, projection; as OpenAI's and OpenCLIP's
SIZES = {
    "tiny": ((64, 3, 2), (48, 3, 2), 32, 32),
    "ViT-B/32": ((768, 12, 12), (512, 12, 8), 32, 512),
    "ViT-B/16": ((768, 12, 12), (512, 12, 8), 16, 512),
    "ViT-L/14": ((1024, 24, 16), (768, 12, 12), 14, 768),
    "ViT-H/14": ((1280, 32, 16), (1024, 24, 16), 14, 1024),
    "ViT-L/14, 336 px": ((1024, 24, 16), (768, 12, 12), 14, 768),
}
TEMPLATE = "a photo of {}"


def pixels(size: str) -> int:
    """The side of its pictures."""
    return 64 if size == "tiny" else 336 if size.endswith("px") else 224


def configure(size: str) -> CLIPConfig:
    """The configuration of a size."""
    vision, text, patch, projection = SIZES[size]
    towers = [
        {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "projection_dim": projection,
        }
        for width, blocks, heads in (vision, text)
    ]
    return CLIPConfig(
        vision_config={**towers[0], "image_size": pixels(size), "patch_size": patch},
        # OpenAI's vocabulary; the ids are those of the zoo's tokenizer
        text_config={**towers[1], "vocab_size": 49408, "bos_token_id": 642, "eos_token_id": 643},
        projection_dim=projection,
    )


@cache
def load(size: str) -> tuple[CLIPModel, Any]:
    """A model of a size, with random weights of seed 0, and its processor (the zoo's tokenizer); on a GPU, if there is one, in bfloat16."""
    torch.manual_seed(0)
    model = CLIPModel(configure(size))
    with torch.no_grad():  # the default initialisation is too small for the towers to tell anything apart
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                parameter.mul_(2)
    images = CLIPImageProcessor(size={"shortest_edge": pixels(size)}, crop_size=pixels(size))
    where: Any = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu",)
    return model.to(*where).eval(), CLIPProcessor(images, zoo.load_clip()[1].tokenizer)


def names(count: int = 100) -> list[str]:
    """Invented names, of two syllables to four."""
    chosen = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(chosen.choices(syllables, k=chosen.randint(2, 4)))] = None
    return list(found)


def make_pairs(count: int, shown: list[str], seed: int, side: int) -> Pairs:
    """Pairs of a cloudy picture (JPEG) and a caption, of some names in turn."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        coarse = torch.rand(1, 3, 12, 12, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(side * 3 // 2, side * 2), mode="bicubic")[0]
        image = Image.fromarray((smooth.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        name = shown[i % len(shown)]
        rows.append({"image": file.getvalue(), "text": TEMPLATE.format(name), "name": name})
    return load_pairs(rows, progress=False)


def write_stream(folder: Path, count: int, side: int) -> None:
    """Writes an image folder of pairs, a hundred different pictures over and over, each with a caption of its own."""
    pictures = [pair.encoded for pair in make_pairs(min(count, 100), names(), 8, side)]
    with open(folder / "metadata.jsonl", "w") as metadata:
        for i in range(count):
            (folder / f"{i}.jpg").write_bytes(cast(bytes, pictures[i % len(pictures)]))
            metadata.write(json.dumps({"file_name": f"{i}.jpg", "text": f"picture {i} of {names()[i % 100]}"}) + "\n")


@cache
def collect(size: str, forget: int = 200, retain: int = 1000) -> tuple[dict[str, Pairs], list[str]]:
    """
    Forget, retain, validation (100 + 500) and test pairs, and a hundred names of which the first is the concept.

    A random model knows nobody; the concept is the name that it takes most pictures for, so that there is something to forget.
    """
    model, processor = load(size)
    every, side = names(), pixels(size)
    looked = make_pairs(60, every[:1], 99, side)
    judge = ZeroShotEvaluator(processor, looked, make_pairs(2, every[1:], 98, side), every[0], every, TEMPLATE)
    with torch.no_grad():
        scores = normalize(embed_images(model, processor, looked, 30)) @ judge.embed_names(model).T
    concept = every[int(scores.argmax(1).mode().values)]
    ordered = [concept, *(name for name in every if name != concept)]
    others = ordered[1:]
    parts = {
        "forget": make_pairs(forget, [concept], 1, side),
        "retain": make_pairs(retain, others, 2, side),
        "validation_forget": make_pairs(100, [concept], 3, side),
        "validation_retain": make_pairs(500, others, 4, side),
        "test_forget": make_pairs(8, [concept], 5, side),
        "test_retain": make_pairs(99, others, 6, side),
    }
    return parts, ordered


if __name__ == "__main__":  # SIZE FORGET RETAIN TOWER DIRECTION FOLDER: retain statistics, for `speed.py`
    size, n_forget, n_retain, tower, direction, folder = sys.argv[1:]
    every, _ = collect(size, int(n_forget), int(n_retain))
    own: Any = {"tower": tower, "direction": direction}
    compute_retain_statistics(*load(size), every["retain"], **own).save_pretrained(folder)
