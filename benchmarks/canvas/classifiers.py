# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
The judges: the authors' two ViTs, or image classifiers of transformers.

The authors' checkpoints, by `machine_unlearning/evaluation/quantitative/accuracy.py`: `{"model_state_dict": …}` of timm's
`vit_large_patch16_224.augreg_in21k` with a head of 51 styles or 20 objects, on pictures resized to 224 pixels square and brought from
[0, 1] to [-1, 1]. `style50.pth` tells styles apart and `style50_cls.pth` objects (an author, in their repository's thread
"Difference between the ckpts?").
"""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tables import mark
from transformers import AutoModelForImageClassification
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from hf_slug import ClassifierJudge
from hf_slug.errors import UnsupportedModelError
from hf_slug.files import sha256_of

from .protocol import Canvas, Cell


ARCHITECTURE, SIZE = "vit_large_patch16_224.augreg_in21k", 224
FILES = {"style": "style50.pth", "object": "style50_cls.pth"}


class CanvasJudge:
    """
    Says which style and which object a picture shows.

    Args:
        style, object (`Callable`): From pictures to one name each, in a tuple of one.
    """

    def __init__(self, style: Any, object: Any):
        self.parts = (style, object)

    def __call__(self, images: Sequence[Image.Image]) -> list[Cell]:
        style, thing = (part(images) for part in self.parts)
        return [(one[0], other[0]) for one, other in zip(style, thing)]


class VitJudge:
    """
    One of the authors' classifiers.

    Args:
        path (`Path`): The `.pth` file.
        names (`Sequence[str]`): The names of its head, in order.
        device (`str`): Where it runs.
        batch_size (`int`, *optional*, defaults to 64): Pictures per forward pass.

    Raises:
        ImportError: If timm is not installed.
        UnsupportedModelError: If the file is damaged, or holds another model.
    """

    def __init__(self, path: Path, names: Sequence[str], device: str, batch_size: int = 64):
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # the latter from a torchvision that is built for another torch
            raise ImportError(
                f"timm is needed to run {path.name}, and can't be imported ({error}). Run `pip install timm torchvision`, with the "
                f"torchvision that belongs to the torch {torch.__version__} that is installed."
            ) from error
        self.names, self.device, self.batch_size = list(names), device, batch_size
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            state = saved["model_state_dict"]
            found = tuple(state["head.weight"].shape)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
            advice = "Download it again."
            if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):  # whole, and not only tensors
                advice = (
                    "It holds more than tensors, which could run code and is not loaded. If you trust it, keep its tensors alone: "
                    f"python -c \"import torch; f = '{path}'; saved = torch.load(f, 'cpu', weights_only=False); "
                    "torch.save({'model_state_dict': saved['model_state_dict']}, f)\"."
                )
            raise UnsupportedModelError(
                f"{path} is not one of UnlearnCanvas's classifiers: expected {{'model_state_dict': tensors}} with a head. "
                f"{advice} ({type(error).__name__}: {error})"
            ) from error
        if found[0] != len(names):
            raise UnsupportedModelError(
                f"The head of {path} tells {found[0]} names apart, and there are {len(names)} here. Expected {FILES['style']} "
                f"for 51 styles and {FILES['object']} for 20 objects; have the files changed places?"
            )
        self.model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=len(names))
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise UnsupportedModelError(f"{path} is not a {ARCHITECTURE}: {str(error)[:300]}") from error
        self.model.eval().to(device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[tuple[str]]:
        """Returns the most likely name."""
        found: list[tuple[str]] = []
        for start in range(0, len(images), self.batch_size):
            pixels = torch.stack([_pixels(image) for image in images[start : start + self.batch_size]])
            found += [(self.names[i],) for i in self.model(pixels.to(self.device)).argmax(1).tolist()]
        return found


def _pixels(image: Image.Image) -> torch.Tensor:
    resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def load_judge(folder: Path, canvas: Canvas, device: str) -> CanvasJudge:
    """
    Loads the classifiers of a folder.

    Args:
        folder (`Path`):
            Holds `style50.pth` and `style50_cls.pth`; or folders `style` and `object` with an image classifier of transformers
            each; or is one itself, whose labels are both.
        canvas ([`Canvas`]): The names.
        device (`str`): Where they run.

    Raises:
        UnsupportedModelError: If it holds neither, or classifiers of other names.
        ImportError: If timm is needed and not installed.
    """
    kinds = {"style": canvas.styles, "object": canvas.objects}
    if (folder / "config.json").is_file():
        return CanvasJudge(*(_transformers(folder, names, device) for names in kinds.values()))
    if all((folder / kind / "config.json").is_file() for kind in kinds):
        return CanvasJudge(*(_transformers(folder / kind, names, device) for kind, names in kinds.items()))
    missing = [file for file in FILES.values() if not (folder / file).is_file()]
    if missing:
        held = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
        raise UnsupportedModelError(
            f"{folder} holds no {' and no '.join(missing)}; found {', '.join(held[:10]) or 'nothing'}. Expected the two ViTs of UnlearnCanvas "
            f"(their `cls_model` folder) under these names, or image classifiers of transformers in `style` and `object`."
        )
    return CanvasJudge(*(VitJudge(folder / FILES[kind], names, device) for kind, names in kinds.items()))


def mark_of(folder: Path) -> str:
    """A mark of the weights of a folder of classifiers: rows that other ones have judged can't be compared."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".pth", ".safetensors", ".bin"))
    return mark([(file.relative_to(folder).as_posix(), sha256_of(file)) for file in files])


def _transformers(folder: Path, names: Sequence[str], device: str) -> ClassifierJudge:
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    try:
        return ClassifierJudge(model.eval().to(device), processor, [list(names)])
    except ValueError as error:
        raise UnsupportedModelError(
            f"{folder}: {error} Its labels must be the names of the data set's folders."
        ) from error
