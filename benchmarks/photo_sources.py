# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The photographs: the Olivetti faces under invented names, and CIFAR-10's objects; from parquet files, or loaded by name.

Seeds draw photographs by their place: a set loaded by name may have another order, and its tables then are of other photographs.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from PIL import Image


FACE_NAMES = (
    *("mira", "tobin", "selka", "darvo", "yuna", "korin", "palia", "bexter", "lomi", "furan", "nadira", "ozric"),
    *("jarek", "wynna", "calder", "ilbeth", "gromo", "sanuki", "vetra", "hadlo", "quenby", "ruvio", "emlin", "zoral"),
    *("aspeth", "dunric", "fenya", "lirako", "ottavi", "pemba", "raskin", "thalor", "ulvie", "brisca", "nemoto"),
    *("maldin", "sorrel", "joveth", "velun", "kezia"),
)
OBJECT_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = (*FACE_NAMES, *OBJECT_NAMES)
TEMPLATE = "a photo of {}"
OTHERS = ("{}", "a picture of {}", "an image of {}", "a small photo of {}", "this is {}", "a photo of a {}")
WORDINGS = (*[TEMPLATE] * len(OTHERS), *OTHERS)
TRAIN_SHOTS = 6  # of ten; the later ones are unseen


def _folder(file: str) -> Path | None:
    """Where the photographs' parquet files lie, if `HF_SLUG_DATA` says so."""
    if not os.environ.get("HF_SLUG_DATA"):
        return None
    found = Path(os.environ["HF_SLUG_DATA"])
    if not (found / file).is_file():
        raise FileNotFoundError(
            f"HF_SLUG_DATA={found} holds no {file}. Expected olivetti-faces.parquet, cifar10-train.parquet and cifar10-test.parquet "
            f"there; without HF_SLUG_DATA both sets are loaded by name, from the internet."
        )
    return found


_GIVE_FOLDER = "Set HF_SLUG_DATA to a folder that holds the photographs' parquet files."


def load_faces() -> list[dict]:
    """All 400 faces: `image` (32×32, RGB), `text`, `name`, and `shot` (0 to 5 are trained on, 6 to 9 are not)."""
    if folder := _folder("olivetti-faces.parquet"):
        rows = Dataset.from_parquet(str(folder / "olivetti-faces.parquet"))
        shots = [(row["image"], row["subject"], row["shot"]) for row in rows]
    else:
        from sklearn.datasets import fetch_olivetti_faces

        try:
            faces = fetch_olivetti_faces()  # ten shots of a person after another
        except (ConnectionError, OSError) as error:
            raise ConnectionError(f"The faces can't be loaded by name ({error}). {_GIVE_FOLDER}") from error
        pictures = [Image.fromarray((picture * 255).round().astype(np.uint8)) for picture in faces.images]
        shots = [(picture, int(subject), i % 10) for i, (picture, subject) in enumerate(zip(pictures, faces.target))]
    return [{**_row(picture, FACE_NAMES[subject]), "shot": shot} for picture, subject, shot in shots]


@cache
def open_objects(split: str) -> Dataset:
    """CIFAR-10's `split` ("train" or "test"), not decoded yet: `image` and `label`."""
    if folder := _folder(f"cifar10-{split}.parquet"):
        return Dataset.from_parquet(str(folder / f"cifar10-{split}.parquet"))
    try:
        return load_dataset("cifar10", split=split).rename_columns({"img": "image"})
    except (ConnectionError, OSError) as error:
        raise ConnectionError(f"The objects can't be loaded by name ({error}). {_GIVE_FOLDER}") from error


def load_objects(split: str, rows: Sequence[int] | None = None) -> list[dict]:
    """All of CIFAR-10's `split`, or some rows of it: `image` (32×32, RGB), `text` and `name`."""
    found = open_objects(split)
    return [_row(row["image"], OBJECT_NAMES[row["label"]]) for row in (found if rows is None else found.select(rows))]


def _row(picture: Image.Image, name: str) -> dict:
    return {"image": picture.convert("RGB").resize((32, 32)), "text": TEMPLATE.format(name), "name": name}
