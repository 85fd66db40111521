# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The whole method on the zoo's CLIP, and what it refuses."""

import functools
import json
import math

import pytest
import torch
from conftest import assert_same, make_clip, noise_pairs, noise_rows, snapshot
from peft import PeftModel
from transformers import CLIPTextModel

from hf_slug import UnlearningPatch, unlearn, zoo
from hf_slug.errors import ConceptTooLongError, EmptyDatasetError, MissingColumnError, UnsupportedModelError
from hf_slug.tables import verdict
from hf_slug.zoo import concept_pairs
from hf_slug.zoo.data import TEMPLATES, names


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def quick(concept="seven", dtype=torch.float32, model=None, limits=(2, 2), **settings):
    """A run on few pictures, some seconds long; in float16, for which processors have no kernels, on fewer."""
    train, other = (1, 1) if dtype == torch.float16 else limits
    model, processor = (model, zoo.load_clip()[1]) if model is not None else zoo.load_clip(dtype)
    forget, retain = concept_pairs(concept, "train", limit_per_digit=train)
    sets = {}
    for part in ("validation", "test"):
        sets[f"{part}_forget"], sets[f"{part}_retain"] = concept_pairs(concept, part, limit_per_digit=other)
    kind = zoo.data.kind(concept)
    defaults = {"concept": concept, "names": names(kind), "template": TEMPLATES[kind], "tower": "text"}
    return unlearn(model, processor, forget, retain, **{**defaults, **sets, **settings})


@functools.cache
def plain():
    """The same run for all tests that compare others with it."""
    return quick()


@functools.cache
def more():
    """On more pictures, as cosines near 0 are known the better."""
    return quick(limits=(4, 3))


@pytest.fixture(scope="module")
def result():
    return quick(tower="both", trajectory="chosen")


@pytest.mark.slow
def test_a_digit_is_forgotten_and_the_rest_kept(result):
    report = result.report
    before, after = report["metrics"]["before"], report["metrics"]["after"]
    assert result.succeeded and report["succeeded"]
    assert before["fa1"] >= 0.9 and after["fa1"] <= 0.05
    assert abs(after["ta"] - before["ta"]) <= 0.02
    chosen = [t for t in report["search"] if t["layer"] == report["chosen"]["layer"]]
    assert report["chosen"]["step_size"] == min(t["step_size"] for t in chosen if t["forgotten"])
    best = [max((t for t in report["search"] if t["layer"] == name and t["forgotten"]), key=lambda t: -t["step_size"])
            for name in {t["layer"] for t in report["search"] if t["forgotten"]}]  # fmt: skip
    assert max(t["ta"] for t in best) == next(
        t["ta"] for t in chosen if t["step_size"] == report["chosen"]["step_size"]
    )


def test_the_report_has_every_key(result):
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert {"concept", "succeeded", "base_model", "granularity", "direction", "layers", "search", "chosen", "metrics",
            "cost", "data", "software", "seed"} <= set(report)  # fmt: skip
    assert all({"name", "modules", "tower", "importance", "alignment", "on_front"} == set(r) for r in report["layers"])
    assert len(report["layers"]) == 2 * (5 * 6 + 1)
    assert all({"layer", "step_size", "fa1", "fa5", "ta"} <= set(trial) for trial in report["search"])
    assert {"layer", "step_size"} <= set(report["chosen"])
    metrics = report["metrics"]
    for part in ("before", "after"):
        assert {"fa1", "fa5", "ta"} <= set(metrics[part]) and all(0 <= value <= 1 for value in metrics[part].values())
    assert metrics["n_forget"] == 20 and metrics["n_retain"] == 180
    low, high = metrics["fa_interval"]
    assert low <= metrics["after"]["fa1"] <= high
    assert {"gradient_s", "search_s", "peak_memory_bytes", "patch_bytes"} <= set(report["cost"])
    assert report["cost"]["patch_bytes"] == result.patch.num_bytes
    assert {report["data"][part]["n"] for part in ("forget", "validation_forget", "test_forget")} == {20}
    assert report["software"]["torch"] == torch.__version__
    searched = {trial["layer"] for trial in report["search"]}
    assert {layer["name"] for layer in report["layers"] if layer["on_front"]} <= searched
    for tower in ("vision", "text"):
        assert sum(layer["tower"] == tower and layer["name"] in searched for layer in report["layers"]) >= 5


