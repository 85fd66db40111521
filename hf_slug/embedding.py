# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Embedding a batch with one tower, and running no more of it than the embedding depends on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from .towers import Tower


def tower_inputs(tower: Tower, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Selects what a tower reads from a processor's batch."""
    keys = ("pixel_values",) if tower == "vision" else ("input_ids", "attention_mask")
    return {key: batch[key] for key in keys if key in batch}


def embed(model: nn.Module, tower: Tower, batch: dict[str, torch.Tensor], every_token: bool = False) -> torch.Tensor:
    """
    Embeds a batch with one tower.

    Args:
        model (`CLIPModel`): The model.
        tower (`str`): `"vision"` or `"text"`.
        batch (`dict[str, torch.Tensor]`): A processor's batch.
        every_token (`bool`, *optional*, defaults to `False`):
            Run every token through all of the last vision block, though only the class token's way is read: for who looks at its layers.

    Returns:
        `torch.Tensor`: Unnormalised projections of shape (batch, projection_dim), in the model's dtype.
    """
    run: Any = model.get_image_features if tower == "vision" else model.get_text_features
    with as_written(), only_class_token(model) if tower == "vision" and not every_token else nullcontext():
        features = run(**tower_inputs(tower, batch))
    return features if isinstance(features, torch.Tensor) else features.pooler_output  # a tensor before transformers 5


def as_written() -> AbstractContextManager[Any]:
    """
    Runs modules that were compiled as they are written: compiled code takes no notice of later hooks, and is made anew for every forward. In
    all threads, as torch has it: open it in one at a time.
    """
    # importing what compiles takes seconds; where nobody has, nothing is compiled
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def returning(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Makes a module's forward another one for as long as the context is open."""
    previous = module.__dict__.get("forward")
    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous  # type: ignore[method-assign]


@contextmanager
def only_class_token(model: nn.Module) -> Iterator[None]:
    """
    Lets the last vision block of a `CLIPModel` work out the class token alone, which is all that the pooled embedding reads of it: in the
    block the others are read as keys and values, and what is projected of them and their MLP by nothing: three quarters of its products.

    The block's own forward runs. It is given the class token's row as what is added to, its attention is given all of them, and of what
    the attention has found out the same row is projected. Blocks that something else runs (offloading, replay, checkpointing) are left alone.
    """
    blocks: Any = model.vision_model.encoder.layers if isinstance(model, CLIPModel) else ()
    block = blocks[-1] if len(blocks) else None
    if type(block) is not CLIPEncoderLayer or "forward" in block.__dict__ or block.gradient_checkpointing:
        yield
        return
    whole, normalize = block.forward, block.layer_norm1.forward

    def first(tokens: torch.Tensor) -> torch.Tensor:
        # in one piece, as which products of matrices are taken, and so their last bits, depend on it
        return tokens[:, :1].contiguous()

    def run(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(hidden) == 1:  # nothing to gain, and a product with one row is summed in another order than others
            return whole(hidden, *args, **kwargs)
        with returning(block.layer_norm1, lambda _: normalize(hidden)):
            # before any other hook, so that all see what is projected
            handle = block.self_attn.out_proj.register_forward_pre_hook(lambda _, args: (first(*args),), prepend=True)
            try:
                return whole(first(hidden), *args, **kwargs)
            finally:
                handle.remove()

    with returning(block, run):
        yield
