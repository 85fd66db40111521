# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The arithmetic: exact, independent of order, and reversible."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_slug.arithmetic import compose, expand_factors, identical, weighted_sum


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_tensor(seed, shape=(5, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_is_rounded_once(dtype):
    weight, first, second = random_tensor(0).to(dtype), random_tensor(1) * 1e-3, random_tensor(2)
    expected = (weight.double() + 0.3 * first.double() + -2.0 * second.double()).to(dtype)
    assert torch.equal(compose(weight, {"a": first, "b": second}, {"a": 0.3, "b": -2.0}), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.permutations(["a", "b", "c", "d"]), st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.sampled_from(DTYPES)
)
def test_order_of_loading_never_matters(order, scales, dtype):
    weight = random_tensor(0).to(dtype)
    deltas = {name: random_tensor(ord(name)) for name in "abcd"}
    by_name = dict(zip("abcd", scales, strict=True))
    shuffled = compose(weight, {name: deltas[name] for name in order}, {name: by_name[name] for name in order})
    assert torch.equal(shuffled, compose(weight, deltas, by_name))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deltas, scales", [({}, {}), ({"a": random_tensor(1)}, {"a": 0.0})])
def test_nothing_to_add_gives_the_weight_in_new_storage(dtype, deltas, scales):
    weight = random_tensor(0).to(dtype)
    result = compose(weight, deltas, scales)
    assert torch.equal(result, weight)
    assert result.data_ptr() != weight.data_ptr()


def test_scale_zero_ignores_a_broken_delta():
    weight = random_tensor(0)
    assert torch.equal(compose(weight, {"a": torch.full_like(weight, torch.nan)}, {"a": 0.0}), weight)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"'a' has shape \(7, 5\), the weight has \(5, 7\)"):
        compose(random_tensor(0), {"a": random_tensor(1, (7, 5))}, {})


def test_factors_give_the_rounded_float64_product():
    up, down = random_tensor(0, (6, 2)), random_tensor(1, (2, 12))
    delta = expand_factors(up, down, (6, 3, 2, 2))
    assert delta.dtype == torch.float32
    assert torch.equal(delta, (up.double() @ down.double()).float().reshape(6, 3, 2, 2))


def test_weighted_sum_is_rounded_once():
    deltas = {"b": random_tensor(0), "a": random_tensor(1)}
    expected = (0.1 * deltas["a"].double() + 0.7 * deltas["b"].double()).float()
    assert torch.equal(weighted_sum(deltas, {"a": 0.1, "b": 0.7}), expected)


def test_identical_tells_apart_what_equal_can_not():
    nan = torch.tensor([1.0, torch.nan])
    assert identical(nan, nan.clone())
    assert not identical(nan, torch.tensor([1.0, 2.0]))
    assert not identical(torch.ones(2), torch.ones(2, dtype=torch.float16))
    assert not identical(torch.ones(2), torch.ones(3))
