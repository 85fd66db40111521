# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The grid of pictures that a pipeline is judged by, drawn into files of which each is whole or not there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_slug.evaluation import generate

from .protocol import Canvas, Cell


def picture_file(cell: Cell, seed: int) -> str:
    """The name that the authors' scripts give a picture."""
    return f"{cell[0]}_{cell[1]}_seed{seed}.jpg"


def draw(
    pipe: Any, canvas: Canvas, seeds: Sequence[int], folder: Path, batch_size: int, **settings: Any
) -> dict[tuple[Cell, int], Path]:
    """
    Draws every cell with every seed, but for what is there already.

    Args:
        pipe (`DiffusionPipeline`): The pipeline.
        canvas ([`Canvas`]): The cells and their prompts.
        seeds (`Sequence[int]`): All prompts of a seed start from the same noise.
        folder (`Path`): Where the pictures are kept.
        batch_size (`int`): Pictures made together.
        settings (additional keyword arguments): Passed on to the pipeline.

    Returns:
        `dict`: The file of each cell and seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {(cell, seed): folder / picture_file(cell, seed) for seed in seeds for cell in canvas.cells}
    left = [key for key, file in files.items() if not file.exists()]
    with tqdm(total=len(files), initial=len(files) - len(left), desc=f"pictures, {folder.parent.name}") as bar:
        for start in range(0, len(left), batch_size):
            part = left[start : start + batch_size]
            wanted = [(canvas.say(cell), seed) for cell, seed in part]
            for key, picture in zip(part, generate(pipe, wanted, 0, batch_size, **settings)):
                unfinished = files[key].with_suffix(".part")
                picture.save(unfinished, format="JPEG")
                os.replace(unfinished, files[key])
                bar.update()
    return files
