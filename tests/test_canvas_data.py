# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The protocol of UnlearnCanvas, and its data set as it lies on disk."""

import pytest
import unlearn_canvas
from canvas.dataset import Dataset
from canvas.forgetting import Budget, searched_seeds
from canvas.protocol import GUIDANCE, OBJECTS, PHOTO, SEEDS, STEPS, STYLES, Canvas
from canvas_miniature import MINIATURE, OBJECT_NAMES, STYLE_NAMES, draw_miniature, touch_official

from hf_slug.errors import UnreadableSourceError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_miniature(tmp_path_factory.mktemp("canvas"))


def test_the_official_grid_is_the_published_one():
    canvas = Canvas()
    assert (len(STYLES), len(OBJECTS), PHOTO in STYLES) == (51, 20, True)
    assert list(STYLES) == sorted(STYLES) and list(OBJECTS) == sorted(OBJECTS)  # the order of the heads
    assert len(canvas.cells) * len(SEEDS) == 5100
    assert len(canvas.concepts) == 70 and PHOTO not in canvas.concepts
    assert canvas.say(("Van_Gogh", "Dogs")) == "A Dogs image in Van Gogh style."
    assert canvas.say((PHOTO, "Dogs")) == "A Dogs image in Seed Images style."
    assert canvas.caption((PHOTO, "Dogs")) == "A Dogs image in photo style"
    assert canvas.caption(("Van_Gogh", "Architectures")) == "An Architectures image in Van Gogh style"
    assert canvas.say(("Van_Gogh", "Architectures")) == "A Architectures image in Van Gogh style."
    args = unlearn_canvas.parse(["--model", "m", "--data", "d", "--classifiers", "c", "--output", "o"])
    assert (tuple(args.seeds), args.steps, args.guidance) == ((188, 288, 588, 688, 888), 100, 9.0)
    assert (tuple(args.seeds), args.steps, args.guidance) == (SEEDS, STEPS, GUIDANCE)
    assert Canvas(args.styles, args.objects, args.prompt) == canvas
    assert not searched_seeds(canvas, Budget()) & set(SEEDS)


@pytest.mark.parametrize(
    "broken, message",
    [
        ({"styles": ("neon", "chalk", "neon")}, "neon more than once"),
        ({"objects": ("two",)}, "2 styles and 1 objects"),
        ({"styles": ("neon", PHOTO)}, "1 styles"),
        ({"prompt": "a {object}"}, "once each, found 'a {object}'"),
        ({"prompt": "{object} {object} {style}"}, "once each"),
    ],
)
def test_a_canvas_that_is_none_is_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        Canvas(**{"styles": STYLE_NAMES, "objects": OBJECT_NAMES, **broken})


@pytest.mark.parametrize("concept", ["Van_Gogh", "Dogs"])
def test_any_first_few_cells_are_of_all_styles_and_objects_alike(concept):
    canvas = Canvas()
    for shown in (True, False):
        cells = canvas.spread(concept, shown)
        assert set(cells) == {cell for cell in canvas.cells if (concept in cell) == shown}
        assert len(set(cells)) == len(cells)
    first = canvas.spread(concept, False)[:300]
    for kind, names in enumerate((STYLES, OBJECTS)):
        counts = [sum(cell[kind] == name for cell in first) for name in names if name != concept]
        assert max(counts) - min(counts) <= 2


def test_pairs_are_bounded_and_captioned(data):
    dataset = Dataset(data, MINIATURE)
    forget, retain = dataset.pairs("neon", True, 5), dataset.pairs("neon", False, 100)
    assert len(forget) == 5 and len(retain) == 9
    assert set(forget.texts) == {f"a {name} in neon style" for name in OBJECT_NAMES}
    assert set(retain.texts) == {f"a {name} in chalk style" for name in OBJECT_NAMES}
    assert set(forget.names) == {"neon"} and set(retain.names) == {"chalk"}
    assert set(dataset.pairs("seven", False, 100).names) == {"two", "five"}
    assert len(dataset.reference("neon", 2)) == 6 and all("neon" not in str(f) for f in dataset.reference("neon"))


def test_the_official_layout_is_read(tmp_path):
    dataset = Dataset(touch_official(tmp_path / "data"), Canvas())
    forget = dataset.pairs("Van_Gogh", True, 60)
    assert len(forget) == 20 and set(forget.names) == {"Van Gogh"}  # the name that prompts say
    retain = dataset.pairs("Van_Gogh", False, 300)
    assert len(retain) == 300 and len(set(retain.names)) == 50
    assert sum("photo style" in text for text in retain.texts) == 6 == retain.names.count("Seed Images")


def rename(before, after):
    return lambda folder: (folder / before).rename(folder / after)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "There is no folder"),
        (
            rename("Van_Gogh", "van gogh"),
            "no folder Van_Gogh. Expected <style>/<object>/<n>.jpg, found Abstractionism",
        ),
        (rename("Seed_Images", "Seed_Image"), "Rename Seed_Image to Seed_Images"),
        (rename("Monet/Sea", "Monet/sea"), "1 of 1020 folders .* hold no pictures .*: Monet/Sea"),
        (rename("Monet/Sea/1.jpg", "Monet/Sea/1.png"), "Monet/Sea"),
    ],
)
def test_another_layout_is_told_apart(tmp_path, damage, message):
    folder = touch_official(tmp_path / "data")
    damage(folder)
    with pytest.raises(UnreadableSourceError, match=message):
        Dataset(folder, Canvas())


def test_parquet_files_and_a_folder_too_high_are_told_apart(data, tmp_path):
    with pytest.raises(UnreadableSourceError, match=f"one level deeper: give --data {data}"):
        Dataset(data.parent, MINIATURE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"")
    with pytest.raises(UnreadableSourceError, match="parquet files, which have lost the folders"):
        Dataset(tmp_path, MINIATURE)
