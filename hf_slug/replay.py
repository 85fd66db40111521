# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Running only what lies above a changed layer: what lies below it is recorded once and played back.

The model's own forward runs in both cases, so masks, pooling and projection are never written a second time: while playing
back, the modules below the layer are made to return what they returned before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .embedding import embed, returning
from .towers import PROJECTION, Layer, Tower, layer_weights, resolve_modules


@contextmanager
def changed_weights(model: nn.Module, layer: Layer, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Puts other values into a layer's weights, and the original tensors back on the way out, whatever happens."""
    live = layer_weights(model, layer)
    originals = {name: parameter.data for name, parameter in live.items()}
    try:
        for name, parameter in live.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in live.items():
            parameter.data = originals[name]


@dataclass
class Recording:
    """What a layer needs to be run again for one batch: the inputs of its block and what lies below it within the block."""

    inputs: dict[str, torch.Tensor]
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    in_tuples: bool = False  # transformers 4 wraps a block's output in a tuple

    def on_host(self) -> "Recording":
        """The same in memory that a GPU reads directly."""
        return replace(self, kept={key: tensor.cpu().pin_memory() for key, tensor in self.kept.items()})


class _Parts:
    """The live modules around a layer."""

    def __init__(self, model: nn.Module, layer: Layer):
        self.tower: Tower = layer.tower
        root = f"{layer.tower}_model"
        found = resolve_modules(model, [root + ".encoder", root + ".embeddings", root + ".pre_layrnorm"])
        encoder = model.get_submodule(found[root + ".encoder"])
        self.root = model.get_submodule(found[root + ".encoder"].rpartition(".")[0])
        self.blocks: nn.ModuleList = encoder.layers  # type: ignore[assignment]
        self.embeddings = model.get_submodule(found[root + ".embeddings"])
        before = found.get(root + ".pre_layrnorm")
        self.before_blocks = None if before is None else model.get_submodule(before)
        self.is_projection = layer.name == PROJECTION[layer.tower]
        first = layer.modules[0].rpartition(".")[2]
        # how much of the block lies below its first changed module
        self.skips_attention = first in ("fc1", "fc2", "layer_norm2")
        self.inner = {"out_proj": "self_attn", "fc2": "mlp"}.get(first)
        self.inner_name = first


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    return args[0] if args else next(iter(kwargs.values()))


@torch.no_grad()
def record_below(
    model: nn.Module, layers: Sequence[Layer], batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, list[Recording]]:
    """
    Embeds a batch at the original weights and keeps what each of some layers of one tower needs to be run again.

    Args:
        model (`CLIPModel`): The model.
        layers (`Sequence[Layer]`): Layers of one tower (at least one).
        batch (`dict[str, torch.Tensor]`): Inputs of that tower.

    Returns:
        `tuple[torch.Tensor, list[Recording]]`: Embeddings (n, d) and one recording a layer.
    """
    recordings, handles = [], []
    # the text tower reads its ids for pooling, too; pixels are not needed above the first block
    inputs = batch if layers[0].tower == "text" else {"pixel_values": batch["pixel_values"][:0]}

    def keep_input(module: nn.Module, recording: Recording, key: str) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recording.kept[key] = _first(args, kwargs)

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def keep_output(module: nn.Module, recording: Recording, key: str) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            recording.kept[key] = output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(hook))

    def note_tuples(module: nn.Module, recording: Recording) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            recording.in_tuples = isinstance(output, tuple)

        handles.append(module.register_forward_hook(hook))

    try:
        for layer in layers:
            parts, recording = _Parts(model, layer), Recording(inputs)
            recordings.append(recording)
            if parts.is_projection:
                keep_input(model.get_submodule(resolve_modules(model, [layer.name])[layer.name]), recording, "pooled")
                continue
            if layer.block == len(parts.blocks):  # the tower's last norm: everything above the blocks
                keep_output(parts.blocks[-1], recording, "block")
                note_tuples(parts.blocks[-1], recording)
                continue
            block = parts.blocks[layer.block]
            keep_input(block, recording, "block")
            note_tuples(block, recording)
            if parts.skips_attention:
                keep_output(block.get_submodule("self_attn"), recording, "attention")
            if parts.inner is not None:
                keep_input(getattr(getattr(block, parts.inner), parts.inner_name), recording, "inner")
        return embed(model, layers[0].tower, batch), recordings
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_above(model: nn.Module, layer: Layer, recording: Recording) -> torch.Tensor:
    """
    Embeds a recorded batch again, running the layer and what lies above it.

    Args:
        model (`CLIPModel`): The model, its layer changed or not.
        layer (`Layer`): The layer the recording was made for.
        recording (`Recording`): One of those [`record_below`] returned.

    Returns:
        `torch.Tensor`: Embeddings (n, d), equal to those of a full forward pass.
    """
    parts = _Parts(model, layer)
    device = next(model.parameters()).device
    # of any type: some versions of transformers want a FloatTensor here, others a Tensor
    kept: dict[str, Any] = {key: tensor.to(device, non_blocking=True) for key, tensor in recording.kept.items()}

    def passing(hidden: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden,) if recording.in_tuples else hidden

    with ExitStack() as stack:

        def play(module: nn.Module, forward: Callable[..., Any]) -> None:
            stack.enter_context(returning(module, forward))

        if parts.is_projection:
            play(parts.root, lambda *_, **__: BaseModelOutputWithPooling(pooler_output=kept["pooled"]))
        else:
            play(parts.embeddings, lambda *_, **__: kept["block"])
            if parts.before_blocks is not None:
                play(parts.before_blocks, lambda hidden: hidden)
            for below in parts.blocks[: layer.block]:
                play(below, passing)
            # for the tower's last norm any block will do: it has no parts to play
            block = parts.blocks[min(layer.block, len(parts.blocks) - 1)]
            if parts.skips_attention:
                play(block.get_submodule("self_attn"), lambda *_, **__: (kept["attention"], None))
            if parts.inner is not None:
                inner = getattr(getattr(block, parts.inner), parts.inner_name)
                if parts.inner == "self_attn":
                    play(block.get_submodule("self_attn"), lambda *_, **__: (inner(kept["inner"]), None))
                else:
                    play(block.get_submodule("mlp"), lambda *_, **__: inner(kept["inner"]))
        return embed(model, layer.tower, recording.inputs)
