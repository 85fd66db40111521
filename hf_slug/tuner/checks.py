# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What must hold before a patch touches a model: its name, its file, its tensors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, Optional

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import AdapterNameError, CorruptPatchError


_RESERVED = frozenset(dir(nn.ParameterDict()))


def check_adapter_name(name: str, prefix: str, path_parts: Iterable[str]) -> None:
    """
    Refuse a name that PEFT accepts and then loses weights by.

    PEFT tells adapters apart by looking for `.{name}.` in parameter names. A name that is also a part of a module path
    makes every *other* adapter save nothing (PEFT issue 3584).

    Args:
        name (`str`):
            The adapter name.
        prefix (`str`):
            The prefix of the method's parameters.
        path_parts (`Iterable[str]`):
            Every part of every module, parameter and buffer path of the model.

    Raises:
        AdapterNameError: If the name can't be used.
    """
    reason = None
    if not isinstance(name, str) or not name.strip():
        reason = "is empty"
    elif any(character in name for character in "./\\"):
        reason = "holds a dot or a slash, which separate the parts of module paths and of folders"
    elif name in prefix or prefix in name:
        reason = f"overlaps with {prefix!r}, the prefix of the parameters of unlearning patches"
    elif name in _RESERVED:
        reason = "is the name of an attribute of torch's `nn.ParameterDict`, which keeps the deltas"
    elif name in set(path_parts):
        reason = "is a part of a module or parameter path of this model, so PEFT would confuse the two when saving"
    if reason is not None:
        raise AdapterNameError(f"The adapter name {name!r} {reason}. Choose another, such as 'forget-mickey'.")


def check_weights_file(folder_or_repo: str, *, subfolder: Optional[str] = None, **download_kwargs: Any) -> bool:
    """
    Look for damage in the weights of a patch without loading them into a model.

    PEFT also reads weights that it pickled itself. They are unpickled here as tensors only, which refuses any code.

    Args:
        folder_or_repo (`str`):
            The folder or the Hub repository id of the patch. Without weights in it there is nothing to check.
        subfolder (`str`, *optional*):
            A folder inside it.
        download_kwargs (additional keyword arguments, *optional*):
            Passed on to [`~huggingface_hub.hf_hub_download`]; PEFT then finds the file in the cache.

    Returns:
        `bool`: Whether there are weights; a repository that can't be asked is taken to have some.

    Raises:
        CorruptPatchError: If the file can't be read.
    """
    folder = os.path.join(folder_or_repo, subfolder or "")
    for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            if os.path.isdir(folder_or_repo):
                continue
            try:
                path = hf_hub_download(folder_or_repo, name, subfolder=subfolder, **download_kwargs)
            except EntryNotFoundError:
                continue
            except OfflineModeIsEnabled:  # PEFT says so itself when it needs the file
                return True
        try:
            if name == WEIGHTS_NAME:
                torch.load(path, map_location="meta", weights_only=True)
            else:
                with safe_open(path, framework="pt") as file:  # reads the header and holds it against the file's size
                    file.keys()
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise CorruptPatchError(
                f"The weights of the patch can't be read: {path} ({str(error).splitlines()[0]}). It is truncated, "
                "damaged or not a plain set of tensors. Download it again, or ask its author for a "
                f"`{SAFETENSORS_WEIGHTS_NAME}`."
            ) from error
        return True
    return False


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], allowed: Iterable[str] = ()
) -> None:
    """
    Hold the tensors of a patch against what the config announces.

    PEFT only warns about a missing key, ignores an unknown one, and would write any other parameter that the file
    names.

    Args:
        found (`Mapping[str, torch.Tensor]`):
            The tensors of the file, by the model's parameter name where there is one.
        expected (`Mapping[str, torch.Size]`):
            The shape of every delta or factor of the adapter.
        allowed (`Iterable[str]`, *optional*):
            Prefixes of further names that are no mistake (PEFT's `modules_to_save`).

    Raises:
        CorruptPatchError: If a tensor is missing, unknown, of the wrong shape or kind, or not finite.
    """
    allowed = tuple(allowed)
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    for name, tensor in sorted(found.items()):
        if name not in expected:
            if not name.startswith(allowed):
                problems.append(f"{name} does not belong to the patch")
        elif tensor.shape != expected[name]:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name])}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} has dtype {tensor.dtype}, expected a floating-point one")
        elif not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            problems.append(f"{name} holds NaN or infinite values")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CorruptPatchError(
            f"The weights do not fit the config of the patch: {shown}. The file is damaged, or it was made for "
            "another model or edited by hand. Nothing was changed; get the patch again from its author."
        )
