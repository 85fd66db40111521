# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Reading files that strangers wrote, looking first at where they lie, how large they are and what they announce; writing our own whole."""

import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CorruptPatchError


# Far beyond any patch: the largest CLIP in use has matrices of 14 million numbers, and a few kilobytes of config for each.
_UNFINISHED = ".unfinished-"
MOST_CONFIG, MOST_REPORT, MOST_BYTES = 2**20, 2**23, 2**29
_MOST_HEADER = 2**20
_MOST_DEPTH = 64

Header = dict[str, tuple[str, tuple[int, ...]]]


def check_file(path: Path, most: int) -> None:
    """
    Looks at a file of a patch before it is opened.

    Args:
        path (`Path`): The file.
        most (`int`): How many bytes it may have.

    Raises:
        CorruptPatchError: If it is no plain file, is too large, or is a link to somewhere outside its folder. (The Hub's cache has
            links of its own, from `snapshots` to `blobs`.)
    """
    try:
        target, folder = path.resolve(), path.parent.resolve()
    except (OSError, RuntimeError) as error:  # a loop
        raise CorruptPatchError(f"{path} leads nowhere ({error}).") from error
    if path.is_symlink() and folder not in target.parents and not _is_cached(folder, target):
        raise CorruptPatchError(
            f"{path} is a link to {target}, outside of its folder. A patch is made of plain files: copy it there if you trust it."
        )
    if not target.is_file():
        raise CorruptPatchError(f"{path} is no plain file. Get the patch again from its author.")
    size = target.stat().st_size
    if size > most:
        raise CorruptPatchError(
            f"{path} has {size:,} bytes; no patch needs more than {most:,} there. It was not read."
        )


def _is_cached(folder: Path, target: Path) -> bool:
    """Whether it is a file of the Hub's cache: `models--user--patch/snapshots/<commit>/…` to `models--user--patch/blobs/<hash>`."""
    repository = next((parent.parent for parent in (folder, *folder.parents) if parent.name == "snapshots"), None)
    return repository is not None and target.parent == repository / "blobs"


def read_json(path: Path, most: int = MOST_CONFIG) -> dict[str, Any]:
    """
    Reads a JSON object.

    Args:
        path (`Path`): The file.
        most (`int`, *optional*): How many bytes it may have.

    Raises:
        CorruptPatchError: If the file is anything else, or too large or too deep to be part of a patch.
    """
    check_file(path, most)
    try:
        found = json.loads(path.read_bytes(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptPatchError(f"{path} is not valid JSON ({error or type(error).__name__}).") from error
    if not isinstance(found, dict):
        raise CorruptPatchError(f"{path} holds a {type(found).__name__}, expected an object.")
    if _is_deeper(found, _MOST_DEPTH):
        raise CorruptPatchError(f"{path} is nested more than {_MOST_DEPTH} levels deep. It is no part of a patch.")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is more than a number can be")
    return number


def _is_deeper(value: Any, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(part, depth - 1) for part in parts)


def read_header(path: Path) -> Header:
    """
    Reads what a `.safetensors` file announces, without its tensors.

    Returns:
        `dict`: By key, the dtype (as safetensors writes it, e.g. `"F32"`) and the shape.

    Raises:
        CorruptPatchError: If it is no such file, is truncated, or announces more than a patch can hold.
    """
    check_file(path, MOST_BYTES)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER:
            raise ValueError(f"its header claims {length:,} bytes")
        with safe_open(path, framework="pt") as opened:  # holds the header against the file's size
            parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
            return {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in parts.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CorruptPatchError(
            f"The weights of the patch can't be read: {path} ({str(error).splitlines()[0]}). The file is truncated, damaged or no "
            f"set of tensors. Save or download it again."
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """
    Reads a `.safetensors` file.

    Raises:
        CorruptPatchError: If it can't be read.
    """
    from safetensors.torch import load_file

    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise CorruptPatchError(f"{path} can't be read ({error}). Save or download it again.") from error


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_fields(fields: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a JSON object, however it is laid out."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented; a number that JSON does not know is refused."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def written_aside(target: str | Path, names: Sequence[str], what: str) -> Iterator[Path]:
    """
    Gives a folder to write files to, and moves them to where they belong when all of them are whole: a failure leaves that as it was.

    A folder that is new, empty or holds nothing but such files appears at once. One that holds others, is mounted, is the one we are in, or lies
    in one that we may not write to, gets the new ones one after the other: a process that is killed just then leaves some of each, which their
    hashes tell.

    Args:
        target (`str` or `Path`): Where they belong; made if it does not exist.
        names (`Sequence[str]`): The files.
        what (`str`): What they are, for the message.

    Raises:
        NotADirectoryError: If there is a file of that name.
    """
    if Path(target).is_file():
        raise NotADirectoryError(f"{target} is a file. Give a folder for {what} to be saved in.")
    target = Path(target).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    for folder in (target, target.parent):
        remove_unfinished(folder, target.name)  # of a run that was killed
    held = {path.name for path in target.iterdir()} if target.exists() else set()
    stays = target.exists() and (
        target.is_mount() or target == Path.cwd() or not held <= set(names) or not os.access(target.parent, os.W_OK)
    )
    around = target if stays else target.parent
    with tempfile.TemporaryDirectory(dir=around, prefix=f"{_UNFINISHED}{target.name}-") as aside:
        folder = Path(aside) / (target.name or "whole")
        folder.mkdir()
        yield folder
        if stays:
            for name in names:
                (folder / name).replace(target / name)
            return
        if target.exists():
            target.rename(Path(aside) / f"{folder.name}-before")
        folder.rename(target)  # at once: nobody ever finds half of it


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Removes what runs that were killed while they wrote to a folder (into `name`, or anything) have left there."""
    for left in folder.glob(f"{_UNFINISHED}{glob.escape(name)}-" + "[a-z0-9_]" * 8 if name else f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


class StoredTensors(Mapping[str, torch.Tensor]):
    """
    Tensors of a `.safetensors` file, each read when it is asked for: no more than one is in memory.

    Args:
        file (`Path`): The file.
        prefix (`str`): Of the keys that are meant; names are what follows it.
        same (`Mapping[str, str]`, *optional*): Further names, and the one whose tensor each has.
    """

    def __init__(self, file: Path, prefix: str, same: Mapping[str, str] | None = None):
        self.file = file
        with safe_open(file, framework="pt") as opened:
            own = {key.removeprefix(prefix): key for key in opened.keys() if key.startswith(prefix)}  # noqa: SIM118
        self.places = own | {name: own[first] for name, first in (same or {}).items() if first in own}

    def __getitem__(self, name: str) -> torch.Tensor:
        place = self.places[name]
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(place)

    def shape(self, name: str) -> tuple[int, ...]:
        """That of a tensor, without reading it."""
        with safe_open(self.file, framework="pt") as opened:
            return tuple(opened.get_slice(self.places[name]).get_shape())

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
