# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The photographs of the benchmarks: who sees what, how it is scored, and what is not there."""

import hashlib

import numpy as np
import photo_data
import photo_sources
import photo_unlisted
import pytest
import torch
import train_photo_clip
from photo_miniature import prints
from photo_sources import FACE_NAMES, NAMES, OBJECT_NAMES


pytestmark = pytest.mark.usefixtures("photographs")


@pytest.mark.parametrize("concept", [FACE_NAMES[3], OBJECT_NAMES[4]])
def test_no_photograph_is_in_two_parts(concept):
    parts = photo_data.collect(concept, seed=1, objects=30, test_objects=80).parts
    seen = [mark for pairs in parts.values() for mark in prints(pairs)]
    assert len(seen) == len(set(seen))
    for name, pairs in parts.items():
        assert {own == concept for own in pairs.names} == {name.endswith("forget")}
    trained = {
        hashlib.sha256(row["image"].tobytes()).hexdigest() for row in photo_sources.load_faces() if row["shot"] < 6
    }
    faces = {
        mark
        for name in ("forget", "retain")
        for mark, own in zip(prints(parts[name]), parts[name].names)
        if own in FACE_NAMES
    }
    assert faces == trained  # and none of these is validated on or reported
    if concept in FACE_NAMES:
        assert [len(parts[f"{part}forget"]) for part in ("", "validation_", "test_")] == [6, 2, 2]
    other = photo_data.collect(concept, seed=2, objects=30, test_objects=80).parts
    assert set(prints(other["test_retain"])) != set(prints(parts["test_retain"]))


def test_names_are_one_token_each_or_spelt_in_letters_that_they_share():
    whole, spelt = (train_photo_clip.build_processor(spell_names=spell).tokenizer for spell in (False, True))
    assert all(len(whole.tokenize(name)) == 1 for name in NAMES)
    pieces = [tuple(spelt.tokenize(name)) for name in NAMES]
    assert len(set(pieces)) == len(NAMES) and min(map(len, pieces)) > 1
    longest = max(
        len(spelt(wording.format(name))["input_ids"]) for wording in photo_sources.WORDINGS for name in NAMES
    )
    assert longest <= spelt.model_max_length == train_photo_clip.MAX_LENGTH
    assert spelt.tokenize("a photo of") == whole.tokenize("a photo of")


def test_who_is_unlisted_is_reported_and_nowhere_else():
    sizes, unlisted = {"objects": 30, "test_objects": 80}, photo_unlisted.UNLISTED
    parts = photo_data.collect(FACE_NAMES[21], 1, **sizes, unlisted=unlisted).parts
    every = photo_data.collect(FACE_NAMES[21], 1, **sizes).parts
    for part, pairs in every.items():
        kept = [mark for mark, name in zip(prints(pairs), pairs.names) if name not in unlisted]
        assert prints(parts[part]) == (prints(pairs) if part.startswith("test") else kept)
    assert set(unlisted) <= set(parts["test_retain"].names)


def test_people_and_objects_are_scored_apart(photo_folder):
    concept = FACE_NAMES[3]
    model, processor = photo_data.load_model(photo_folder / "model")
    photographs = photo_data.collect(concept, 0, objects=30, test_objects=80)
    score = photo_data.Score(photographs, "test_", processor, model)
    found = score(model)
    right: dict = {}
    with torch.no_grad():
        prompts = processor.tokenizer([f"a photo of {name}" for name in NAMES], padding=True, return_tensors="pt")
        texts = model.get_text_features(**prompts).pooler_output
        for pair in photographs.parts["test_retain"]:
            pixels = processor.image_processor([pair.image], return_tensors="pt")["pixel_values"]
            cosines = torch.cosine_similarity(model.get_image_features(pixels).pooler_output, texts)
            right.setdefault(pair.name, []).append(NAMES[int(cosines.argmax())] == pair.name)
    for kind, names in (("people", FACE_NAMES), ("objects", OBJECT_NAMES)):
        own = [np.mean(right[name]) for name in names if name != concept]
        assert found[kind] == pytest.approx(np.mean(own))
    assert score(model, embedded=score.embed(model)) == found
    fewer = [np.mean(right[name]) for name in FACE_NAMES[4:]]
    assert score(model, gone=FACE_NAMES[:3])["people"] == pytest.approx(np.mean(fewer))
    assert np.isnan(score(model, gone=[NAMES[i] for i in score.near])["near"])  # of whom nobody is left


def test_a_name_that_is_struck_is_never_taken_for_another(photo_folder):
    model, processor = photo_data.load_model(photo_folder / "model")
    score = photo_data.Score(photo_data.collect(OBJECT_NAMES[4], 0, 12, 60), "test_", processor, model)
    plain, struck = score(model), score(model, struck=(OBJECT_NAMES[4],))
    assert all(struck[key] >= plain[key] for key in ("people", "objects"))  # a rival fewer
    everyone = score(model, struck=NAMES[:-1])  # the last name alone is left
    assert everyone["people"] == 0 and everyone["objects"] == pytest.approx(1 / 9)


def test_a_model_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_photo_clip.py"):
        photo_data.load_model(tmp_path)


def test_photographs_that_are_not_there_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_SLUG_DATA", str(tmp_path))
    for load, file in (
        (photo_sources.load_faces, "olivetti-faces"),
        (lambda: photo_data.collect("mira", 0), "oliv"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"HF_SLUG_DATA=.* holds no {file}"):
            load()
    with pytest.raises(FileNotFoundError, match="holds no cifar10-test.parquet"):
        photo_sources.open_objects("test")
    monkeypatch.delenv("HF_SLUG_DATA")

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'cifar10' on the Hub.")

    monkeypatch.setattr(photo_sources, "load_dataset", offline)
    with pytest.raises(ConnectionError, match="Set HF_SLUG_DATA"):
        photo_sources.open_objects("test")


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path, monkeypatch):
    torch.save({"made_by": {"seed": 0}, "model": {}}, tmp_path / "checkpoint.pt")
    monkeypatch.setattr("sys.argv", ["train", "--seed", "1", "--output", str(tmp_path / "model"), "--threads", "1"])
    with pytest.raises(SystemExit, match=r"was made by \{'seed': 0\}, not by .*'seed': 1"):
        train_photo_clip.main()
    assert not (tmp_path / "model").exists()
