# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Reading forget and retain sets from every kind of source, without a network."""

import itertools
import json
import sys

import datasets
import huggingface_hub
import pytest
from data_helpers import (
    TorchDataset,
    check,
    encoded,
    image_dataset,
    picture,
    rows,
    write_images,
    write_jsonl,
    write_tar,
)

from hf_slug.data import load_pairs
from hf_slug.errors import MissingColumnError, UnreadableSourceError
from hf_slug.readers import read_table
from hf_slug.reading import _progress


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lambda: rows(5), "list of 5 pairs"),
        (lambda: [(encoded(i), f"caption {i}", f"{i % 3}") for i in range(5)], "list of 5 pairs"),
        (lambda: tuple(rows(5)), "list of 5 pairs"),
        (lambda: [(picture(i), f"caption {i}", i % 3) for i in range(5)], "list of 5 pairs"),
        (lambda: iter(rows(5)), "list_iterator"),
        (lambda: (row for row in rows(5)), "generator"),
        (lambda: TorchDataset(5), "TorchDataset of 5 pairs"),
        (lambda: image_dataset(rows(5)), "Dataset"),
        (lambda: image_dataset(rows(5)).with_format("torch"), "Dataset"),
        (lambda: image_dataset(rows(5)).to_iterable_dataset(), "IterableDataset"),
        (lambda: image_dataset(rows(5)).to_iterable_dataset().map(lambda row: row), "IterableDataset"),
        (lambda: datasets.DatasetDict(train=image_dataset(rows(5)), test=image_dataset(rows(2))), "Dataset"),
        (lambda: datasets.Dataset.from_list(rows(5)), "Dataset"),
    ],
)
def test_sources_in_memory(make, source):
    pairs = load_pairs(make())
    check(pairs, 5)
    assert pairs.source == source


def test_pairs_are_returned_as_they_are():
    pairs = load_pairs(rows(5))
    assert load_pairs(pairs) is pairs
    check(load_pairs(pairs, max_samples=3), 3)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("where", ["plain", "odd [name] {a,b} *", "train/nested/deep"])
