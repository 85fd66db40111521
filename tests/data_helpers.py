# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Sets of plain pictures in every form they are read from."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import torch
from PIL import Image

from hf_slug.data import Pairs


def picture(value: int, size=(6, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, 10, 20))


def encoded(value: int, format="PNG") -> bytes:
    file = io.BytesIO()
    picture(value).save(file, format)
    return file.getvalue()


def rows(count: int) -> list[dict]:
    return [{"image": encoded(i), "text": f"caption {i}", "name": f"{i % 3}"} for i in range(count)]


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(encoded(i))
    return [f"{i}.png" for i in range(count)]


def write_jsonl(path: Path, content: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]], mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def image_dataset(content: list[dict], **features) -> datasets.Dataset:
    columns = {"image": datasets.Image(), "text": datasets.Value("string"), "name": datasets.Value("string")}
    content = [{**row, "image": {"bytes": row["image"], "path": None}} for row in content]
    return datasets.Dataset.from_list(content, features=datasets.Features({**columns, **features}))


def check(pairs: Pairs, count: int, names: bool = True):
    assert pairs.texts == [f"caption {i}" for i in range(count)]
    assert pairs.names == [f"{i % 3}" if names else None for i in range(count)]
    assert [image.getpixel((0, 0)) for image in pairs.images()] == [(i, 10, 20) for i in range(count)]
    assert all(image.mode == "RGB" and image.size == (6, 4) for image in pairs.images())
    assert pairs.skipped == pairs.captionless == 0


class TorchDataset(torch.utils.data.Dataset):
    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):  # never raises IndexError, as many don't
        if index in self.broken:
            raise OSError(f"image {index} is truncated")
        return picture(index), f"caption {index}", str(index % 3)
