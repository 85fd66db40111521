# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Opening a source of image-text pairs: whatever it is, it becomes a stream of `(image, text, name)` rows."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from .errors import MissingColumnError, UnreadableSourceError
from .readers import IMAGES, TABLES, expand_braces, guarded, is_tar, read_table, read_tars


PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy", ".npz"}
_TABLES = ("metadata.jsonl", "metadata.csv")
READABLE = (
    "a folder of images with metadata.jsonl or metadata.csv, a .parquet, .jsonl, .json, .csv, .tsv or .tar file, a "
    "folder of parquet files or tar shards, or the Hub id of a dataset (user/name)"
)


class Columns(NamedTuple):
    """The names of the columns to read."""

    image: str
    text: str
    name: str | None

    def check(self, found: list[str]) -> None:
        """Raises [`MissingColumnError`] unless the columns are there. `name` is welcome, and not needed."""
        optional = (None, "name")
        for column, option in zip(self, ("image_column", "text_column", "name_column"), strict=True):
            if column is not None and column not in found and not (option == "name_column" and column in optional):
                raise MissingColumnError(column, found, option=option)


@dataclass(frozen=True)
class Opened:
    """Rows, with an exception in the place of one that could not be read; what they are; how many, if known."""

    rows: Iterable[Any]
    source: str
    total: int | None = None