def test_image_folder(tmp_path, kind, where):
    folder = tmp_path / "root" / where
    files = write_images(folder / "images", 5)
    content = [{"file_name": f"images/{f}", "text": f"caption {i}", "name": f"{i % 3}"} for i, f in enumerate(files)]
    if kind == "jsonl":
        write_jsonl(folder / "metadata.jsonl", content)
    else:
        lines = ["file_name,text,name", *(",".join(row.values()) for row in content)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    (folder / "images" / "test-4711.png").write_bytes(b"in no metadata, so of no concern")
    check(load_pairs(tmp_path / "root"), 5)
    check(load_pairs(str(folder)), 5)


def test_image_folder_with_nested_metadata_and_splits(tmp_path):
    for part, count in (("train/a", 2), ("train/b", 3), ("test", 4)):
        files = write_images(tmp_path / part, count)
        write_jsonl(tmp_path / part / "metadata.jsonl", [{"file_name": f, "text": f"{part} {f}"} for f in files])
    train = load_pairs(tmp_path)
    assert train.texts == [f"train/{p} {i}.png" for p, n in (("a", 2), ("b", 3)) for i in range(n)]
    assert len(load_pairs(tmp_path, split="test")) == 4
    assert train.source == f"folder {tmp_path / 'train'}"


def test_image_folder_without_metadata(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 2)
    with pytest.raises(MissingColumnError, match=r"'text'.*'image', 'label'.*`text_column=` \(`--text-column`"):
        load_pairs(tmp_path)
    assert load_pairs(tmp_path, text_column="label").texts == ["cat", "cat", "dog", "dog"]


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"text": "a"}\n\n{"text": "b\u2028"}\r\n{"text":\n', encoding="utf-8")
    found = read_table(path, "image")
    assert [next(found)["text"], next(found)["text"]] == ["a", "b\u2028"]
    with pytest.raises(UnreadableSourceError, match="line 4 is not JSON"):
        next(found)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.json", "rows.csv", "rows.tsv"])
def test_tables_hold_paths_relative_to_themselves(tmp_path, name, monkeypatch):
    monkeypatch.chdir("/")
    files = write_images(tmp_path / "data" / "images", 4)
    paths = [f"images/{files[0]}", f"images/{files[1]}", str(tmp_path / "data" / "images" / files[2]), "images/3.png"]
    content = [{"image": p, "text": f"caption {i}", "name": f"{i % 3}"} for i, p in enumerate(paths)]
    path = tmp_path / "data" / name
    if name.endswith("sv"):
        separator = "," if name.endswith("csv") else "\t"
        lines = [separator.join(row) for row in [content[0].keys(), *map(dict.values, content)]]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif name == "rows.json":
        path.write_text(json.dumps(content, indent=2))
    else:
        write_jsonl(path, content)
    check(load_pairs(path), 4)
    assert load_pairs(path).source == f"file {path}"


def test_table_types_are_not_guessed(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "rows.csv").write_text("image,text,name\n0.png,NA,7\n1.png,null,07\n2.png,2024,\n")
    pairs = load_pairs(tmp_path / "rows.csv")
    assert (pairs.texts, pairs.names) == (["NA", "null", "2024"], ["7", "07", None])


def test_sparse_json_lines(tmp_path):
    write_images(tmp_path, 3)
    content = [{"image": "0.png"}, {"image": "1.png", "text": "a", "extra": [1]}, {"image": "2.png", "text": 3}]
    pairs = load_pairs(write_jsonl(tmp_path / "rows.jsonl", content))
    assert pairs.texts == ["a"] and pairs.captionless == 2


@pytest.mark.parametrize("column", ["image feature", "struct", "binary", "path"])
def test_parquet(tmp_path, column):
    content = rows(5)
    if column == "image feature":
        dataset = image_dataset(content)
    else:
        write_images(tmp_path, 5)
        image = {
            "struct": lambda i: {"bytes": encoded(i), "path": None},
            "binary": encoded,
            "path": lambda i: str(tmp_path / f"{i}.png"),
        }[column]
        dataset = datasets.Dataset.from_list([{**row, "image": image(i)} for i, row in enumerate(content)])
    path = tmp_path / "odd [name].parquet"
    dataset.to_parquet(path)
    check(load_pairs(path), 5)
    check(load_pairs(path, split="test", max_samples=2), 2)


def test_folder_of_parquet_follows_the_hub_convention(tmp_path):
    (tmp_path / "data").mkdir()
    image_dataset(rows(5)).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    image_dataset(rows(2)).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    check(load_pairs(tmp_path), 5)
    check(load_pairs(tmp_path, split="test"), 2)
    with pytest.raises(UnreadableSourceError, match="validation"):
        load_pairs(tmp_path, split="validation")


def test_saved_to_disk(tmp_path):
    image_dataset(rows(5)).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=image_dataset(rows(4))).save_to_disk(tmp_path / "dict")
    check(load_pairs(tmp_path / "one"), 5)
    check(load_pairs(tmp_path / "dict"), 4)
    with pytest.raises(UnreadableSourceError, match="no split 'test'.*train"):
        load_pairs(tmp_path / "dict", split="test")
    for arrow in tmp_path.rglob("*.arrow"):
        arrow.unlink()  # for the fixture, which looks for copies


def shard(start: int, stop: int) -> list[tuple[str, bytes]]:
    members = []
    for i in range(start, stop):  # samples of different types in one shard, which the builder of `datasets` refuses
        name = json.dumps({"name": f"{i % 3}", "text": f"caption {i}"}).encode()
        if i % 2:
            members += [(f"a/{i}.json", name), (f"a/{i}.png", encoded(i))]
        else:
            members += [
                (f"a/{i}.webp", encoded(i, "PNG")),
                (f"a/{i}.txt", f"caption {i}\n".encode()),
                (f"a/{i}.json", name),
            ]
        members.append((f"a/._{i}.png", b"what macOS leaves behind"))
    return members


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")])
def test_webdataset(tmp_path, suffix, mode):
    check(load_pairs(write_tar(tmp_path / f"x.{suffix}", shard(0, 5), mode)), 5)