def test_the_model_is_left_as_it_was(zoo_clip):
    before = snapshot(zoo_clip)
    quick(model=zoo_clip)
    assert_same(zoo_clip, before)


@pytest.mark.slow
def test_a_run_can_be_repeated(zoo_clip):
    first, second = plain(), quick()
    assert all(torch.equal(first.patch.tensors[key], second.patch.tensors[key]) for key in first.patch.tensors)
    drop = ("cost",)
    assert {k: v for k, v in first.report.items() if k not in drop} == {
        k: v for k, v in second.report.items() if k not in drop
    }


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_memory_and_nothing_else(batch_size):
    a, b = more().report, quick(batch_size=batch_size, limits=(4, 3)).report
    for x, y in zip(a["layers"], b["layers"]):
        assert x["importance"] == pytest.approx(y["importance"], rel=1e-5)
        assert x["alignment"] == pytest.approx(y["alignment"], rel=1e-3, abs=1e-6)
    assert a["chosen"]["layer"] == b["chosen"]["layer"]
    assert a["chosen"]["step_size"] == pytest.approx(b["chosen"]["step_size"], rel=1e-5)
    assert a["metrics"] == b["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"granularity": "attention"}, {"granularity": "block"}, {"direction": "gradient"}, {"rank": 4}, {"rank": "auto"}, {"norms": True},
    {"front_only": True}, {"tower": "vision"}, {"trajectory": "all"}, {"concept": "neon"},
], ids=str)  # fmt: skip
def test_every_way_forgets(settings):
    result = quick(**settings)
    assert result.succeeded, result.report["metrics"]
    if settings.get("trajectory") == "all":
        assert all(trial["ta"] is not None for trial in result.report["search"])
    if settings.get("tower"):
        assert {layer["tower"] for layer in result.report["layers"]} == {"vision"}
    if settings.get("rank"):
        assert all(key.endswith(("slug_up", "slug_down")) for key in result.patch.tensors)
        most = 4 if settings["rank"] == 4 else 8  # the prompt has no more tokens
        assert all(torch.linalg.matrix_rank(d.double(), rtol=1e-5) <= most for d in result.patch.deltas.values())
        assert result.report["rank"] == result.patch.config.rank <= most


@pytest.mark.slow
def test_retain_gradients_are_reused(result):
    again = quick(tower="both", retain_gradients=result.retain_gradients)
    assert again.report["layers"] == result.report["layers"]
    with pytest.raises(ValueError, match="retain_gradients are not those of this model"):
        quick(retain_gradients={"text_projection": torch.zeros(2, 2)})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{"front_only": True}, {"front_only": True, "rank": 3}], ids=["dense", "factors"])
