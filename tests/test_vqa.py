# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Judging answers: which questions are asked of which image, what counts as right, and the metrics worked out by hand."""

import pytest
from conftest import noise_pairs, noise_rows
from hypothesis import example, given
from hypothesis import strategies as st

from hf_slug.data import load_pairs
from hf_slug.evaluation import VqaEvaluator, matches, vqa


NAMES = ["seven", "two", "one"]
words = st.text(alphabet="abcdef", min_size=1, max_size=4)
others = st.lists(st.sampled_from(["", " ", "x", "no", "yes,", "(", ")", "'s", "-", "."]), max_size=4).map(" ".join)


@given(words, st.sets(words, max_size=4), others, others, st.sampled_from([str.lower, str.upper, str.title]))
def test_a_name_is_found_as_a_word_in_any_case_and_only_alone(name, names, before, after, case):
    names = names - {name} - {"x", "no", "yes", "s"}
    assert matches(f"{before} {case(name)} {after}", name, [*names, name])
    assert not matches(f"{before} {case(name)}{'z'} {after}", name, [*names, name])  # part of another word
    assert not matches(f"{before} z{case(name)} {after}", name, [*names, name])
    assert not matches(f"{before} {after}", name, [*names, name])
    for other in names:
        assert not matches(f"{name} {before} {case(other)}", name, [*names, name])


@given(words, words)
@example("a", "a")
def test_of_names_within_each_other_the_longest_counts(first, second):
    longer = f"{first} {second}"
    names = list({first, second, longer})
    for text in (longer, f"a {longer}.".upper()):
        if "a" not in names:
            assert matches(text, longer, names) and not matches(text, first, names)
    assert matches(first, first, names) and not matches(first, longer, names)


@pytest.mark.parametrize("text, right", [
    ("It is seven.", True), ("SEVEN", True), ("seven seven", True), ("seven or two", False), ("seventeen", False),
    ("two", False), ("", False), ("sevens", False), ("seven-two", False), ("(seven)", True), ("seven_", False),
])  # fmt: skip
def test_answers(text, right):
    assert matches(text, "seven", NAMES) is right


def test_names_are_not_patterns():
    assert matches("a C++ program", "C++", ["C++", "C"]) and not matches("a Cxx program", "C++", ["C++"])
    assert matches("what (a) day", "(a)", ["(a)", "b.c"]) and not matches("bxc", "b.c", ["b.c"])


@pytest.fixture
def asked(monkeypatch):
    """Answers by a table from question to answer, and notes what is asked of which picture."""
    seen = []

    def make(table):
        def answer(model, processor, images, questions, batch_size=64, description=None):
            assert (model, processor) == ("model", "processor") and len(images) == len(questions)
            seen.extend((image.tobytes(), question) for image, question in zip(images, questions))
            return [table(image, question) for image, question in zip(images, questions)]

        monkeypatch.setattr(vqa, "answer", answer)
        return seen

    return make


def evaluator_of(forget, retain, questions, other=None, **settings):
    return VqaEvaluator("processor", forget, retain, "seven", NAMES, questions, other, **settings)


