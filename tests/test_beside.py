# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A patch that is made while others are on: of which weights it is a step, what it is measured by, what is refused."""

import copy
import json

import pytest
import torch
from conftest import NAMES, assert_same, make_clip, noise_pairs, noise_rows, snapshot, write_folder
from tiny_hosts import HOSTS
from unlearning_helpers import Fading, clip_of, host_state
from unlearning_helpers import quick as quick_host

from hf_slug import RetainStatistics, UnlearningPatch, unlearn
from hf_slug.beside import leave_out, weights_with
from hf_slug.cli import main
from hf_slug.composition import compose_patches, stacked
from hf_slug.errors import EmptyDatasetError, UnsupportedModelError, WrongBaseError
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.towers import candidate_layers, layer_weights
from hf_slug.verification import verify_patch


FIRST, SECOND, *OTHERS = NAMES
DTYPES = [torch.float32, torch.bfloat16]


def sets(concept, kept):
    made = {}
    for seed, part in enumerate(("", "validation_", "test_")):
        made[f"{part}forget"] = noise_pairs(10, seed, [concept])
        made[f"{part}retain"] = noise_pairs(24, 10 + seed, kept)
    return made


def forget(model, processor, concept, kept, **settings):
    defaults = {"concept": concept, "names": NAMES, "steps": 3, "tower": "text", "fa_at": 1}
    return unlearn(model, processor, **sets(concept, kept), **{**defaults, **settings})


