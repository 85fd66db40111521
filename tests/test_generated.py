# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
from tiny_hosts import PIPELINES

from hf_slug import generate_forget_set, zoo
from hf_slug.data import Pairs
from hf_slug.evaluation import ClassifierJudge
from hf_slug.zoo.data import DIGITS, STYLES


DRAWING = {"num_inference_steps": 2, "guidance_scale": 2.0}


def pixels(pairs):
    return [np.asarray(pair.image) for pair in pairs]


def same(left, right):
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(pixels(left), pixels(right)))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_prompts_take_turns_until_there_are_enough_pictures(kind):
    pairs = generate_forget_set(PIPELINES[kind](), ("a seven", "the seven"), 5, name="seven", batch_size=3, **DRAWING)
    assert isinstance(pairs, Pairs) and type(PIPELINES[kind]()).__name__ in pairs.source
    assert pairs.texts == ["a seven", "the seven", "a seven", "the seven", "a seven"]
    assert pairs.names == ["seven"] * 5
    assert all(picture.shape == (32, 32, 3) for picture in pixels(pairs))
    assert len({picture.tobytes() for picture in pixels(pairs)}) == 5  # each from noise of its own


def test_the_same_seed_gives_the_same_pictures():
    pipe = PIPELINES["sd1"]()
    first = generate_forget_set(pipe, "a seven", 3, seed=4, **DRAWING)
    assert first.names == [None] * 3
    assert same(first, generate_forget_set(pipe, ["a seven"], 3, seed=4, **DRAWING))
    assert same(
        first[1:], generate_forget_set(pipe, "a seven", 2, seed=5, **DRAWING)
    )  # picture i starts from seed + i
    assert not same(first, generate_forget_set(pipe, "a seven", 3, seed=7, **DRAWING))


def test_they_are_pictures_of_the_concept():
    prompts = [f"a seven in {style} style" for style in ("neon", "ink", "chalk")]
    pairs = generate_forget_set(zoo.load_stable_diffusion(), prompts, 6, num_inference_steps=15, guidance_scale=3.0)
    judge = ClassifierJudge(*zoo.load_judge(), kinds=[DIGITS, STYLES])
    assert judge(pairs.images()) == [("seven", style) for style in ("neon", "ink", "chalk")] * 2


@pytest.mark.parametrize("prompts, n", [([], 3), ("", 3), (["a seven", " "], 3), ("a seven", 0), ("a seven", -1)])
def test_nonsense_is_refused_before_anything_is_drawn(prompts, n):
    with pytest.raises(ValueError, match=r"prompts that show the concept and n ≥ 1, found \["):
        generate_forget_set(None, prompts, n)
