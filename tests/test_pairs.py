# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Pairs as a sequence, their fingerprint, and their split."""

import pickle
from collections import Counter

import numpy as np
import pytest
from data_helpers import encoded, picture, rows, write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_slug.data import Pair, Pairs, load_pairs
from hf_slug.errors import EmptyDatasetError
from hf_slug.splits import stratified_split


pytestmark = pytest.mark.usefixtures("no_network")


def test_pairs_behave_as_a_sequence():
    pairs = load_pairs(rows(5))
    assert isinstance(pairs[0], Pair) and pairs[-1].text == "caption 4"
    assert isinstance(pairs[1:4], Pairs) and pairs[1:4].texts == ["caption 1", "caption 2", "caption 3"]
    assert pairs.subset([4, 0]).texts == ["caption 4", "caption 0"]
    assert [pair.text for pair in pairs] == pairs.texts
    assert len(pairs.images([1, 3])) == len(pairs.images(slice(0, 2))) == 2
    assert repr(pairs) == "Pairs(5 from list of 5 pairs)"
    assert pickle.loads(pickle.dumps(pairs)).fingerprint() == pairs.fingerprint()


def test_fingerprint(tmp_path):
    write_images(tmp_path, 3)
    content = [(encoded(i), f"caption {i}") for i in range(3)]
    print_of = load_pairs(content).fingerprint()
    assert load_pairs([(tmp_path / f"{i}.png", f"caption {i}") for i in range(3)]).fingerprint() == print_of
    assert len(print_of) == 16
    others = [
        content[::-1],
        content[:2],
        [(content[0][0], "other"), *content[1:]],
        [(encoded(9), "caption 0"), *content[1:]],
    ]
    others += [[(picture(i), f"caption {i}") for i in range(3)]]
    assert len({print_of, *(load_pairs(other).fingerprint() for other in others)}) == 6


@settings(max_examples=150, deadline=None)
@given(
    classes=st.lists(st.integers(0, 8), min_size=3, max_size=120),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.8, 0.1, 0.1), (0.98, 0.01, 0.01)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_stratified_partition(classes, fractions, seed):
    parts = stratified_split(classes, fractions, seed)
    assert sorted(index for part in parts for index in part) == list(range(len(classes)))
    assert parts == stratified_split(classes, np.array(fractions), np.uint32(seed))
    assert all(parts)
    for each, count in Counter(classes).items():
        if count >= 3:
            assert all(each in [classes[index] for index in part] for part in parts)
    if fractions == (0.6, 0.2, 0.2):
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * len(classes)) <= len(set(classes)) + 1


def test_split():
    pairs = load_pairs([(encoded(i), f"caption {i % 4}") for i in range(40)])
    parts = pairs.split(seed=3)
    assert [len(part) for part in parts] == [24, 8, 8]
    assert all(Counter(part.texts) == {f"caption {k}": len(part) // 4 for k in range(4)} for part in parts)
    assert parts[0].texts != sorted(parts[0].texts), "in a random order, not class by class"
    assert [part.fingerprint() for part in pairs.split(seed=3)] == [part.fingerprint() for part in parts]
    assert pairs.split(seed=4)[0].fingerprint() != parts[0].fingerprint()
    # Names take precedence; single captions are split as one class.
    named = load_pairs([(encoded(i), f"caption {i}", "x" if i < 5 else None) for i in range(15)])
    assert [len(part) for part in named.split()] == [9, 3, 3]
    assert [part.names.count("x") for part in named.split()] == [3, 1, 1]
    assert [len(part) for part in pairs.split((0.5, 0, 0.5))] == [20, 0, 20]


def test_split_refuses():
    pairs = load_pairs(rows(2))
    with pytest.raises(EmptyDatasetError, match="2 pairs .* into 3 parts.*--validation-forget"):
        pairs.split()
    for fractions in ((0.6, 0.2), (1.2, -0.2), ()):
        with pytest.raises(ValueError, match="add up to 1"):
            pairs.split(fractions)
