# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Forget and retain sets: image-text pairs, read once from whatever holds them, checked, and kept in order."""

import hashlib
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from PIL import Image

from .errors import EmptyDatasetError, TooManyUnreadableError, UnreadableImageError
from .images import Encoded, content, decode, encode
from .sources import Columns, open_source
from .splits import stratified_split


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


class Pairs(Sequence[Pair]):
    """
    Image-text pairs in a fixed order.

    Args:
        pairs (iterable of [`Pair`]):
            The pairs.
        source (`str`):
            Where they come from, for a person to read.
        skipped (`int`, *optional*, defaults to 0):
            How many unreadable images were dropped while the source was read. Subsets keep the number.
        captionless (`int`, *optional*, defaults to 0):
            How many rows without a text were dropped while the source was read. Subsets keep the number.
    """

    def __init__(self, pairs: Iterable[Pair], source: str, skipped: int = 0, captionless: int = 0):
        self._pairs = list(pairs)
        self.source, self.skipped, self.captionless = source, skipped, captionless

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "Pair | Pairs":
        return self.subset(range(len(self))[index]) if isinstance(index, slice) else self._pairs[index]

    def __repr__(self) -> str:
        return f"Pairs({len(self)} from {self.source})"

    @property
    def texts(self) -> list[str]:
        """The text of every pair."""
        return [pair.text for pair in self._pairs]

    @property
    def names(self) -> list[str | None]:
        """The class name of every pair, `None` where the source has none."""
        return [pair.name for pair in self._pairs]

    def images(self, indices: slice | Iterable[int] = slice(None)) -> list[Image.Image]:
        """Decodes the images at the given indices, all of them by default."""
        pairs = self._pairs[indices] if isinstance(indices, slice) else [self._pairs[i] for i in indices]
        return [pair.image for pair in pairs]

    def subset(self, indices: Iterable[int]) -> "Pairs":
        """Returns the pairs at the given indices, in the order given."""
        return Pairs([self._pairs[i] for i in indices], self.source, self.skipped, self.captionless)

    def split(self, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> "tuple[Pairs, ...]":
        """
        Splits the pairs at random into disjoint parts that together hold all of them.

        Every class (name, or text where there is none) is split by itself, so that one with at least as many pairs as
        there are parts is in each of them. The parts come in a random order, not class by class: a batch in which all
        texts are equal has no contrastive loss to speak of.

        Args:
            fractions (sequence of `float`, *optional*, defaults to `(0.6, 0.2, 0.2)`):
                The sizes of the parts. They add up to 1.
            seed (`int`, *optional*, defaults to 0):
                The same seed gives the same parts.

        Raises:
            ValueError: If the fractions are negative or don't add up to 1.
            EmptyDatasetError: If there are fewer pairs than parts.
        """
        if len(self) < sum(fraction > 0 for fraction in fractions):
            raise EmptyDatasetError(
                f"{len(self)} pairs ({self.source}) can't be split into {len(fractions)} parts. Give more pairs, or "
                "separate sets for validation and test (`--validation-forget`, … on the command line)."
            )
        classes = [(pair.name is not None, pair.text if pair.name is None else pair.name) for pair in self._pairs]
        return tuple(self.subset(part) for part in stratified_split(classes, fractions, seed))

    def fingerprint(self) -> str:
        """Returns a hash of the texts and of the images as they are stored, to tell two sets apart in a report."""
        digest = hashlib.sha256()
        for pair in self._pairs:
            for piece in (pair.text.encode(), content(pair.encoded)):
                digest.update(len(piece).to_bytes(8, "big") + piece)
        return digest.hexdigest()[:16]


def load_pairs(
    source: Any,
    *,
    image_column: str = "image",
    text_column: str = "text",
    name_column: str | None = "name",
    split: str = "train",
    what: str = "forget set",
    max_samples: int | None = None,
    streaming: bool = False,
    progress: bool = True,
) -> Pairs:
    """
    Reads image-text pairs from nearly anything, and opens every image once, so that a broken one is met now.

    Unreadable images and rows without a text are skipped, counted and logged.

    Args:
        source (`str`, `os.PathLike`, `datasets.Dataset`, `datasets.IterableDataset` or iterable):
            A folder of images with `metadata.jsonl` or `metadata.csv` in it, at any depth; a `.parquet`, `.jsonl`,
            `.json`, `.csv` or `.tsv` file; a webdataset `.tar` or a pattern of them (`"shard-{000..012}.tar"`); a
            folder of parquet files, shards or from `save_to_disk`; the Hub id of a dataset (`"user/name"`); a dataset;
            or rows: `(image, text)` or `(image, text, name)` tuples, or mappings. [`Pairs`] are returned as they are.
        image_column (`str`, *optional*, defaults to `"image"`):
            The column of the images. Paths in files are relative to the file.
        text_column (`str`, *optional*, defaults to `"text"`):
            The column of the texts.
        name_column (`str`, *optional*, defaults to `"name"`):
            The column of the class names. `"name"` itself may be missing.
        split (`str`, *optional*, defaults to `"train"`):
            The split to read where the source has several.
        what (`str`, *optional*, defaults to `"forget set"`):
            What the pairs are, for messages.
        max_samples (`int`, *optional*):
            Read so many pairs at most.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to stream a dataset of the Hub instead of downloading it first.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar. The switches of `datasets` and `huggingface_hub` turn it off too.

    Raises:
        EmptyDatasetError: If there is no source, or not one usable pair in it.
        MissingColumnError: If the image or text column is missing.
        TooManyUnreadableError: If more than 10 % of the images are unreadable.
        UnreadableSourceError: If the source does not exist, is damaged, can't be reached or is of no known format.
        TypeError: If the source or one of its rows is of a type that holds no pairs.
    """
    if isinstance(source, Pairs):
        return source if max_samples is None else source[:max_samples]
    if source is None:
        raise EmptyDatasetError(f"There is no {what}. Give a folder, a file, a dataset or a list of (image, text).")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"`max_samples` must be at least 1, got {max_samples}.")
    opened = open_source(source, Columns(image_column, text_column, name_column), split=split, streaming=streaming)
    pairs: list[Pair] = []
    reasons: list[str] = []
    captionless = unreadable = 0
    most = min((n for n in (max_samples, opened.total) if n is not None), default=math.inf)
    for row in _progress(opened.rows, most, f"Reading the {what}", progress):
        try:
            image, text, name = _raise(row) if isinstance(row, Exception) else row
            if not isinstance(text, str) or not text.strip():
                captionless += 1
                continue
            encoded = encode(image)
            decode(encoded)
            pairs.append(Pair(text, None if name is None or name != name or name == "" else str(name), encoded))
        except UnreadableImageError as error:
            unreadable += 1
            reasons = [*reasons, str(error)][:3]
            if unreadable > MAX_UNREADABLE * (unreadable + most):
                break  # whatever comes, too many are unreadable: don't read a large source to its end
        if len(pairs) == max_samples:
            break
    tried = len(pairs) + unreadable
    found = f"{unreadable} of {tried} images of the {what} ({opened.source}) are unreadable: {'; '.join(reasons)}"
    found += "; …" if unreadable > len(reasons) else ""
    if unreadable > MAX_UNREADABLE * tried:
        raise TooManyUnreadableError(
            f"{found}. At most {MAX_UNREADABLE:.0%} are skipped. Check that the images are where the rows say and "
            f"that {image_column!r} is their column (`image_column=`, `--image-column`), or remove these rows."
        )
    no_text = f"{captionless} rows had no text (a string that is not blank) in {text_column!r}"
    if not pairs:
        why = f" {no_text}." if captionless else ""
        raise EmptyDatasetError(f"The {what} is empty: {opened.source} holds no pair of an image and a text.{why}")
    if unreadable:
        logger.warning("Skipped: %s.", found)
    if captionless:
        logger.warning("Skipped while reading the %s (%s): %s.", what, opened.source, no_text)
    return Pairs(pairs, opened.source, unreadable, captionless)


def _raise(error: Exception) -> Any:
    raise UnreadableImageError(str(error) or type(error).__name__) from error


def _progress(rows: Iterable[Any], total: float, description: str, shown: bool) -> Any:
    from huggingface_hub.utils import tqdm  # has the Hub's switch; that of `datasets` counts once it is imported

    datasets = sys.modules.get("datasets")
    off = not shown or (datasets is not None and datasets.are_progress_bars_disabled())
    known = None if total == math.inf else int(total)
    return tqdm(rows, total=known, desc=description, unit=" pairs", delay=1, disable=off)
