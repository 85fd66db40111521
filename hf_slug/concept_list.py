# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The concepts of `hf-slug unlearn --concepts FILE`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path


STATISTICS = "retain-stats"  # the folder of what all of them share
SETS = ("forget", "validation_forget", "test_forget")


@dataclass(frozen=True)
class Wanted:
    """
    A concept of a batch.

    Args:
        concept (`str`): Its name.
        folder (`str`): Of its patch, inside of the output.
        sets (`dict[str, str]`): Its own `forget`, `validation_forget` and `test_forget`, where the file names some.
    """

    concept: str
    folder: str
    sets: dict[str, str]


def read_concepts(path: Path) -> list[Wanted]:
    """
    Reads the concepts of a batch: one a line, or JSON lines with `concept` and, where they differ from the command's, `forget`,
    `validation_forget`, `test_forget` and `output` (a folder inside of `--output`). Paths in the file are relative to it.

    Raises:
        ValueError: If there is none, one comes twice, or a line is not understood.
    """
    found: list[Wanted] = []
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    as_json = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
    for number, line in enumerate(lines, 1):
        if not line.strip() or (not as_json and line.lstrip().startswith("#")):
            continue
        try:
            row = json.loads(line) if as_json else {"concept": line.strip()}
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}. Expected an object a line.") from error
        known = ("concept", "output", *SETS)
        if not isinstance(row, dict) or set(row) - set(known) or not all(isinstance(row[key], str) for key in row):
            raise ValueError(
                f"{path}, line {number}: expected an object with strings for {', '.join(known)}; found {line[:80]}"
            )
        if not row.get("concept", "").strip():
            raise ValueError(f'{path}, line {number} names no concept. Expected e.g. {{"concept": "mira"}}.')
        concept = row["concept"].strip()
        folder = row.get("output") or re.sub(r"[^\w.-]+", "-", concept.casefold()).strip("-.")
        if not folder or folder == STATISTICS or Path(folder).name != folder:
            raise ValueError(
                f"{path}, line {number}: {folder!r} can't be the folder of a patch. Give another `output`, a plain name."
            )
        found.append(Wanted(concept, folder, {key: _beside(path, row[key]) for key in SETS if key in row}))
    for what in ("concept", "folder"):
        values = [getattr(wanted, what) for wanted in found]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(
                f"{path} has {what} {', '.join(map(repr, twice[:5]))} more than once. Each may occur once."
            )
    if not found:
        raise ValueError(f"{path} holds no concepts. Expected one a line, or JSON lines with `concept`.")
    return found


def _beside(path: Path, given: str) -> str:
    near = path.parent / given
    return str(near) if near.exists() else given
