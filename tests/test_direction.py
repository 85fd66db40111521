# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import NAMES, noise_pairs, noise_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_slug.data import load_pairs
from hf_slug.direction import compute_directions, compute_input_moments, whiten
from hf_slug.low_rank import factorize, find_rank, residuals, stored_rank
from hf_slug.towers import candidate_layers


def random_moment(width, seed, rank):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rank, width, generator=generator)
    return rows.T @ rows


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 8), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([1e-3, 0.03, 1.0])
)
def test_the_whitened_direction_is_the_equation_and_ascends(rows, width, rank, seed, epsilon):
    gradient = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed + 1))
    moment = random_moment(width, seed, rank)
    direction = whiten(gradient, moment, epsilon)
    mean = moment.double().diagonal().mean()
    inverse = torch.linalg.inv(moment.double() / mean + epsilon * torch.eye(width, dtype=torch.float64))
    torch.testing.assert_close(direction, (gradient.double() @ inverse).float(), rtol=1e-4, atol=1e-5)
    assert (direction.double() * gradient.double()).sum() > 0


def test_whitening_turns_away_from_what_the_kept_data_uses():
    used, unused = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    moment = torch.outer(used, used) + 1e-6 * torch.eye(3)
    direction = whiten((used + unused)[None], moment)[0]
    assert direction @ unused > 50 * (direction @ used) > 0


def test_what_several_modules_read_is_summed_up_once(tiny, processor):
    layers = [layer for layer in candidate_layers(tiny, "both") if layer.block == 1]
    got = compute_input_moments(tiny, processor, layers, noise_pairs(5))
    for tower in ("vision", "text"):
        q, k, v, o = (
            got[f"{tower}_model.encoder.layers.1.self_attn.{x}"] for x in ("q_proj", "k_proj", "v_proj", "out_proj")
        )
        assert q is k is v and not torch.equal(q, o)
    names = [f"{tower}_model.encoder.layers.{i}.self_attn.k_proj" for tower in ("vision", "text") for i in (0, 2)]
    some = [layer for layer in candidate_layers(tiny, "both") if layer.name in names]
    alone = compute_input_moments(tiny, processor, some, noise_pairs(5))  # without the module that is usually recorded
    assert sorted(alone) == sorted(names) and len({id(moment) for moment in alone.values()}) == len(names)


def test_moments_equal_a_plain_loop_over_the_layers_inputs(tiny, processor):
    captions = [
        "a three",
        "a",
        "a three",
        "a photo of one in neon style",
        "a three",
    ]  # lengths differ, one occurs thrice
    rows = [{**row, "text": text} for row, text in zip(noise_rows(5), captions)]
    pairs = load_pairs(rows)
    layers = candidate_layers(tiny)
    got = compute_input_moments(tiny, processor, layers, pairs, batch_size=2)
    assert set(got) == {name for layer in layers for name in layer.modules}

    collected = {name: [] for name in got}
    handles = [
        tiny.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: collected[name].append(inputs[0].reshape(-1, inputs[0].shape[-1]).double())
        )
        for name in got
    ]
    with torch.no_grad():
        for pair in pairs:  # one at a time, so nothing is padded
            tiny.get_image_features(processor.image_processor([pair.image], return_tensors="pt")["pixel_values"])
            tiny.get_text_features(**processor.tokenizer([pair.text], return_tensors="pt"))
    for handle in handles:
        handle.remove()
    for name, parts in collected.items():
        rows = torch.cat(parts)
        torch.testing.assert_close(got[name], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)


def test_norms_and_the_papers_direction_keep_the_gradient(tiny):
    layers = candidate_layers(tiny, "text", norms=True)
    gradients = {name: torch.randn_like(tiny.get_submodule(name).weight) for layer in layers for name in layer.modules}
    plain = compute_directions(gradients, layers)
    assert all(torch.equal(plain[name], gradients[name]) for name in gradients)
    moments = {"text_projection": torch.eye(16)}
    mixed = compute_directions(gradients, layers, moments)
    assert torch.equal(mixed["text_model.final_layer_norm"], gradients["text_model.final_layer_norm"])
    torch.testing.assert_close(mixed["text_projection"], gradients["text_projection"] / 1.03)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9))
def test_factors_are_the_best_of_their_rank(out, width, rank):
    matrix = torch.randn(out, width, generator=torch.Generator().manual_seed(out * 10 + width))
    up, down = factorize(matrix, rank)
    assert up.shape == (out, rank) and down.shape == (rank, width)
    left_over = torch.linalg.svdvals(matrix.double())[rank:].square().sum().sqrt()
    assert (matrix - up @ down).norm().item() == pytest.approx(left_over.item(), abs=1e-6)


def of_rank(rank, out, width, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(out, rank, generator=generator) @ torch.randn(rank, width, generator=generator)
    rest = torch.randn(out, width, generator=generator)
    return low + noise * low.norm() / rest.norm() * rest


@pytest.mark.parametrize(
    "noise, rank, changed",
    [(0.0, 3, False), (0.02, 3, True), (0.5, None, False)],
    ids=["few tokens", "almost", "full rank"],
)
def test_the_rank_is_as_low_as_next_to_nothing_is_lost(tiny, noise, rank, changed):
    layers = [layer for layer in candidate_layers(tiny, "text") if layer.name.endswith("mlp.fc1")][:1]
    (name,) = layers[0].modules
    gradient = of_rank(3, 24, 16, noise)
    direction = compute_directions({name: gradient}, layers, rank="auto")[name]
    assert stored_rank("auto", [direction]) == rank
    assert torch.equal(direction, gradient) is not changed
    assert (direction - gradient).norm() <= 0.03 * gradient.norm()


def test_a_layer_is_stored_with_the_largest_rank_of_its_matrices():
    parts = [of_rank(rank, 20, 20, seed=rank) for rank in (1, 4, 2)]
    assert stored_rank("auto", parts) == 4 and stored_rank("auto", [*parts, torch.ones(7)]) == 4
    assert stored_rank("auto", [*parts, of_rank(12, 20, 20)]) is None  # a dense one is smaller
    assert stored_rank("auto", [torch.ones(7)]) is None  # a norm
    assert stored_rank(3, parts) == 3 and stored_rank(None, parts) is None


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_what_is_left_beyond_a_rank_is_what_the_best_factors_leave(out, width, seed):
    matrix = torch.randn(out, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    left = residuals(torch.linalg.svdvals(matrix))
    for rank in range(1, min(out, width) + 1):
        up, down = factorize(matrix, rank)
        assert float(left[rank]) == pytest.approx(float((matrix - up @ down).norm() / matrix.norm()), abs=1e-7)
    assert float(left[0]) == 1.0 and find_rank(matrix, 1.0) == 1


def test_a_direction_of_low_rank_still_ascends(tiny):
    layers = candidate_layers(tiny, "vision")
    gradients = {name: torch.randn_like(tiny.get_submodule(name).weight) for layer in layers for name in layer.modules}
    for name, direction in compute_directions(gradients, layers, rank=2).items():
        assert torch.linalg.matrix_rank(direction.double(), rtol=1e-6) <= 2
        assert (direction * gradients[name]).sum() > 0


def test_pairs_without_repetition_weigh_alike(tiny, processor):
    layers = candidate_layers(tiny, "text")
    once = compute_input_moments(tiny, processor, layers, noise_pairs(len(NAMES)))
    twice = compute_input_moments(tiny, processor, layers, noise_pairs(2 * len(NAMES)))
    for name in once:
        torch.testing.assert_close(once[name], twice[name], rtol=1e-5, atol=1e-6)
