# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Take an adapter off a model without leaving a trace."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, _get_tuner_state_dict_key_prefixes, _is_key_under_prefixes
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .layer import SlugLayer


def path_parts(model: nn.Module) -> set[str]:
    """
    Every part of every module, parameter and buffer path of a model, without what PEFT itself has put there.

    Args:
        model (`nn.Module`): The model.

    Returns:
        `set[str]`: The parts.
    """
    paths = [name for name, _ in model.named_modules()]
    paths += [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]
    own = _get_tuner_state_dict_key_prefixes(model)
    own |= {
        f"{name}.{child}"
        for name, module in model.named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper)
        for child, _ in module.named_children()
        if child != "original_module"
    }
    return {part for path in paths if not _is_key_under_prefixes(path, own) for part in path.split(".") if part}


def take_off(tuner: Any, adapter_name: str) -> None:
    """
    Remove an adapter that was put in place but could not be filled, and the wrappers that hold nothing else.

    Args:
        tuner (`nn.Module`):
            The [`SlugModel`], or the model itself where an adapter was injected into it directly.
        adapter_name (`str`):
            The name of the adapter.
    """
    model = tuner.model if isinstance(tuner, BaseTuner) else tuner
    for name, module in list(model.named_modules()):
        if isinstance(module, SlugLayer) and adapter_name in module.scaling:
            inner = module.base_layer if len(module.scaling) == 1 else None
        elif isinstance(module, AuxiliaryTrainingWrapper) and adapter_name in module._adapters:
            inner = module.original_module if len(module._adapters) == 1 else None
        else:
            continue
        if inner is None and isinstance(module, SlugLayer):
            module.delete_adapter(adapter_name)
        elif inner is None:
            module.delete_adapter(adapter_name, new_active_adapters=None)
        else:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, inner)
    configs = getattr(tuner, "peft_config", {})
    configs.pop(adapter_name, None)
    if configs:
        return
    if "peft_config" in vars(model):
        del model.peft_config
    if getattr(model, "_hf_peft_config_loaded", False):
        model._hf_peft_config_loaded = False
    for parameter in getattr(tuner, "_trainable_before", []):
        parameter.requires_grad_(True)
