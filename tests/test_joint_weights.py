# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Weights of a stack, fitted to each other: that they forget, that less would not, and that nothing else changes."""

import logging

import pytest
import torch
from attachment_helpers import FC1, VISION_V, make_patch
from conftest import assert_same, snapshot, write_folder

from hf_slug import UnlearningPatch, fit_weights, load_pairs, set_unlearning, unlearn, zoo
from hf_slug.cli import main
from hf_slug.composition import compose_patches, measure_stack, stacked
from hf_slug.errors import UnsupportedModelError
from hf_slug.evaluation import ZeroShotEvaluator, estimate_risk
from hf_slug.inputs import embed_images


CONCEPTS = ("seven", "two")


@pytest.fixture(scope="module")
def searched():
    """Two patches of the embedded CLIP, each searched alone, and what judges their concepts."""
    model, processor = zoo.load_clip()
    patches, evaluators = {}, {}
    for concept in CONCEPTS:
        forget, retain = zoo.concept_pairs(concept, "train", 0, limit_per_digit=12)
        settings = {"names": zoo.data.DIGITS, "template": "a {}", "tower": "text", "steps": 6}
        result = unlearn(model, processor, load_pairs(forget), load_pairs(retain), concept=concept, **settings)
        patches[concept] = result.patch
        forget, retain = zoo.concept_pairs(concept, "test", 0, limit_per_digit=5)
        evaluators[concept] = ZeroShotEvaluator(
            processor,
            load_pairs(forget),
            load_pairs(retain[::6]),
            concept,
            zoo.data.DIGITS,
            "a {}",
            seen=load_pairs(forget[:3]),
        )
    return model, patches, evaluators


def judge(model, evaluator):
    """The rule, written out: none of its images recognised, and the risk of their margins."""
    own = torch.cat(
        [embed_images(model, evaluator.processor, part, 64) for part in (evaluator.forget, evaluator.seen)]
    )
    classes = evaluator.embed_names(model)
    found = evaluator.forgotten(own[: evaluator.n_forget], classes)[evaluator.primary_metric]
    return 1.0 if found else estimate_risk(evaluator.margins(own, classes))


def test_the_weights_forget_and_smaller_ones_do_not(searched):
    model, patches, evaluators = searched
    # too weak and too strong, as patches of other searches might be
    patches = {name: compose_patches({name: patches[name]}, [w]) for name, w in zip(CONCEPTS, (0.8, 2.0))}
    before = snapshot(model)
    found = fit_weights(model, patches, evaluators)
    assert_same(model, before)
    assert max(found.risks.values()) <= 0.005 < found.unfitted["seven"] and found.unfitted["two"] < 0.001
    assert found.weights["seven"] > 1.0 > found.weights["two"] > 0
    with stacked(model, patches, found.weights) as adapters:
        for name, evaluator in evaluators.items():
            assert judge(model, evaluator) == pytest.approx(found.risks[name], abs=1e-9)
            less = found.weights | {name: found.weights[name] - 0.15}
            set_unlearning(model, list(adapters.values()), list(less.values()))
            # what was raised stops at a tenth of the allowed risk, what was lowered at a fifth of that
            assert judge(model, evaluator) > (0.005 if name == "seven" else 0.001)
            set_unlearning(model, list(adapters.values()), list(found.weights.values()))
    with stacked(model, patches, dict.fromkeys(patches, 1.0)):
        assert {name: judge(model, own) for name, own in evaluators.items()} == pytest.approx(found.unfitted, abs=1e-9)


def test_a_looser_risk_takes_less(searched):
    model, patches, evaluators = searched
    strict, loose = (fit_weights(model, patches, evaluators, risk=risk).weights for risk in (0.01, 0.3))
    assert all(loose[name] < strict[name] for name in CONCEPTS)


def test_no_weight_is_raised_at_the_cost_of_what_is_kept(searched):
    model, patches, evaluators = searched
    patches = {name: compose_patches({name: patches[name]}, [w]) for name, w in zip(CONCEPTS, (0.8, 2.0))}

    def kept(weights):
        """Mean accuracy over the names that neither patch forgets, each evaluator's."""
        with stacked(model, patches, weights):
            found = []
            for evaluator in evaluators.values():
                images = embed_images(model, evaluator.processor, evaluator.retain, 64)
                scores = torch.nn.functional.normalize(images.double()) @ evaluator.embed_names(model).T
                names = [evaluator.names[i] for i in evaluator.labels]
                said = [evaluator.names[i] for i in scores.argmax(1)]
                for name in set(evaluator.names) - set(CONCEPTS):
                    own = [said[i] == name for i, known in enumerate(names) if known == name]
                    found.append(sum(own) / len(own))
        return sum(found) / len(found)

    free = fit_weights(model, patches, evaluators, cost=1.0)
    assert free.weights["seven"] > 1.0 and not free.failed
    assert free.kept == pytest.approx(kept(free.weights))
    assert free.unfitted_kept == pytest.approx(kept(dict.fromkeys(CONCEPTS, 1.0)))
    # nothing can be better than all right by a point: no raise can be paid for, and what is lowered still is
    dear = fit_weights(model, patches, evaluators, cost=-1.01)
    assert dear.weights["seven"] == 1.0 and dear.weights["two"] < 1.0 and dear.unfitted == free.unfitted
    # at what it did cost it is done
    spent = free.unfitted_kept - free.kept
    assert fit_weights(model, patches, evaluators, cost=spent + 1e-9).weights == free.weights
    blind = {name: _without_retain(own) for name, own in evaluators.items()}
    found = fit_weights(model, patches, blind, cost=-1.01)
    assert found.weights == free.weights and found.kept is None and found.unfitted_kept is None


