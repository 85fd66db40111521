# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The processes that share the work of a run: accelerate's, or this one alone."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch


T = TypeVar("T")


class Processes:
    """
    What one of several processes does of the work, and how they put it together.

    Args:
        state (`Accelerator` or `PartialState`, *optional*): What accelerate knows of them. Without, there is but this one.
    """

    def __init__(self, state: Any = None):
        self.rank = 0 if state is None else int(state.process_index)
        self.count = 1 if state is None else int(state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that reports."""
        return self.rank == 0

    def has(self, index: int) -> bool:
        """Whether the item of that number is this process's."""
        return index % self.count == self.rank

    def mine(self, items: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yields every so manieth item, with its number; among all processes every item is somebody's."""
        return ((i, item) for i, item in enumerate(items) if self.has(i))

    def sum(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the sums over all processes of tensors that each of them has under the same names, in the same order."""
        if self.count == 1:
            return tensors
        from accelerate.utils import reduce

        # one by one: each copy is gone before the next is made
        return {name: reduce(tensor, "sum") for name, tensor in tensors.items()}

    def gather(self, items: list[T]) -> list[T]:
        """Returns the items (picklable) of all processes, process by process."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def from_main(self, make: Callable[[], T]) -> T:
        """Returns what a function returns (picklable), called by the one that reports alone."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([make() if self.is_main else None])[0]


ALONE = Processes()
