# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Reading rows from plain files: JSON lines, CSV and webdataset shards."""

import csv
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from .errors import UnreadableSourceError


IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TABLES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv"}


def read_table(path: Path, image_column: str) -> Iterator[dict[str, Any]]:
    """Reads JSON lines or CSV by hand: type inference would make numbers of names such as "7"."""
    for row in guarded(_read_csv(path) if path.suffix.lower() in (".csv", ".tsv") else _read_json(path), str(path)):
        if image_column not in row and "file_name" in row:
            row[image_column] = row["file_name"]
        image = row.get(image_column)
        if isinstance(image, str) and image and "://" not in image:
            row[image_column] = path.parent / image  # absolute paths stay as they are
        yield row


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        first = next((line for line in file if line.strip()), "")
        file.seek(0)
        rows = enumerate(json.load(file), 1) if first.lstrip().startswith("[") else _read_lines(file)
        for number, row in rows:
            if not isinstance(row, dict):
                raise ValueError(f"row {number} is not an object with columns: {str(row)[:80]}")
            yield row


def _read_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error


def read_tars(paths: list[Path], image_column: str, text_column: str) -> Iterator[dict[str, Any] | Exception]:
    """
    Reads webdataset shards: the members of a sample follow one another and share their name up to the first dot.

    The builder of `datasets` refuses shards whose samples differ in type, a .jpg here and a .png there.
    """
    for path in paths:
        with tarfile.open(path) as tar:
            files = (member for member in tar if member.isfile() and not Path(member.name).name.startswith("."))
            for _, sample in groupby(files, key=lambda member: _key(member.name)[0]):
                # `extractfile` is None for what is no file, and these are.
                parts = {_key(member.name)[1]: tar.extractfile(member).read() for member in sample}  # type: ignore[union-attr]
                try:
                    yield _sample(parts, image_column, text_column)
                except ValueError as error:
                    yield error


def _sample(parts: dict[str, bytes], image_column: str, text_column: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(parts)
    described = json.loads(parts["json"]) if "json" in parts else {}
    row.update(described if isinstance(described, dict) else {})
    if "txt" in parts:
        row.setdefault(text_column, parts["txt"].decode().strip())
    for extension, data in parts.items():
        if f".{extension}" in IMAGES:
            row[image_column] = data
    return row


def _key(member: str) -> tuple[str, str]:
    folder, name = os.path.split(member)
    stem, _, extension = name.partition(".")
    return os.path.join(folder, stem), extension.lower()


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))


def expand_braces(pattern: str) -> list[str]:
    """Expands `{000..012}` and `{a,b}`, as webdataset's own patterns have them."""
    if not (match := re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)):
        return [pattern]
    first, last, choices = match.groups()
    each = choices.split(",") if choices else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [full for part in each for full in expand_braces(pattern[: match.start()] + part + pattern[match.end() :])]


def guarded(rows: Iterable[Any], source: str) -> Iterator[Any]:
    """Says which source it is that is damaged."""
    try:
        yield from rows
    except (OSError, ValueError, EOFError, csv.Error, tarfile.TarError, zlib.error, RuntimeError) as error:
        raise UnreadableSourceError(f"{source} is damaged or can't be read: {error}") from error
