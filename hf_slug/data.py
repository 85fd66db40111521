# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Forget and retain sets: image-text pairs, read once from whatever holds them, checked, and kept in order."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from PIL import Image

from .errors import EmptyDatasetError
from .images import content
from .reading import Pair, PairReader
from .sources import Columns
from .splits import stratified_split


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

    def groups(self, size: int) -> "Iterator[Pairs]":
        """Yields the pairs so many at a time, in order; the last group may be smaller."""
        return (self[start : start + size] for start in range(0, len(self), size))

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
            digest_pair(digest, pair)
        return digest.hexdigest()[:16]


def digest_pair(digest: Any, pair: Pair) -> None:
    """Adds a pair to the hash of a set."""
    for piece in (pair.text.encode(), content(pair.encoded)):
        digest.update(len(piece).to_bytes(8, "big") + piece)


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
    columns = Columns(image_column, text_column, name_column)
    reader = PairReader(source, columns, what, split, streaming, max_samples, progress)
    pairs = list(reader)
    return Pairs(pairs, reader.name, reader.unreadable, reader.captionless)