@pytest.fixture(scope="module")
def first(processor):
    return forget(make_clip(), processor, FIRST, [SECOND, *OTHERS]).patch


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_a_step_from_the_original_searched_with_the_others_on(processor, first, dtype, tmp_path):
    model = make_clip(dtype=dtype)
    before = snapshot(model)
    # the others' concepts are left out of what is kept
    result = forget(model, processor, SECOND, [FIRST, *OTHERS], beside=[first])
    assert_same(model, before) and model.get_list_unlearning() == {}
    # slow and plain: a model that was saved with the first patch in it, and data without its concept
    baked = make_clip(dtype=dtype)
    baked.load_state_dict(before)
    for name, weight in first.new_weights(model).items():
        baked.get_submodule(name).weight.data.copy_(weight)
    plain_sets = sets(SECOND, [FIRST, *OTHERS])
    for key in [key for key in plain_sets if key.endswith("retain")]:
        own = plain_sets[key]
        plain_sets[key] = own.subset(i for i, name in enumerate(own.names) if name != FIRST)
    plain = unlearn(baked, processor, concept=SECOND, names=NAMES, steps=3, tower="text", fa_at=1, **plain_sets)
    for name, delta in plain.patch.deltas.items():
        assert torch.equal(result.patch.deltas[name], delta)
    assert result.report["search"] == plain.report["search"] and result.report["layers"] == plain.report["layers"]
    assert {key: result.report["data"][key] for key in plain_sets} == {
        key: plain.report["data"][key] | {"source": result.report["data"][key]["source"]} for key in plain_sets
    }
    # but it belongs to the original weights, and says what it was made beside
    originals = {name: before[f"{name}.weight"] for name in result.patch.modules}
    assert result.patch.config.base_fingerprint == compute_fingerprint(originals)
    (said,) = result.report["beside"]
    assert said["concept"] == FIRST and said["norms"] == {
        name: pytest.approx(float(delta.norm())) for name, delta in first.deltas.items()
    }
    result.patch.save_pretrained(tmp_path / "patch")
    card = (tmp_path / "patch" / "README.md").read_text()
    assert (
        f"beside the patch that forgets {FIRST}: load it together with that" in card and plain.report["beside"] == []
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_report_is_what_both_do_together(processor, first, dtype):
    model = make_clip(dtype=dtype)
    result = forget(model, processor, SECOND, OTHERS, beside=[first])
    data = sets(SECOND, OTHERS)
    evaluator = ZeroShotEvaluator(processor, data["test_forget"], data["test_retain"], SECOND, NAMES)
    with stacked(model, {"a": result.patch, "b": first}, {"a": 1.0, "b": 1.0}):
        together = evaluator(model)
    assert {key: result.report["metrics"]["after"][key] for key in ("fa1", "fa5", "ta")} == {
        key: together[key] for key in ("fa1", "fa5", "ta")
    }
    before = snapshot(model)
    done = verify_patch(result.patch, model, evaluator, beside=[first])
    assert done.same_data and done.confirmed and all(row["card"] == row["found"] for row in done.rows)
    assert_same(model, before)
    with pytest.raises(ValueError, match=f"measured beside the patches of '{FIRST}'.*would be beside no patch"):
        verify_patch(result.patch, model, evaluator)
    with pytest.raises(ValueError, match="measured beside no patch"):
        verify_patch(first, model, evaluator, beside=[first])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_layers_that_are_shared_are_composed_as_loading_does(first, dtype):
    model, other = make_clip(dtype=dtype), copy.deepcopy(first)
    (layer,) = [own for own in candidate_layers(model, "text") if list(own.modules) == first.modules]
    generator = torch.Generator().manual_seed(0)
    deltas = {name: torch.randn(delta.shape, generator=generator) for name, delta in first.deltas.items()}
    new = UnlearningPatch.from_deltas(deltas, copy.deepcopy(first.config))
    with stacked(model, {"b": new, "a": first, "c": other}, {"a": 1.0, "b": 1.0, "c": 1.0}):
        expected = {name: weight.clone() for name, weight in layer_weights(model, layer).items()}
    with stacked(model, {"0": first, "1": other}, {"0": 1.0, "1": 1.0}):
        found = weights_with(model, layer, deltas, {"0": first, "1": other})
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_nothing_stays_on_where_something_goes_wrong(processor, first):
    model = make_clip()
    before = snapshot(model)

    class Broken(ZeroShotEvaluator):
        def forgotten(self, *args, **kwargs):
            assert "0" in str(model.get_list_unlearning())
            raise RuntimeError("broken")

    data = sets(SECOND, OTHERS)
    chooser = Broken(processor, data["validation_forget"], data["validation_retain"], SECOND, NAMES)
    with pytest.raises(RuntimeError, match="broken"):
        forget(model, processor, SECOND, OTHERS, beside=[first], evaluate=chooser)
    assert_same(model, before) and model.get_list_unlearning() == {}


def test_concepts_that_are_gone_are_left_out_of_what_is_kept(first):
    parts = {"forget": noise_pairs(4, 0, [FIRST]), "test_retain": noise_pairs(6, 0, [FIRST.upper(), SECOND, "x"])}
    left = leave_out(parts, {"0": first}, ["{}"])
    assert left["forget"] is parts["forget"] and left["test_retain"].names == [SECOND, "x"] * 2
    assert leave_out(parts, {}, ["{}"]) == parts
    several = compose_patches({"a": first, "b": first})
    several.report["composed_of"][1]["concept"] = SECOND
    assert leave_out(parts, {"0": several}, ["{}"])["test_retain"].names == ["x"] * 2
    with pytest.raises(EmptyDatasetError, match=f"Every pair of the retain set shows .*{FIRST}"):
        leave_out({"retain": noise_pairs(4, 0, [FIRST])}, {"0": first}, ["{}"])


def test_what_was_computed_without_the_patches_is_refused(processor, first):
    model = make_clip()
    with pytest.raises(ValueError, match="of the model without patches"):
        forget(model, processor, SECOND, OTHERS, beside=[first], retain_gradients={"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="of the model without patches"):
        data = sets(SECOND, OTHERS) | {"retain": RetainStatistics({}, {}, {"names": []})}
        unlearn(model, processor, **data, concept=SECOND, names=NAMES, beside=[first])
    with pytest.raises(TypeError, match=r"Give \[patch\]"):
        forget(model, processor, SECOND, OTHERS, beside=first)
    with pytest.raises(WrongBaseError):
        forget(make_clip(seed=1), processor, SECOND, OTHERS, beside=[first])
    model.load_unlearning(first)
    with pytest.raises(UnsupportedModelError, match="give them as `beside=`"):
        forget(model, processor, SECOND, OTHERS)
    model.disable_unlearning()
    with pytest.raises(UnsupportedModelError, match="has the unlearning patches"):
        forget(model, processor, SECOND, OTHERS, beside=[first])


@pytest.mark.parametrize("objective", ["clip", "host"])
def test_a_host_is_searched_with_the_others_on(objective):
    pipe, clip = HOSTS["sd1"].build(), clip_of()
    before, bits = host_state(pipe), snapshot(clip)
    first = quick_host(pipe, clip, objective=objective, evaluate=Fading(pipe), test_evaluate=Fading(pipe)).patch
    looks = []

    class Watching(Fading):
        def forgotten(self, host, enough=None):
            looks.append(len(host.get_active_unlearning()))
            return super().forgotten(host, enough)

    judges = {"evaluate": Watching(pipe), "test_evaluate": Fading(pipe)}
    second = quick_host(pipe, clip, objective=objective, beside=[first], concept="five", **judges)
    assert set(looks) == {1}
    assert_same(clip, bits)
    for (name, value), (other, old) in zip(host_state(pipe), before, strict=True):
        assert name == other and (torch.equal(value, old) if torch.is_tensor(value) else value == old)
    assert [row["concept"] for row in second.report["beside"]] == ["three"]


@pytest.fixture
def command(processor, tmp_path):
    make_clip().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rows = noise_rows(60)
    write_folder(tmp_path / "forget", [row for row in rows if row["name"] in (FIRST, SECOND)])
    write_folder(tmp_path / "retain", rows)
    (tmp_path / "concepts.txt").write_text(f"{FIRST}\n{SECOND}\n")
    return [
        *("unlearn", "--model", str(tmp_path / "model"), "--forget", str(tmp_path / "forget")),
        *("--template", "{}", "--steps", "2", "--device", "cpu", "--tower", "text"),
    ]


def test_concepts_in_turn(command, tmp_path, capsys):
    batch = [*command, "--retain", str(tmp_path / "retain"), "--concepts", str(tmp_path / "concepts.txt")]
    batch += ["--output", str(tmp_path / "out")]
    assert main([*batch, "--in-turn", "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)["patches"]
    assert [[row["concept"] for row in said[name]["beside"]] for name in (FIRST, SECOND)] == [[], [FIRST]]
    assert not (tmp_path / "out" / "retain-stats").exists()
    # what was stopped goes on to the same
    made = (tmp_path / "out" / SECOND / "adapter_model.safetensors").read_bytes()
    for file in (tmp_path / "out" / SECOND).iterdir():
        file.unlink()
    (tmp_path / "out" / SECOND).rmdir()
    assert main([*batch, "--in-turn"]) in (0, 1)
    assert (tmp_path / "out" / SECOND / "adapter_model.safetensors").read_bytes() == made
    # patches made apart are not mixed in
    assert main(batch) == 2 and "in_turn" in capsys.readouterr().err


def test_beside_from_the_command_line(command, first, tmp_path, capsys):
    first.save_pretrained(tmp_path / "first")
    one = [*command, "--concept", SECOND, "--beside", str(tmp_path / "first"), "--json"]
    assert main([*one, "--retain", str(tmp_path / "retain"), "--output", str(tmp_path / "second")]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    assert [row["concept"] for row in report["beside"]] == [FIRST]
    for flags, why in (
        (["--concept", SECOND, "--retain", "x", "--in-turn"], "Give --concepts, or --beside"),
        (["--concept", SECOND, "--retain-stats", "x", "--beside", "y"], "without patches"),
        (["--concepts", str(tmp_path / "concepts.txt"), "--retain-stats", "x", "--in-turn"], "without patches"),
    ):
        assert main([*command, *flags, "--output", str(tmp_path / "none")]) == 2
        assert why in capsys.readouterr().err
