# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One patch made of several: that it does what they do stacked, and what is said of how they interfere."""

import json

import numpy as np
import pytest
import tiny_hosts
import torch
from attachment_helpers import FC1, V_PROJ, VISION_V, make_patch
from conftest import assert_same, make_clip, snapshot
from peft import PeftModel

from hf_slug import load_unlearning, zoo
from hf_slug.cli import main
from hf_slug.composition import compose_patches, find_interference, measure_stack
from hf_slug.errors import DeadLayerError, UnsupportedModelError, WrongBaseError
from hf_slug.evaluation import ZeroShotEvaluator


def patches(*modules, **settings):
    return {f"p{i}": make_patch(make_clip(), (name,), seed=i, **settings) for i, name in enumerate(modules)}


@pytest.mark.parametrize(
    "modules", [(FC1, V_PROJ), (FC1, VISION_V), (VISION_V, "visual_projection", "text_projection")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_stack_to_the_bit_where_layers_are_apart(tmp_path, modules, dtype):
    parts = patches(*modules)
    compose_patches(parts).save_pretrained(tmp_path)
    stacked, composed = make_clip(dtype=dtype), make_clip(dtype=dtype)
    before = snapshot(composed)
    for name, patch in parts.items():
        load_unlearning(stacked, patch, name)
    composed.load_unlearning(tmp_path)
    assert_same(composed, snapshot(stacked))
    merged = PeftModel.from_pretrained(make_clip(dtype=dtype), tmp_path).merge_and_unload()
    assert_same(merged, snapshot(stacked))
    composed.unload_unlearning()
    assert_same(composed, before)


def test_shared_layers_are_summed_in_float64():
    parts = patches(FC1, FC1, V_PROJ)
    found = compose_patches(parts, [1.0, -0.25, 2.0]).deltas
    a, b, c = (list(patch.deltas.values())[0].double() for patch in parts.values())
    assert torch.equal(found[FC1], (a - 0.25 * b).float()) and torch.equal(found[V_PROJ], (2 * c).float())


def test_factors_are_made_dense():
    parts = {"a": make_patch(make_clip(), rank=2), "b": make_patch(make_clip(), seed=1)}
    composed = compose_patches(parts)
    assert composed.config.rank is None and list(composed.tensors) == [f"base_model.model.{FC1}.slug_delta"]


def test_the_report_says_what_it_is_made_of(tmp_path):
    composed = compose_patches(patches(FC1, V_PROJ), [1.0, 0.5])
    composed.save_pretrained(tmp_path)
    assert [(part["name"], part["weight"]) for part in composed.report["composed_of"]] == [("p0", 1.0), ("p1", 0.5)]
    card = (tmp_path / "README.md").read_text()
    assert "## What it is made of" in card and "| 'mira' | 0.5 |" in card


def test_other_bases_are_refused():
    honest, other = make_patch(make_clip()), make_patch(make_clip(seed=1))
    with pytest.raises(WrongBaseError, match="different weights of"):
        compose_patches({"a": honest, "b": other})
    renamed = make_patch(make_clip(seed=1), (V_PROJ,))
    renamed.config.base_model_name_or_path = "user/other-clip"
    with pytest.raises(WrongBaseError, match="user/other-clip"):
        compose_patches({"a": honest, "b": renamed})
    revised = make_patch(make_clip(), (V_PROJ,))
    honest.config.revision, revised.config.revision = "a" * 40, "b" * 40
    with pytest.raises(WrongBaseError, match="revision"):
        compose_patches({"a": honest, "b": revised})


@pytest.mark.parametrize("weights", [[1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        compose_patches(patches(FC1, V_PROJ), weights)
    with pytest.raises(ValueError, match="no patch"):
        compose_patches({})


def test_a_patch_of_both_towers_fits_a_clip_alone():
    model = tiny_hosts.make_clip()
    parts = {name: make_patch(model, (module,)) for name, module in (("a", FC1), ("b", VISION_V))}
    composed = compose_patches(parts)
    model.load_unlearning(composed, "both")
    assert model.get_list_unlearning() == {"text_model": ["both"], "vision_model": ["both"]}
    for host in (tiny_hosts.HOSTS["sd1"].build(), tiny_hosts.HOSTS["llava"].build()):
        with pytest.raises((UnsupportedModelError, DeadLayerError)):
            host.load_unlearning(composed)
        assert not host.get_list_unlearning()


def test_interference_is_the_cosine_and_the_shared_inputs():
    parts = patches(FC1, FC1, V_PROJ)
    found = {(pair["first"], pair["second"]): pair for pair in find_interference(parts)}
    a, b = (list(parts[name].deltas.values())[0].double().numpy() for name in ("p0", "p1"))
    cosine = float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    pair = found["p0", "p1"]
    assert pair["shared"] == [FC1] and pair["cosine"][FC1] == pytest.approx(cosine) == pytest.approx(pair["overall"])
    _, values, vh = np.linalg.svd(a, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(values**2) / (values**2).sum(), 0.99)) + 1
    assert pair["input_overlap"][FC1] == pytest.approx(((b @ vh[:count].T) ** 2).sum() / (b**2).sum())
    assert found["p0", "p2"]["overall"] == 0.0 and not found["p0", "p2"]["shared"]
    same = find_interference({"x": parts["p0"], "y": parts["p0"]})[0]
    assert same["overall"] == pytest.approx(1.0)


def test_what_is_measured_is_alone_and_together():
    model, processor = zoo.load_clip()
    before = snapshot(model)
    forget, retain = zoo.concept_pairs("seven", "test", 0, limit_per_digit=1)
    from hf_slug import load_pairs

    evaluator = ZeroShotEvaluator(processor, load_pairs(forget), load_pairs(retain), "seven", zoo.data.DIGITS, "a {}")
    parts = {name: make_patch(model, (module,)) for name, module in (("a", FC1), ("b", VISION_V))}
    found = measure_stack(model, parts, [1.0, 0.5], {"a": evaluator, "b": evaluator})
    assert_same(model, before)
    assert found["a"]["untouched"] == evaluator(model) and found["a"]["n_forget"] == len(forget)
    load_unlearning(model, parts["a"], "a")
    alone = evaluator(model)
    load_unlearning(model, parts["b"], "b", 0.5)
    both = evaluator(model)
    for key in ("fa1", "fa5", "ta"):
        assert found["a"]["alone"][key] == alone[key] and found["b"]["stacked"][key] == both[key]


def test_the_command(tmp_path, capsys):
    for name, patch in patches(FC1, V_PROJ).items():
        patch.save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("p0", "p1")]
    assert main(["compose", *folders, "--weights", "1", "0.5", "--output", str(tmp_path / "both"), "--json"]) == 0
    assert [part["weight"] for part in json.loads(capsys.readouterr().out)["composed_of"]] == [1.0, 0.5]
    assert main(["compose", *folders, "--output", str(tmp_path / "again")]) == 0
    assert "cosine" in capsys.readouterr().out
    sets = ["--forget", "f", "--forget", "g", "--retain", "r"]
    for wrong in (
        ["--weights", "1"],
        ["--model", str(zoo.CLIP_FOLDER)],
        [folders[0]],
        sets,
        ["--weights", "1", "1", "--validation-forget", "f", "--validation-forget", "g", "--model", "m"],
        ["--model", str(zoo.CLIP_FOLDER), "--validation-forget", "f", "--retain", "r"],
    ):
        arguments = ["compose", *folders, *wrong] if wrong[0] == folders[0] else ["compose", *folders, *wrong]
        assert main([*arguments, "--output", str(tmp_path / "none")]) == 2
        assert not (tmp_path / "none").exists() and "hf-slug: error" in capsys.readouterr().err
