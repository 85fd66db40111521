# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches made for a host: which layers compete, what they fit, and that the host is left alone."""

import json

import pytest
import torch
from conftest import assert_same, snapshot
from tiny_hosts import HOSTS, make_clip
from unlearning_helpers import FORGET, RETAIN, Fading, clip_of, host_state, quick

from hf_slug import UnlearningPatch, unlearn, zoo
from hf_slug.encoders import find_encoders
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.loading import find_processor
from hf_slug.tables import caution


PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
QUESTIONS = ("Which digit is written here?", "Digit?")
# kind of host, encoder, how many of its blocks are read (of 4 of a text tower, and of 5 of a vision tower), and whether the
# projection is
LIVE = [
    ("sd1", None, 4, False),
    ("sd2", None, 3, False),  # its encoder has one block less than its CLIP
    ("sdxl", "text_encoder", 3, False),
    ("sdxl", "text_encoder_2", 4, True),
    ("sd3", "text_encoder", 4, True),
    ("flux", None, 4, False),
    ("llava", None, 4, False),
    ("llava_next", None, 4, False),
    ("vipllava", None, 4, False),
]
# whose own loss is known
OWN_LOSS = [("sd1", None), ("sd2", None), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2"), ("llava", None)]


def build(kind, component, objective):
    """A host, the CLIP whose tower it is, and what its loss needs; a LLaVA that can read questions is the zoo's."""
    if (kind, objective) == ("llava", "host"):
        host, processor = zoo.load_llava()
        return host, zoo.load_clip()[0], {"host_processor": processor, "questions": QUESTIONS}
    return HOSTS[kind].build(), clip_of(component), {}


def run(kind, component, objective, **settings):
    """A host, its CLIP, and a patch made for them."""
    host, clip, more = build(kind, component, objective)
    return host, clip, quick(host, clip, component=component, objective=objective, **more, **settings)


def live_weights(host, component, modules):
    (encoder,) = find_encoders(host, component)
    return {name: module.weight.data for name, module in encoder.resolve(modules).items()}


@pytest.mark.parametrize("kind, component, blocks, projection", LIVE)
def test_only_layers_that_the_host_reads_compete(kind, component, blocks, projection):
    tower = "vision" if "llava" in kind else "text"
    expected = [f"{tower}_model.encoder.layers.{i}.{part}" for i in range(blocks) for part in PARTS]
    expected += [f"{tower}_projection"] if projection else []
    objectives = ["clip", "host"] if (kind, component) in OWN_LOSS and kind != "llava" else ["clip"]
    for objective in objectives:
        report = run(kind, component, objective)[2].report
        assert [layer["name"] for layer in report["layers"]] == expected
        assert all(layer["importance"] > 0 for layer in report["layers"])
        assert {trial["layer"] for trial in report["search"]} <= set(expected)
        assert report["tower"] == tower
    norms = run(kind, component, "clip", norms=True)[2].report["layers"]
    found = {layer["name"] for layer in norms} - set(expected) - {f"{tower}_model.final_layer_norm"}
    assert found == {f"{tower}_model.encoder.layers.{i}.layer_norm{k}" for i in range(blocks) for k in (1, 2)}
    assert ("text_model.final_layer_norm" in {layer["name"] for layer in norms}) == (
        tower == "text" and component != "text_encoder" or kind == "sd3"
    )


@pytest.mark.parametrize("objective", ["clip", "host"])
@pytest.mark.parametrize(
    "kind, component, granularity", [*((*case, "matrix") for case in OWN_LOSS), ("sd1", None, "block")]
)
def test_a_patch_fits_the_host_and_its_clip_alike(kind, component, objective, granularity, tmp_path):
    host, clip, result = run(kind, component, objective, granularity=granularity)
    patch = result.patch
    before = live_weights(host, component, patch.modules)
    assert patch.config.base_fingerprint == compute_fingerprint(before)
    assert result.report["objective"] == objective and patch.config.granularity == granularity
    originals = {name: weight.clone() for name, weight in before.items()}
    patch.save_pretrained(tmp_path)
    host.load_unlearning(tmp_path)
    clip.load_unlearning(tmp_path)
    changed = live_weights(host, component, patch.modules)
    own = {name: clip.get_submodule(name).weight.data for name in patch.modules}
    for name in patch.modules:
        assert torch.equal(changed[name], own[name]) and not torch.equal(changed[name], originals[name])
        assert torch.equal(changed[name], (originals[name].double() + patch.deltas[name].double()).float())
    assert host.get_list_unlearning() == {component or find_encoders(host)[0].component: ["default_0"]}
    host.unload_unlearning()
    assert all(torch.equal(live_weights(host, component, [name])[name], originals[name]) for name in originals)


@pytest.mark.parametrize("objective", ["clip", "host"])
@pytest.mark.parametrize("kind, component", OWN_LOSS)
def test_host_and_clip_are_left_as_they_were(kind, component, objective):
    host, clip, settings = build(kind, component, objective)
    find_encoders(host, component)[0].owner.train()
    state, before = host_state(host), snapshot(clip)
    evaluator, tester = Fading(host), Fading(host)
    report = quick(
        host, clip, component=component, objective=objective, evaluate=evaluator, test_evaluate=tester, **settings
    ).report
    assert evaluator.looks > 5 and tester.looks == 2
    assert report["metrics"]["before"]["fa1"] == 1 and report["metrics"]["after"]["fa1"] < 1
    for (name, value), (other, expected) in zip(host_state(host), state):
        assert name == other and (value == expected if name == "training" else torch.equal(value, expected)), name
    assert_same(clip, before)


@pytest.mark.parametrize("objective", ["clip", "host"])
def test_a_host_in_half_precision_gets_a_patch_that_fits_it_and_the_clip(objective):
    host = HOSTS["sd1"].build().to(torch.bfloat16)
    clip = clip_of()
    patch = quick(host, clip, objective=objective).patch
    for name in patch.modules:
        made_from = patch.config.base_fingerprint[name]["dtype"]
        assert made_from == ("float32" if objective == "clip" else "bfloat16")
    half = make_clip().to(torch.bfloat16)
    for model in (host, half, clip):
        model.load_unlearning(patch)
    for name, weight in live_weights(host, None, patch.modules).items():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, half.get_submodule(name).weight)
        assert not torch.equal(weight, make_clip().get_submodule(name).weight.bfloat16())


