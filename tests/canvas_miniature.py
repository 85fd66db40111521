# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A miniature of UnlearnCanvas in the official layout: digits as objects, drawings as files, the zoo's judge as both classifiers."""

from canvas.protocol import OBJECTS, STYLES, Canvas
from PIL import Image

from hf_slug import zoo
from hf_slug.zoo.data import load_pairs


STYLE_NAMES, OBJECT_NAMES = ("neon", "chalk"), ("two", "five", "seven")
MINIATURE = Canvas(STYLE_NAMES, OBJECT_NAMES, "a {object} in {style} style")


def draw_miniature(folder):
    """Three drawings of each cell, `<style>/<object>/<n>.jpg`."""
    for row in load_pairs("train", limit_per_digit=3):
        if row["style"] in STYLE_NAMES and row["digit"] in OBJECT_NAMES:
            cell = folder / row["style"] / row["digit"]
            cell.mkdir(parents=True, exist_ok=True)
            row["image"].save(cell / f"{len(list(cell.iterdir())) + 1}.jpg")
    return folder


def touch_official(folder):
    """The official layout with one small picture a cell."""
    picture = Image.new("RGB", (8, 8), "red")
    for style in STYLES:
        for thing in OBJECTS:
            (folder / style / thing).mkdir(parents=True)
            picture.save(folder / style / thing / "1.jpg")
    return folder


def options(folder, output, **changed):
    """The command line of a run on it."""
    given = {
        "model": zoo.STABLE_DIFFUSION_FOLDER,
        "data": folder,
        "classifiers": zoo.JUDGE_FOLDER,
        "output": output,
        "styles": STYLE_NAMES,
        "objects": OBJECT_NAMES,
        "prompt": MINIATURE.prompt,
        "concepts": ["neon"],
        "seeds": [188, 288],
        "steps": 8,
        "guidance": 3.0,
        "device": "cpu",
        "batch_size": 4,
        "search_pictures": 6,
        "search_kept": 3,
        "search_steps": 6,
        "rank": 4,
        **changed,
    }
    flat = []
    for name, value in given.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        flat += [f"--{name.replace('_', '-')}", *map(str, values)]
    return flat
