# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The processes that share the work of a run: accelerate's, or this one alone."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from logging import ERROR, getLogger
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

    def share(self, count: int, most: int) -> int:
        """The size of batches, at most so large, in which a number of items is dealt out evenly."""
        if self.count == 1 or count == 0:
            return most
        batches = self.count * math.ceil(count / most / self.count)
        return math.ceil(count / batches)

    def mine(self, items: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yields every so manieth item, with its number; among all processes every item is somebody's."""
        return ((i, item) for i, item in enumerate(items) if self.has(i))

    def sum(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sums up, in place, tensors that every process has under the same names, in the same order; returns them."""
        if self.count > 1:
            for tensor in tensors.values():
                torch.distributed.all_reduce(tensor)  # accelerate's makes a copy of each
        return tensors

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

    def exit_code(self, finish: Callable[[], int]) -> int:
        """
        Ends a command: the one that reports does, and returns what that gives; the others wait and return 0. A launcher takes another code
        for a crash, and stops those that are not through.
        """
        code = self.from_main(finish)
        return code if self.is_main else 0


ALONE = Processes()


def launched(device: str | None = None) -> Any:
    """
    Joins the processes that `accelerate launch` (or `torchrun`, on CPUs) started, if there are several; all but the first are silent
    from then on.

    Args:
        device (`str`, *optional*): What the user asked for.

    Returns:
        `PartialState`, or `None` if this process is alone.

    Raises:
        ValueError: If the device is not one that each of them has.
        RuntimeError: If they can't be joined.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted < 2:
        return None
    if device is not None and (device == "auto" or ":" in device):
        raise ValueError(
            f"{wanted} processes were started, and each takes a device of its own: --device {device} would have them share. Leave --device out "
            f"(or give `cpu`), or start one process."
        )
    from accelerate import PartialState
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    # accelerate joins processes on CPUs only if told so
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=1))  # some wait while one judges pictures
    if state.num_processes != wanted:
        raise RuntimeError(
            f"{wanted} processes were started, and accelerate joins {state.num_processes} of them on {state.device}. Start one, or give "
            f"each its own device."
        )
    if not state.is_main_process:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        getLogger("hf_slug").setLevel(ERROR)
        disable_progress_bars()
    return state
