# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The data set in its published layout, `<style>/<object>/<n>.jpg`, and the forget and retain sets taken from it."""

from itertools import islice
from pathlib import Path

from tables import mark

from hf_slug.data import Pair, Pairs, load_pairs
from hf_slug.errors import UnreadableSourceError

from .protocol import PHOTO, Canvas, said


class Dataset:
    """
    A folder of pictures.

    Args:
        folder (`Path`): Holds a folder for each style, with one for each object in it.
        canvas ([`Canvas`]): The styles and objects that must be there; others are left alone.

    Raises:
        UnreadableSourceError: If the layout is another one, or pictures are missing.
    """

    def __init__(self, folder: Path, canvas: Canvas):
        self.folder, self.canvas = folder, canvas
        if not folder.is_dir():
            raise UnreadableSourceError(f"There is no folder {folder}. Expected the one with a folder for each style.")
        missing = [style for style in canvas.styles if not (folder / style).is_dir()]
        if missing:
            raise UnreadableSourceError(f"{folder} holds no folder {_some(missing)}. {_advice(folder, missing)}")
        self.files = {cell: _numbered(folder / cell[0] / cell[1]) for cell in canvas.cells}
        empty = ["/".join(cell) for cell, files in self.files.items() if not files]
        if empty:
            raise UnreadableSourceError(
                f"{len(empty)} of {len(self.files)} folders of {folder} hold no pictures 1.jpg, 2.jpg, …: {_some(empty)}. Unpack the "
                f"data set again, or leave what is missing out of --styles and --objects."
            )

    @property
    def digest(self) -> str:
        """A mark of the pictures, by their names and sizes: rows that were made from others can't be compared."""
        return mark([(cell, file.name, file.stat().st_size) for cell, files in self.files.items() for file in files])

    def pairs(self, concept: str, shown: bool, limit: int) -> Pairs:
        """
        A bounded sample of the pictures that show a concept, or of those that don't, of all styles and objects alike.

        Args:
            concept (`str`): A style or an object.
            shown (`bool`): Which of the two.
            limit (`int`): At most so many.

        Returns:
            `Pairs`: With captions as in training, and the name of the concept's kind.
        """
        kind = 0 if concept in self.canvas.styles else 1
        cells = self.canvas.spread(concept, shown)
        deepest = max(len(self.files[cell]) for cell in cells)
        # the first picture of each cell, then the second
        chosen = ((cell, i) for i in range(deepest) for cell in cells if i < len(self.files[cell]))
        rows = [
            Pair(self.canvas.caption(cell), said(cell[kind]), str(self.files[cell][i]))
            for cell, i in islice(chosen, limit)
        ]
        what = "forget set" if shown else "retain set"
        # opened once now, so that a damaged file is met before hours of work
        opened = load_pairs([(row.encoded, row.text, row.name) for row in rows], what=what, progress=False)
        return Pairs(opened, f"{self.folder} ({'only' if shown else 'without'} {concept})", opened.skipped)

    def reference(self, concept: str | None, per_cell: int = 5) -> list[Path]:
        """The pictures that drawn ones are compared with: the first five of each cell without the concept, as in the authors' `fid.py`."""
        return [file for cell in self.canvas.cells if concept not in cell for file in self.files[cell][:per_cell]]


def _numbered(folder: Path) -> list[Path]:
    files = [file for file in folder.glob("*.jpg") if file.stem.isdigit()] if folder.is_dir() else []
    return sorted(files, key=lambda file: int(file.stem))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def _advice(folder: Path, missing: list[str]) -> str:
    """What is probably wrong with a folder without these styles."""
    inside = [child.name for child in folder.iterdir() if all((child / style).is_dir() for style in missing[:1])]
    if inside:
        return f"They are one level deeper: give --data {folder / sorted(inside)[0]}."
    if any(folder.rglob("*.parquet")):
        return (
            "It holds parquet files, which have lost the folders; take the release in folders, <style>/<object>/<n>.jpg, that the "
            "UnlearnCanvas repository links to."
        )
    if missing == [PHOTO] and (folder / "Seed_Image").is_dir():
        return f"Rename Seed_Image to {PHOTO}, as the authors' scripts expect it."
    found = sorted(child.name for child in folder.iterdir() if child.is_dir())
    return (
        f"Expected <style>/<object>/<n>.jpg, found {_some(found) or 'no folders'}. For a canvas of your own give "
        f"--styles and --objects."
    )
