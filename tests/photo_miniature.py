# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Photographs in miniature: drawings in the layout of the real ones, and a random CLIP of their names."""

import hashlib
import io

import numpy as np
import torch
import train_photo_clip
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPModel


def draw(label, shot, size):
    """A picture of its own for every shot, alike for one label."""
    base = np.random.default_rng(label).integers(0, 256, (4, 4, 3))
    noise = np.random.default_rng(1000 * label + shot).integers(-30, 30, (size, size, 3))
    big = np.kron(base, np.ones((size // 4, size // 4, 1))) + noise
    file = io.BytesIO()
    Image.fromarray(big.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def draw_photographs(folder):
    """Every shot of forty people and some of ten objects, as parquet files, and the CLIP in `model`."""
    faces = [{"image": draw(s, k, 64), "subject": s, "shot": k} for s in range(40) for k in range(10)]
    features = Features({"image": ImageFeature(), "subject": Value("int64"), "shot": Value("int64")})
    Dataset.from_list(faces, features=features).to_parquet(folder / "olivetti-faces.parquet")
    for split, first, count in (("train", 0, 120), ("test", 500, 150)):
        rows = [{"image": draw(100 + i % 10, first + i, 32), "label": i % 10} for i in range(count)]
        features = Features({"image": ImageFeature(), "label": Value("int64")})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"cifar10-{split}.parquet")
    torch.manual_seed(0)
    processor = train_photo_clip.build_processor()
    config = train_photo_clip.build_model(processor.tokenizer).config
    for part, layers in ((config.text_config, 2), (config.vision_config, 2)):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = 32, 64, layers
    config.vision_config.patch_size = 8
    CLIPModel(config).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


def prints(pairs):
    """What tells pictures apart."""
    return [hashlib.sha256(pair.image.tobytes()).hexdigest() for pair in pairs]
