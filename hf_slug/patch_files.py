# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The files of a patch: their names, and how a folder is read that a stranger may have written."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .errors import CorruptPatchError
from .files import MOST_REPORT, read_json, read_tensors, sha256_of_fields
from .fingerprint import check_fingerprint
from .tuner import SlugConfig


logger = logging.get_logger(__name__)

WEIGHTS, CONFIG, REPORT, CARD = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "unlearning_report.json",
    "README.md",
)
PREFIX = "base_model.model."
DENSE, UP, DOWN = "slug_delta", "slug_up", "slug_down"


def read_folder(folder: Path) -> tuple[SlugConfig, dict[str, torch.Tensor], dict[str, Any]]:
    """
    Reads the files of a patch.

    Args:
        folder (`Path`): A local folder.

    Returns:
        `tuple`: Config, tensors by the keys of the file, and report (empty if there is none).

    Raises:
        CorruptPatchError: If a file is missing, damaged, or holds anything but a patch.
    """
    if not os.path.lexists(folder / WEIGHTS):
        pickles = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        found = f"only {', '.join(pickles)}, which may run code when read" if pickles else "no such file"
        raise CorruptPatchError(f"{folder} holds {found}. A patch is loaded from {WEIGHTS} alone.")
    config = SlugConfig.from_pretrained(str(folder))
    if not isinstance(config, SlugConfig):
        raise CorruptPatchError(f"{folder} holds a {config.peft_type} adapter, not an unlearning patch (SLUG).")
    written = read_json(folder / CONFIG)
    unknown = sorted(key for key, value in written.items() if value and key not in SlugConfig.__dataclass_fields__)
    if unknown:
        raise CorruptPatchError(f"The config in {folder} holds {', '.join(unknown)}, which no unlearning patch has.")
    library = (config.auto_mapping or {}).get("parent_library") or "transformers"
    if (
        config.modules_to_save
        or config.exclude_modules
        or library.partition(".")[0] not in ("transformers", "diffusers")
    ):
        raise CorruptPatchError(
            f"The config in {folder} asks for more than a delta (modules_to_save={config.modules_to_save}, "
            f"parent_library={library!r}). That is no unlearning patch."
        )
    report, known = {}, written.get("content_sha256") or {}
    if os.path.lexists(folder / REPORT):
        report = read_json(folder / REPORT, MOST_REPORT)
    elif "report" in known:
        logger.warning(
            f"{folder} has no {REPORT}, which was published with the patch: nothing is known of how well it does."
        )
    if report and "report" in known and sha256_of_fields(report) != known["report"]:
        raise CorruptPatchError(
            f"{folder / REPORT} is not what was published with the patch: its hash differs from the one in {CONFIG}. What "
            f"it says can't be trusted. Get the patch again from its author."
        )
    return config, read_tensors(folder / WEIGHTS), report


def check_contents(config: SlugConfig, tensors: Mapping[str, torch.Tensor], what: str = "The patch") -> None:
    """
    Checks that tensors are those of a patch with this config.

    Args:
        config ([`SlugConfig`]): The config.
        tensors (`Mapping[str, torch.Tensor]`): Tensors by the keys of the file.
        what (`str`, *optional*, defaults to `"The patch"`): What to call it in messages.

    Raises:
        CorruptPatchError: If keys, dtypes, shapes or values are not.
    """
    parts: dict[str, set[str]] = {}
    for key, tensor in tensors.items():
        name, _, part = str(key).removeprefix(PREFIX).rpartition(".")
        if not str(key).startswith(PREFIX) or part not in (DENSE, UP, DOWN):
            raise CorruptPatchError(f"{what} holds the unknown key {key!r}. Expected {PREFIX}<module>.{DENSE}.")
        is_float = isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
        # a finite sum has finite terms, and is found much sooner
        if not is_float or not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
            raise CorruptPatchError(f"{what} holds NaN or infinite values, or no float32 ones, at {key!r}.")
        parts.setdefault(name, set()).add(part)
    check_fingerprint(config.base_fingerprint or {})
    wanted = config.target_modules
    if not parts or (isinstance(wanted, (set, list)) and set(parts) != set(wanted)):
        expected = ", ".join(sorted(wanted)) if isinstance(wanted, (set, list)) else str(wanted)
        raise CorruptPatchError(
            f"{what} holds deltas for {', '.join(sorted(parts)) or 'nothing'}; its config names {expected}."
        )
    for name, found in parts.items():
        if found not in ({DENSE}, {UP, DOWN}):
            raise CorruptPatchError(
                f"{what} holds {', '.join(sorted(found))} for {name}: expected {DENSE}, or both factors."
            )
        if UP in found:
            up, down = (tensors[f"{PREFIX}{name}.{part}"] for part in (UP, DOWN))
            if not up.shape[1:] == down.shape[:1] == (config.rank,):
                raise CorruptPatchError(
                    f"{what} holds factors of shape {tuple(up.shape)} and {tuple(down.shape)} for {name}; its config says "
                    f"rank {config.rank}."
                )


@contextmanager
def understood(report: dict[str, Any]) -> Iterator[None]:
    """Makes an error of whatever a report holds in place of what it should a [`CorruptPatchError`]."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
        if not report:
            raise
        raise CorruptPatchError(
            f"The report of the patch is not one of an unlearning run ({type(error).__name__}: {error}). Get the patch again from its "
            f"author, or delete {REPORT}."
        ) from error