def test_saved_and_loaded_with_peft_it_is_what_was_searched(dtype, settings, tmp_path):
    result = quick(dtype=dtype, **settings)
    assert result.succeeded
    base = zoo.load_clip(dtype)[0]
    before, expected = snapshot(base), result.patch.new_weights(base)
    result.patch.save_pretrained(tmp_path)

    merged = PeftModel.from_pretrained(zoo.load_clip(dtype)[0], tmp_path).merge_and_unload()
    for name, value in merged.state_dict().items():
        path = name.removesuffix(".weight")
        assert torch.equal(value, expected[path] if path in expected else before[name]), name
    unloaded = PeftModel.from_pretrained(zoo.load_clip(dtype)[0], tmp_path).unload()
    assert_same(unloaded, before)
    assert all(not torch.equal(expected[path], before[f"{path}.weight"]) for path in expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_patches_in_either_order_give_equal_weights(dtype, tmp_path):
    for concept in ("seven", "neon"):
        quick(concept, dtype=dtype, steps=1, front_only=True).patch.save_pretrained(tmp_path / concept)
    states = []
    for order in (("seven", "neon"), ("neon", "seven")):
        model = PeftModel.from_pretrained(zoo.load_clip(dtype)[0], tmp_path / order[0], adapter_name=order[0])
        model.load_adapter(tmp_path / order[1], adapter_name=order[1])
        model.base_model.set_adapter(list(order))
        states.append(model.merge_and_unload().state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_failure_is_loud_everywhere(caplog, tmp_path):
    result = quick(steps=1, front_only=True)
    assert not result.succeeded and not result.report["succeeded"]
    assert "NOT forgotten" in caplog.text
    result.patch.save_pretrained(tmp_path)
    assert "NOT forgotten" in (tmp_path / "README.md").read_text()
    assert not UnlearningPatch.from_pretrained(tmp_path).report["succeeded"]


def test_one_set_each_is_split_by_the_seed(tiny, processor):
    forget, retain = noise_pairs(10, names=["three"]), noise_pairs(40, seed=1, names=["one", "two", "four", "zero"])
    first = unlearn(tiny, processor, forget, retain, concept="three", steps=2).report["data"]
    assert [first[k]["n"] for k in ("forget", "validation_forget", "test_forget")] == [6, 2, 2]
    assert [first[k]["n"] for k in ("retain", "validation_retain", "test_retain")] == [24, 8, 8]
    other = unlearn(tiny, processor, forget, retain, concept="three", steps=2, seed=1).report["data"]
    assert other["test_forget"]["sha256"] != first["test_forget"]["sha256"]
    given = unlearn(
        tiny, processor, forget, retain, concept="three", steps=2, test_forget=noise_pairs(3, 5, ["three"])
    )
    assert [given.report["data"][k]["n"] for k in ("forget", "validation_forget", "test_forget")] in (
        [7, 3, 3],
        [8, 2, 3],
    )


REFUSED = {
    "empty forget set": ({"forget": []}, EmptyDatasetError, "forget set is empty"),
    "no forget set": ({"forget": None}, EmptyDatasetError, "No forget set"),
    "no retain set": ({"retain": None}, EmptyDatasetError, "No retain set"),
    "retain set of the concept alone": (
        {"retain": noise_pairs(20, names=["three"])},
        EmptyDatasetError,
        "nothing but",
    ),
    "a forget set too small": ({"forget": noise_pairs(2, names=["three"])}, EmptyDatasetError, "2 pairs"),
    "a concept over the limit": ({"concept": "three " * 30}, ConceptTooLongError, "tokens.*truncated"),
    "several names": ({"concept": None, "forget": noise_pairs(20)}, ValueError, "5 different names"),
    "a missing column": ({"text_column": "caption", "forget": noise_rows(9)}, MissingColumnError, "'caption'.*text"),
    "a template without a place": ({"template": "a photo"}, ValueError, "exactly one {}"),
    "an unknown direction": ({"direction": "down"}, ValueError, "'down'"),
    "an empty batch": ({"batch_size": 0}, ValueError, "batch_size=0"),
    "no rank": ({"rank": 0}, ValueError, "rank=0"),
    "an unknown rank": ({"rank": "low"}, ValueError, "rank='low'.*'auto'"),
    "no tolerance": ({"tolerance": 1.0}, ValueError, "tolerance=1.0.*below 1"),
    "a negative damping": ({"epsilon": -1.0}, ValueError, "epsilon=-1"),
    "an unknown trajectory": ({"trajectory": "some"}, ValueError, "'some'"),
    "a blank concept": ({"concept": "  "}, ValueError, "blank"),
    "stopping early by what is cheap": ({"early_stopping": True}, ValueError, "GenerationEvaluator or a VqaEvaluator"),
}


@pytest.mark.parametrize("changes, error, message", REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_a_message_and_the_model_unchanged(tiny, processor, changes, error, message):
    before = snapshot(tiny)
    arguments = {
        "forget": noise_pairs(10, names=["three"]),
        "retain": noise_pairs(40, seed=1),
        "concept": "three",
        **changes,
    }
    forget, retain = arguments.pop("forget"), arguments.pop("retain")
    with pytest.raises(error, match=f"(?s){message}"):
        unlearn(tiny, processor, forget, retain, **arguments)
    assert_same(tiny, before)


def test_a_model_that_is_not_clip_is_refused(processor):
    model = CLIPTextModel(make_clip().config.text_config)
    with pytest.raises(UnsupportedModelError, match="Expected a transformers CLIPModel.*CLIPTextModel"):
        unlearn(model, processor, noise_pairs(9), noise_pairs(9), concept="three")


def test_long_captions_of_the_retain_set_are_truncated_and_said(tiny, processor, caplog):
    rows = noise_rows(20, seed=3, names=["one", "two"])
    rows[0]["text"] = "a photo of one " * 10
    result = unlearn(tiny, processor, noise_pairs(10, names=["three"]), rows, concept="three", steps=1,
                     validation_retain=noise_pairs(9), test_retain=noise_pairs(9))  # fmt: skip
    assert "1 captions of the retain set are longer" in caplog.text
    assert result.report["data"]["truncated_captions"] == 1


def test_captions_without_names_are_their_own_classes(tiny, processor):
    captions = ["two dogs in the snow", "a red car", "blue water", "a green hill", "an old house"]
    retain = [{**row, "text": captions[i % 5], "name": None} for i, row in enumerate(noise_rows(40))]
    report = unlearn(tiny, processor, noise_pairs(10, names=["three"]), retain, concept="three", steps=1).report
    assert report["metrics"]["n_names"] == 6 and not math.isnan(report["metrics"]["after"]["ta"])


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_given_back_as_it_was(tiny, processor):
    sets = {"forget": noise_pairs(10, names=["three"]), "retain": noise_pairs(40, 1, ["one", "two", "four", "zero"])}
    expected = unlearn(tiny, processor, **sets, concept="three", steps=2).report
    for module in tiny.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    tiny.train()
    report = unlearn(tiny, processor, **sets, concept="three", steps=2).report
    assert all(module.training for module in tiny.modules())
    assert (report["layers"], report["search"], report["metrics"]) == (
        expected["layers"],
        expected["search"],
        expected["metrics"],
    )


def test_a_retain_set_that_shows_the_concept_is_said(tiny, processor, caplog):
    unlearn(tiny, processor, noise_pairs(10, names=["three"]), noise_pairs(40, 1), concept="three", steps=1)
    assert "pairs of the retain set show the concept 'three'" in caplog.text


def test_a_users_evaluator_may_return_what_json_has_no_number_for(tiny, processor, tmp_path):
    class Odd:
        primary_metric, greater_is_better = "score", False

        def __call__(self, model):
            return {"score": torch.tensor(0.5), "note": "fine", "spread": float("nan")}

    sets = {"forget": noise_pairs(10, names=["three"]), "retain": noise_pairs(40, 1, ["one", "two"])}
    result = unlearn(tiny, processor, **sets, concept="three", steps=1, evaluate=Odd(), target=0.6)
    result.patch.save_pretrained(tmp_path)
    trial = UnlearningPatch.from_pretrained(tmp_path).report["search"][0]
    assert trial["score"] == 0.5 and trial["note"] == "fine" and trial["spread"] is None and trial["ta"] is None


def test_forgetting_what_was_never_known_is_no_success(caplog):
    ones = {
        f"{part}_forget": [{**row, "name": "seven"} for row in concept_pairs("one", part, limit_per_digit=2)[0]]
        for part in ("validation", "test")
    }
    result = quick(**ones)
    assert result.report["metrics"]["before"]["fa1"] == 0
    assert not result.succeeded and result.report["target"]["known_before"] is False
    assert "nothing to forget" in caplog.text


def test_a_test_set_that_contradicts_the_validation_set_is_believed():
    """On validation the sevens are forgotten; the test set's pictures are fours, which a renamed text still finds."""
    sevens, rest = concept_pairs("seven", "validation", limit_per_digit=3)
    fours = [{**row, "name": "seven"} for row in concept_pairs("four", "test", limit_per_digit=3)[0]]
    prompts = {name: [f"a {name}"] for name in names("digit") if name != "four"} | {
        "seven": ["a seven", "a four", "a four"]
    }
    result = quick(
        names=prompts,
        validation_forget=sevens,
        validation_retain=[row for row in rest if row["name"] != "four"],
        test_forget=fours,
        test_retain=[row for row in concept_pairs("seven", "test", limit_per_digit=3)[1] if row["name"] != "four"],
        evaluate=_Satisfied(),
    )
    target = result.report["target"]
    assert target["reached_on_validation"] and target["known_before"]
    assert result.report["metrics"]["after"]["fa1"] > 0.5
    assert target["contradicted_by_test"] and not result.succeeded


def test_what_it_costs_is_said_wherever_the_result_is(caplog, tmp_path, result):
    ruthless = quick(evaluate=_Ruthless(zoo.load_clip()[0]), steps=9, direction="gradient", tower="vision")
    before, after = ruthless.report["metrics"]["before"]["ta"], ruthless.report["metrics"]["after"]["ta"]
    assert before - after > 0.05 and ruthless.report["target"]["damages_the_rest"]
    said = f"the accuracy of what is kept fell from {before:.1%} to {after:.1%}"
    assert f"The rest suffers: {said}" in caplog.text
    assert ruthless.succeeded and verdict(ruthless.report).endswith(f", BUT {said}")
    ruthless.patch.save_pretrained(tmp_path / "ruthless")
    assert said in (tmp_path / "ruthless" / "README.md").read_text()
    assert not result.report["target"]["damages_the_rest"] and "BUT" not in verdict(result.report)
    result.patch.save_pretrained(tmp_path / "mild")
    assert "costs much" not in (tmp_path / "mild" / "README.md").read_text()


class _Ruthless:
    """Satisfied with no less than twenty times a weight's norm."""

    primary_metric, greater_is_better = "fa1", False

    def __init__(self, model):
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def __call__(self, model):
        moved = {n: float((w.detach() - self.weights[n]).norm()) for n, w in model.named_parameters()}
        return {"fa1": float(all(moved[name] <= 20 * float(self.weights[name].norm()) for name in moved))}


class _Satisfied:
    """Known at the first look, forgotten ever after: a validation that is wrong."""

    primary_metric, greater_is_better = "fa1", False

    def __init__(self):
        self.looks = 0

    def __call__(self, model):
        self.looks += 1
        return {"fa1": float(self.looks == 1)}


def test_pictures_that_are_in_two_parts_are_counted_and_said(tiny, processor, caplog, tmp_path):
    forget = noise_pairs(10, names=["three"])
    result = unlearn(tiny, processor, forget, noise_pairs(40, 1, ["one", "two"]), concept="three", steps=1,
                     validation_forget=forget, test_forget=forget)  # fmt: skip
    assert result.report["data"]["overlap"] == 10 and "10 images of the test sets" in caplog.text
    result.patch.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "10 of the test images were also" in card and "has seen them" not in card


def test_a_mapping_of_names_gives_the_prompts_of_both_losses():
    result = quick(names={name: [f"a {name}", f"a photo of a {name}"] for name in names("digit")}, template="{}")
    assert result.report["prompts"] == ["a seven", "a photo of a seven"] and result.succeeded
