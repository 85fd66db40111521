# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The table of the zoo's concepts: that it says what its rows say, and what the fall is measured from."""

import pytest
import tables
import torch
import zoo_concepts

from hf_slug import zoo
from hf_slug.zoo.data import DIGITS


def row(concept, seed, fa1, ta, **more):
    before = {"fa1": 0.99, "ta": 0.98, "ta_neighbors": 0.97}
    after = {"fa1": fa1, "ta": ta, "ta_neighbors": 0.96}
    kept = {
        "struck": 0.985,
        "other_before": 0.99,
        "other_after": 0.98,
        "seconds": 9.0,
        "n_forget": 270,
        "n_retain": 2400,
    }
    what = {
        "concept": concept,
        "seed": seed,
        "direction": "whitened",
        "search": tables.SEARCH,
        "layer": "text_model.encoder.layers.2.mlp.fc1",
    }
    return {**what, "before": before, "after": after, "succeeded": fa1 <= 0.01, **kept, **more}


def test_the_table_says_what_its_rows_say(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    old = row("two", 0, 1.0, 0.5, search="another")  # stays in the file and out of the table
    rows = [row("two", 1, 0.02, 0.95), row("two", 0, 0.0, 0.98), row("neon", 0, 0.0, 0.985), old]
    rows.append(row("two", 0, 0.005, 0.785, direction="gradient"))
    zoo_concepts.write_table("zoo_concepts", rows)
    text = (tmp_path / "zoo_concepts.md").read_text()
    assert "| over all runs | the default direction | the paper's |" in text
    assert "| FA@1 ≤ 1 % | 2 of 3 (66.7 %" in text and "| 1 of 1 (100.0 %" in text
    assert "| FA@1 after, mean and worst | 0.67, 2.00 | 0.50, 0.50 |" in text
    assert "| fall of retained accuracy, mean and worst | 1.33, 3.50 | 20.00, 20.00 |" in text
    default, plain = text.split("## Each concept by ")[1:]
    assert "| two | 99.00 | 0.00 2.00 | 98.50 | 0.50 3.50 | 1.00 1.00 | `text.2.mlp.fc1` |" in default
    assert "- two, seed 1: FA@1 2.00 %" in default and "neon, seed 0:" not in text
    assert "| two | 99.00 | 0.50 | 98.50 | 20.00 | 1.00 |" in plain and "None." in plain


@pytest.mark.slow
def test_the_fall_is_measured_from_a_model_without_the_name(monkeypatch):
    every = zoo.concept_pairs
    monkeypatch.setattr(zoo, "concept_pairs", lambda *given, **_: every(*given, limit_per_digit=3))
    model, processor = zoo.load_clip()
    left = [name for name in DIGITS if name != "nine"]
    _, rows = every("nine", "test", 2, limit_per_digit=3)
    given = processor(
        text=[f"a {name}" for name in left], images=[r["image"] for r in rows], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        best = model(**given).logits_per_image.argmax(1)
    right = torch.tensor([left[i] == r["name"] for i, r in zip(best, rows)])
    assert zoo_concepts.struck_accuracy("nine", 2) == pytest.approx(float(right.double().mean()))
