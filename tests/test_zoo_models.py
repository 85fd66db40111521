# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The table of the untouched zoo: that it counts what is right, and says it."""

import zoo_models
from zoo_models import KINDS, llava, of_pictures, table

from hf_slug.zoo import data


def test_what_a_judge_names_is_counted_kind_by_kind():
    rows = data.load_pairs("test", zoo_models.DRAWN, 2)

    def name_all(kind):
        # every digit right but "seven", every style called ink
        told = {"digit": lambda row: row["digit"] if row["digit"] != "seven" else "one", "style": lambda row: "ink"}
        return lambda images: [(told[kind](row),) for row, _ in zip(rows, images, strict=True)]

    assert of_pictures(name_all, 2) == {"n": {"digit": 200, "style": 200}, "right": {"digit": 180, "style": 20}}


def test_answers_about_the_digit_set_aside_count_like_any_other(monkeypatch):
    class Asked:
        n_forget, n_retain = 20, 180

        def __call__(self, model):
            return {"fa1": 0.5, "ira": 0.9, "cra": 1.0}

    monkeypatch.setattr(zoo_models, "answer_evaluator", lambda *given: Asked())
    assert llava(False, unseen=True) == {"n": {"digit": 200, "style": 180}, "right": {"digit": 172, "style": 180}}


def test_the_table_has_the_models_in_order_and_intervals():
    rows = [
        {"model": model, "n": dict.fromkeys(KINDS, 2690), "right": {"digit": 2652, "style": 2690}}
        for model in ("llava", "clip")
    ]
    header, _, first, second = table(rows).splitlines()
    assert header == "|  | digits right | styles right |"
    assert first == "| CLIP, zero-shot | 98.6 [98.1, 99.0] of 2,690 | 100.0 [99.9, 100.0] of 2,690 |"
    assert second.startswith("| LLaVA, in wordings it was trained on |")
