# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from hf_slug.losses import forget_loss, retain_loss


def plain_cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_forget_loss_is_one_minus_the_mean_cosine():
    torch.manual_seed(0)
    images, texts = torch.randn(5, 7), torch.randn(5, 7)
    expected = sum(1 - plain_cosine(v, t) for v, t in zip(images.tolist(), texts.tolist())) / 5
    assert forget_loss(images, texts).item() == pytest.approx(expected, rel=1e-6)
    assert forget_loss(images, texts[:1]).item() == pytest.approx(
        sum(1 - plain_cosine(v, texts[0].tolist()) for v in images.tolist()) / 5, rel=1e-6
    )


def test_retain_loss_is_clips_symmetric_cross_entropy():
    torch.manual_seed(0)
    images, texts, scale = torch.randn(4, 6), torch.randn(4, 6), torch.tensor(1.3)
    logits = [[math.exp(1.3) * plain_cosine(v, t) for t in texts.tolist()] for v in images.tolist()]
    rows = sum(math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(logits)) / 4
    columns = list(zip(*logits))
    down = sum(math.log(sum(map(math.exp, column))) - column[i] for i, column in enumerate(columns)) / 4
    assert retain_loss(images, texts, scale).item() == pytest.approx((rows + down) / 2, rel=1e-6)


def test_retain_loss_equals_transformers(tiny):
    torch.manual_seed(0)
    batch = {
        "pixel_values": torch.randn(3, 3, 32, 32),
        "input_ids": torch.tensor([[642, 5, 643], [642, 9, 643], [642, 11, 643]]),
    }
    output = tiny(**batch, return_loss=True)
    assert retain_loss(output.image_embeds, output.text_embeds, tiny.logit_scale).item() == pytest.approx(
        output.loss.item(), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_taken_in_float64(dtype):
    torch.manual_seed(0)
    images, texts = torch.randn(4, 6).to(dtype), torch.randn(4, 6).to(dtype)
    assert forget_loss(images, texts).dtype == torch.float64
    assert forget_loss(images, texts).item() == forget_loss(images.double(), texts.double()).item()
    assert retain_loss(images, texts, torch.tensor(2.0, dtype=dtype)).dtype == torch.float64
