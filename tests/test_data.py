# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Reading forget and retain sets, from every kind of source, with every kind of damage, and without a network."""

import io
import itertools
import json
import logging
import pickle
import socket
import sys
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_slug.captions import filter_captions
from hf_slug.data import Pair, Pairs, load_pairs
from hf_slug.errors import (
    EmptyDatasetError,
    MissingColumnError,
    TooManyUnreadableError,
    UnreadableImageError,
    UnreadableSourceError,
)
from hf_slug.images import decode, encode
from hf_slug.reading import _progress
from hf_slug.splits import stratified_split


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was called")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for config in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)  # or a call might not get as far as the socket
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert not list((tmp_path / "cache").rglob("*.arrow")), "a local source was copied to the cache"


def picture(value: int, size=(6, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, 10, 20))


def encoded(value: int, format="PNG") -> bytes:
    file = io.BytesIO()
    picture(value).save(file, format)
    return file.getvalue()


def rows(count: int) -> list[dict]:
    return [{"image": encoded(i), "text": f"caption {i}", "name": f"{i % 3}"} for i in range(count)]


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(encoded(i))
    return [f"{i}.png" for i in range(count)]


def write_jsonl(path: Path, content: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]], mode="w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def image_dataset(content: list[dict], **features) -> datasets.Dataset:
    columns = {"image": datasets.Image(), "text": datasets.Value("string"), "name": datasets.Value("string")}
    content = [{**row, "image": {"bytes": row["image"], "path": None}} for row in content]
    return datasets.Dataset.from_list(content, features=datasets.Features({**columns, **features}))


def check(pairs: Pairs, count: int, names: bool = True):
    assert pairs.texts == [f"caption {i}" for i in range(count)]
    assert pairs.names == [f"{i % 3}" if names else None for i in range(count)]
    assert [image.getpixel((0, 0)) for image in pairs.images()] == [(i, 10, 20) for i in range(count)]
    assert all(image.mode == "RGB" and image.size == (6, 4) for image in pairs.images())
    assert pairs.skipped == pairs.captionless == 0


# Sources


class TorchDataset(torch.utils.data.Dataset):
    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):  # never raises IndexError, as many don't
        if index in self.broken:
            raise OSError(f"image {index} is truncated")
        return picture(index), f"caption {index}", str(index % 3)


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


# What is refused


@pytest.mark.parametrize(
    "make",
    [
        lambda: rows(3),
        lambda: iter(rows(3)),
        lambda: datasets.Dataset.from_list(rows(3)),
        lambda: image_dataset(rows(3)).to_iterable_dataset(),
    ],
)
@pytest.mark.parametrize(("option", "flag"), [("text_column", "--text-column"), ("image_column", "--image-column")])
def test_missing_column_says_what_is_there_and_what_to_do(make, option, flag):
    with pytest.raises(MissingColumnError) as error:
        load_pairs(make(), **{option: "caption"})
    assert all(part in str(error.value) for part in ("'caption'", "'image', 'text', 'name'", f"`{option}=`", flag))


def test_missing_column_in_files(tmp_path):
    write_images(tmp_path, 2)
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": "0.png", "caption": "a"}])
    with pytest.raises(MissingColumnError, match="'text'.*'file_name', 'caption'"):
        load_pairs(tmp_path)
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(MissingColumnError, match="'image'.*'a'"):
        load_pairs(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "source", [[], (), iter([]), datasets.Dataset.from_dict({"image": [], "text": []}), [(encoded(1), "")]]
)
def test_empty_set(source):
    with pytest.raises(EmptyDatasetError, match="retain set is empty"):
        load_pairs(source, what="retain set")


def test_empty_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "a.csv").write_text("image,text\n")
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(EmptyDatasetError, match="forget set is empty"):
            load_pairs(tmp_path / name)
    (tmp_path / "void").mkdir()
    with pytest.raises(UnreadableSourceError, match="Nothing to read"):
        load_pairs(tmp_path / "void")


