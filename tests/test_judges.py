# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What judges say, against the model's own classification."""

import pytest
import torch
from conftest import assert_same, noise_rows, snapshot

from hf_slug import ClassifierJudge, ZeroShotJudge, zoo
from hf_slug.zoo.data import DIGITS, STYLES, load_pairs


IMAGES = [row["image"] for row in noise_rows(5)] + [row["image"] for row in load_pairs("test", limit_per_digit=1)[:20]]


@pytest.fixture(scope="module")
def classifier():
    return zoo.load_judge()


def plain_labels(classifier, image):
    """The labels of one picture, best first."""
    model, processor = classifier
    with torch.no_grad():
        logits = model(processor([image], return_tensors="pt")["pixel_values"]).logits[0]
    return [model.config.id2label[i] for i in logits.argsort(descending=True).tolist()]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_each_kind_has_a_winner_of_its_own(classifier, batch_size):
    kinds = [list(DIGITS), list(STYLES), ["ink", "seven"]]
    found = ClassifierJudge(*classifier, kinds, batch_size)(IMAGES)
    for image, names in zip(IMAGES, found):
        order = plain_labels(classifier, image)
        assert names == tuple(min(kind, key=order.index) for kind in kinds)


def test_without_kinds_all_labels_are_one(classifier):
    found = ClassifierJudge(*classifier)(IMAGES)
    assert found == [(plain_labels(classifier, image)[0],) for image in IMAGES]
    assert ClassifierJudge(*classifier)([]) == []


def test_a_name_that_is_no_label_is_refused(classifier):
    with pytest.raises(ValueError, match="no label 'mickey'.*Found: zero, one"):
        ClassifierJudge(*classifier, [["seven", "mickey"]])


def test_judging_is_done_in_eval_mode_and_leaves_no_trace(classifier):
    model, processor = classifier
    expected = ClassifierJudge(model, processor)(IMAGES)
    before = snapshot(model)
    model.train()  # batch norms would judge each picture by its neighbours, and remember it
    try:
        assert ClassifierJudge(model, processor)(IMAGES) == expected
        assert_same(model, before)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()


@torch.no_grad()
def plain_nearest(clip, image, names, templates):
    model, processor = clip
    seen = model.get_image_features(**processor(images=[image], return_tensors="pt")).pooler_output[0].double()
    scores = {}
    for name in names:
        tokens = processor.tokenizer(
            [template.format(name) for template in templates], padding=True, return_tensors="pt"
        )
        said = model.get_text_features(**tokens).pooler_output.double()
        scores[name] = torch.cosine_similarity(seen, (said / said.norm(dim=1, keepdim=True)).mean(0), dim=0)
    return max(scores, key=scores.get)


@pytest.mark.parametrize("templates", ["a {}", ("a photo of {}", "a {}", "the digit {}")])
def test_the_zero_shot_judge_takes_the_nearest_name(templates):
    clip = zoo.load_clip()
    kinds = [list(DIGITS), ["two", "seven"]]
    found = ZeroShotJudge(*clip, kinds, templates, batch_size=4)(IMAGES[:12])
    spoken = [templates] if isinstance(templates, str) else templates
    assert found == [tuple(plain_nearest(clip, image, kind, spoken) for kind in kinds) for image in IMAGES[:12]]


def test_the_zero_shot_judge_knows_what_names_meant_when_it_was_made():
    model, processor = zoo.load_clip()
    judge = ZeroShotJudge(model, processor, [list(DIGITS)], "a {}")
    expected = judge(IMAGES)
    digits = [row["digit"] for row in load_pairs("test", limit_per_digit=1)[:20]]
    assert sum(names == (digit,) for names, digit in zip(expected[5:], digits)) >= 18
    model.text_model.requires_grad_(False)
    for parameter in model.text_model.parameters():
        parameter.zero_()
    model.train()
    assert judge(IMAGES) == expected and model.training
