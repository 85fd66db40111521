# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Sets that are larger than memory: read anew for each pass, a few pairs at a time."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .data import Pairs, digest_pair
from .processes import Processes
from .reading import PairReader
from .sources import Columns


class PairStream:
    """
    Image-text pairs that are read whenever they are needed: of any number, no more than two groups are in memory (and of a folder of images
    without a table their names).

    There is no random access, so nothing can be split off, and nothing counted before it has been read.

    Args:
        source (dataset, path or Hub id):
            Anything that [`load_pairs`] reads and that can be read more than once, e.g. a `datasets.IterableDataset`. Datasets of
            the Hub are streamed.
        image_column, text_column, name_column, split, what, max_samples, progress: As in [`load_pairs`].

    Attributes:
        source (`str`): What it is called, once it has been read.
        count, skipped (`int`): Pairs and unreadable images of the last whole pass.
        seen_names (`list[str]`): Names of the first whole pass, for pairs that have one.

    Raises:
        TypeError: If the source can be read only once.
    """

    def __init__(
        self,
        source: Any,
        *,
        image_column: str = "image",
        text_column: str = "text",
        name_column: str | None = "name",
        split: str = "train",
        what: str = "retain set",
        max_samples: int | None = None,
        progress: bool = False,
    ):
        if isinstance(source, Iterator):
            raise TypeError(
                f"A set that is streamed is read once for each pass, and found a {type(source).__name__}, which can be read only once. "
                f"Give a path, a Hub id or a `datasets.IterableDataset`."
            )
        columns = Columns(image_column, text_column, name_column)
        self._reader = PairReader(source, columns, what, split, True, max_samples, progress)
        self.source = self._reader.name
        self.count = self.skipped = 0
        self.seen_names: list[str] = []
        self._digest = ""

    def groups(self, size: int) -> Iterator[Pairs]:
        """Reads the pairs once, so many at a time; the last group may be smaller."""
        names: dict[str, None] = {}
        digest = hashlib.sha256()
        pairs = iter(self._reader)
        while group := list(islice(pairs, size)):
            for pair in group if not self._digest else ():
                digest_pair(digest, pair)
                names |= {} if pair.name is None else {pair.name: None}
            yield Pairs(group, self._reader.name)
        self.source, self.count, self.skipped = self._reader.name, self._reader.found, self._reader.unreadable
        if not self._digest:
            self.seen_names, self._digest = list(names), digest.hexdigest()[:16]

    def check_same(self, processes: Processes, group: Pairs | None = None) -> None:
        """
        Checks that all processes have read the same: each reads the whole stream, and takes its share by the order.

        Args:
            processes ([`Processes`]): They.
            group (`Pairs`, *optional*): What each reads just now, before they share it: one that has come to its end would be waited for.

        Raises:
            RuntimeError: If they have not.
        """
        own = self.count, self.fingerprint()
        if group is not None:  # by its texts: its images would be read once more
            own = len(group), hashlib.sha256("\n".join(group.texts).encode()).hexdigest()[:16]
        found = processes.gather([own])
        if len(set(found)) > 1:
            raise RuntimeError(
                f"The processes have read other pairs, or in another order, from {self.source}: {found} (number and hash). A stream that is "
                f"shared must be the same each time it is read: give it a fixed seed, or no shuffling."
            )

    def fingerprint(self) -> str:
        """The hash that [`Pairs`] of the same would have; once it has been read."""
        return self._digest

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"PairStream({self.source})"