def test_no_retain_set():
    with pytest.raises(EmptyDatasetError, match="There is no retain set"):
        load_pairs(None, what="retain set")


@pytest.mark.parametrize(
    "source",
    ["./nowhere", "/no/where", "~/nowhere-4711", "nowhere", "a/b/c", "no/file.jsonl", "no/file.tar", "no/{0..9}.tar"],
)
def test_missing_file_is_not_sought_on_the_hub(source):
    with pytest.raises(UnreadableSourceError, match="does not exist, and is not the Hub id"):
        load_pairs(source)


def test_hub_id_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UnreadableSourceError, match="user/name can't be loaded from the Hub, and there is no such file"
    ):
        load_pairs("user/name")


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_id(monkeypatch, streaming):
    def load_dataset(path, *, split, streaming):
        assert (path, split) == ("user/name", "test")
        dataset = image_dataset(rows(5))
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs = load_pairs("user/name", split="test", streaming=streaming)
    check(pairs, 5)
    assert pairs.source == "user/name (test)"


@pytest.mark.parametrize("suffix", ["pkl", "pt", "PTH", "bin", "npz"])
def test_pickles_are_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(pickle.dumps(rows(1)))
    with pytest.raises(UnreadableSourceError, match="pickles run code"):
        load_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.jsonl", b'{"image": 1, "text": 2}\n{"image": \n', "line 2 is not JSON"),
        ("x.jsonl", b"[1, 2]\n", "row 1 is not an object"),
        ("x.jsonl", b"\xff\xfe\x00", "x.jsonl is damaged"),
        ("x.parquet", b"PAR1 but no more", "x.parquet can't be read"),
        ("x.xlsx", b"PK", "of no known format"),
    ],
)
def test_damaged_files(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableSourceError, match=reason):
        load_pairs(tmp_path / name)


@pytest.mark.parametrize("source", [3, {"image": [], "text": []}, object(), ["a", "b"], [(1, 2, 3, 4)]])
def test_wrong_types(source):
    with pytest.raises(TypeError, match="mapping|can't be read from"):
        load_pairs(source)


def test_bad_max_samples():
    for call in (load_pairs, lambda source, **kwargs: filter_captions(source, "a", **kwargs)):
        with pytest.raises(ValueError, match="max_samples"):
            call(rows(3), max_samples=0)


# Unreadable images and missing captions

