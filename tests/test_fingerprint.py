# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import itertools

import pytest
import torch

from hf_slug.errors import CorruptPatchError, WrongBaseError
from hf_slug.fingerprint import compute_fingerprint, verify_fingerprint


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(seed=0):
    return torch.randn(24, 16, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("made, live", [*itertools.product(DTYPES, DTYPES)])
def test_the_same_base_is_known_in_any_dtype(made, live):
    fingerprint = compute_fingerprint({"fc1": weight().to(made)})
    verify_fingerprint({"fc1": weight().to(live)}, fingerprint)


@pytest.mark.parametrize("made, live", [*itertools.product(DTYPES, DTYPES)])
def test_another_base_is_refused_with_a_message_that_names_both(made, live):
    fingerprint = compute_fingerprint({"fc1": weight().to(made)})
    with pytest.raises(
        WrongBaseError, match=r"(?s)openai/clip.*fc1\.weight.*norm.*expected norm.*load it on"
    ) as caught:
        verify_fingerprint({"fc1": weight(1).to(live)}, fingerprint, base_name="openai/clip")
    assert f"{weight(1).to(live).double().norm():.6g}" in str(caught.value)


def test_one_changed_bit_is_another_base():
    fingerprint, other = compute_fingerprint({"fc1": weight()}), weight()
    other.view(torch.int32)[5, 5] ^= 1
    with pytest.raises(WrongBaseError):
        verify_fingerprint({"fc1": other}, fingerprint)


def test_between_the_two_halves_a_base_that_differs_only_beside_the_sample_is_refused():
    other = weight()
    other[3, 1:9] += 1.0  # none of these is among the values that are kept
    with pytest.raises(WrongBaseError):
        verify_fingerprint({"fc1": other.bfloat16()}, compute_fingerprint({"fc1": weight().half()}))


@pytest.mark.parametrize("damage", [{}, "abc", {"shape": [24, 16]}])
def test_a_damaged_fingerprint_is_said(damage):
    with pytest.raises(CorruptPatchError, match="fingerprint of fc1.*damaged"):
        verify_fingerprint({"fc1": weight()}, {"fc1": damage})


def test_another_shape_is_said():
    fingerprint = compute_fingerprint({"fc1": weight()})
    with pytest.raises(WrongBaseError, match=r"shape \(16, 24\).*shape \(24, 16\)"):
        verify_fingerprint({"fc1": weight().T}, fingerprint)


def test_weights_that_cannot_be_read_are_passed_over():
    fingerprint = compute_fingerprint({"fc1": weight()})
    verify_fingerprint({"fc1": weight(1).to("meta")}, fingerprint)
    verify_fingerprint({"fc1": torch.zeros(192, 1, dtype=torch.uint8)}, fingerprint)


def test_the_error_lists_all_that_differs_and_counts_what_does_not():
    torch.manual_seed(0)
    weights = {name: torch.randn(4, 3) for name in ("a", "b", "c", "d")}
    known = compute_fingerprint(weights)
    other = weights | {"b": weights["b"] * 1.5, "c": torch.randn(5, 3)}
    with pytest.raises(WrongBaseError) as caught:
        verify_fingerprint(other, known, base_name="user/clip")
    lines = str(caught.value).splitlines()
    assert "user/clip" in lines[0] and [line.split(".weight")[0].strip() for line in lines[1:3]] == ["b", "c"]
    assert (
        "50.0% apart" in lines[1]
        and "(5, 3)" in lines[2]
        and "(4, 3)" in lines[2]
        and "2 others are the same" in lines[3]
    )
