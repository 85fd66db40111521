# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A small CLIP and what the tests of the tuner ask of it."""

import torch
from transformers import CLIPConfig, CLIPModel

from hf_slug.tuner import SlugConfig, SlugLayer


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TEXT_FC1 = "text_model.encoder.layers.1.mlp.fc1"
VISION_OUT = "vision_model.encoder.layers.2.self_attn.out_proj"
VISION_FC1 = "vision_model.encoder.layers.2.mlp.fc1"
KINDS = {
    "linear": VISION_OUT,
    "projection": "visual_projection",
    "norm": "vision_model.post_layernorm",
    "convolution": "vision_model.embeddings.patch_embedding",
}


def make_clip(dtype=torch.float32):
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 99, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 98}
    config = CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 8}, projection_dim=16
    )
    return CLIPModel(config).eval().to(dtype)


def inputs(dtype=torch.float32):
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    return {"input_ids": torch.tensor([[1, 5, 7, 98], [1, 8, 9, 98]]), "pixel_values": pixels}


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_bits(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def config(*targets, **kwargs):
    return SlugConfig(target_modules=list(targets), **{"init_weights": False, **kwargs})


def slug_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, SlugLayer)}
