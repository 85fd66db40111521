# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Towers and their layers: canonical names, where they live in a model, and which of them may be changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

from .errors import UnsupportedModelError


Tower = Literal["vision", "text"]
Granularity = Literal["matrix", "attention", "block"]

TOWERS: tuple[Tower, ...] = ("vision", "text")
GRANULARITIES: tuple[Granularity, ...] = ("matrix", "attention", "block")
PROJECTION: dict[Tower, str] = {"vision": "visual_projection", "text": "text_projection"}
# What tells a tower apart from anything else that has an encoder, in every version of transformers.
_LANDMARK: dict[Tower, str] = {"vision": "patch_embedding", "text": "token_embedding"}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_MLP = ("mlp.fc1", "mlp.fc2")
# The matrices of one encoder block, grouped by granularity, in the order in which they run.
_GROUPS: dict[Granularity, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "matrix": tuple((name, (name,)) for name in (*_QKV, "self_attn.out_proj", *_MLP)),
    "attention": (
        ("self_attn.qkv", _QKV),
        *((name, (name,)) for name in ("self_attn.out_proj", *_MLP)),
    ),
    "block": (("self_attn.qkv", _QKV), ("self_attn.out_proj", ("self_attn.out_proj",)), ("mlp", _MLP)),
}
_NORMS = ("layer_norm1", "layer_norm2")
TOWER_NORMS: dict[Tower, str] = {"vision": "post_layernorm", "text": "final_layer_norm"}


@dataclass(frozen=True)
class Layer:
    """
    The unit of the update: one weight matrix, or a few that are scored and scaled jointly.

    Args:
        name (`str`): Canonical name, e.g. `"text_model.encoder.layers.3.mlp.fc1"`; a group ends in `.qkv` or `.mlp`.
        modules (`tuple[str, ...]`): Canonical names of the modules whose `weight` changes, in the order they run.
        tower (`str`): `"vision"` or `"text"`.
        block (`int`): Index of the encoder block; the number of blocks for what comes after the last one.
    """

    name: str
    modules: tuple[str, ...]
    tower: Tower
    block: int


def plain_name(name: str) -> str:
    """Strips what wrappers add to a module's path: `torch.compile`'s `_orig_mod` and a PEFT layer's `base_layer`."""
    return ".".join(part for part in name.split(".") if part not in ("_orig_mod", "base_layer"))


def find_tower_roots(model: nn.Module) -> dict[Tower, list[str]]:
    """
    Finds CLIP encoders by looking at the live modules, so that it works whatever a version of transformers calls them.

    Returns:
        `dict[str, list[str]]`: For each tower the module paths (`""` is the model itself) of its roots: modules with an
        `encoder` of `layers` and CLIP's own `embeddings`.
    """
    roots: dict[Tower, dict[int, str]] = {tower: {} for tower in TOWERS}
    for path, module in model.named_modules():
        embeddings, encoder = getattr(module, "embeddings", None), getattr(module, "encoder", None)
        blocks = getattr(encoder, "layers", None)
        if not isinstance(blocks, nn.ModuleList):
            continue
        block = blocks[0] if len(blocks) else None
        if not all(hasattr(getattr(block, "self_attn", None), part) for part in ("q_proj", "out_proj")):
            continue
        for tower in TOWERS:
            if hasattr(embeddings, _LANDMARK[tower]):
                # wrappers answer for what they wrap; the innermost path of one and the same encoder is its root
                roots[tower][id(encoder)] = path
    return {tower: list(paths.values()) for tower, paths in roots.items()}