BROKEN = {
    "zero bytes": b"",
    "not an image": b"<html>404</html>",
    "truncated": encoded(7)[:-25],
    "truncated jpeg": Image.effect_noise((64, 64), 50).convert("RGB").tobytes("jpeg", "RGB")[:700],
    "none": None,
    "missing file": "/no/such/file.png",
    "url": "https://example.org/cat.png",
    "unreachable": "zip://a.png::/no/such.zip",
    "empty mapping": {"bytes": None, "path": None},
    "number": 3,
    "normalised": np.full((4, 4, 3), -1.5, dtype=np.float32),
    "shape": np.zeros((2, 2, 2, 2), dtype=np.uint8),
    "nan": np.full((4, 4), np.nan),
    "no pixels": np.zeros((0, 4, 3), dtype=np.uint8),
    "object": np.array([[object()]]),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_unreadable_images_are_skipped_and_counted(broken, caplog):
    content = [{"image": encoded(i), "text": f"caption {i}"} for i in range(30)]
    content[3]["image"] = broken
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs(content, what="retain set")
    assert (len(pairs), pairs.skipped) == (29, 1)
    assert "caption 3" not in pairs.texts
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 of 30 images of the retain set (list of 30 pairs) are unreadable" in caplog.text
    assert pairs[:5].skipped == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_broken_image_does_not_end_a_dataset(streamed):
    dataset = image_dataset([*rows(10), {"image": b"junk", "text": "a", "name": "b"}, *rows(10)])
    pairs = load_pairs(dataset.to_iterable_dataset() if streamed else dataset)
    assert (len(pairs), pairs.skipped) == (20, 1)
    assert load_pairs(TorchDataset(20, broken=(3,))).skipped == 1


def test_broken_files_in_a_folder(tmp_path):
    files = [*write_images(tmp_path, 40), "gone.png"]
    (tmp_path / files[1]).write_bytes(b"")
    (tmp_path / files[2]).write_bytes(encoded(2)[:-25])
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": f, "text": f"a picture {f}"} for f in files])
    pairs = load_pairs(tmp_path)
    assert (len(pairs), pairs.skipped) == (38, 3)


@pytest.mark.parametrize(("broken", "refused"), [(10, False), (11, True)])
def test_ten_percent_may_be_unreadable(broken, refused):
    content = [(b"junk" if i < broken else encoded(i), f"caption {i}") for i in range(100)]
    if not refused:
        assert load_pairs(content).skipped == broken
        return
    with pytest.raises(TooManyUnreadableError) as error:
        load_pairs(content)
    for part in ("forget set", "unreadable: not an image: 4 bytes; ", "10%", "--image-column"):
        assert part in str(error.value)


def test_unreadable_counts_are_whole_for_streams_of_unknown_length():
    with pytest.raises(TooManyUnreadableError, match="12 of 60 images"):
        load_pairs((b"junk" if i % 5 == 0 else encoded(i), "text") for i in range(60))


def test_hopeless_streams_are_given_up():
    def endless():
        while True:
            yield b"junk", "text"

    with pytest.raises(TooManyUnreadableError):
        load_pairs(endless(), max_samples=100)


def test_rows_without_text_are_counted_apart(caplog):
    texts = ["a", None, "", "  ", 3, float("nan"), ["a"], "b"]
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs([(encoded(i), text) for i, text in enumerate(texts)])
    assert (pairs.texts, pairs.captionless, pairs.skipped) == (["a", "b"], 6, 0)
    assert "6 rows had no text" in caplog.text
    with pytest.raises(EmptyDatasetError, match="6 rows had no text.*'text'"):
        load_pairs([(encoded(i), text) for i, text in enumerate(texts[1:-1])])


def test_max_samples_reads_no_further():
    read = []

    def stream():
        for i in range(100):
            read.append(i)
            yield encoded(i), None if i == 1 else f"caption {i}"

    assert load_pairs(stream(), max_samples=3).texts == ["caption 0", "caption 2", "caption 3"]
    assert read == [0, 1, 2, 3]


def test_image_that_vanishes_later(tmp_path):
    write_images(tmp_path, 1)
    pairs = load_pairs([(tmp_path / "0.png", "a")])
    (tmp_path / "0.png").unlink()
    with pytest.raises(UnreadableImageError, match="no such file.*0.png"):
        _ = pairs[0].image


# Images


def test_image_forms(tmp_path):
    path = tmp_path / "0.png"
    path.write_bytes(encoded(9))
    array = np.asarray(picture(9))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [path, str(path), encoded(9), bytearray(encoded(9)), picture(9), {"bytes": encoded(9), "path": None}]
    forms += [{"path": str(path)}, array, tensor, tensor.float() / 255, tensor.double() / 255, array.astype(np.int64)]
    for form in forms:
        assert decode(encode(form)).tobytes() == picture(9).tobytes()
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for form in (gray, gray[None], gray[..., None]):
        assert np.array_equal(np.asarray(decode(encode(form)))[..., 1], gray)
    assert decode(encode(np.ones((4, 6), dtype=bool))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encode(torch.ones(3, 4, 6, dtype=torch.bfloat16))).size == (6, 4)


def save(image: Image.Image, format="PNG", **kwargs) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **kwargs)
    return file.getvalue()


