# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The CLIP encoders inside a host, and which of their layers reach its output."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from .errors import DeadLayerError, UnsupportedModelError
from .towers import PROJECTION, TOWER_NORMS, Tower, find_tower_roots, plain_name, resolve_modules


STACK = "_unlearning"  # the attribute of an encoder's root that holds what is stacked on it


@dataclass(frozen=True)
class Encoder:
    """
    One CLIP tower as a host uses it.

    Args:
        component (`str`):
            What the host calls it: `"text_encoder_2"` of a pipeline, `"vision_tower"` of a LLaVA, `"text_model"` of a CLIPModel.
        module (`nn.Module`): What canonical names are resolved in; holds no other tower of the same kind.
        root (`nn.Module`): The tower itself: the module that has `embeddings` and `encoder`.
        owner (`nn.Module`): The whole model it is part of: offloading and adapters may be attached anywhere in it.
        tower (`str`): `"vision"` or `"text"`.
        blocks (`int`): How many encoder blocks it has.
        live_blocks (`int`): How many of them, from the first, reach the host's output.
        reads_pooled (`bool`): Whether the host reads what comes after the last block: the last norm, and a projection.
        reason (`str`): How the host reads it, for messages.
    """

    component: str
    module: nn.Module
    root: nn.Module
    owner: nn.Module
    tower: Tower
    blocks: int
    live_blocks: int
    reads_pooled: bool
    reason: str

    def is_live(self, name: str) -> bool:
        """Says whether a module (by canonical name) reaches the host's output."""
        root = f"{self.tower}_model."
        if name == PROJECTION[self.tower]:
            return self.reads_pooled and bool(resolve_modules(self.module, [name]))
        if name == root + TOWER_NORMS[self.tower]:
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
            rest = " and what follows them" if self.reads_pooled else ""
            raise DeadLayerError(
                f"{', '.join(dead)} can't change anything in {host}: {self.reason}. Live are the first {self.live_blocks} of the "
                f"{self.blocks} blocks of its {self.component}{rest}. Make the patch for this host: `unlearn(..., host=...)`."
            )


def find_encoders(host: Any, components: str | Sequence[str] | None = None) -> list[Encoder]:
    """
    Finds the CLIP encoders of a host, by looking at its live modules.

    A pipeline's encoders are its components called `text_encoder…`; others, such as the safety checker, hold modules of the same
    names and are looked at only if `components` names them, or did when a patch was loaded.

    Args:
        host (`DiffusionPipeline` or `nn.Module`): A pipeline, a CLIP model of any class, or one of the LLaVA family.
        components (`str` or `Sequence[str]`, *optional*): Only these.

    Returns:
        `list[Encoder]`: At least one.

    Raises:
        UnsupportedModelError: If the host embeds no CLIP encoder.
        ValueError: If `components` names something that is none.
    """
    wanted = [components] if isinstance(components, str) else components if components is None else list(components)
    if is_pipeline(host):
        found = _pipeline_encoders(host, wanted or [])
    elif isinstance(host, nn.Module):
        found = _model_encoders(host)
    else:
        found = []
    if not found and not components:
        raise UnsupportedModelError(
            f"{type(host).__name__} embeds no CLIP encoder that could be changed. Expected a diffusers pipeline with CLIP text "
            f"encoders, a CLIP model of transformers, or a LLaVA with a CLIP vision tower."
        )
    if wanted is not None:
        unknown = [name for name in wanted if name not in {encoder.component for encoder in found}]
        if unknown or not wanted:
            known = ", ".join(encoder.component for encoder in found) or "none"
            raise ValueError(
                f"{type(host).__name__} has no CLIP encoder {', '.join(map(repr, unknown)) or 'of no name'}. Found: {known}."
            )
        found = [encoder for encoder in found if encoder.component in wanted]
    return found


def host_modules(host: Any) -> list[nn.Module]:
    """Returns the modules of a host: a model itself, or the components of a pipeline."""
    if isinstance(host, nn.Module):
        return [host]
    return [part for part in getattr(host, "components", {}).values() if isinstance(part, nn.Module)]


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


def is_patched(module: nn.Module) -> bool:
    """Says whether there are patches on an encoder in a module."""
    return any(STACK in part.__dict__ for part in module.modules())


def _pipeline_encoders(pipe: Any, named: Sequence[str]) -> list[Encoder]:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    result = []
    for name, part in modules.items():
        is_text = "text_encoder" in name
        if not (is_text or name in named or is_patched(part)):
            continue
        for encoder in _model_encoders(part):
            if is_text and encoder.tower == "text" and _projects(modules.get(f"{name}_2")) and not _projects(part):
                # As in SDXL: the pooled embedding comes from the second encoder, and of the first one only the penultimate hidden
                # state is read.
                reason = f"it reads the penultimate hidden state of its {name}"
                encoder = replace(encoder, live_blocks=encoder.blocks - 1, reads_pooled=False, reason=reason)
            result.append(replace(encoder, component=name))
    return result


def _projects(module: nn.Module | None) -> bool:
    return module is not None and PROJECTION["text"] in resolve_modules(module, [PROJECTION["text"]])


def _chosen_layers(model: nn.Module) -> int | Sequence[int] | None:
    config = getattr(model, "config", None)
    # VipLlava's config called it otherwise up to transformers 5.6 at least
    return getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", None))


def _model_encoders(host: nn.Module) -> list[Encoder]:
    model = _unwrap(host)
    result = []
    for tower, paths in find_tower_roots(model).items():
        for path in paths:
            root = model.get_submodule(path)
            blocks = len(cast(Any, root).encoder.layers)
            chosen = _chosen_layers(model) if tower == "vision" else None
            # the projections lie beside the tower; two towers of a kind are told apart by their own modules
            module = model if chosen is None and len(paths) == 1 else root
            depth, reason = blocks, "it reads all of it"
            if chosen is not None:
                # hidden states are numbered from the embeddings, 0, to the last block's output, `blocks`
                indices = [chosen] if isinstance(chosen, int) else list(chosen)
                depth = max(index if index >= 0 else blocks + 1 + index for index in indices)
                reason = f"it reads the hidden state vision_feature_layer={chosen}"
            # CLIPForImageClassification averages the last hidden state instead
            pooled = chosen is None and not hasattr(model, "classifier")
            component = plain_name(path).rpartition(".")[2] or f"{tower}_model"
            result.append(Encoder(component, module, root, host, tower, blocks, depth, pooled, reason))
    return result
