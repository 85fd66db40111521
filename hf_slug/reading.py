# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""From the rows of a source to pairs, one by one: every image is opened once, and what can't be used is counted."""

import logging
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .errors import EmptyDatasetError, TooManyUnreadableError, UnreadableImageError
from .images import Encoded, decode, encode
from .sources import Columns, open_source


logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.1  # more than that, and it is the dataset that is broken


@dataclass(frozen=True)
class Pair:
    """
    One image and its text.

    Args:
        text (`str`):
            The caption.
        name (`str`, *optional*):
            The name of the pair's class, where the source tells it.
        encoded (`bytes`, `str` or `PIL.Image.Image`):
            The image as it is stored: the bytes of its file, its path, or what PIL already holds.
    """

    text: str
    name: str | None
    encoded: Encoded

    @property
    def image(self) -> Image.Image:
        """The image in RGB, decoded at every access: a set of thousands costs the memory of its files only."""
        return decode(self.encoded)


class PairReader:
    """
    Reads pairs as long as it is iterated over; once more whenever that begins again, if the source can be.

    Args:
        source, split, streaming: See [`open_source`].
        columns (`Columns`): The names of the columns.
        what (`str`): What the pairs are, for messages.
        max_samples (`int`, *optional*): Read so many pairs at most.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

    Attributes:
        found, unreadable, captionless (`int`): Pairs, images that could not be read and rows without a text, so far.
        name (`str`): What the source is called.
    """

    def __init__(
        self,
        source: Any,
        columns: Columns,
        what: str,
        split: str = "train",
        streaming: bool = False,
        max_samples: int | None = None,
        progress: bool = True,
    ):
        self.columns, self.what, self.max_samples, self.progress = columns, what, max_samples, progress
        self._open = lambda: open_source(source, columns, split=split, streaming=streaming)
        self.found = self.unreadable = self.captionless = 0
        self.name = str(source)

    def __iter__(self) -> Iterator[Pair]:
        opened = self._open()
        self.name, self.found, self.unreadable, self.captionless = opened.source, 0, 0, 0
        reasons: list[str] = []
        most = min((n for n in (self.max_samples, opened.total) if n is not None), default=math.inf)
        for row in _progress(opened.rows, most, f"Reading the {self.what}", self.progress):
            try:
                image, text, name = _raise(row) if isinstance(row, Exception) else row
                if not isinstance(text, str) or not text.strip():
                    self.captionless += 1
                    continue
                encoded = encode(image)
                decode(encoded)
            except UnreadableImageError as error:
                self.unreadable += 1
                reasons = [*reasons, str(error)][:3]
                if self.unreadable > MAX_UNREADABLE * (self.unreadable + most):
                    break  # whatever comes, too many are unreadable: don't read a large source to its end
                continue
            self.found += 1
            yield Pair(text, None if name is None or name != name or name == "" else str(name), encoded)
            if self.found == self.max_samples:
                break
        self._judge(reasons)

    def _judge(self, reasons: list[str]) -> None:
        """Refuses what was read if too much of it could not be used, and says what was skipped."""
        tried = self.found + self.unreadable
        said = f"{self.unreadable} of {tried} images of the {self.what} ({self.name}) are unreadable: {'; '.join(reasons)}"
        said += "; …" if self.unreadable > len(reasons) else ""
        column = self.columns.image
        if self.unreadable > MAX_UNREADABLE * tried:
            raise TooManyUnreadableError(
                f"{said}. At most {MAX_UNREADABLE:.0%} are skipped. Check that the images are where the rows say and "
                f"that {column!r} is their column (`image_column=`, `--image-column`), or remove these rows."
            )
        no_text = f"{self.captionless} rows had no text (a string that is not blank) in {self.columns.text!r}"
        if not self.found:
            why = f" {no_text}." if self.captionless else ""
            raise EmptyDatasetError(
                f"The {self.what} is empty: {self.name} holds no pair of an image and a text.{why}"
            )
        if self.unreadable:
            logger.warning("Skipped: %s.", said)
        if self.captionless:
            logger.warning("Skipped while reading the %s (%s): %s.", self.what, self.name, no_text)


def _raise(error: Exception) -> Any:
    raise UnreadableImageError(str(error) or type(error).__name__) from error


def _progress(rows: Iterable[Any], total: float, description: str, shown: bool) -> Any:
    from huggingface_hub.utils import tqdm  # has the Hub's switch; that of `datasets` counts once it is imported

    datasets = sys.modules.get("datasets")
    off = not shown or (datasets is not None and datasets.are_progress_bars_disabled())
    known = None if total == math.inf else int(total)
    return tqdm(rows, total=known, desc=description, unit=" pairs", delay=1, disable=off)
