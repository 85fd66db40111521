# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The answer objective against a plain reference, one answer at a time without any padding, and finite differences."""

import pytest
import torch
from accelerate import cpu_offload
from conftest import assert_same, noise_pairs, snapshot
from tiny_hosts import make_clip, make_llava

from hf_slug import zoo
from hf_slug.data import load_pairs
from hf_slug.encoders import find_encoders
from hf_slug.errors import UnsupportedModelError
from hf_slug.objectives import AnswerObjective, host_objective
from hf_slug.towers import candidate_layers


# of different lengths, so that a batch is padded
QUESTIONS = ["Which digit is written here?", "Digit?", "Please name the digit in this image."]
FORGET = noise_pairs(4, names=["seven"])
RETAIN = noise_pairs(5, seed=1, names=["one", "two", "a four in neon style"])


@pytest.fixture(scope="module")
def llava():
    model, processor = zoo.load_llava()
    return model.double(), processor


def objective_of(llava, questions=QUESTIONS, batch_size=32, forget=FORGET, retain=RETAIN):
    (encoder,) = find_encoders(llava[0])
    return AnswerObjective(*llava, encoder, forget, retain, questions, batch_size)


def live_layers(objective):
    layers = candidate_layers(objective.module, "vision")
    return [layer for layer in layers if all(objective.encoder.is_live(name) for name in layer.modules)]


def plain_loss(llava, pairs, questions=QUESTIONS):
    """`−log p` of every token of the answer and of the end, each read off a run of its own; Llama's norms are in float32."""
    model, processor = llava
    losses = []
    for i, pair in enumerate(pairs):
        pixels = processor.image_processor([pair.image], return_tensors="pt")["pixel_values"].double()
        patches = "<image>" * ((32 // processor.patch_size) ** 2)
        prompt = f"USER: {patches}\n{questions[i % len(questions)]} ASSISTANT:"
        asked = processor.tokenizer(prompt).input_ids
        answer = processor.tokenizer(f"{prompt} {pair.name}").input_ids[len(asked) :]
        answer.append(processor.tokenizer.eos_token_id)
        surprise = []
        for k, token in enumerate(answer):
            ids = torch.tensor([asked + answer[:k]])
            logits = model(input_ids=ids, pixel_values=pixels).logits[0, -1].double()
            surprise.append(logits.logsumexp(0) - logits[token])
        losses.append(torch.stack(surprise).mean())
    return torch.stack(losses).mean()


def total(objective, pairs):
    with torch.no_grad():
        return sum(float(loss) * share for loss, share in objective.losses(pairs, "test"))


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_loss_is_that_of_every_answer_alone_at_any_batch_size(llava, batch_size):
    objective = objective_of(llava, batch_size=batch_size)
    for pairs in (FORGET, RETAIN):
        assert total(objective, pairs) == pytest.approx(plain_loss(llava, pairs).item(), rel=1e-5)


def test_pairs_take_the_questions_in_turn(llava):
    first, second = (
        [total(objective_of(llava, order), FORGET) for _ in "ab"] for order in (QUESTIONS, QUESTIONS[::-1])
    )
    assert first[0] == first[1] and first[0] != pytest.approx(second[0], rel=1e-4)
    assert second[0] == pytest.approx(plain_loss(llava, FORGET, QUESTIONS[::-1]).item(), rel=1e-5)


def test_a_pair_without_a_name_is_answered_by_its_text(llava):
    rows = [(pair.image, "a seven in neon style") for pair in FORGET]
    named = load_pairs([(*row, row[1]) for row in rows])
    assert total(objective_of(llava), load_pairs(rows)) == total(objective_of(llava), named)


def test_the_gradients_are_those_of_the_plain_loss_for_every_live_weight(llava):
    objective = objective_of(llava, batch_size=3)
    layers = live_layers(objective)
    blocks = {layer.block for layer in layers}
    assert blocks == set(range(llava[0].config.vision_config.num_hidden_layers - 1))  # the last is not read
    for got, pairs in ((objective.forget_gradients(layers), FORGET), (objective.retain_gradients(layers), RETAIN)):
        weights = {name: objective.encoder.resolve([name])[name].weight for name in got}
        expected = torch.autograd.grad(plain_loss(llava, pairs), list(weights.values()))
        for (name, gradient), reference in zip(got.items(), expected):
            assert reference.norm() > 0 and (gradient - reference).norm() <= 5e-5 * reference.norm(), name


def test_a_gradient_says_how_the_loss_changes_along_a_random_direction(llava):
    objective = objective_of(llava)
    layer = next(layer for layer in live_layers(objective) if layer.name.endswith("layers.1.self_attn.v_proj"))
    gradient = objective.forget_gradients([layer])[layer.name]
    weight = objective.encoder.resolve([layer.name])[layer.name].weight.data
    original = weight.clone()
    random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for direction in (random, gradient):
        step, losses = 1e-4 * weight.norm() / direction.norm(), []
        for sign in (1, -1):
            weight.copy_(original + sign * step * direction)
            with torch.no_grad():
                losses.append(plain_loss(llava, FORGET))
        weight.copy_(original)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-3)
    assert losses[0] > losses[1]  # a step along the gradient raises the forget loss


def test_everything_is_left_as_it_was(llava):
    model, _ = llava
    model.train()
    model.lm_head.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before, objective = snapshot(model), objective_of(llava)
    layers = live_layers(objective)
    first = objective.retain_gradients(layers)
    objective.forget_gradients(layers)
    objective.input_moments(layers)
    again = objective.retain_gradients(layers)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert_same(model, before)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()


def test_what_has_no_answers_is_refused(llava):
    (encoder,) = find_encoders(llava[0])
    with pytest.raises(ValueError, match="no question"):
        objective_of(llava, [])
    with pytest.raises(ValueError, match="LlavaForConditionalGeneration needs its processor.*host_processor"):
        host_objective(make_llava("Llava"), encoder, FORGET, RETAIN)
    clip = make_clip()
    with pytest.raises(UnsupportedModelError, match="CLIPModel has no loss of its own.*objective='clip'"):
        host_objective(clip, find_encoders(clip)[0], FORGET, RETAIN, processor=llava[1])
    made = host_objective(*llava[:1], encoder, FORGET, RETAIN, processor=llava[1], questions=QUESTIONS)
    assert isinstance(made, AnswerObjective) and made.questions == QUESTIONS


def test_a_host_whose_language_model_is_offloaded_gives_the_same_gradients(llava):
    layers = live_layers(objective_of(llava))
    expected = objective_of(llava).forget_gradients(layers)
    model, processor = zoo.load_llava()
    model.double()
    for part in (model.model.language_model, model.lm_head):
        cpu_offload(part, execution_device="cpu")
    assert model.lm_head.weight.is_meta
    got = objective_of((model, processor)).forget_gradients(layers)
    assert model.lm_head.weight.is_meta  # as it was
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)
