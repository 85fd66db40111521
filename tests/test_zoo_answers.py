# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The table of the LLaVA: that it says what its rows say, and that a run measures what it says."""

import types

import pytest
import tables
import zoo_answers
from attachment_helpers import make_patch
from tables import percents

from hf_slug import compose_patches, zoo
from hf_slug.zoo.unlearning import answer_evaluator


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return tmp_path


def row(concept, variant, seed, fa1, ira):
    before = {"fa1": 0.98, "ira": 0.97, "cra": 1.0}
    after = {"fa1": fa1, "ira": ira, "cra": 0.99}
    costs = {"seconds": 12.0, "peak_bytes": 2**20 * 300, "stored_bytes": 4_500}
    what = {"concept": concept, "variant": variant, "seed": seed, "layer": "x", "reached": fa1 < 0.01}
    return {
        **what,
        "search": tables.SEARCH,
        "before": before,
        "after": after,
        "n_forget": 270,
        "n_retain": 2420,
        **costs,
    }


def test_digits_and_styles_have_a_table_each(results):
    host, clip, *_ = zoo_answers.VARIANTS
    rows = [row("two", host, seed, 0.0, ira) for seed, ira in ((0, 0.96), (1, 0.94))]
    rows += [row("two", clip, 0, 0.02, 0.9), row("neon", host, 0, 0.0, 0.97)]
    zoo_answers.write_table("zoo_answers", rows)
    text = (results / "zoo_answers.md").read_text()
    digits, styles = text.split("## Styles")
    assert "## Digits: two" in digits and styles.startswith(": neon")
    # the interval is over runs; what another search has found is left out
    assert f"| {host} | 0.00 ± 0.00 | {percents([0.01, 0.03])} | 1.00 ± 0.00 | 2 of 2 | 12 | 300 | 4.5 |" in digits
    rows += [row("eight", host, 0, 0.0, 0.97), row("eight", host, 1, 0.0, 0.97)]
    zoo_answers.write_table("zoo_answers", [*rows, row("seven", host, 0, 1.0, 0.0) | {"search": "older"}])
    assert f"| {host} | 0.00 ± 0.00 | {percents([0.01, 0.03, 0.0, 0.0])} |" in (results / "zoo_answers.md").read_text()
    assert f"| {clip} | 2.00 |" in digits and "| 0 of 1 |" in digits and clip not in styles
    # a concept and seed are one model, whatever is done to it
    assert f"| *untouched: accuracy* | {percents([0.98, 0.98])} |" in digits
    assert "2,690 drawings" in text and "([0, 1])" in text


def test_a_run_measures_what_the_patch_does(monkeypatch):
    noise = make_patch(zoo.load_llava()[0], ("vision_model.encoder.layers.3.mlp.fc2",))
    patch = compose_patches({"noise": noise}, [50.0])  # enough to be mistaken
    report = {"target": {"reached_on_validation": True}, "chosen": {"layer": "fc2"}}
    report["cost"] = {"gradient_s": 1.0, "search_s": 2.0}
    asked = []

    def unlearn_llava(concept, seed, **settings):
        asked.append((concept, seed, settings.pop("test_evaluate").n_retain, settings))
        return types.SimpleNamespace(patch=patch, report=report)

    few = answer_evaluator("neon", "test", 0, 60)
    few.forget = few.forget[:20]
    monkeypatch.setattr(zoo, "unlearn_llava", unlearn_llava)
    monkeypatch.setattr(zoo_answers, "answer_evaluator", lambda *given: few)
    plain = list(zoo_answers.VARIANTS)[2]
    found = zoo_answers.run({"concept": "neon", "variant": plain, "seed": 4})
    assert asked == [("neon", 4, few.n_retain, {"objective": "host", "direction": "gradient"})]
    llava, _ = zoo.load_llava()
    assert found["before"] == few(llava)
    llava.load_unlearning(patch)
    assert found["after"] == few(llava) != found["before"]
    assert found["seconds"] > 0 and found["stored_bytes"] == patch.num_bytes and found["reached"]
