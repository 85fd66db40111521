# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the towers read: the same, however many threads prepare it."""

import pytest
import torch
from conftest import noise_pairs

from hf_slug import inputs
from hf_slug.data import Pairs


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_any_number_of_threads_prepares_the_same_in_the_same_order(tiny, processor, monkeypatch, count, batch_size):
    pairs = noise_pairs(13)
    expected = processor.image_processor(pairs.images(), return_tensors="pt")["pixel_values"]
    monkeypatch.setattr(inputs, "readers", lambda device: count)
    found = list(inputs.image_batches(tiny, processor, pairs, batch_size))
    assert [start for start, _ in found] == list(range(0, 13, batch_size))
    assert torch.equal(torch.cat([batch["pixel_values"] for _, batch in found]), expected)


def test_an_image_that_can_not_be_read_is_no_silent_gap(tiny, processor, monkeypatch):
    def fail(self, *_):
        raise OSError("gone")

    monkeypatch.setattr(inputs, "readers", lambda device: 4)
    monkeypatch.setattr(Pairs, "images", fail)
    with pytest.raises(OSError, match="gone"):
        list(inputs.image_batches(tiny, processor, noise_pairs(9), 3))


def test_a_gpu_does_not_wait_for_one_thread():
    assert inputs.readers(torch.device("cpu")) == 1
    assert 1 <= inputs.readers(torch.device("cuda")) <= 8
