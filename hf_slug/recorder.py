# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the layers of a search read of its images: recorded in as few passes as memory has room for."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from .data import Pairs
from .inputs import image_batches
from .replay import Recording, record_below
from .towers import Layer


_SHARE = 0.25  # of the memory that is free, for recordings


class Recorder:
    """
    Records what vision layers read of the same images, of several layers in one pass.

    Recordings lie on the model's device; where not even those of one layer fit there, in pinned memory of the host.

    Args:
        model (`CLIPModel`): The model, at its original weights.
        processor (`CLIPProcessor`): Its processor.
        pairs (`Pairs`): The images.
        batch_size (`int`): Images per forward pass.
        coming (`Sequence[Layer]`, *optional*): The layers, in the order in which they will be asked for.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, pairs: Pairs, batch_size: int, coming: Sequence[Layer] = ()
    ):
        self.model, self.processor, self.pairs, self.batch_size = model, processor, pairs, batch_size
        self.coming = list(coming)
        self.kept: dict[Layer, list[Recording]] = {}
        self.embeddings: list[torch.Tensor] = []  # of the images, once they have been recorded

    def take(self, layer: Layer) -> list[Recording]:
        """Returns the recordings of a layer, batch by batch, and lets go of them."""
        self.coming = [other for other in self.coming if other != layer]
        if layer not in self.kept:
            self._record([layer, *self.coming])
        return self.kept.pop(layer)

    def _record(self, layers: list[Layer]) -> None:
        """Records as many of some layers as there is room for; the first in any case."""
        room, on_host = 0.0, False
        self.kept, self.embeddings = {}, []
        for start, batch in image_batches(self.model, self.processor, self.pairs, self.batch_size):
            if start == 0:
                room = _SHARE * free_memory(self.model.device) * len(batch["pixel_values"]) / len(self.pairs)
            embeddings, found = record_below(self.model, layers, batch)
            self.embeddings.append(embeddings)
            if start == 0:
                layers = [layer for i, layer in enumerate(layers) if not i or size_of(found[: i + 1]) <= room]
                on_host = self.model.device.type == "cuda" and size_of(found[:1]) > room
            for layer, recording in zip(layers, found, strict=False):
                self.kept.setdefault(layer, []).append(recording.on_host() if on_host else recording)


def size_of(recordings: Sequence[Recording]) -> int:
    """How many bytes some recordings hold; layers of one block share what the block reads."""
    tensors = {tensor.data_ptr(): tensor.nbytes for recording in recordings for tensor in recording.kept.values()}
    return sum(tensors.values())


def free_memory(device: torch.device) -> int:
    """How many bytes are free on a device; of a CPU, in the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    # of several processes on one machine each has its share
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
