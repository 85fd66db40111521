# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Check a patch before PEFT's and transformers' `load_adapter` load it.

PEFT asks the Hub for the weights once more when it has changed the model already; from then on they are read from where they
were found and checked. The method of transformers reads adapter files by itself, without PEFT's hooks: it logs a missing
delta, takes NaN, and copies whatever else the file names into the model. So the file is held against its config before the
method runs.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import CONFIG_NAME
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor, nn
from transformers.integrations.peft import PeftAdapterMixin

from .. import hub
from ..errors import CorruptPatchError
from ..files import MOST_REPORT
from .checks import check_tensors
from .config import SlugConfig
from .deltas import delta_shape
from .model import PEFT_PREFIX, SlugModel


def expected_tensors(model: nn.Module, config: SlugConfig) -> dict[str, torch.Size]:
    """
    The tensors that a patch must have to fit a model.

    Args:
        model (`nn.Module`): The model, which is not changed.
        config ([`SlugConfig`]): The configuration of the patch.

    Returns:
        `dict[str, torch.Size]`: Shapes by the names that the file uses, without PEFT's prefix.

    Raises:
        TypeError: If the config targets a module of an unsupported type.
    """
    SlugModel.resolve_targets(config, model)
    canonical = {live: known for known, live in config.live_names.items()}
    expected: dict[str, torch.Size] = {}
    inside: tuple[str, ...] = ()
    for live, module in model.named_modules():
        if not live or live.startswith(inside) or not SlugModel._check_target_module_exists(config, live):
            continue
        name = canonical.get(live, live)
        if isinstance(module, BaseTunerLayer):
            inside += (f"{live}.",)
            module = module.get_base_layer()
        shape = delta_shape(module, live)
        if config.rank is None or len(shape) == 1:
            expected[f"{name}.slug_delta"] = shape
        else:
            expected[f"{name}.slug_up"] = torch.Size((shape[0], config.rank))
            expected[f"{name}.slug_down"] = torch.Size((config.rank, shape[1:].numel()))
    return expected


def check_fits(model: nn.Module, config: SlugConfig, tensors: Mapping[str, Tensor]) -> None:
    """
    Hold the tensors of a patch against its config and the model, without changing the model.

    Args:
        model (`nn.Module`): The model.
        config ([`SlugConfig`]): The configuration of the patch.
        tensors (`Mapping[str, torch.Tensor]`): The content of the file.

    Raises:
        CorruptPatchError: If a tensor is missing, unknown, of the wrong shape or kind, or not finite.
    """
    saved = config.modules_to_save or ()
    others = [f"{n}." for n, _ in model.named_modules() if any(n == s or n.endswith(f".{s}") for s in saved)]
    expected = expected_tensors(model, config)
    if expected:  # else PEFT says that nothing matches
        check_tensors({name.removeprefix(PEFT_PREFIX): value for name, value in tensors.items()}, expected, others)


# What says where in a repository a patch is.
_PLACES = ("subfolder", "revision", "cache_dir", "force_download", "local_files_only", "token", "use_auth_token")


def _options(load_config: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    given = {**(getattr(load_config, "download_kwargs", None) or {}), **kwargs, **(kwargs.get("adapter_kwargs") or {})}
    options, _, _ = SlugConfig._split_kwargs({key: value for key, value in given.items() if value is not None})
    return options


def _is_slug(source: Any, options: Mapping[str, Any]) -> bool:
    try:
        return PeftConfig._get_peft_type(source, **options) == "SLUG"
    except CorruptPatchError:
        raise
    except Exception:  # whatever is wrong with it, transformers says so better than this look ahead
        return False


def _fetched_again(model_id: Any, options: Mapping[str, Any]) -> bool:
    try:
        return hub.fetch(str(model_id), CONFIG_NAME, **options) is not None
    except (OSError, ValueError):
        return False


def _refuse_oversized(config: Path) -> None:
    """PEFT parses any config whole to learn whose it is; millions of values take it seconds and gigabytes."""
    if config.is_file() and config.stat().st_size > MOST_REPORT:
        raise CorruptPatchError(
            f"{config} has {config.stat().st_size:,} bytes; no adapter needs more than {MOST_REPORT:,} there. It was not read."
        )


def guard_peft() -> None:
    """
    Make PEFT read the weights of a patch from the local folder where its config was found, and fetch a config once more that
    arrived damaged: it would lie in the cache for ever, and nobody could tell any more whose it was.
    """
    original, look_up = PeftModel.load_adapter, cast(Any, PeftConfig._get_peft_type).__func__
    if hasattr(original, "_slug_guard"):
        return

    @functools.wraps(look_up)
    def get_peft_type(cls: Any, model_id: Any, **options: Any) -> Any:
        _refuse_oversized(Path(model_id, options.get("subfolder") or "", CONFIG_NAME))
        try:
            return look_up(cls, model_id, **options)
        except (ValueError, RecursionError) as error:
            damaged = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError))
            if not os.path.isdir(model_id) and _fetched_again(model_id, options):
                return look_up(cls, model_id, **options)
            if damaged:
                raise CorruptPatchError(f"The {CONFIG_NAME} of {model_id} is no valid JSON ({error}).") from error
            raise  # PEFT's own word for a repository without one

    @functools.wraps(original)
    def load_adapter(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        config = self.peft_config.get(adapter_name)  # `from_pretrained` has read it
        if config is None and not os.path.isdir(model_id):
            options, _, _ = SlugConfig._split_kwargs(kwargs)
            if _is_slug(model_id, options):
                config = SlugConfig.from_pretrained(model_id, **options)
        folder = getattr(config, "folder", None)
        if folder is not None and not os.path.isdir(model_id):
            model_id = folder
            kwargs = {key: value for key, value in kwargs.items() if key not in _PLACES}
        return original(self, model_id, adapter_name, *args, **kwargs)

    PeftConfig._get_peft_type = classmethod(get_peft_type)  # type: ignore[method-assign, assignment]
    load_adapter._slug_guard = True  # type: ignore[attr-defined]
    PeftModel.load_adapter = load_adapter  # type: ignore[method-assign]


def guard_transformers() -> None:
    """Make `model.load_adapter` check unlearning patches first. Other adapters pass as before."""
    original = PeftAdapterMixin.load_adapter
    if hasattr(original, "_slug_guard"):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def load_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        load_config = given.get("load_config")
        source = given.get("peft_model_id") or getattr(load_config, "pretrained_model_name_or_path", None)
        config, tensors = given.get("peft_config"), given.get("adapter_state_dict")
        if source is not None and tensors is None:
            options = _options(load_config, {**given, **given.get("kwargs", {})})
            if _is_slug(source, options):
                config = SlugConfig.from_pretrained(source, **options)
                tensors = load_peft_weights(source, device="cpu", **options)
        if isinstance(config, SlugConfig) and tensors is not None:
            check_fits(self, config, tensors)
        return original(self, *args, **kwargs)

    load_adapter._slug_guard = True  # type: ignore[attr-defined]
    PeftAdapterMixin.load_adapter = load_adapter  # type: ignore[method-assign]
