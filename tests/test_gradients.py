# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The gradients against slow, plain, float64 references that share no code with them."""

import copy
from functools import partial

import pytest
import torch
from conftest import NAMES, assert_same, make_clip, noise_pairs, snapshot

from hf_slug import contrast, gradients
from hf_slug.data import load_pairs
from hf_slug.errors import GradientError
from hf_slug.gradients import compute_forget_gradients, compute_retain_gradients
from hf_slug.towers import GRANULARITIES, candidate_layers, layer_weights


PROMPTS = ["a photo of three"]


def plain_inputs(processor, pairs):
    pixels = processor.image_processor([pair.image for pair in pairs], return_tensors="pt")["pixel_values"].double()
    # padded to the tower's full length, one row a pair: neither of the shortcuts of the code under test
    tokens = processor.tokenizer(pairs.texts, padding="max_length", max_length=16, return_tensors="pt")
    return pixels, tokens


def plain_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def plain_forget(model, processor, pairs, prompts):
    model = copy.deepcopy(model).double()
    pixels, _ = plain_inputs(processor, pairs)
    images = model.get_image_features(pixel_values=pixels).pooler_output
    total = 0
    for prompt in prompts:
        tokens = processor.tokenizer([prompt] * len(pairs), padding="max_length", max_length=16, return_tensors="pt")
        texts = model.get_text_features(**tokens).pooler_output
        total = total + (1 - torch.cosine_similarity(images, texts)).mean()
    return plain_gradients(model, total / len(prompts))


def plain_retain(model, processor, pairs, batch_size):
    model = copy.deepcopy(model).double()
    pixels, tokens = plain_inputs(processor, pairs)
    total = 0
    for start in range(0, len(pairs), batch_size):
        part = slice(start, start + batch_size)
        output = model(pixel_values=pixels[part], **{k: v[part] for k, v in tokens.items()}, return_loss=True)
        total = total + output.loss * len(pixels[part]) / len(pairs)
    return plain_gradients(model, total)


def assert_close(got, expected, rtol):
    assert got
    for name, gradient in got.items():
        reference = expected[f"{name}.weight"]
        assert (gradient.double() - reference).norm() <= rtol * reference.norm(), name


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("prompts", [PROMPTS, ["a three", "a photo of three", "a drawing of three"]])
def test_forget_gradients_equal_the_plain_ones_at_any_batch_size(tiny, processor, batch_size, prompts):
    pairs = noise_pairs(13, names=["three"])
    layers = candidate_layers(tiny, norms=True)
    got = compute_forget_gradients(tiny, processor, layers, pairs, prompts, batch_size)
    assert set(got) == {name for layer in layers for name in layer.modules}
    assert_close(got, plain_forget(tiny, processor, pairs, prompts), 1e-4)


def test_without_prompts_every_image_is_held_against_its_own_caption(tiny, processor):
    pairs = noise_pairs(11)
    got = compute_forget_gradients(tiny, processor, candidate_layers(tiny), pairs, None, batch_size=4)
    model = copy.deepcopy(tiny).double()
    pixels, tokens = plain_inputs(processor, pairs)
    images = model.get_image_features(pixel_values=pixels).pooler_output
    texts = model.get_text_features(**tokens).pooler_output
    assert_close(got, plain_gradients(model, (1 - torch.cosine_similarity(images, texts)).mean()), 1e-4)


@pytest.mark.parametrize("batch_size", [4, 6, 20])  # 4 leaves a smaller last batch
def test_retain_gradients_equal_the_plain_ones(tiny, processor, batch_size):
    pairs = noise_pairs(18)  # captions repeat within a batch
    got = compute_retain_gradients(tiny, processor, candidate_layers(tiny), pairs, batch_size)
    assert_close(got, plain_retain(tiny, processor, pairs, batch_size), 1e-4)


