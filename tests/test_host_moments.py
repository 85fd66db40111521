# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What a host's layers read, `E[x xᵀ]`, computed again by a transformer written out by hand, without any hook."""

import pytest
import torch
from conftest import noise_pairs
from tiny_hosts import PIPELINES

from hf_slug import zoo
from hf_slug.encoders import find_encoders
from hf_slug.objectives import AnswerObjective, DenoisingObjective
from hf_slug.towers import candidate_layers


RETAIN = noise_pairs(7, seed=1, names=["one", "two", "a four in neon style"])
FORGET = noise_pairs(2, names=["three"])


def run_by_hand(tower, states, causal, blocks):
    """Runs some blocks of a tower and returns what each of their matrices reads."""
    read = {}
    for i, block in enumerate(tower.encoder.layers[:blocks]):
        normed, attention = block.layer_norm1(states), block.self_attn
        wide = [linear(normed) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        q, k, v = (part.unflatten(-1, (tower.config.num_attention_heads, -1)).transpose(1, 2) for part in wide)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        states = states + attention.out_proj(mixed)
        wide = block.layer_norm2(states)
        active = block.mlp.activation_fn(block.mlp.fc1(wide))
        states = states + block.mlp.fc2(active)
        parts = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), normed)
        parts |= {"self_attn.out_proj": mixed, "mlp.fc1": wide, "mlp.fc2": active}
        read |= {f"encoder.layers.{i}.{name}": value for name, value in parts.items()}
    return read


def moment(rows):
    rows = rows.flatten(0, -2)
    return rows.T @ rows / len(rows)


def check(objective, expected, tower):
    layers = candidate_layers(objective.module, tower)
    layers = [layer for layer in layers if all(objective.encoder.is_live(name) for name in layer.modules)]
    got = objective.input_moments(layers)
    assert set(got) == {name for layer in layers for name in layer.modules}
    for name, rows in expected.items():
        wanted = moment(rows)
        # an entry is a sum in which large terms of either sign may cancel
        atol = 1e-6 * float(wanted.diagonal().max())
        torch.testing.assert_close(got[f"{tower}_model.{name}"], wanted, rtol=1e-5, atol=atol)
    return set(got) - {f"{tower}_model.{name}" for name in expected}


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, component", [("sd1", "text_encoder"), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")]
)
def test_a_text_encoder_reads_every_prompt_padding_and_all(kind, component):
    pipe = PIPELINES[kind]()
    getattr(pipe, component).double()
    (encoder,) = find_encoders(pipe, component)
    ids = pipe.tokenizer(RETAIN.texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    tower = encoder.root
    states = tower.embeddings(ids.input_ids)
    left = check(
        DenoisingObjective(pipe, encoder, FORGET, RETAIN),
        run_by_hand(tower, states, True, encoder.live_blocks),
        "text",
    )
    assert left == ({"text_projection"} if component == "text_encoder_2" else set())


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [3, 32])
def test_a_vision_tower_reads_every_image(batch_size):
    model, processor = zoo.load_llava()
    (encoder,) = find_encoders(model.double())
    pixels = processor.image_processor(RETAIN.images(), return_tensors="pt")["pixel_values"].double()
    tower = encoder.root
    states = tower.pre_layrnorm(tower.embeddings(pixels))
    objective = AnswerObjective(model, processor, encoder, FORGET, RETAIN, ["What?"], batch_size)
    assert not check(objective, run_by_hand(tower, states, False, encoder.live_blocks), "vision")
