# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Finding the captions that name something."""

import datasets
import pytest
from data_helpers import encoded, image_dataset

from hf_slug.captions import filter_captions
from hf_slug.data import Pairs, load_pairs
from hf_slug.errors import MissingColumnError


pytestmark = pytest.mark.usefixtures("no_network")


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
