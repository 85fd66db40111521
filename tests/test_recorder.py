# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Recording what several layers read in as few passes as memory has room for."""

import pytest
import torch
from conftest import noise_pairs

from hf_slug import recorder
from hf_slug.inputs import image_batches
from hf_slug.recorder import Recorder, free_memory, size_of
from hf_slug.replay import record_below, run_above
from hf_slug.towers import candidate_layers


@pytest.fixture
def layers(tiny):
    return candidate_layers(tiny, "vision")[::4]


def passes(tiny):
    runs = []
    tiny.vision_model.register_forward_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("free, most", [(0, 1), (10**12, None)])
def test_layers_share_passes_as_far_as_there_is_room(tiny, processor, layers, monkeypatch, free, most):
    monkeypatch.setattr(recorder, "free_memory", lambda device: free)
    pairs, runs = noise_pairs(10), passes(tiny)
    made = Recorder(tiny, processor, pairs, 4, layers)
    for layer in layers:
        recordings = made.take(layer)
        assert len(recordings) == 3 and made.kept.keys().isdisjoint([layer])
        expected = [record_below(tiny, [layer], batch) for _, batch in image_batches(tiny, processor, pairs, 4)]
        del runs[-len(expected) :]
        for recording, (embeddings, _) in zip(recordings, expected, strict=True):
            before = len(runs)
            assert torch.equal(run_above(tiny, layer, recording), embeddings)
            del runs[before:]
    assert len(runs) == 3 * (len(layers) if most else 1)  # of three batches each


def test_a_little_room_takes_some_layers_at_a_time(tiny, processor, layers, monkeypatch):
    pairs = noise_pairs(4)
    ((_, batch),) = image_batches(tiny, processor, pairs, 4)
    sizes = [size_of(record_below(tiny, layers, batch)[1][: i + 1]) for i in range(len(layers))]
    assert sizes == sorted(sizes) and sizes[0] > 0
    monkeypatch.setattr(recorder, "free_memory", lambda device: 4 * sizes[1])
    made = Recorder(tiny, processor, pairs, 4, layers)
    made.take(layers[0])
    assert set(made.kept) == set(layers[1:2])


def test_a_layer_that_nobody_announced_is_recorded(tiny, processor, layers):
    made = Recorder(tiny, processor, noise_pairs(3), 4)
    assert len(made.take(layers[1])) == 1 and made.kept == {}


def test_some_memory_is_free():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50