def _without_retain(own):
    none = own.retain.subset([])
    return ZeroShotEvaluator(own.processor, own.forget, none, own.names[own.concept], own.names, "a {}", seen=own.seen)


def test_a_concept_that_no_weight_forgets_is_said(searched, caplog):
    model, patches, evaluators = searched
    noise = make_patch(model, (FC1,))
    weak = compose_patches({"noise": noise}, [1e-6])
    with caplog.at_level(logging.WARNING):
        found = fit_weights(model, {"seven": weak, "two": patches["two"]}, evaluators)
    assert found.risks["seven"] == 1.0 and found.risks["two"] <= 0.05
    assert "'seven' stays at an estimated risk of 100.0%" in caplog.text and "'two'" not in caplog.text


def test_photographs_are_embedded_anew_under_a_patch_of_the_vision_tower(searched):
    model, _, evaluators = searched
    patch, own = make_patch(model, (VISION_V,)), evaluators["seven"]
    found = fit_weights(model, {"seven": patch}, {"seven": own})
    with stacked(model, {"seven": patch}, found.weights):
        images = embed_images(
            model, own.processor, own.forget, 64
        )  # not those of `seen`: of the vision tower they say too much
        expected = own.margins(images, own.embed_names(model))
        recognised = own.forgotten(images, own.embed_names(model))["fa1"]
    assert found.risks["seven"] == pytest.approx(1.0 if recognised else estimate_risk(expected), abs=1e-9)


@pytest.mark.parametrize("kept, count", [(0, 0), (4, 4)])
def test_few_images_say_nothing_of_a_further_one(searched, kept, count):
    model, patches, evaluators = searched
    own = evaluators["two"]
    few = ZeroShotEvaluator(own.processor, own.forget.subset(range(kept)), own.retain, "two", zoo.data.DIGITS, "a {}")
    before = snapshot(model)
    for some in ({"seven": evaluators["seven"]}, evaluators | {"two": few}):
        with pytest.raises(ValueError, match=r"Found \d images of the concept of 'two' .* at least 5"):
            fit_weights(model, patches, some)
    assert_same(model, before)
    assert not any(model.get_list_unlearning().values())


@pytest.mark.parametrize("enabled", [True, False])
def test_a_model_with_patches_of_its_own_is_refused_and_left_alone(searched, enabled):
    _, patches, evaluators = searched
    model, _ = zoo.load_clip()
    model.load_unlearning(make_patch(model, (FC1,)), "mine", weight=0.5)
    if not enabled:
        model.disable_unlearning()
    before = snapshot(model)
    for measure in (
        lambda: fit_weights(model, patches, evaluators),
        lambda: measure_stack(model, patches, [1.0, 1.0], evaluators),
    ):
        with pytest.raises(UnsupportedModelError, match="has the unlearning patches mine.*unload_unlearning"):
            measure()
    assert_same(model, before)
    assert model.get_list_unlearning()["text_model"] == ["mine"]
    assert model.get_active_unlearning() == (["mine"] if enabled else [])


def test_the_command_fits_them(searched, tmp_path, capsys):
    _, patches, _ = searched
    folders = [str(tmp_path / name) for name in CONCEPTS]
    for name, folder in zip(CONCEPTS, folders):
        patches[name].save_pretrained(folder)
    arguments = ["compose", *folders, "--model", str(zoo.CLIP_FOLDER), "--template", "a {}"]
    for prefix, split in (("--validation-", "validation"), ("--", "test")):
        for concept in CONCEPTS:
            pairs, retain = zoo.concept_pairs(concept, split, 0, limit_per_digit=5)
            arguments += [f"{prefix}forget", write_folder(tmp_path / f"{concept} {split}", pairs)]
        arguments += [f"{prefix}retain", write_folder(tmp_path / f"retain {split}", retain[::3])]
    arguments += ["--output", str(tmp_path / "both")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "fitted weight" in shown and "Kept on validation: " in shown
    report = UnlearningPatch.from_pretrained(tmp_path / "both").report
    fitted = report["joint_weights"]
    assert [part["weight"] for part in report["composed_of"]] == list(fitted["weights"].values())
    assert max(fitted["risks"].values()) <= 0.05 and all(found["stacked"] for found in report["stacked"].values())
    assert "fitted to each other" in (tmp_path / "both" / "README.md").read_text()
    push = ["push", str(tmp_path / "weak"), "mira/both"]
    weak = compose_patches({"seven": patches["seven"]}, [1e-6])
    weak.save_pretrained(tmp_path / "seven")  # in its place a patch that no weight makes strong enough
    assert main([*arguments[:-1], str(tmp_path / "weak")]) == 1
    assert f"NOT forgotten together at any weight up to 2: {folders[0]}" in capsys.readouterr().out
    assert "not every concept is forgotten together" in (tmp_path / "weak" / "README.md").read_text()
    assert main(push) == 2 and "did not make the model forget" in capsys.readouterr().err
    for what in ("forget", "retain"):
        same = list(arguments)
        for i in (i for i, flag in enumerate(arguments) if flag == f"--{what}"):
            same[i + 1] = same[i + 1].replace(" test", " validation")
        assert main([*same[:-1], str(tmp_path / "none")]) == 2
        assert f"also in --validation-{what}" in capsys.readouterr().err and not (tmp_path / "none").exists()
