# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What must hold before a patch touches a model: its name, its file, its tensors."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from torch import Tensor, nn

from .. import hub
from ..errors import AdapterNameError, CorruptPatchError
from ..files import MOST_BYTES, Header, check_file, read_header


# Of one weight; the largest matrix of a CLIP in use has 14 million. Factors of a few kilobytes could stand for any number.
_MOST_NUMBERS = 2**25
_MOST_KEYS, _MOST_LETTERS = 2000, 500
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


def find_file(
    folder_or_repo: str, name: str, *, subfolder: Optional[str] = None, **download_kwargs: Any
) -> Path | None:
    """
    Find one file of a patch.

    Args:
        folder_or_repo (`str`):
            The folder or the Hub repository id of the patch.
        name (`str`):
            The file's name.
        subfolder (`str`, *optional*):
            A folder inside it.
        download_kwargs (additional keyword arguments, *optional*):
            Passed on to [`~huggingface_hub.hf_hub_download`]; PEFT then finds the file in the cache.

    Returns:
        `Path`: The local file, or `None` if there is none of that name.
    """
    path = Path(folder_or_repo, subfolder or "", name)
    if os.path.isdir(folder_or_repo):
        return path if os.path.lexists(path) else None
    return hub.fetch(folder_or_repo, name, subfolder, **download_kwargs)


def read_announced(path: Path) -> Header:
    """
    Read what the weights of a patch announce, and look for damage, without loading them into a model.

    PEFT also reads weights that it pickled itself. They are unpickled here as tensors only, which refuses any code.

    Args:
        path (`Path`):
            The file.

    Returns:
        `dict`: By key, the dtype and the shape.

    Raises:
        CorruptPatchError: If the file can't be read.
    """
    if path.name != WEIGHTS_NAME:
        return read_header(path)
    check_file(path, MOST_BYTES)
    try:
        tensors = torch.load(path, map_location="meta", weights_only=True)
        return {key: (str(tensor.dtype), tuple(tensor.shape)) for key, tensor in tensors.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as error:
        raise CorruptPatchError(
            f"The weights of the patch can't be read: {path} ({str(error).splitlines()[0]}). It is truncated, "
            "damaged or not a plain set of tensors. Download it again, or ask its author for a "
            f"`{SAFETENSORS_WEIGHTS_NAME}`."
        ) from error


def check_announced(header: Header, rank: Optional[int], where: Any) -> None:
    """
    Refuse deltas that are not float32, factors that are not of the announced rank, and such that stand for more than a CLIP
    has, before memory is taken for them.

    Args:
        header (`dict`):
            By key, the dtype and the shape.
        rank (`int`, *optional*):
            The rank that the config announces.
        where (`Any`):
            What to call the file in messages.

    Raises:
        CorruptPatchError: If there are such.
    """
    shapes = {key: shape for key, (_, shape) in header.items()}
    if len(shapes) > _MOST_KEYS or any(len(key) > _MOST_LETTERS for key in shapes):
        raise CorruptPatchError(
            f"{where} holds {len(shapes):,} tensors or names that are longer than any module's. Nothing was loaded."
        )
    total = 0
    for key, shape in shapes.items():
        stem, _, part = key.rpartition(".")
        if part.startswith("slug_") and header[key][0] not in ("F32", "torch.float32"):
            raise CorruptPatchError(
                f"The weights of the patch are not float32, as a delta always is: {where} holds {header[key][0]} for {stem}."
            )
        if part == "slug_up":
            down = shapes.get(f"{stem}.slug_down", ())
            if rank is None or shape[1:] != (rank,) or down[:1] != (rank,) or len(down) != 2:
                raise CorruptPatchError(
                    f"{where} holds factors of shape {shape} and {down} for {stem}; its config says rank {rank}."
                )
            total += shape[0] * down[1]
            if shape[0] * down[1] > _MOST_NUMBERS or total > 2 * _MOST_NUMBERS:
                raise CorruptPatchError(
                    f"{where} holds factors of shape {shape} and {down} for {stem}: a weight of {shape[0] * down[1]:,} "
                    f"numbers, more than any CLIP has. Nothing was loaded."
                )
        elif part == "slug_delta" and rank is not None and len(shape) > 1:
            raise CorruptPatchError(f"{where} holds a dense delta for {stem}; its config says rank {rank}.")
        elif part == "slug_delta":
            total += math.prod(shape)
            if math.prod(shape) > _MOST_NUMBERS or total > 2 * _MOST_NUMBERS:
                raise CorruptPatchError(
                    f"{where} holds a delta of shape {shape} for {stem}: more numbers than any CLIP has. Nothing was loaded."
                )


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
