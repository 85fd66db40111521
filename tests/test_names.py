# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import noise_rows
from hypothesis import given
from hypothesis import strategies as st

from hf_slug.data import load_pairs
from hf_slug.names import bare_name, check_templates, collect_names, label, name_in, say, with_names


words = st.text(alphabet="abc {}", min_size=1).filter(lambda text: "{}" not in text)


@given(words, st.tuples(words, words))
def test_a_name_is_found_in_what_its_template_made(name, around):
    template = f"{around[0]}{{}}{around[1]}"
    assert name_in(template.replace("{}", name), [template]) == name


def test_prompts():
    templates = ["a photo of {}", "a {}"]
    assert say("mira", templates) == ["a photo of mira", "a mira"]
    assert say("a photo of mira", templates) == ["a photo of mira"]  # a whole prompt is not wrapped once more
    assert name_in("two dogs", templates) is None


@pytest.mark.parametrize("wrong", [[], "a photo", ["a {} and a {}"]])
def test_templates_need_one_place_for_the_name(wrong):
    with pytest.raises(ValueError, match="exactly one {}"):
        check_templates(wrong)


def test_names_that_differ_in_case_alone_are_one():
    rows = [{**noise_rows(1)[0], "name": name} for name in ("Mira", "mira", "tobin")]
    assert list(collect_names([load_pairs(rows)], ("a photo of {}",))) == ["Mira", "tobin"]


def test_classes_come_from_the_name_column_the_template_or_the_whole_text():
    rows = [
        {**noise_rows(1)[0], "name": "mira", "text": "anything"},
        {**noise_rows(1)[0], "name": None, "text": "a photo of tobin"},
        {**noise_rows(1)[0], "name": None, "text": "two dogs in the snow"},
    ]
    pairs, templates = load_pairs(rows), ("a photo of {}",)
    names = collect_names([pairs], templates)
    assert names == {
        "mira": ["a photo of mira"],
        "tobin": ["a photo of tobin"],
        "two dogs in the snow": ["two dogs in the snow"],
    }
    assert label(pairs, list(names), templates, "set") == [0, 1, 2]


def test_a_whole_prompt_is_reduced_to_its_name():
    templates = ["a photo of {}", "{}"]
    assert [bare_name(text, templates) for text in ("a photo of mira", "mira", "two dogs")] == [
        "mira",
        "mira",
        "two dogs",
    ]


def test_pairs_get_the_names_that_their_texts_tell():
    rows = [
        (noise_rows(1)[0]["image"], *row)
        for row in (("a photo of mira", None), ("a photo of mira", "tobin"), ("snow", None))
    ]
    pairs = load_pairs(rows)
    named = with_names(pairs, ("a photo of {}",))
    assert named.names == ["mira", "tobin", None] and named.texts == pairs.texts and named.source == pairs.source
