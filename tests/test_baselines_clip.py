# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The methods that SLUG is compared with on a CLIP, each against its paper's equation."""

import pytest
import torch
from baselines.clip import ClipLosses, alternate, ascend, dampen, fine_tune, fisher, salun
from conftest import make_clip, noise_pairs, snapshot

from hf_slug.losses import forget_loss, retain_loss


LR = 1e-3


def make_losses(processor, retain=3, batch_size=8):
    model = make_clip().eval()
    pairs = noise_pairs(retain, seed=2, names=["a", "b", "c"])
    return ClipLosses(model, processor, noise_pairs(3, seed=1), pairs, "a photo of x", batch_size)


def plain(losses):
    """Both losses over everything at once, by transformers' own forward; names to gradients."""
    model, tokenize = losses.model, losses.processor.tokenizer

    def said(texts):
        return model.get_text_features(**tokenize(texts, padding=True, return_tensors="pt")).pooler_output

    def seen(pixels):
        return model.get_image_features(pixel_values=pixels).pooler_output

    forget = forget_loss(seen(losses.forget_pixels), said(["a photo of x"]))
    retain = retain_loss(seen(losses.retain_pixels), said(losses.texts), model.logit_scale)
    return [losses.gradients(loss) for loss in (forget, retain)]


def adam(weight, gradient):
    """The first step of Adam (Kingma & Ba 2015, algorithm 1): both of its means are the gradient itself."""
    return weight - LR * gradient / (gradient.abs() + 1e-8)


def assert_close(model, expected, gradients):
    for name, value in model.named_parameters():
        if name in expected:  # where a gradient is rounding noise, its sign is, too
            sure = gradients[name].abs() > 1e-5
            torch.testing.assert_close(value[sure], expected[name][sure], rtol=0, atol=LR / 50)


def test_every_batch_to_keep_has_one_photograph_of_every_caption(processor):
    losses, seen = make_losses(processor, retain=7), []
    look = losses._see
    losses._see = lambda pixels: seen.append(pixels) or look(pixels)
    assert len(list(losses.retain_batches())) == 3  # the commonest of the captions has three photographs
    rows = [
        [next(i for i, p in enumerate(losses.retain_pixels) if torch.equal(p, one)) for one in part] for part in seen
    ]
    assert all([i % 3 for i in part] == [0, 1, 2] for part in rows)
    assert {i for part in rows for i in part} == set(range(7))  # none is left out


def test_ft_descends_what_is_kept(processor):
    losses = make_losses(processor)
    retain = plain(losses)[1]
    expected = {name: adam(weight.detach().clone(), retain[name]) for name, weight in losses.weights.items()}
    assert list(fine_tune(losses, LR, steps=1)) == [1]
    assert_close(losses.model, expected, retain)


def test_ga_ascends_what_is_forgotten(processor):
    losses = make_losses(processor)
    forget = plain(losses)[0]
    expected = {name: adam(weight.detach().clone(), -forget[name]) for name, weight in losses.weights.items()}
    before = sum(float(loss.detach()) for loss in losses.forget_batches())
    assert list(ascend(losses, LR, steps=1)) == [1]
    assert_close(losses.model, expected, forget)
    assert sum(float(loss.detach()) for loss in losses.forget_batches()) > before


@pytest.mark.parametrize("ratio", [1, 2])
def test_gaft_does_both_by_turns(processor, ratio):
    losses, other = make_losses(processor), make_losses(processor)
    optimizer = torch.optim.AdamW(other.weights.values(), lr=LR, weight_decay=0.0)
    for kept in [*[True] * ratio, False] * 2:  # two steps
        gradients = plain(other)[1 if kept else 0]
        for name, weight in other.weights.items():
            weight.grad = gradients[name] * (1 if kept else -1)
        optimizer.step()
    assert list(alternate(losses, LR, steps=2, ratio=ratio)) == [1, 2]
    expected = {name: weight.detach() for name, weight in other.weights.items()}
    assert_close(losses.model, expected, plain(make_losses(processor))[0])


