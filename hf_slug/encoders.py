# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The CLIP encoders inside a host, and which of their layers reach its output."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from .errors import DeadLayerError, UnsupportedModelError
from .towers import PROJECTION, TOWER_NORMS, Tower, find_tower_roots, plain_name, resolve_modules


@dataclass(frozen=True)
class Encoder:
    """
    One CLIP tower as a host uses it.

    Args:
        component (`str`):
            What the host calls it: `"text_encoder_2"` of a pipeline, `"vision_tower"` of a LLaVA, `"text_model"` of a CLIPModel.
        module (`nn.Module`): What canonical names are resolved in; holds no other tower of the same kind.
        root (`nn.Module`): The tower itself: the module that has `embeddings` and `encoder`.
        tower (`str`): `"vision"` or `"text"`.
        blocks (`int`): How many encoder blocks it has.
        live_blocks (`int`): How many of them, from the first, reach the host's output.
        reads_pooled (`bool`): Whether the host reads what comes after the last block: the last norm, and a projection.
        reason (`str`): How the host reads it, for messages.
    """

    component: str
    module: nn.Module
    root: nn.Module
    tower: Tower
    blocks: int
    live_blocks: int
    reads_pooled: bool
    reason: str

    def is_live(self, name: str) -> bool:
        """Says whether a module (by canonical name) reaches the host's output."""
        root = f"{self.tower}_model."
        if name == PROJECTION[self.tower] or name == root + TOWER_NORMS[self.tower]:
            return self.reads_pooled
        stack = f"{root}encoder.layers."
        if name.startswith(stack):
            return int(name.removeprefix(stack).partition(".")[0]) < self.live_blocks
        return name.startswith(root)

    def resolve(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """
        Finds the live modules of canonical names, inside of whatever PEFT has wrapped around them.

        Returns:
            `dict[str, nn.Module]`: Those that were found.
        """
        found = {}
        for name, path in resolve_modules(self.module, names).items():
            module = self.module.get_submodule(path)
            while hasattr(module, "base_layer"):
                module = cast(nn.Module, module.base_layer)
            found[name] = module
        return found

    def check_live(self, names: Sequence[str], host: str) -> None:
        """
        Refuses modules that don't reach the host's output.

        Raises:
            DeadLayerError: If there is one.
        """
        dead = [name for name in names if not self.is_live(name)]
        if dead:
            raise DeadLayerError(
                f"{', '.join(dead)} can't change anything in {host}: {self.reason}, so only the first {self.live_blocks} of the "
                f"{self.blocks} blocks of its {self.component} are live. Make the patch for this host: `unlearn(..., host=...)`."
            )


def find_encoders(host: Any, components: str | Sequence[str] | None = None) -> list[Encoder]:
    """
    Finds the CLIP encoders of a host, by looking at its live modules.

    A pipeline's encoders are its components called `text_encoder…`; others, such as the safety checker, hold modules of the same
    names and are looked at only if `components` names them.

    Args:
        host (`DiffusionPipeline` or `nn.Module`): A pipeline, a CLIP model of any class, or one of the LLaVA family.
        components (`str` or `Sequence[str]`, *optional*): Only these.

    Returns:
        `list[Encoder]`: At least one.

    Raises:
        UnsupportedModelError: If the host embeds no CLIP encoder.
        ValueError: If `components` names something that is none.
    """
    if is_pipeline(host):
        found = _pipeline_encoders(host, [components] if isinstance(components, str) else components)
    elif isinstance(host, nn.Module):
        found = _model_encoders(_unwrap(host))
    else:
        found = []
    if not found and not components:
        raise UnsupportedModelError(
            f"{type(host).__name__} embeds no CLIP encoder that could be changed. Expected a diffusers pipeline with CLIP text "
            f"encoders, a CLIP model of transformers, or a LLaVA with a CLIP vision tower."
        )
    if components is not None:
        wanted = [components] if isinstance(components, str) else list(components)
        unknown = [name for name in wanted if name not in {encoder.component for encoder in found}]
        if unknown or not wanted:
            known = ", ".join(encoder.component for encoder in found) or "none"
            raise ValueError(
                f"{type(host).__name__} has no CLIP encoder {', '.join(map(repr, unknown)) or 'of no name'}. Found: {known}."
            )
        found = [encoder for encoder in found if encoder.component in wanted]
    return found


def is_pipeline(host: Any) -> bool:
    """Says whether a host is a diffusers pipeline, without importing diffusers."""
    pipelines = sys.modules.get("diffusers.pipelines.pipeline_utils")
    return pipelines is not None and isinstance(host, pipelines.DiffusionPipeline)


def _unwrap(model: nn.Module) -> nn.Module:
    """What `torch.compile` and PEFT have wrapped."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif hasattr(model, "get_base_model"):
            model = cast(Any, model).get_base_model()
        else:
            return model


def _encoder(component: str, module: nn.Module, path: str, tower: Tower, depth: int | None, reason: str) -> Encoder:
    """An encoder of which all is read, or only the hidden state after `depth` blocks."""
    root = module.get_submodule(path)
    blocks = len(cast(Any, root).encoder.layers)
    live = blocks if depth is None else depth
    return Encoder(component, module, root, tower, blocks, live, depth is None, reason)


def _pipeline_encoders(pipe: Any, named: Sequence[str] | None) -> list[Encoder]:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    roots: dict[str, Mapping[Tower, list[str]]] = {name: find_tower_roots(part) for name, part in modules.items()}
    texts = [name for name, found in roots.items() if "text_encoder" in name and len(found["text"]) == 1]
    projecting = [name for name in texts if "text_projection" in resolve_modules(modules[name], ["text_projection"])]
    result = []
    for name, found in roots.items():
        module = modules[name]
        if name in texts:
            (path,) = found["text"]
            depth, reason = None, "it reads all of it"
            if name not in projecting and projecting:
                # As in SDXL: the pooled embedding comes from the encoder that has a projection, and of the other one only the
                # penultimate hidden state is read.
                depth = len(cast(Any, module.get_submodule(path)).encoder.layers) - 1
                reason = f"it reads the penultimate hidden state of its {name}"
            result.append(_encoder(name, module, path, "text", depth, reason))
        elif named is not None and name in named:
            result += [
                _encoder(name, module, path, tower, None, "it reads all of it")
                for tower, paths in found.items()
                for path in paths
            ]
    return result


def _model_encoders(model: nn.Module) -> list[Encoder]:
    roots = find_tower_roots(model)
    chosen = getattr(getattr(model, "config", None), "vision_feature_layer", None)
    result = []
    for tower, paths in roots.items():
        for path in paths:
            component = plain_name(path).rpartition(".")[2] or f"{tower}_model"
            if chosen is None:
                # the projections lie beside the tower; two towers of a kind are told apart by their own modules
                module, inner = (model, path) if len(paths) == 1 else (model.get_submodule(path), "")
                result.append(_encoder(component, module, inner, tower, None, "it reads all of it"))
            elif tower == "vision":
                module = model.get_submodule(path)
                blocks = len(cast(Any, module).encoder.layers)
                # hidden states are numbered from the embeddings, 0, to the last block's output, `blocks`
                indices = [chosen] if isinstance(chosen, int) else list(chosen)
                depth = max(index if index >= 0 else blocks + 1 + index for index in indices)
                reason = f"it reads the hidden state vision_feature_layer={chosen}"
                result.append(_encoder(component, module, "", tower, depth, reason))
    return result
