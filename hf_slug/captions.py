# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Curating a forget set: the rows of a captioned corpus that name the concept."""

import itertools
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .data import Pairs
from .errors import MissingColumnError


def filter_captions(
    dataset: Any,
    name: str | Sequence[str],
    *,
    text_column: str = "text",
    max_samples: int | None = None,
    whole_words: bool = True,
    case_sensitive: bool = False,
) -> Any:
    """
    Keeps the rows whose caption contains a name, as SLUG's authors curate their forget sets from LAION.

    Punctuation and white space between and around words don't matter: "elon-musk" and "Elon  Musk's" name Elon Musk,
    "Elon Muskrat" does not. Rows without a caption are dropped. A stream stays a stream: nothing is read here.

    Args:
        dataset (`datasets.Dataset`, `datasets.IterableDataset`, [`Pairs`], `Sequence` or `Iterator`):
            The corpus. The rows of a sequence or an iterator are mappings or `(image, text, …)` tuples.
        name (`str` or sequence of `str`):
            The name to look for, or several of the same concept ("Mickey", "Mickey Mouse").
        text_column (`str`, *optional*, defaults to `"text"`):
            The column of the captions.
        max_samples (`int`, *optional*):
            Stop after so many rows. A stream is not read any further.
        whole_words (`bool`, *optional*, defaults to `True`):
            Whether the name must stand alone. Set it to `False` for scripts that put no spaces between words.
        case_sensitive (`bool`, *optional*, defaults to `False`):
            Whether upper and lower case differ.

    Returns:
        The same kind of dataset: a list for a list, a lazy iterator for an iterator.

    Raises:
        ValueError: If the name has no letter or digit, or `max_samples` is under 1.
        MissingColumnError: If the dataset has no column `text_column`.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"`max_samples` must be at least 1, got {max_samples}.")
    names_it = CaptionMatcher(name, whole_words=whole_words, case_sensitive=case_sensitive)
    if isinstance(dataset, Pairs):
        found = itertools.islice((i for i, text in enumerate(dataset.texts) if names_it(text)), max_samples)
        return dataset.subset(list(found))
    if "datasets" in sys.modules:
        import datasets

        if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
            return _filter_dataset(dataset, names_it, text_column, max_samples)
    matching = (row for row in _checked(dataset, text_column) if names_it(_caption(row, text_column)))
    rows = itertools.islice(matching, max_samples)
    return rows if isinstance(dataset, Iterator) else list(rows)


class CaptionMatcher:
    """Says whether a caption contains one of some names. A class, so that `datasets` can hash it and pickle it."""

    def __init__(self, name: str | Sequence[str], *, whole_words: bool = True, case_sensitive: bool = False):
        self.whole_words, self.case_sensitive = whole_words, case_sensitive
        names = [name] if isinstance(name, str) else list(name)
        self.needles = [self._words(each) for each in names]
        if not names or not all(needle.strip() for needle in self.needles):
            raise ValueError(f"A name with at least one letter or digit is needed to filter captions, got {name!r}.")

    def __call__(self, caption: Any) -> bool:
        if not isinstance(caption, str):
            return False
        words = self._words(caption)
        return any(needle in words for needle in self.needles)

    def _words(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        text = text if self.case_sensitive else text.casefold()
        words = " ".join(text.translate(_SPACES).split())
        # A blank at either end of both, and `in` compares whole words only.
        return f" {words} " if self.whole_words else words


class _Spaces(dict[int, str]):
    """Turns what is no part of a word into a blank. Marks are part of one: without them, Hindi or Thai falls apart."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        inside = character.isalnum() or unicodedata.category(character).startswith("M")
        return self.setdefault(code, character if inside else " ")


_SPACES = _Spaces()


def _filter_dataset(dataset: Any, names_it: CaptionMatcher, text_column: str, max_samples: int | None) -> Any:
    import datasets

    columns, features = dataset.column_names, dataset.features
    if columns is not None and text_column not in columns:
        raise MissingColumnError(text_column, columns, option="text_column")
    if isinstance(dataset, datasets.Dataset):
        dataset = dataset.filter(names_it, input_columns=[text_column])
        return dataset if max_samples is None else dataset.select(range(min(max_samples, len(dataset))))
    # A stream decodes a row's images before it is filtered: slow, and one broken image anywhere would end it.
    images = {key: kind for key, kind in (features or {}).items() if isinstance(kind, datasets.Image) and kind.decode}
    for column in images:
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    dataset = dataset.filter(names_it, input_columns=[text_column])
    for column, feature in images.items():
        dataset = dataset.cast_column(column, feature)
    return dataset if max_samples is None else dataset.take(max_samples)


def _checked(rows: Iterable[Any], text_column: str) -> Iterator[Any]:
    """Passes rows on, and refuses mappings of which none had the column: a typing error would look like no match."""
    seen: dict[str, None] = {}
    for row in rows:
        if isinstance(row, Mapping) and text_column not in seen:
            seen.update(dict.fromkeys(row))
        yield row
    if seen and text_column not in seen:
        raise MissingColumnError(text_column, list(seen), option="text_column")


def _caption(row: Any, text_column: str) -> Any:
    return row.get(text_column) if isinstance(row, Mapping) else row[1]