def test_image_modes():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(save(picture(1), "JPEG", exif=exif.tobytes())).size == (4, 6)
    hidden = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    for transparent in (hidden, hidden.convert("LA")):
        assert decode(save(transparent)).getpixel((0, 0)) == (255, 255, 255)
    paletted = Image.new("P", (2, 2))
    paletted.putalpha(0)
    assert paletted.mode == "PA" and decode(paletted).getpixel((0, 0)) == (255, 255, 255)  # PNG knows no such mode
    palette = picture(3).quantize(4)
    assert decode(save(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(save(palette)).getpixel((0, 0)) == (3, 10, 20)
    deep = Image.fromarray(np.full((2, 2), 32896, dtype=np.uint16))
    assert decode(save(deep)).getpixel((0, 0)) == (128, 128, 128)
    assert decode(save(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(save(picture(1).convert("CMYK"), "JPEG")).mode == "RGB"


# Pairs


def test_pairs_behave_as_a_sequence():
    pairs = load_pairs(rows(5))
    assert isinstance(pairs[0], Pair) and pairs[-1].text == "caption 4"
    assert isinstance(pairs[1:4], Pairs) and pairs[1:4].texts == ["caption 1", "caption 2", "caption 3"]
    assert pairs.subset([4, 0]).texts == ["caption 4", "caption 0"]
    assert [pair.text for pair in pairs] == pairs.texts
    assert len(pairs.images([1, 3])) == len(pairs.images(slice(0, 2))) == 2
    assert repr(pairs) == "Pairs(5 from list of 5 pairs)"
    assert pickle.loads(pickle.dumps(pairs)).fingerprint() == pairs.fingerprint()


def test_fingerprint(tmp_path):
    write_images(tmp_path, 3)
    content = [(encoded(i), f"caption {i}") for i in range(3)]
    print_of = load_pairs(content).fingerprint()
    assert load_pairs([(tmp_path / f"{i}.png", f"caption {i}") for i in range(3)]).fingerprint() == print_of
    assert len(print_of) == 16
    others = [
        content[::-1],
        content[:2],
        [(content[0][0], "other"), *content[1:]],
        [(encoded(9), "caption 0"), *content[1:]],
    ]
    others += [[(picture(i), f"caption {i}") for i in range(3)]]
    assert len({print_of, *(load_pairs(other).fingerprint() for other in others)}) == 6


@settings(max_examples=150, deadline=None)
@given(
    classes=st.lists(st.integers(0, 8), min_size=3, max_size=120),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.8, 0.1, 0.1), (0.98, 0.01, 0.01)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_stratified_partition(classes, fractions, seed):
    parts = stratified_split(classes, fractions, seed)
    assert sorted(index for part in parts for index in part) == list(range(len(classes)))
    assert parts == stratified_split(classes, np.array(fractions), np.uint32(seed))
    assert all(parts)
    for each, count in Counter(classes).items():
        if count >= 3:
            assert all(each in [classes[index] for index in part] for part in parts)
    if fractions == (0.6, 0.2, 0.2):
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * len(classes)) <= len(set(classes)) + 1


def test_split():
    pairs = load_pairs([(encoded(i), f"caption {i % 4}") for i in range(40)])
    parts = pairs.split(seed=3)
    assert [len(part) for part in parts] == [24, 8, 8]
    assert all(Counter(part.texts) == {f"caption {k}": len(part) // 4 for k in range(4)} for part in parts)
    assert parts[0].texts != sorted(parts[0].texts), "in a random order, not class by class"
    assert [part.fingerprint() for part in pairs.split(seed=3)] == [part.fingerprint() for part in parts]
    assert pairs.split(seed=4)[0].fingerprint() != parts[0].fingerprint()
    # Names take precedence; single captions are split as one class.
    named = load_pairs([(encoded(i), f"caption {i}", "x" if i < 5 else None) for i in range(15)])
    assert [len(part) for part in named.split()] == [9, 3, 3]
    assert [part.names.count("x") for part in named.split()] == [3, 1, 1]
    assert [len(part) for part in pairs.split((0.5, 0, 0.5))] == [20, 0, 20]


def test_split_refuses():
    pairs = load_pairs(rows(2))
    with pytest.raises(EmptyDatasetError, match="2 pairs .* into 3 parts.*--validation-forget"):
        pairs.split()
    for fractions in ((0.6, 0.2), (1.2, -0.2), ()):
        with pytest.raises(ValueError, match="add up to 1"):
            pairs.split(fractions)


# Captions

CAPTIONS = {
    "Elon Musk at a gala": True,
    "a portrait of ELON MUSK.": True,
    "Elon  Musk's car": True,
    "#elon-musk": True,
    "«Elon\nMusk»": True,
    "elon_musk_1": True,
    "Ｅｌｏｎ Musk": True,
    "Elon Muskrat": False,
    "Melon Musk": False,
    "Musk, Elon": False,
    "elonmusk": False,
    "": False,
}


@pytest.mark.parametrize(("caption", "expected"), CAPTIONS.items())
def test_names_are_matched_as_whole_words(caption, expected):
    assert bool(filter_captions([(None, caption)], "Elon Musk")) is expected


def test_name_options():
    captions = [
        (None, text) for text in ("Mickey Mouse", "mickey", "Minnie", None, 3, "Beyonce\u0301", "村上春樹の本")
    ]

    def found(name, **options):
        return [row[1] for row in filter_captions(captions, name, **options)]

    assert found(["Mickey Mouse", "Mickey"]) == ["Mickey Mouse", "mickey"]
    assert found("Mickey", case_sensitive=True) == ["Mickey Mouse"]
    assert found("Beyoncé") == ["Beyonce\u0301"]
    assert found("村上春樹") == [] and found("村上春樹", whole_words=False) == ["村上春樹の本"]
    assert found("ick", whole_words=False) == ["Mickey Mouse", "mickey"]
    assert found(["minnie", "mickey"], max_samples=2) == ["Mickey Mouse", "mickey"]
    for name in ("", " - ", [], ["a", ""]):
        with pytest.raises(ValueError, match="at least one letter or digit"):
            found(name)


def corpus() -> list[dict]:
    texts = ["Elon Musk", None, "a cat", "elon musk!", "Elon Muskrat", "Elon Musk again"]
    content = [{"image": encoded(i), "text": text, "name": "x"} for i, text in enumerate(texts)]
    content[2]["image"] = b"junk"
    return content


def test_filter_keeps_the_kind_of_dataset():
    wanted = ["Elon Musk", "elon musk!", "Elon Musk again"]
    dataset = image_dataset(corpus())
    for kind, source in ((datasets.Dataset, dataset), (datasets.IterableDataset, dataset.to_iterable_dataset())):
        filtered = filter_captions(source, "elon musk")
        assert isinstance(filtered, kind) and filtered.features == source.features
        assert [row["text"] for row in filtered] == wanted
        assert [row["text"] for row in filter_captions(source, "elon musk", max_samples=2)] == wanted[:2]
        assert load_pairs(filtered).texts == wanted
        with pytest.raises(MissingColumnError, match="'caption'.*'text'"):
            filter_captions(source, "elon musk", text_column="caption")
    pairs = filter_captions(
        load_pairs([row for row in corpus() if row["image"] != b"junk"]), "elon musk", max_samples=2
    )
    assert isinstance(pairs, Pairs) and pairs.texts == wanted[:2]
    assert [row["text"] for row in filter_captions(corpus(), "elon musk")] == wanted
    with pytest.raises(MissingColumnError, match="'caption'"):
        filter_captions(corpus(), "elon musk", text_column="caption")
    assert filter_captions([], "elon musk") == []


def test_filter_streams():
    read = []

    def stream():
        for i in range(10**9):
            read.append(i)
            yield {"image": encoded(1), "text": "Elon Musk" if i % 3 == 2 else None}

    lazy = filter_captions(stream(), "elon musk", max_samples=2)
    assert read == []
    assert len(list(lazy)) == 2 and read[-1] == 5
    read.clear()
    streamed = datasets.IterableDataset.from_generator(stream)
    read.clear()
    filtered = filter_captions(streamed, "elon musk", max_samples=2)
    assert isinstance(filtered, datasets.IterableDataset) and not read
    # `datasets` reads up to the first match twice, to learn the columns.
    assert len(load_pairs(filtered)) == 2 and len(read) <= 9


# Manners


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