def resolve_modules(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """
    Resolves canonical CLIPModel names to the live modules of a model.

    Args:
        model (`nn.Module`): A `CLIPModel`, a model of one of its towers, or either of them wrapped by PEFT or compiled.
        names (`Iterable[str]`): Canonical names, e.g. `"vision_model.encoder.layers.2.mlp.fc1"` or `"text_projection"`.

    Returns:
        `dict[str, str]`: Canonical name to live path. Names that are not canonical or not found are absent.

    Raises:
        UnsupportedModelError: If the model holds several encoders of that kind, so that the name is ambiguous.
    """
    wanted, known = list(names), _RESOLVED.setdefault(model, {})
    new = [name for name in wanted if not _is_still_there(model, known.get(name))]
    if new:  # a walk through all modules takes milliseconds, and a search asks thousands of times
        for name in new:
            known.pop(name, None)
        known |= {name: (path, ref(model.get_submodule(path))) for name, path in _look_up(model, new).items()}
    return {name: known[name][0] for name in wanted if name in known}


_RESOLVED: WeakKeyDictionary[nn.Module, dict[str, tuple[str, "ref[nn.Module]"]]] = WeakKeyDictionary()


def _is_still_there(model: nn.Module, known: "tuple[str, ref[nn.Module]] | None") -> bool:
    """Whether the module found before is where it was: none that was wrapped, or is another's, since."""
    if known is None:
        return False
    try:
        return model.get_submodule(known[0]) is known[1]()
    except AttributeError:
        return False


def _look_up(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    # PEFT expects the path of its own wrapper, a compiled module is entered
    live = {plain_name(path): path for path, _ in model.named_modules() if not path.endswith("base_layer")}
    roots = find_tower_roots(model)
    resolved = {}
    for name in names:
        for tower in TOWERS:
            is_projection = name == PROJECTION[tower]
            if not (is_projection or name.startswith(f"{tower}_model.")) or not roots[tower]:
                continue
            if len(roots[tower]) > 1:
                raise UnsupportedModelError(
                    f"{type(model).__name__} holds {len(roots[tower])} {tower} towers ({', '.join(roots[tower])}), so "
                    f"{name!r} is ambiguous. Pass the encoder that the patch is for instead of the whole model."
                )
            root = plain_name(roots[tower][0])
            if is_projection:  # a child of whatever holds the tower
                parents = [root.rpartition(".")[0], root.rpartition(".")[0].rpartition(".")[0], root]
                places = [f"{parent}.{name}".lstrip(".") for parent in parents]
            else:
                places = [f"{root}.{name.removeprefix(f'{tower}_model.')}".lstrip(".")]
            found = next((live[place] for place in places if place in live), None)
            if found is not None:
                resolved[name] = found
    return resolved


def check_clip_model(model: nn.Module) -> None:
    """
    Checks that gradients for a CLIP objective can be taken from a model.

    Raises:
        UnsupportedModelError: If it is not a `CLIPModel`, carries PEFT adapters, or its weights are quantised.
    """
    roots = find_tower_roots(model)
    needed = ("get_image_features", "get_text_features", "logit_scale", *PROJECTION.values())
    if any(len(roots[tower]) != 1 for tower in TOWERS) or not all(hasattr(model, name) for name in needed):
        raise UnsupportedModelError(
            f"Expected a transformers CLIPModel (an image and a text encoder with projections and a temperature), found "
            f"{type(model).__name__}. Load the checkpoint with `CLIPModel.from_pretrained(...)`."
        )
    names = [name for layer in candidate_layers(model) for name in layer.modules]
    check_plain_weights(
        model, {name: model.get_submodule(path) for name, path in resolve_modules(model, names).items()}
    )


def check_plain_weights(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """
    Checks that weights can be differentiated by.

    Args:
        model (`nn.Module`): The whole model.
        modules (`Mapping[str, nn.Module]`): Those of its modules whose weights are meant, by canonical name.

    Raises:
        UnsupportedModelError: If the model carries PEFT adapters, or a weight is quantised or not in memory.
    """
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if wrapped:
        raise UnsupportedModelError(
            f"The model carries adapters (at {wrapped[0]} and {len(wrapped) - 1} other modules), so a gradient would not be "
            f"that of its base. Call `merge_and_unload()` or `unload()` on it first."
        )
    for name, module in modules.items():
        weight = cast(torch.Tensor, module.weight)
        if not weight.is_floating_point() or weight.is_meta:
            state = "on the meta device" if weight.is_meta else f"quantised ({weight.dtype})"
            raise UnsupportedModelError(f"{name}.weight is {state}. Load the model in float32, bfloat16 or float16.")


def candidate_layers(
    model: nn.Module,
    tower: Literal["vision", "text", "both"] = "both",
    granularity: Granularity = "matrix",
    norms: bool = False,
) -> list[Layer]:
    """
    Lists the layers of a `CLIPModel` that may be changed: its live weight matrices.

    Biases, embeddings, positions and the temperature are never candidates; norms only if asked for.

    Args:
        model (`CLIPModel`): The model.
        tower (`str`, *optional*, defaults to `"both"`): `"vision"`, `"text"` or `"both"`.
        granularity (`str`, *optional*, defaults to `"matrix"`):
            `"matrix"` (each weight alone), `"attention"` (q/k/v as one) or `"block"` (q/k/v as one, fc1/fc2 as one).
        norms (`bool`, *optional*, defaults to `False`): Also the weights of the layer norms.

    Returns:
        `list[Layer]`: In the order in which they run, vision first.
    """
    if tower not in (*TOWERS, "both"):
        raise ValueError(f"Unknown tower {tower!r}. Expected 'vision', 'text' or 'both'.")
    if granularity not in GRANULARITIES:
        raise ValueError(f"Unknown granularity {granularity!r}. Expected one of {', '.join(GRANULARITIES)}.")
    layers = []
    for side in TOWERS if tower == "both" else (tower,):
        root = f"{side}_model"
        stack = f"{root}.encoder.layers"
        blocks = len(list(model.get_submodule(resolve_modules(model, [stack])[stack]).children()))
        for block in range(blocks):
            prefix = f"{root}.encoder.layers.{block}"
            groups = [*_GROUPS[granularity], *(((name, (name,)) for name in _NORMS) if norms else ())]
            for name, parts in groups:
                layers.append(Layer(f"{prefix}.{name}", tuple(f"{prefix}.{part}" for part in parts), side, block))
        last = [PROJECTION[side]] if not norms else [f"{root}.{TOWER_NORMS[side]}", PROJECTION[side]]
        layers += [Layer(name, (name,), side, blocks) for name in last]
    return layers


def layer_modules(model: nn.Module, layer: Layer) -> dict[str, nn.Module]:
    """Returns the live modules of a layer by canonical name."""
    live = resolve_modules(model, layer.modules)
    missing = [name for name in layer.modules if name not in live]
    if missing:
        raise UnsupportedModelError(f"{type(model).__name__} has no module for {', '.join(missing)}.")
    return {name: model.get_submodule(live[name]) for name in layer.modules}


def layer_weights(model: nn.Module, layer: Layer) -> dict[str, nn.Parameter]:
    """Returns the live weights of a layer by canonical module name."""
    return {name: cast(nn.Parameter, module.weight) for name, module in layer_modules(model, layer).items()}
