# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What is no set of pairs is refused, and says why."""

import pickle

import datasets
import pytest
from data_helpers import check, encoded, image_dataset, rows, write_images, write_jsonl

from hf_slug.captions import filter_captions
from hf_slug.data import load_pairs
from hf_slug.errors import EmptyDatasetError, MissingColumnError, UnreadableSourceError


pytestmark = pytest.mark.usefixtures("no_network")


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