@pytest.mark.parametrize("pattern", ["s-{000..002}.tar", "s-*.tar", "s-00{0,1,2}.tar", "s-{0..0}{0..0}{0..2}.tar", ""])
def test_webdataset_shards(tmp_path, pattern):
    for number in range(3):
        write_tar(tmp_path / f"s-{number:03}.tar", shard(number * 2, number * 2 + 2))
    pairs = load_pairs(tmp_path / pattern)
    check(pairs, 6)
    assert "3 shards" in pairs.source


def test_webdataset_faults(tmp_path):
    members = [*shard(0, 20), ("b/x.json", b"{broken"), ("b/x.png", encoded(1)), ("b/y.txt", b"no image")]
    pairs = load_pairs(write_tar(tmp_path / "x.tar", members))
    assert (len(pairs), pairs.skipped) == (20, 2)
    with pytest.raises(MissingColumnError, match="'caption'.*'text'"):
        load_pairs(write_tar(tmp_path / "v.tar", shard(1, 2)), text_column="caption")
    whole = write_tar(tmp_path / "y.tar", shard(0, 20)).read_bytes()
    (tmp_path / "y.tar").write_bytes(whole[: len(whole) // 2 + 700])
    with pytest.raises(UnreadableSourceError, match="y.tar is damaged"):
        load_pairs(tmp_path / "y.tar")
    (tmp_path / "z.tar").write_bytes(b"not a tar")
    with pytest.raises(UnreadableSourceError, match="z.tar is damaged"):
        load_pairs(tmp_path / "z.tar")


def test_class_labels_become_their_names():
    label = datasets.ClassLabel(names=["cat", "dog"])
    content = [{"image": encoded(i), "text": i % 2, "name": [0, 1, None, -1][i]} for i in range(4)]
    dataset = image_dataset(content, text=label, name=label)
    for each in (dataset, dataset.to_iterable_dataset()):
        pairs = load_pairs(each)
        assert pairs.texts == ["cat", "dog", "cat", "dog"]
        assert pairs.names == ["cat", "dog", None, None]


def test_other_columns_and_their_names():
    content = [{"jpg": encoded(i), "prompt": f"caption {i}", "who": f"{i % 3}"} for i in range(5)]
    columns = {"image_column": "jpg", "text_column": "prompt", "name_column": "who"}
    check(load_pairs(content, **columns), 5)
    check(load_pairs(content, **{**columns, "name_column": None}), 5, names=False)
    check(load_pairs(content, image_column="jpg", text_column="prompt"), 5, names=False)
    with pytest.raises(MissingColumnError, match="'nobody'.*'jpg', 'prompt', 'who'.*name_column"):
        load_pairs(content, **{**columns, "name_column": "nobody"})


@pytest.fixture
def bars(monkeypatch):
    # The environment of the test run turns them off.
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)


def test_progress_bar(bars, capsys, monkeypatch):
    clock = itertools.count(step=0.001)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    load_pairs(rows(3))
    assert "Reading" not in capsys.readouterr().err, "only what takes over a second has a bar"
    clock = itertools.count(step=0.6)
    load_pairs(rows(3))
    assert "Reading the forget set" in capsys.readouterr().err


@pytest.mark.parametrize("library", [datasets, huggingface_hub.utils])
def test_progress_bar_has_the_switches_of_both_libraries(bars, library):
    assert not _progress([], 3, "Reading", True).disable
    assert _progress([], 3, "Reading", False).disable
    library.disable_progress_bars()
    try:
        assert _progress([], 3, "Reading", True).disable
    finally:
        library.enable_progress_bars()