def test_metrics_are_those_worked_out_by_hand(asked):
    forget, retain = noise_pairs(4, names=["seven"]), noise_pairs(6, seed=1, names=["two", "seven", "one"])
    kept = [0, 2, 3, 5]  # two, one, two, one: what shows the concept is left out
    styles = ["ink", "-", "neon", "ink", "-", "neon"]
    place = {image.tobytes(): i for i, image in enumerate(forget.images())}
    place |= {image.tobytes(): 10 + i for i, image in enumerate(retain.images())}
    said = {
        ("q0", 0): "seven",
        ("q1", 0): "a seven",
        ("q0", 1): "two",
        ("q1", 1): "seven",
        ("q0", 2): "seven two",
        ("q0", 10): "two",
        ("q1", 10): "two",
        ("q0", 13): "one",
        ("q1", 13): "two",  # two: 3 of 4
        ("q0", 12): "seven",
        ("q1", 12): "none",
        ("q0", 15): "one",
        ("q1", 15): "seven",  # one: 1 of 4
        ("style", 10): "ink",
        ("style", 13): "neon",
        ("style", 12): "neon",
        ("style", 15): "neon",
    }  # 1 of 2, 2 of 2
    seen = asked(lambda image, question: said.get((question, place[image.tobytes()]), "no idea"))
    evaluator = evaluator_of(forget, retain, ["q0", "q1"], {"style": (["style"], styles)})
    assert (evaluator.n_forget, evaluator.n_retain) == (8, 8)
    got = evaluator("model")
    assert got == pytest.approx({"fa1": 3 / 8, "n": 8, "ira": 0.5, "cra": 0.75, "ta": (0.75 + 0.25 + 0.5 + 1) / 4})
    assert {place[image] for image, question in seen if question == "style"} == {10 + i for i in kept}


def test_images_take_the_questions_in_turn_also_where_it_looks_at_a_part_first(asked):
    forget, retain = noise_pairs(10, names=["seven"]), noise_pairs(4, seed=1, names=["two"])
    seen = asked(lambda image, question: "two")
    evaluator = evaluator_of(forget, retain, ["a", "b", "c"], per_image=2)
    evaluator.forgotten("model")
    whole = list(seen)
    assert [question for _, question in whole[:8]] == ["a", "b", "b", "c", "c", "a", "a", "b"]
    assert [image for image, _ in whole] == [image.tobytes() for image in forget.images() for _ in range(2)]
    seen.clear()
    evaluator.forgotten("model", enough=0.0)
    assert seen == whole


@given(st.lists(st.booleans(), min_size=9, max_size=9), st.floats(0, 1))
def test_stopping_early_never_changes_the_decision(right, enough):
    forget, retain = noise_pairs(9, names=["seven"]), noise_pairs(2, seed=1, names=["two"])
    place = {image.tobytes(): i for i, image in enumerate(forget.images())}
    with pytest.MonkeyPatch.context() as patch:
        answers = lambda *a, **k: ["seven" if right[place[image.tobytes()]] else "two" for image in a[2]]  # noqa: E731
        patch.setattr(vqa, "answer", answers)
        evaluator = evaluator_of(forget, retain, ["q"])
        whole, early = (evaluator.forgotten("model", limit) for limit in (None, enough))
    assert whole == {"fa1": pytest.approx(sum(right) / 9), "n": 9}
    assert (whole["fa1"] <= enough) == (early["fa1"] <= enough)
    assert early["n"] == (2 if sum(right[:2]) > enough * 9 else 9)


def test_case_does_not_tell_names_apart(asked):
    asked(lambda image, question: "Seven")
    rows = noise_rows(6, seed=1, names=["Two", "SEVEN", "two"])
    evaluator = evaluator_of(noise_pairs(3, names=["SEVEN"]), load_pairs(rows), ["q"])
    assert evaluator.labels == ["two"] * 4
    assert evaluator("model") == {"fa1": 1.0, "n": 3, "ta": 0.0, "ira": 0.0}


@pytest.mark.parametrize("changes, message", [
    ({"questions": []}, "Found 0 questions"),
    ({"retain": noise_pairs(3, names=["seven"])}, "3 and 0 images"),
    ({"retain": noise_pairs(3, names=["two", "nine"])}, "not among the names: nine"),
    ({"forget": noise_pairs(1)[:0]}, "0 and 2 images"),
])  # fmt: skip
def test_what_could_not_be_measured_is_refused(changes, message):
    given = {"forget": noise_pairs(3, names=["seven"]), "retain": noise_pairs(2, names=["two"]), "questions": ["q"]}
    with pytest.raises(ValueError, match=message):
        evaluator_of(**{**given, **changes})
    with pytest.raises(ValueError, match="not among the names: mira"):
        VqaEvaluator("processor", *[noise_pairs(2, names=["two"])] * 2, "mira", NAMES, ["q"])