@pytest.mark.parametrize("tower", ["vision", "text", "both"])
@pytest.mark.parametrize("contrast, batch_size", [(18, 5), (7, 3), (6, 1), (30, 17)])
def test_cached_features_give_the_same_gradient_in_small_batches(tiny, processor, tower, contrast, batch_size):
    pairs, sizes = noise_pairs(18), []
    expected = plain_retain(tiny, processor, pairs, contrast)

    def note(module, args, kwargs):
        if torch.is_grad_enabled():
            sizes.append(len((args or tuple(kwargs.values()))[0]))

    for name in ("vision_model", "text_model"):
        getattr(tiny, name).register_forward_pre_hook(note, with_kwargs=True)
    got = compute_retain_gradients(tiny, processor, candidate_layers(tiny, tower), pairs, contrast, batch_size)
    assert_close(got, expected, 1e-4)
    assert max(sizes) <= batch_size  # as much as is ever in a graph


@pytest.mark.parametrize("tower", ["text", "both"])
@pytest.mark.parametrize("most", [1, 4, 5])
def test_a_caption_of_many_groups_is_not_run_with_each_however_many_are_held(
    tiny, processor, monkeypatch, tower, most
):
    monkeypatch.setattr(contrast, "_MOST_TEXTS", most)
    pairs, run = noise_pairs(18), []
    assert len(set(pairs.texts)) < len(pairs) / 2
    expected = plain_retain(tiny, processor, pairs, 4)

    def note(module, args, kwargs):
        if torch.is_grad_enabled():
            run.append(len((args or tuple(kwargs.values()))[0]))

    tiny.text_model.register_forward_pre_hook(note, with_kwargs=True)
    got = compute_retain_gradients(tiny, processor, candidate_layers(tiny, tower), pairs, 4)
    assert_close(got, expected, 1e-4)
    assert max(run) <= 4  # no more in a graph than images
    if most == 5:  # alone, where it is met first, and once for all other groups
        assert sum(run) == len(set(pairs.texts)) * (2 if tower == "text" else 1)
    else:
        assert sum(run) > len(set(pairs.texts))


@pytest.mark.parametrize("most", [3, 5, 1024])
def test_captions_that_all_differ_are_run_once_where_nothing_else_is_in_a_graph(tiny, processor, monkeypatch, most):
    rows = [{"image": pair.image, "text": f"{i} {pair.text}"} for i, pair in enumerate(noise_pairs(18))]
    pairs, run = load_pairs([*rows, *rows[:2]]), []
    expected = plain_retain(tiny, processor, pairs, 4)
    monkeypatch.setattr(contrast, "CaptionEmbedder", partial(contrast.CaptionEmbedder, most=most))

    def note(module, args, kwargs):
        run.append((torch.is_grad_enabled(), len((args or tuple(kwargs.values()))[0])))

    tiny.text_model.register_forward_pre_hook(note, with_kwargs=True)
    got = compute_retain_gradients(tiny, processor, candidate_layers(tiny, "text"), pairs, 4)
    assert_close(got, expected, 1e-4)
    assert all(graph for graph, _ in run) and sum(count for _, count in run) == 20


def test_each_tower_has_a_scale_of_its_own_in_float16(processor, monkeypatch):
    half = make_clip(dtype=torch.float16)
    with torch.no_grad():
        half.text_model.final_layer_norm.weight.mul_(100)  # what the projection reads is its gradient: that overflows
    kept = []
    plain = gradients.GradientMean

    def keep(weights):
        kept.append(plain(weights))
        return kept[-1]

    monkeypatch.setattr(gradients, "GradientMean", keep)
    pairs, layers = noise_pairs(12), candidate_layers(half)
    got = compute_retain_gradients(half, processor, layers, pairs, 4)
    scales = {next(iter(mean.weights)).split("_")[0]: mean.scale for mean in kept}
    assert scales["text"] < scales["vision"] == 2.0**12
    assert_close(got, plain_retain(half, processor, pairs, 4), 0.05)


