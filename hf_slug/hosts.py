# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`load_unlearning` and its siblings: functions of a host, which are also its methods.

A host is a diffusers pipeline with CLIP text encoders, a CLIP model of transformers, or one of the LLaVA family.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .attach import apply_stacks, find_fitting
from .encoders import Encoder, find_encoders
from .patch import UnlearningPatch
from .stack import Stack, read_stack


logger = logging.get_logger(__name__)


def load_unlearning(
    host: Any,
    source: str | Path | Mapping[str, torch.Tensor] | UnlearningPatch,
    adapter_name: str | None = None,
    weight: float = 1.0,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    strict: bool = True,
    components: str | Sequence[str] | None = None,
) -> str:
    """
    Loads an unlearning patch onto the host's CLIP encoders, on top of those that are loaded already.

    The weight of one layer is written in place: `W' = cast(W.float64 + Σ weightᵢ·Δᵢ)`. Order never matters, and
    [`unload_unlearning`] gives back the original bits.

    Args:
        source (`str`, `Path`, `dict` or [`UnlearningPatch`]):
            A folder, a `.safetensors` file, or a repository id of the Hub; or the tensors of a patch, which are not changed.
        adapter_name (`str`, *optional*): What to call it. Defaults to `"default_0"`, `"default_1"`, …
        weight (`float`, *optional*, defaults to 1.0): How much of it; 1.0 is the searched step.
        subfolder (`str`, *optional*): A folder inside the source.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        token (`str` or `bool`, *optional*): Token for the Hub.
        cache_dir (`str` or `Path`, *optional*): Where downloads are kept.
        force_download (`bool`, *optional*, defaults to `False`): Download again what is in the cache.
        local_files_only (`bool`, *optional*, defaults to `False`): Never ask the Hub.
        strict (`bool`, *optional*, defaults to `True`):
            Refuse a base whose weights are not those that the patch was computed from.
        components (`str` or `Sequence[str]`, *optional*):
            Which encoders, e.g. `"text_encoder_2"`. Defaults to those that the patch was computed from.

    Returns:
        `str`: The adapter's name.

    Raises:
        ValueError: If the name is taken, or the weight is not a finite number.
        CorruptPatchError: If the source holds anything but a patch.
        WrongBaseError: If the weights are not those the patch was computed from.
        DeadLayerError: If the host does not read the layer.
        UnsupportedModelError: If no encoder has the layer, or its weight is quantised or on disk.

    Example:

        ```py
        >>> import hf_slug
        >>> from diffusers import StableDiffusionPipeline

        >>> pipe = StableDiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
        >>> pipe.load_unlearning("user/forget-mickey")
        'default_0'
        ```
    """
    chosen = find_encoders(host, components)
    others = chosen if components is None else find_encoders(host)
    taken = _names([*others, *chosen])
    name = adapter_name if adapter_name is not None else _free_name(taken)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"The adapter name {name!r} is empty. Expected a name such as 'forget-mickey'.")
    if name in taken:
        raise ValueError(
            f"There is an unlearning patch called {name!r} already. Loaded: {', '.join(taken)}. Give this one another "
            f"`adapter_name`, or take the old one off with `delete_unlearning({name!r})`."
        )
    weight = _check_weight(weight)
    if isinstance(source, UnlearningPatch):
        patch = copy.deepcopy(source)  # what the caller does to it later must not reach the host
    elif isinstance(source, Mapping):
        patch = UnlearningPatch.from_tensors(copy.deepcopy(dict(source)))
    else:
        patch = UnlearningPatch.from_pretrained(
            source,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    fitting = find_fitting(type(host).__name__, patch, chosen, strict, chosen=components is not None)
    enabled = all(read_stack(encoder).enabled for encoder in [*others, *chosen])
    if not enabled:
        logger.warning(
            f"Unlearning is disabled on this {type(host).__name__}: {name!r} is loaded, and off until `enable_unlearning()`."
        )
    apply_stacks([(e, replace(read_stack(e).added(name, patch, weight, e.tower), enabled=enabled)) for e in fitting])
    return name


def set_unlearning(
    host: Any, names: str | Sequence[str], weights: float | Sequence[float | None] | None = None
) -> None:
    """
    Makes these patches the active ones, with these weights, and turns unlearning on.

    Args:
        names (`str` or `Sequence[str]`): Adapter names; the others are off. An empty list turns all off.
        weights (`float` or `Sequence[float]`, *optional*): One for all, or one each. Defaults to 1.0, the searched step.

    Raises:
        ValueError: If a name is unknown or occurs twice, or there are not as many weights as names.
    """
    encoders = find_encoders(host)
    chosen = _check_names(names, encoders)
    given = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(chosen)
    if len(given) != len(chosen):
        raise ValueError(f"Found {len(given)} weights for {len(chosen)} patches ({', '.join(chosen)}). Give one each.")
    new = {name: _check_weight(1.0 if value is None else value) for name, value in zip(chosen, given, strict=True)}
    changes = []
    for encoder in encoders:
        stack = read_stack(encoder)
        active = tuple(name for name in stack.patches if name in new)
        own = {name: new.get(name, old) for name, old in stack.weights.items()}
        changes.append((encoder, _changed(stack, active=active, weights=own, enabled=True)))
    apply_stacks(changes)


def get_active_unlearning(host: Any) -> list[str]:
    """Returns the names of the patches that are on at the moment, in the order of loading."""
    stacks = [read_stack(encoder) for encoder in find_encoders(host)]
    return list(dict.fromkeys(name for stack in stacks if stack.enabled for name in stack.active))


def get_list_unlearning(host: Any) -> dict[str, list[str]]:
    """Returns the names of all patches by the encoder they are on, e.g. `{"text_encoder": ["forget-mickey"]}`."""
    found: dict[str, list[str]] = {}
    for encoder in find_encoders(host):
        own = found.setdefault(encoder.component, [])
        own += [name for name in read_stack(encoder).patches if name not in own]
    return {component: names for component, names in found.items() if names}


def disable_unlearning(host: Any) -> None:
    """Gives back the original weights until [`enable_unlearning`], and keeps the patches."""
    _change_all(host, lambda stack: _changed(stack, enabled=False))


def enable_unlearning(host: Any) -> None:
    """Puts the active patches on again after [`disable_unlearning`]."""
    _change_all(host, lambda stack: _changed(stack, enabled=True))


def delete_unlearning(host: Any, names: str | Sequence[str]) -> None:
    """
    Takes patches off for good. The others stay as they are.

    Args:
        names (`str` or `Sequence[str]`): Adapter names.

    Raises:
        ValueError: If a name is unknown or occurs twice.
    """
    gone = _check_names(names, find_encoders(host))
    _change_all(host, lambda stack: stack.without(gone))


def unload_unlearning(host: Any) -> None:
    """
    Takes all patches off: every weight is the original one, bit for bit. Without any patch this does nothing.

    Raises:
        ChangedWeightError: If something else, such as a fused LoRA, has changed a patched weight since.
    """
    _change_all(host, lambda stack: stack.without(stack.patches))


def save_unlearning(host: Any, save_directory: str | Path, adapter_name: str | None = None) -> None:
    """
    Saves a loaded patch as it was published: its weight on this host is not part of it.

    Args:
        save_directory (`str` or `Path`): The folder; made if it does not exist.
        adapter_name (`str`, *optional*): Which patch. May be left out where there is only one.

    Raises:
        ValueError: If there is no such patch, or several to choose from.
    """
    _find_patch(host, adapter_name).save_pretrained(save_directory)


def push_unlearning(host: Any, repo_id: str, adapter_name: str | None = None, **hub_kwargs: Any) -> str:
    """
    Publishes a loaded patch on the Hub. See [`UnlearningPatch.push_to_hub`].

    Args:
        repo_id (`str`): Repository id, `"user/name"`.
        adapter_name (`str`, *optional*): Which patch. May be left out where there is only one.
        hub_kwargs (additional keyword arguments, *optional*):
            `private`, `token`, `commit_message`, `create_pr`, `revision`, `subfolder`, `license`.

    Returns:
        `str`: The commit's address.
    """
    return _find_patch(host, adapter_name).push_to_hub(repo_id, **hub_kwargs)


VERBS = (
    load_unlearning,
    set_unlearning,
    get_active_unlearning,
    get_list_unlearning,
    enable_unlearning,
    disable_unlearning,
    delete_unlearning,
    unload_unlearning,
    save_unlearning,
    push_unlearning,
)


def _changed(stack: Stack, **changes: Any) -> Stack:
    return replace(stack, **changes) if stack.patches else stack


def _change_all(host: Any, change: Callable[[Stack], Stack]) -> None:
    apply_stacks([(encoder, change(read_stack(encoder))) for encoder in find_encoders(host)])


def _names(encoders: Sequence[Encoder]) -> list[str]:
    return list(dict.fromkeys(name for encoder in encoders for name in read_stack(encoder).patches))


def _free_name(taken: Sequence[str]) -> str:
    return next(name for i in range(len(taken) + 1) if (name := f"default_{i}") not in taken)


def _check_names(names: str | Sequence[str], encoders: Sequence[Encoder]) -> list[str]:
    chosen, known = [names] if isinstance(names, str) else names, _names(encoders)
    if not isinstance(chosen, (list, tuple)) or not all(isinstance(name, str) for name in chosen):
        raise ValueError(f"Expected the name of a patch, or a list of names, found {names!r}.")
    chosen = list(chosen)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"There is no unlearning patch called {', '.join(map(repr, unknown))}. Loaded: {', '.join(known) or 'none'}."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"Every patch may be named once; found {', '.join(map(repr, chosen))}.")
    return chosen


def _check_weight(weight: Any) -> float:
    try:
        value = float("nan") if isinstance(weight, (str, bool)) else float(weight)
    except (TypeError, ValueError):
        value = float("nan")
    if not -float("inf") < value < float("inf"):
        raise ValueError(f"Expected a finite number as a patch's weight, found {weight!r}.")
    return value


def _find_patch(host: Any, adapter_name: str | None) -> UnlearningPatch:
    loaded = {name: patch for e in find_encoders(host) for name, patch in read_stack(e).patches.items()}
    if adapter_name is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if adapter_name is None or adapter_name not in loaded:
        wanted = (
            "Say which patch with `adapter_name`" if adapter_name is None else f"There is no patch {adapter_name!r}"
        )
        raise ValueError(f"{wanted}. Loaded: {', '.join(loaded) or 'none'}.")
    return loaded[adapter_name]
