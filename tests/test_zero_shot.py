# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from conftest import NAMES, assert_same, noise_pairs, snapshot

from hf_slug import evaluation
from hf_slug.errors import UnknownNameError
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.steps import new_weights
from hf_slug.towers import candidate_layers, layer_weights


TEMPLATES = ["a photo of {}", "a {} in ink style"]


def evaluator_for(processor, **changes):
    arguments = {"concept": "three", "names": NAMES, "templates": TEMPLATES, "batch_size": 4} | changes
    retain = changes.pop("retain", noise_pairs(14, seed=2, names=[n for n in NAMES if n != "three"]))
    arguments.pop("retain", None)
    return ZeroShotEvaluator(processor, noise_pairs(9, seed=1, names=["three"]), retain, **arguments)


def plain_scores(model, processor, pairs):
    """Cosines with the mean of each name's prompts, one image and one prompt at a time."""
    with torch.no_grad():
        classes = []
        for name in NAMES:
            said = []
            for template in TEMPLATES:
                features = model.get_text_features(**processor.tokenizer([template.format(name)], return_tensors="pt"))
                said.append(torch.nn.functional.normalize(features.pooler_output[0].double(), dim=0))
            classes.append(torch.nn.functional.normalize(sum(said), dim=0))
        rows = []
        for pair in pairs:
            pixels = processor.image_processor([pair.image], return_tensors="pt")["pixel_values"]
            seen = model.get_image_features(pixels).pooler_output[0].double()
            rows.append([float(seen @ c / seen.norm()) for c in classes])
    return rows


def plain_metrics(model, processor, evaluator):
    gone = [
        sorted(range(5), key=lambda i: -row[i]).index(3) for row in plain_scores(model, processor, evaluator.forget)
    ]
    right = {}
    for row, name in zip(plain_scores(model, processor, evaluator.retain), evaluator.retain.names):
        right.setdefault(name, []).append(NAMES[row.index(max(row))] == name)
    macro = sum(sum(own) / len(own) for own in right.values()) / len(right)
    return {"fa1": sum(r < 1 for r in gone) / len(gone), "fa5": sum(r < 5 for r in gone) / len(gone), "ta": macro}


def plain_divergence(model, processor, evaluator, changed, weights):
    """`Σ p log(p/q)` over the names but the concept, image by image, then the mean of every name's mean."""
    scale = float(model.logit_scale.detach().exp())
    originals = {name: weight.data for name, weight in weights.items()}
    rows = [plain_scores(model, processor, evaluator.retain)]
    for name, weight in weights.items():
        weight.data = changed[name]
    rows.append(plain_scores(model, processor, evaluator.retain))
    for name, weight in weights.items():
        weight.data = originals[name]
    by_name = {}
    for before, after, name in zip(*rows, evaluator.retain.names, strict=True):
        p, q = ([math.exp(scale * row[i]) for i in range(5) if i != 3] for row in (before, after))
        own = sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
        by_name.setdefault(name, []).append(own)
    return sum(sum(own) / len(own) for own in by_name.values()) / len(by_name)