def open_source(source: Any, columns: Columns, *, split: str = "train", streaming: bool = False) -> Opened:
    """
    Opens anything that [`load_pairs`] reads. Nothing local ever makes a call to the network.

    Raises:
        MissingColumnError: If a column is missing.
        UnreadableSourceError: If the source does not exist, is damaged, can't be reached or is of no known format.
        TypeError: If the source is of a type that holds no rows.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), columns, split, streaming)
    if "datasets" in sys.modules:
        import datasets

        if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
            if split not in source:
                found = ", ".join(map(str, source))
                raise UnreadableSourceError(f"There is no split {split!r}. Splits found: {found}.")
            source = source[split]
        if isinstance(source, datasets.Dataset | datasets.IterableDataset):
            name = getattr(source.info, "dataset_name", None)
            label = f"{name or type(source).__name__}" + (f" ({source.split})" if source.split else "")
            return _open_dataset(source, columns, label)
    if isinstance(source, Mapping) or not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        kind = type(source).__name__
        raise TypeError(f"Pairs can't be read from a {kind}. Give {READABLE}, a dataset or a list of rows.")
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        kind = "list" if isinstance(source, list | tuple) else type(source).__name__
        mappings = isinstance(source, list) and source and all(isinstance(row, Mapping) for row in source)
        keys = list(dict.fromkeys(chain.from_iterable(source))) if mappings else None
        return Opened(_pick(_items(source), columns, keys), f"{kind} of {len(source)} pairs", len(source))
    return Opened(_pick(source, columns), type(source).__name__)


def _open_path(path: str, columns: Columns, split: str, streaming: bool) -> Opened:
    local, suffix = Path(path).expanduser(), Path(path).suffix.lower()
    if suffix in PICKLES:
        raise UnreadableSourceError(f"{path} is refused: pickles run code when read. Give {READABLE}.")
    if local.is_dir():
        return _open_folder(local, columns, split)
    if local.is_file():
        if suffix in TABLES:
            return _open_tables([local], columns, f"file {local}")
        if suffix == ".parquet":
            files = {split: glob.escape(str(local.absolute()))}
            return _open_dataset(_load(str(local), "parquet", split, data_files=files), columns, f"file {local}")
        if is_tar(local):
            return _open_tars([local], columns, f"webdataset {local}")
        raise UnreadableSourceError(f"{path} is of no known format. Give {READABLE}.")
    if shards := sorted({Path(file) for pattern in expand_braces(str(local)) for file in glob.glob(pattern)}):
        if not all(is_tar(shard) for shard in shards):
            raise UnreadableSourceError(f"The pattern {path} matches other files than .tar shards. Give {READABLE}.")
        return _open_tars(shards, columns, f"webdataset {path} ({len(shards)} shards)")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", path) or suffix in {*TABLES, *IMAGES, ".parquet", ".tar", ".tgz"}:
        raise UnreadableSourceError(f"{path} does not exist, and is not the Hub id of a dataset. Give {READABLE}.")
    return _open_dataset(_load(path, path, split, streaming=streaming), columns, f"{path} ({split})")


def _open_folder(folder: Path, columns: Columns, split: str) -> Opened:
    source = f"folder {folder}"
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        import datasets

        opened = open_source(datasets.load_from_disk(str(folder)), columns, split=split)
        return Opened(opened.rows, source, opened.total)
    # what may tell how the folder is to be read, in one walk; images are looked for where nothing else does
    telling = [file for file in _files(folder) if file.suffix == ".parquet" or file.name in _TABLES or is_tar(file)]
    if any(file.suffix == ".parquet" for file in telling):
        # As `datasets` reads a clone of a Hub repo, with its rules of what belongs to which split.
        return _open_dataset(_load(str(folder), str(folder), split), columns, f"{source} ({split})")
    if (folder / split).is_dir():
        folder, source = folder / split, f"folder {folder / split}"
        telling = [file for file in telling if file.is_relative_to(folder)]
    if tables := sorted(file for file in telling if file.name in _TABLES):
        return _open_tables(tables, columns, source)
    if shards := sorted(file for file in telling if is_tar(file)):
        return _open_tars(shards, columns, f"{source} ({len(shards)} shards)")
    if images := sorted(file for file in _files(folder) if file.suffix.lower() in IMAGES):
        # Without texts, the folders are the classes: `text_column="label"` reads them, anything else is told so.
        rows = ({"image": file, "label": file.parent.name} for file in images)
        return Opened(_pick(rows, columns, ["image", "label"]), source, len(images))
    count = sum(1 for _ in _files(folder))
    raise UnreadableSourceError(f"Nothing to read in {source} ({count} files). Give {READABLE}.")


def _files(folder: Path) -> Iterator[Path]:
    """All that are not hidden, one by one: a folder may hold millions."""
    return (Path(root, name) for root, _, names in os.walk(folder) for name in names if not name.startswith("."))


def _open_tables(tables: list[Path], columns: Columns, source: str) -> Opened:
    def read() -> Iterator[dict[str, Any]]:
        return (row for table in tables for row in read_table(table, columns.image))

    # read twice, as a stream's is not to be in memory: what columns there are, only the last row tells
    count, found = 0, dict[str, None]()
    for row in read():
        count += 1
        found |= dict.fromkeys(str(key) for key in row if key is not None)
    return Opened(_pick(read(), columns, [str(key) for key in (found if count else columns)]), source, count)


def _open_tars(shards: list[Path], columns: Columns, source: str) -> Opened:
    rows = guarded(read_tars(shards, columns.image, columns.text), source)
    return Opened(_pick(rows, columns), source)


def _load(label: str, path: str, split: str, streaming: bool = True, **kwargs: Any) -> Any:
    import datasets

    try:
        # Local files are streamed, or `datasets` would write a second copy of them to its cache.
        return datasets.load_dataset(path, split=split, streaming=streaming, **kwargs)
    # Whatever a network, a repository or a parser may raise; the person needs the name that was not found, and why.
    except Exception as error:
        where = "read" if os.path.exists(label) else "loaded from the Hub, and there is no such file or folder here"
        raise UnreadableSourceError(f"{label} can't be {where}: {type(error).__name__}: {error}") from error


def _open_dataset(dataset: Any, columns: Columns, label: str) -> Opened:
    import datasets

    total = len(dataset) if isinstance(dataset, datasets.Dataset) else None
    found, labels = dataset.column_names, {}
    if found is not None:
        columns.check(found)
        # Other columns may hold images or sounds, which would be decoded for nothing.
        dataset = dataset.select_columns([column for column in dict.fromkeys(columns) if column in found])
    if features := dataset.features:
        labels = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        if isinstance(features[columns.image], datasets.Image):
            dataset = dataset.cast_column(columns.image, datasets.Image(decode=False))  # one broken image would end it

    def named(row: dict[str, Any]) -> dict[str, Any]:
        # -1 is how `datasets` writes that a class is not known.
        unknown = (None, -1)
        return row | {name: None if row[name] in unknown else kind.int2str(row[name]) for name, kind in labels.items()}

    return Opened(_pick(map(named, guarded(dataset.with_format(None), label)), columns, found), label, total)


def _items(rows: Any) -> Iterator[Any]:
    """Indexes, so that an image which a torch dataset can't open is one row lost and not the end."""
    for index in range(len(rows)):
        try:
            yield rows[index]
        except OSError as error:
            yield error


def _pick(rows: Iterable[Any], columns: Columns, found: list[str] | None = None) -> Iterator[Any]:
    """Takes the image, the text and the name out of every row. Without a schema, the first row has to have them."""
    if found is not None:
        columns.check(found)
    for row in rows:
        if isinstance(row, Mapping):
            if found is None:
                found = [str(column) for column in row]
                columns.check(found)
            yield tuple(row.get(column) for column in columns)
        elif isinstance(row, tuple | list) and len(row) in (2, 3):
            yield (*row, None)[:3]
        elif isinstance(row, Exception):
            yield row
        else:
            kind = type(row).__name__
            raise TypeError(f"A row must be (image, text), (image, text, name) or a mapping, got a {kind}.")