def test_a_run_without_the_clip_goes_by_the_hosts_own_behaviour(tmp_path):
    host = HOSTS["sd1"].build()
    evaluator = Fading(host)
    result = unlearn(
        None, None, FORGET, RETAIN, concept="three", host=host, evaluate=evaluator, test_evaluate=Fading(host), draws=1
    )
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert result.succeeded and report["objective"] == "host"
    assert report["base_model"]["class"] == report["host"]["class"] == "StableDiffusionPipeline"
    assert {name: report["data"][name]["n"] for name in ("forget", "retain")} == {"forget": 8, "retain": 16}
    assert "validation_forget" not in report["data"]  # nothing need be split off
    assert report["metrics"]["after"]["fa1"] == 0 and report["metrics"]["after"]["ta"] > 0.8
    assert result.patch.config.base_model_name_or_path is None  # this pipeline came from nowhere
    result.patch.save_pretrained(tmp_path)
    again = make_clip()
    again.load_unlearning(UnlearningPatch.from_pretrained(tmp_path))
    for name, weight in result.patch.new_weights(host.text_encoder).items():
        assert torch.equal(again.text_model.get_submodule(name.removeprefix("text_model.")).weight, weight)


@pytest.mark.parametrize("objective", ["clip", "host"])
def test_the_report_says_what_it_was_made_for_and_judged_by(objective, caplog, tmp_path):
    host, clip = HOSTS["sdxl"].build(), clip_of("text_encoder_2")
    settings = {"component": "text_encoder_2", "objective": objective}
    made = quick(host, clip, **settings)
    plain = made.report
    made.patch.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "host = StableDiffusionXLPipeline.from_pretrained(" in card and "host.load_unlearning(" in card
    assert "made for the `text_encoder_2` of a StableDiffusionXLPipeline, by " in card
    assert "what the StableDiffusionXLPipeline does was not looked at" in caplog.text
    assert plain["objective"] == objective and plain["metrics"]["evaluator"] == "ZeroShotEvaluator"
    assert plain["host"]["component"] == "text_encoder_2" and plain["host"]["class"] == "StableDiffusionXLPipeline"
    assert (plain["host"]["blocks"], plain["host"]["live_blocks"]) == (4, 4)
    assert plain["base_model"]["class"] == "CLIPModel"
    assert plain["epsilon"] == 0.03 and plain["draws"] == (1 if objective == "host" else None)
    assert "what the StableDiffusionXLPipeline does was not looked at" in caution(plain)
    caplog.clear()
    judged = quick(host, clip, **settings, evaluate=Fading(host), test_evaluate=Fading(host)).report
    assert judged["metrics"]["evaluator"] == "Fading" and judged["metrics"]["n_forget"] == 10
    assert "looked at" not in caplog.text and not caution(judged)
    assert judged["layers"] == plain["layers"]  # the gradients are the same whoever judges
    mixed = quick(host, clip, **settings, evaluate=Fading(host)).report
    assert mixed["metrics"]["evaluator"] == "ZeroShotEvaluator" and mixed["search"] == judged["search"]
    alone = quick(None, clip).report
    assert alone["host"] is None and alone["draws"] is None and alone["objective"] == "clip" and not caution(alone)


def test_a_run_can_be_repeated_and_another_seed_draws_other_noise():
    first, second, other = (
        quick(HOSTS["sd1"].build(), clip_of(), objective="host", seed=seed).report for seed in (0, 0, 1)
    )
    assert first["layers"] == second["layers"] and first["search"] == second["search"]
    assert first["layers"] != other["layers"]


@pytest.mark.parametrize("kind, component, expected", [
    ("sd1", None, "host"), ("sdxl", "text_encoder_2", "host"), ("flux", None, "clip"), ("sd3", "text_encoder", "clip"),
    ("sd1_inpaint", None, "clip"), ("sd1_img2img", None, "host"), ("llava", None, "clip"),  # made of nothing, it has no processor
])  # fmt: skip
def test_the_default_objective_is_the_better_one_of_those_there_are(kind, component, expected):
    assert run(kind, component, None)[2].report["objective"] == expected


def test_a_llavas_processor_is_found_where_the_model_came_from(tmp_path):
    llava, processor = zoo.load_llava()
    assert type(find_processor(llava)) is type(processor)
    assert quick(llava, zoo.load_clip()[0], questions=QUESTIONS).report["objective"] == "host"
    llava.save_pretrained(tmp_path)  # without its processor
    alone = type(llava).from_pretrained(tmp_path)
    assert find_processor(alone) is None
    assert quick(alone, zoo.load_clip()[0]).report["objective"] == "clip"
    with pytest.raises(ValueError, match="host_processor="):
        quick(alone, zoo.load_clip()[0], objective="host")
    assert find_processor(zoo.load_clip()[0]) is None and find_processor(None) is None