def test_metrics_equal_a_plain_classification(tiny, processor):
    evaluator = evaluator_for(processor)
    got = evaluator(tiny)
    expected = plain_metrics(tiny, processor, evaluator)
    assert {key: got[key] for key in expected} == pytest.approx(expected)
    assert 0 < got["ta"] < 1  # or the comparison says nothing


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_the_prepared_evaluator_gives_the_same_numbers_as_a_full_one(tiny, processor, tower):
    evaluator, before = evaluator_for(processor), snapshot(tiny)
    prepared = evaluator.prepare(tiny)
    base = evaluator(tiny)
    for layer in candidate_layers(tiny, tower, "block"):
        torch.manual_seed(3)
        weights = layer_weights(tiny, layer)
        changed = new_weights(weights, {n: torch.randn_like(w) for n, w in weights.items()}, 0.3)
        probed = prepared.probe(layer)(changed)
        assert 0 <= probed.pop("risk") <= 1 and probed.pop("risk_n") == 9
        retained = prepared.retained([(layer, changed)])[0]
        first, second, picture = prepared.compare(layer, changed)
        assert_same(tiny, before)
        originals = {name: weight.data for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.data = changed[name]
        full = evaluator(tiny)
        for name, weight in weights.items():
            weight.data = originals[name]
        # neighbours are those of the original text tower
        assert probed | {"ta": retained["ta"]} == pytest.approx({k: full[k] for k in ("fa1", "fa5", "ta")})
        assert first == pytest.approx(base)
        moved = retained.pop("kl")
        plain = plain_divergence(tiny, processor, evaluator, changed, weights)
        assert moved == pytest.approx(plain, rel=1e-4, abs=1e-9) and plain > 0
        assert second == pytest.approx(probed | retained)
        assert picture["names"][0] == "three" and len(picture["after"]) == len(picture["names"]) == 5


def test_retain_images_are_embedded_once_for_all_layers_of_the_text_tower(tiny, processor, monkeypatch):
    prepared, seen = evaluator_for(processor).prepare(tiny), []
    batches = evaluation.prepared.image_batches

    def count(*args, **kwargs):
        for start, batch in batches(*args, **kwargs):
            seen.append(len(batch["pixel_values"]))
            yield start, batch

    monkeypatch.setattr(evaluation.prepared, "image_batches", count)
    for tower, passes in (("text", 1), ("text", 1), ("vision", 2), ("text", 2)):
        layer = candidate_layers(tiny, tower)[-1]
        weights = {name: 2 * weight for name, weight in layer_weights(tiny, layer).items()}
        found = prepared.retained([(layer, weights)])[0]
        assert sum(seen) == passes * prepared.evaluator.n_retain
        fresh = evaluator_for(processor).prepare(tiny)
        seen_before = list(seen)
        assert found == pytest.approx(fresh.retained([(layer, weights)])[0])
        seen[:] = seen_before


def test_which_fa_counts_depends_on_how_many_names_there_are(processor):
    many = [f"name {i}" for i in range(50)]
    assert evaluator_for(processor).primary_metric == "fa1"
    assert evaluator_for(processor, names=NAMES + many).primary_metric == "fa5"
    assert evaluator_for(processor, names=NAMES + many, k=1).primary_metric == "fa1"
    assert evaluator_for(processor, k=5).primary_metric == "fa5"
    with pytest.raises(ValueError, match="1 or 5"):
        evaluator_for(processor, k=3)


def test_the_concept_is_added_to_the_names_and_its_pictures_left_out_of_what_is_retained(processor):
    evaluator = evaluator_for(processor, names=[n for n in NAMES if n != "three"], retain=noise_pairs(15))
    assert evaluator.names[-1] == "three"
    assert len(evaluator.retain) == 12 and "three" not in evaluator.retain.names


def test_names_that_differ_in_case_alone_are_refused(processor):
    with pytest.raises(ValueError, match="differ in more than case.*'Three', 'three'"):
        evaluator_for(processor, names=[*NAMES, "Three"])


def test_a_picture_of_something_else_is_an_error_that_names_it(processor):
    with pytest.raises(UnknownNameError, match="3 of 15 pairs.*'four'"):
        evaluator_for(processor, names=NAMES[:4], retain=noise_pairs(15))


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_scores_that_are_not_finite_are_neither_forgotten_nor_retained(tiny, processor, tower):
    evaluator = evaluator_for(processor)
    layer = candidate_layers(tiny, tower)[-1]
    broken = {name: torch.full_like(weight, float("nan")) for name, weight in layer_weights(tiny, layer).items()}
    prepared = evaluator.prepare(tiny)
    assert prepared.probe(layer)(broken) == {"fa1": 1.0, "fa5": 1.0, "risk": 1.0, "risk_n": 9}
    assert prepared.retained([(layer, broken)]) == [{"ta": 0.0, "ta_neighbors": 0.0, "kl": math.inf}]


def test_accuracy_is_averaged_over_names_not_over_pictures(tiny, processor):
    retain = noise_pairs(30, names=["one"] * 9 + ["two"])
    evaluator = evaluator_for(processor, retain=retain)
    always_one = torch.zeros(30, 5)
    always_one[:, 1] = 1
    classes = torch.eye(5)
    assert evaluator.retained(always_one, classes.double(), [1])["ta"] == pytest.approx(0.5)
    assert evaluator.retained(always_one, classes.double(), [1])["ta_neighbors"] == pytest.approx(1.0)