def test_a_caption_that_is_everywhere_does_not_overflow_float16(processor, monkeypatch):
    half, pairs = make_clip(dtype=torch.float16), noise_pairs(16)
    layers = candidate_layers(half, "text")
    expected = compute_retain_gradients(half, processor, layers, pairs, 8)
    loss = contrast.retain_loss
    monkeypatch.setattr(contrast, "retain_loss", lambda *given: 1e6 * loss(*given))  # as of a million groups
    got = compute_retain_gradients(half, processor, layers, pairs, 8)
    for name, gradient in expected.items():
        assert gradient.norm() > 0 and (got[name] / 1e6 - gradient).norm() <= 0.02 * gradient.norm(), name


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-10), (torch.bfloat16, 0.05), (torch.float16, 0.02)])
def test_cached_features_in_other_dtypes(processor, dtype, rtol):
    model, pairs = make_clip().to(dtype), noise_pairs(18)
    layers = candidate_layers(model)
    whole, parts = (compute_retain_gradients(model, processor, layers, pairs, 18, size) for size in (18, 5))
    for name, gradient in whole.items():
        assert (parts[name] - gradient).norm() <= rtol * gradient.norm(), name


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_one_tower_gets_the_same_gradients_alone(tiny, processor, tower):
    forget, retain = noise_pairs(6, names=["three"]), noise_pairs(12)
    both, alone = candidate_layers(tiny), candidate_layers(tiny, tower)
    for compute, pairs, more in (
        (compute_forget_gradients, forget, (PROMPTS,)),
        (compute_retain_gradients, retain, ()),
    ):
        together, single = compute(tiny, processor, both, pairs, *more), compute(tiny, processor, alone, pairs, *more)
        assert set(single) == {name for layer in alone for name in layer.modules}
        for name in single:
            torch.testing.assert_close(single[name], together[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_small_step_along_the_gradient_raises_the_forget_loss_by_its_squared_norm(processor, granularity):
    """`L(W + ε∇) - L(W) = ε‖∇‖² + O(ε²)`, for every kind of candidate: the sign that the paper leaves open."""
    model = make_clip(dtype=torch.float64)
    pairs = noise_pairs(5, names=["three"])
    pixels, _ = plain_inputs(processor, pairs)
    tokens = processor.tokenizer(PROMPTS, return_tensors="pt")

    @torch.no_grad()
    def loss():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        return (1 - torch.cosine_similarity(images, model.get_text_features(**tokens).pooler_output)).mean().item()

    layers = candidate_layers(model, granularity=granularity, norms=True)
    gradients = compute_forget_gradients(model, processor, layers, pairs, PROMPTS)
    before = loss()
    for layer in layers:
        squared = sum(gradients[name].double().square().sum().item() for name in layer.modules)
        assert squared > 0, layer.name
        epsilon = 1e-5 / squared**0.5
        weights = {name: model.get_submodule(name).weight for name in layer.modules}
        original = {name: weight.data.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.data += epsilon * gradients[name]
        assert loss() - before == pytest.approx(epsilon * squared, rel=2e-2), layer.name
        for name, weight in weights.items():
            weight.data = original[name]


@pytest.mark.parametrize("dtype, rtol", [(torch.bfloat16, 0.12), (torch.float16, 0.02)])
def test_half_precision_gradients_are_float32_and_close(processor, dtype, rtol):
    pairs = noise_pairs(9, names=["three"])
    half = make_clip(dtype=dtype)
    exact = plain_forget(half, processor, pairs, PROMPTS)
    got = compute_forget_gradients(half, processor, candidate_layers(half), pairs, PROMPTS, 4)
    assert all(gradient.dtype == torch.float32 for gradient in got.values())
    assert_close(got, exact, rtol)


def test_float16_gradients_below_its_smallest_number_survive(processor):
    """A cosine of thousands of images has gradients that float16 would flush to zero without the scaled loss."""
    half = make_clip(dtype=torch.float16)
    with torch.no_grad():
        half.visual_projection.weight.mul_(300)  # gradients shrink as weights grow
    pairs = noise_pairs(3, names=["three"])
    got = compute_forget_gradients(half, processor, candidate_layers(half, "vision"), pairs, PROMPTS)
    assert_close({"visual_projection": got["visual_projection"]}, plain_forget(half, processor, pairs, PROMPTS), 0.05)


def test_one_tower_at_a_time_is_in_a_graph(tiny, processor, monkeypatch):
    pairs = noise_pairs(6)
    by_tower = {
        tower: [w for layer in candidate_layers(tiny, tower) for w in layer_weights(tiny, layer).values()]
        for tower in ("vision", "text")
    }
    reached = []
    plain = torch.autograd.grad

    def grad(loss, weights, **settings):
        found = {
            tower: any(part is not None for part in plain(loss, own, retain_graph=True, allow_unused=True))
            for tower, own in by_tower.items()
        }
        reached.append([tower for tower, has in found.items() if has])
        return plain(loss, weights, **settings)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    compute_retain_gradients(tiny, processor, candidate_layers(tiny), pairs, 3)
    # of two groups, after each how the captions' embeddings should move; at the end the five captions, three at a time
    assert reached == [["vision"], []] * 2 + [["text"]] * 2


def test_gradients_do_not_pile_up_in_a_backward_pass(tiny, processor, monkeypatch):
    held = []
    plain = torch.autograd.grad

    def grad(*args, **settings):
        parts = plain(*args, **settings)
        held.extend(part.untyped_storage().nbytes() for part in parts if part is not None)
        return parts

    monkeypatch.setattr(torch.autograd, "grad", grad)
    found = compute_forget_gradients(tiny, processor, candidate_layers(tiny), noise_pairs(3), PROMPTS)
    assert len(held) == len(found) and max(held) == 4  # a number each, not a matrix
    assert all(bool(gradient.any()) for gradient in found.values())


def test_the_model_is_left_as_it_was(tiny, processor):
    tiny.train()
    tiny.visual_projection.weight.requires_grad_(False)
    tiny.logit_scale.grad = torch.ones(())
    flags, before = {n: p.requires_grad for n, p in tiny.named_parameters()}, snapshot(tiny)
    layers = candidate_layers(tiny)
    first = compute_retain_gradients(tiny, processor, layers, noise_pairs(8), 4)
    compute_forget_gradients(tiny, processor, layers, noise_pairs(3, names=["three"]), PROMPTS)
    again = compute_retain_gradients(tiny, processor, layers, noise_pairs(8), 4)
    assert {n: p.requires_grad for n, p in tiny.named_parameters()} == flags
    assert tiny.training and tiny.vision_model.training
    assert [n for n, p in tiny.named_parameters() if p.grad is not None] == ["logit_scale"]
    assert tiny.logit_scale.grad == 1
    assert_same(tiny, before)
    assert all(torch.equal(first[name], again[name]) for name in first)  # nothing leaks from one set into the next


def test_a_gradient_that_is_not_finite_is_an_error_and_restores_the_model(tiny, processor):
    with torch.no_grad():
        tiny.vision_model.post_layernorm.weight[0] = float("nan")
    flags = {n: p.requires_grad for n, p in tiny.named_parameters()}
    with pytest.raises(GradientError, match="not finite"):
        compute_forget_gradients(tiny, processor, candidate_layers(tiny), noise_pairs(3, names=[NAMES[3]]), PROMPTS)
    assert {n: p.requires_grad for n, p in tiny.named_parameters()} == flags


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_gradient_checkpointing_is_honoured_in_eval_mode(tiny, processor, tower):
    layers, pairs, runs = candidate_layers(tiny, tower), noise_pairs(6, names=["three"]), []
    block = getattr(tiny, f"{tower}_model").encoder.layers[0].mlp
    block.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    expected = compute_forget_gradients(tiny, processor, layers, pairs, PROMPTS)
    once = len(runs)
    tiny.gradient_checkpointing_enable()
    got = compute_forget_gradients(tiny, processor, layers, pairs, PROMPTS)
    assert len(runs) - once > once  # again in the backward pass
    assert not any(module.training for module in tiny.modules())
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])
