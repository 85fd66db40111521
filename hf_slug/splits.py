# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Random parts of a set, in each of which every class has its share."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np


def stratified_split(classes: Sequence[Hashable], fractions: Sequence[float], seed: int = 0) -> list[list[int]]:
    """
    Splits `range(len(classes))` into disjoint parts, each in a random order, that together are all of it.

    A class with at least as many members as there are parts is in every part.

    Args:
        classes (sequence of hashable): The class of every index.
        fractions (sequence of `float`): The sizes of the parts. They add up to 1.
        seed (`int`, *optional*, defaults to 0): The same seed gives the same parts.

    Raises:
        ValueError: If the fractions are negative or don't add up to 1.
    """
    if min(fractions, default=-1) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"Fractions of a split must be at least 0 and add up to 1, got {tuple(fractions)}.")
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, each in enumerate(classes):
        members[each].append(index)
    parts = sum(fraction > 0 for fraction in fractions)
    groups = [group for group in members.values() if len(group) >= parts]
    # Classes too small to be in every part are split as one: of one member each, all would go to the first.
    groups.append([index for group in members.values() if len(group) < parts for index in group])
    generator = np.random.default_rng(seed)
    chosen: list[list[int]] = [[] for _ in fractions]
    for group in groups:
        order = generator.permutation(np.array(group, dtype=np.int64)).tolist()
        for part, size in zip(chosen, _sizes(len(group), fractions), strict=True):
            part.extend(order[:size])
            order = order[size:]
    return [generator.permutation(np.array(part, dtype=np.int64)).tolist() for part in chosen]


def _sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Divides `count` by the largest remainders, then sees that no part goes without while another has two."""
    shares = [count * fraction / sum(fractions) for fraction in fractions]
    sizes = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda i: sizes[i] - shares[i])
    for i in by_remainder[: count - sum(sizes)]:
        sizes[i] += 1
    for i, fraction in enumerate(fractions):
        if fraction > 0 and sizes[i] == 0 and max(sizes) > 1:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[i] = 1
    return sizes