def test_a_small_set_is_seen_as_often_as_a_large_one(processor):
    model, seen = make_clip().eval(), []
    pairs = noise_pairs(9, seed=2, names=["a", "b", "c"])
    losses = ClipLosses(model, processor, noise_pairs(5, seed=1), pairs, "a photo of x", batch_size=2)
    look = losses._see
    losses._see = lambda pixels: seen.append(len(pixels)) or look(pixels)
    assert list(alternate(losses, LR, steps=7, every=3)) == [3, 6]  # looked at where it was asked for
    assert seen == [3, 2, 3, 2, 3, 1, 3, 2, 3, 2, 3, 1, 3, 2]
    seen.clear()
    assert len(list(losses.retain_batches(size=2))) == 6 and seen == [2, 1] * 3  # SSD's: as small as those to forget


def test_the_temperature_is_left_alone(processor):
    losses = make_losses(processor)
    scale = losses.model.logit_scale.detach().clone()
    list(alternate(losses, LR, steps=1))
    assert torch.equal(losses.model.logit_scale, scale)


def test_salun_changes_the_salient_half_and_nothing_else(processor):
    losses = make_losses(processor)
    forget = plain(losses)[0]
    median = torch.cat([gradient.abs().flatten() for gradient in forget.values()]).median()
    mask = {name: gradient.abs() >= median for name, gradient in forget.items()}
    before = snapshot(losses.model)
    list(salun(losses, LR, steps=2))
    moved = {name: weight != before[name] for name, weight in losses.weights.items()}
    for name, gradient in forget.items():
        near = (gradient.abs() - median).abs() < 1e-9  # rounding decides there
        assert not bool((moved[name] & ~mask[name] & ~near).any())
    share = sum(int(m.sum()) for m in moved.values()) / sum(m.numel() for m in moved.values())
    assert 0.4 < share <= 0.5


def test_fisher_is_the_mean_square_over_batches(processor):
    losses = make_losses(processor, batch_size=1)
    model, texts = losses.model, losses.processor.tokenizer(["a photo of x"], return_tensors="pt")
    squares = []
    for pixels in losses.forget_pixels:
        loss = forget_loss(
            model.get_image_features(pixel_values=pixels[None]).pooler_output,
            model.get_text_features(**texts).pooler_output,
        )
        squares.append({name: gradient**2 for name, gradient in losses.gradients(loss).items()})
    for name, found in fisher(losses, losses.forget_batches()).items():
        torch.testing.assert_close(found, sum(each[name] for each in squares) / 3, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_ssd_dampens_what_matters_more_to_the_concept(processor, limit):
    losses = make_losses(processor)
    generator = torch.Generator().manual_seed(0)
    forget, retain = (
        {n: torch.rand(w.shape, generator=generator) for n, w in losses.weights.items()} for _ in range(2)
    )
    before = snapshot(losses.model)
    dampen(losses, forget, retain, alpha=2.0, limit=limit)
    for name, weight in losses.weights.items():
        for at in [(0,) * weight.ndim, tuple(size - 1 for size in weight.shape), tuple(s // 2 for s in weight.shape)]:
            f, r, old = float(forget[name][at]), float(retain[name][at]), float(before[name][at])
            expected = old * min(limit * r / f, 1.0) if f > 2 * r else old
            assert float(weight.detach()[at]) == pytest.approx(expected, rel=1e-5)
        kept = forget[name] <= 2 * retain[name]
        assert torch.equal(weight[kept], before[name][kept]) and not bool(kept.all() and weight.numel() > 50)


def test_ssd_leaves_weights_that_nothing_is_given_for(processor):
    losses = make_losses(processor)
    importance = {n: torch.full_like(w, 2.0) for n, w in losses.weights.items() if ".embeddings." not in n}
    before = snapshot(losses.model)
    dampen(losses, importance, {n: w / 4 for n, w in importance.items()}, alpha=2.0)
    for name, weight in losses.weights.items():
        assert torch.equal(weight, before[name] * (0.25 if name in importance else 1.0))
    assert 0 < len(importance) < len(losses.weights)


def test_a_weight_that_neither_set_needs_stays(processor):
    losses = make_losses(processor)
    nothing = {name: torch.zeros_like(weight) for name, weight in losses.weights.items()}
    before = snapshot(losses.model)
    dampen(losses, nothing, nothing, alpha=1.0)
    assert all(torch.equal(value, before[name]) for name, value in losses.model.state_dict().items())
