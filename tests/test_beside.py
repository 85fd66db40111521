# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A patch that is made while others are on: of which weights it is a step, what it is measured by, what is refused."""

import copy
import json
import types

import pytest
import torch
from conftest import assert_same, make_clip, noise_pairs, snapshot, write_folder
from tiny_hosts import HOSTS
from unlearning_helpers import Fading, clip_of, host_state
from unlearning_helpers import quick as quick_host

from hf_slug import RetainStatistics, UnlearningPatch, load_pairs, unlearn, zoo
from hf_slug import search as search_module
from hf_slug.beside import read_beside
from hf_slug.cli import main
from hf_slug.composition import compose_patches, stacked
from hf_slug.errors import CorruptPatchError, EmptyDatasetError, UnsupportedModelError, WrongBaseError
from hf_slug.evaluation import ZeroShotEvaluator
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.inspection import describe_patch
from hf_slug.stack import deltas_on, start_of
from hf_slug.steps import new_weights
from hf_slug.towers import candidate_layers, layer_weights
from hf_slug.verification import verify_patch


DIGITS = list(zoo.data.DIGITS)
DTYPES = [torch.float32, torch.bfloat16]
PARTS = {"": "train", "validation_": "validation", "test_": "test"}


def rows_of(concept, split):
    return zoo.concept_pairs(concept, split, limit_per_digit=1)


def sets(concept):
    """All that is known of a digit, a picture of each style and digit; of what is kept every digit but it."""
    return {
        part + what: load_pairs(rows)
        for part, split in PARTS.items()
        for what, rows in zip(("forget", "retain"), rows_of(concept, split), strict=True)
    }


def forget(concept, model=None, **settings):
    model, processor = (model or zoo.load_clip()[0]), zoo.load_clip()[1]
    quick = {"template": "a {}", "tower": "text", "steps": 4, "front_only": True, "concept": concept}
    return unlearn(model, processor, **{**sets(concept), **quick, **settings})


@pytest.fixture(scope="module")
def seven():
    return forget("seven").patch


@pytest.fixture
def one_layer(monkeypatch, seven):
    """Only the layer of the first patch competes."""
    own = [layer for layer in candidate_layers(zoo.load_clip()[0], "text") if list(layer.modules) == seven.modules]
    monkeypatch.setattr("hf_slug.subject.candidate_layers", lambda *_, **__: own)
    return own[0]


def test_it_is_what_a_model_that_was_saved_with_the_others_would_give(seven):
    model = zoo.load_clip()[0]
    before = snapshot(model)
    layers = [layer for layer in candidate_layers(model, "text") if list(layer.modules) != seven.modules]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hf_slug.subject.candidate_layers", lambda *_, **__: layers)
        result = forget("two", model, beside=[seven])
        assert_same(model, before)
        assert model.get_list_unlearning() == {}
        # slow and plain: other weights, and data without the other concept
        baked = zoo.load_clip()[0]
        for name, weight in seven.new_weights(model).items():
            baked.get_submodule(name).weight.data.copy_(weight)
        kept = {
            key: pairs.subset(i for i, name in enumerate(pairs.names) if name != "seven")
            for key, pairs in sets("two").items()
            if key.endswith("retain")
        }
        plain = forget("two", baked, names=result.report["metrics"]["names"], **kept)
    assert result.succeeded and plain.succeeded
    assert all(torch.equal(result.patch.deltas[name], delta) for name, delta in plain.patch.deltas.items())
    for key in ("search", "layers", "chosen"):
        assert result.report[key] == plain.report[key]
    assert result.report["metrics"] == plain.report["metrics"] and plain.report["metrics"]["before"]["fa1"] > 0.9
    # what it is made beside, and what was left out for that
    (said,) = result.report["beside"]
    assert said["concept"] == "seven" and said["source"] is None and set(said["norms"]) == set(seven.modules)
    n = sum(pairs.names.count("seven") for key, pairs in sets("two").items() if key.endswith("retain"))
    assert result.report["left_out"] == {"seven": n} and n > 0
    assert plain.report["beside"] == [] and plain.report["left_out"] == {}
    # gradients of a model with patches on are no other run's
    assert result.retain_gradients == {} and plain.retain_gradients


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_a_layer_that_is_shared_it_is_a_step_from_the_original(seven, one_layer, dtype, monkeypatch):
    model = zoo.load_clip(dtype)[0]
    before, searched = snapshot(model), []
    own = search_module.search_layer

    def remember(layer, weights, directions, measure, *args, **kwargs):
        def watch(new):
            searched.append({name: weight.clone() for name, weight in new.items()})
            return measure(new)

        return own(layer, weights, directions, watch, *args, **kwargs)

    monkeypatch.setattr(search_module, "search_layer", remember)
    result = forget("two", model, beside=[seven])
    assert result.patch.modules == seven.modules
    assert_same(model, before)
    originals = {name: before[f"{name}.weight"] for name in seven.modules}
    assert result.patch.config.base_fingerprint == compute_fingerprint(originals)
    # what was searched is what both give, to the bit, and the change is told of the original weight
    with stacked(model, {"a": result.patch, "b": seven}, {"a": 1.0, "b": 1.0}):
        together = {name: weight.detach().clone() for name, weight in layer_weights(model, one_layer).items()}
    assert any(all(torch.equal(new[name], together[name]) for name in together) for new in searched)
    (change,) = describe_patch(result.patch)["changes"]
    assert result.report["chosen"]["relative_change"] == pytest.approx(change["relative_change"], rel=1e-3)
    (layer,) = result.report["layers"]
    assert layer["importance"] > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_report_is_what_both_do_together(seven, dtype):
    model = zoo.load_clip(dtype)[0]
    result = forget("two", model, beside=[seven], names=DIGITS)
    data = sets("two")
    retain = data["test_retain"].subset(i for i, name in enumerate(data["test_retain"].names) if name != "seven")
    evaluator = ZeroShotEvaluator(zoo.load_clip()[1], data["test_forget"], retain, "two", DIGITS, "a {}")
    found = {}
    for when, patches in (("before", {"b": seven}), ("after", {"a": result.patch, "b": seven})):
        with stacked(model, patches, dict.fromkeys(patches, 1.0)):
            found[when] = evaluator(model)
    for when, metrics in found.items():
        assert {key: result.report["metrics"][when][key] for key in ("fa1", "fa5", "ta")} == {
            key: metrics[key] for key in ("fa1", "fa5", "ta")
        }
    before = snapshot(model)
    done = verify_patch(result.patch, model, evaluator, beside={"any name": seven})
    assert done.same_data and done.confirmed
    assert all((row["card"], row["card_before"]) == (row["found"], row["found_before"]) for row in done.rows)
    assert_same(model, before)
    with pytest.raises(ValueError, match="measured beside the patches of 'seven'.*would be beside no patch"):
        verify_patch(result.patch, model, evaluator)
    with pytest.raises(ValueError, match="measured beside no patch"):
        verify_patch(seven, model, evaluator, beside=[seven])
    weaker = UnlearningPatch.from_deltas({n: d / 2 for n, d in seven.deltas.items()}, copy.deepcopy(seven.config))
    with pytest.raises(ValueError, match="the very patches"):
        verify_patch(result.patch, model, evaluator, beside=[weaker])


def test_names_that_are_left_out_are_classified_among_all_the_same(seven):
    apart, beside = forget("two"), forget("two", beside=[seven])
    assert apart.report["metrics"]["names"] == beside.report["metrics"]["names"]
    assert "seven" in beside.report["metrics"]["names"]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_steps_go_on_from_all_that_is_stacked(seven, dtype):
    model = zoo.load_clip(dtype)[0]
    (layer,) = [own for own in candidate_layers(model, "text") if list(own.modules) == seven.modules]
    generator = torch.Generator().manual_seed(0)
    deltas = {name: torch.randn(delta.shape, generator=generator) for name, delta in seven.deltas.items()}
    new = UnlearningPatch.from_deltas(deltas, copy.deepcopy(seven.config))
    with stacked(model, {"a": seven, "b": new, "c": seven}, {"a": 1.0, "b": 1.0, "c": 0.5}):
        expected = {name: weight.detach().clone() for name, weight in layer_weights(model, layer).items()}
    plain = {name: weight.detach().clone() for name, weight in layer_weights(model, layer).items()}
    with stacked(model, {"a": seven, "c": seven}, {"a": 1.0, "c": 0.5}):
        weights, on_them = start_of(model, layer)
        found = new_weights(weights, deltas, 1.0, on_them)
        assert all(torch.equal(weights[name], plain[name]) for name in plain)
        model.disable_unlearning()
        assert start_of(model, layer)[1] == {name: {} for name in seven.modules}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(deltas_on(module) == {} for module in model.modules())


def test_nothing_stays_on_where_something_goes_wrong(seven):
    model = zoo.load_clip()[0]
    before = snapshot(model)

    class Broken(ZeroShotEvaluator):
        def forgotten(self, *args, **kwargs):
            assert model.get_active_unlearning()
            raise RuntimeError("broken")

    data = sets("two")
    own = (data["validation_forget"], data["validation_retain"], "two", DIGITS)
    with pytest.raises(RuntimeError, match="broken"):
        forget("two", model, beside=[seven], evaluate=Broken(zoo.load_clip()[1], *own))
    assert_same(model, before)
    assert model.get_list_unlearning() == {}


def test_concepts_that_are_gone_are_left_out_of_what_is_kept(seven):
    parts = {"forget": noise_pairs(4, 0, ["seven"]), "test_retain": noise_pairs(6, 0, ["SEVEN", "two", "x"])}
    left, out = read_beside([seven]).leave_out(parts, ["{}"])
    assert left["forget"] is parts["forget"] and left["test_retain"].names == ["two", "x"] * 2
    assert out == {"SEVEN": 2}
    assert read_beside(None).leave_out(parts, ["{}"]) == (parts, {})
    # by the templates that the patch was made with, too
    prompted = copy.deepcopy(seven)
    prompted.config.concept, prompted.report["metrics"]["templates"] = "a drawing of seven", ["a drawing of {}"]
    assert read_beside([prompted]).leave_out(parts, ["{}"])[1] == {"SEVEN": 2}
    # all that a patch is made of, also of patches that are made of several
    other = copy.deepcopy(seven)
    other.config.concept = "two"
    nested = compose_patches({"a": compose_patches({"a": seven, "b": other}), "c": seven})
    assert read_beside([nested]).concepts == ["seven", "two"]
    assert read_beside([nested]).leave_out(parts, ["{}"])[0]["test_retain"].names == ["x"] * 2
    with pytest.raises(EmptyDatasetError, match="Every pair of the retain set shows .*seven"):
        read_beside([seven]).leave_out({"retain": noise_pairs(4, 0, ["seven"])}, ["{}"])


def test_what_does_not_go_together_is_refused(seven, tmp_path):
    model = zoo.load_clip()[0]
    with pytest.raises(ValueError, match="of the model without patches"):
        forget("two", model, beside=[seven], retain_gradients={"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="of the model without patches"):
        forget("two", model, beside=[seven], retain=RetainStatistics({}, {}, {"names": []}))
    with pytest.raises(TypeError, match=r"Give \[patch\]"):
        forget("two", model, beside=seven)
    with pytest.raises(ValueError, match="'seven' was given twice"):
        forget("two", model, beside=[seven, copy.deepcopy(seven)])
    with pytest.raises((WrongBaseError, UnsupportedModelError)):
        forget("two", make_clip(), beside=[seven], names=DIGITS)
    for report in ({"composed_of": [1]}, {"composed_of": 3}, {"metrics": {"templates": 1}}):
        hostile = copy.deepcopy(seven)
        hostile.report = report
        with pytest.raises(CorruptPatchError):
            read_beside([hostile])
    hostile.report = seven.report | {"beside": [1]}
    evaluator = ZeroShotEvaluator(zoo.load_clip()[1], *rows_pairs("seven"), "seven", DIGITS, "a {}")
    with pytest.raises(CorruptPatchError):
        verify_patch(hostile, model, evaluator)
    model.load_unlearning(seven)
    with pytest.raises(UnsupportedModelError, match="give them to `unlearn` as `beside=`"):
        forget("two", model)
    model.disable_unlearning()
    with pytest.raises(UnsupportedModelError, match="others are to be loaded"):
        forget("two", model, beside=[seven])


def rows_pairs(concept):
    return [load_pairs(rows) for rows in rows_of(concept, "test")]


@pytest.mark.parametrize("kind, component", [("sd1", None), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")])
@pytest.mark.parametrize("objective", ["clip", "host"])
def test_a_host_is_searched_with_the_others_on(kind, component, objective):
    pipe, clip = HOSTS[kind].build(), clip_of(component)
    before, bits = host_state(pipe), snapshot(clip)
    judges = {"evaluate": Fading(pipe), "test_evaluate": Fading(pipe)}
    settings = {"component": component, "objective": objective}
    others = [quick_host(pipe, clip, **settings, **judges).patch]
    if kind == "sdxl":  # and one that is of the pipeline's other encoder
        second = "text_encoder" if component == "text_encoder_2" else "text_encoder_2"
        theirs = {"component": second, "objective": objective}
        others.append(quick_host(pipe, clip_of(second), **theirs, **judges).patch)
    looks = []

    class Watching(Fading):
        def forgotten(self, host, enough=None):
            looks.append(sum(len(names) for names in host.get_list_unlearning().values()))
            return super().forgotten(host, enough)

    judges = {"evaluate": Watching(pipe), "test_evaluate": Fading(pipe)}
    made = quick_host(pipe, clip, **settings, beside=others, concept="five", **judges)
    assert set(looks) == {len(others)}
    assert_same(clip, bits)
    for (name, value), (other, old) in zip(host_state(pipe), before, strict=True):
        assert name == other and (torch.equal(value, old) if torch.is_tensor(value) else value == old)
    assert [row["concept"] for row in made.report["beside"]] == ["three"] * len(others)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The zoo's CLIP as a user would name it, and data of two digits."""
    folder = tmp_path_factory.mktemp("beside")
    rows = {part: [row for own in rows_of("two", split) for row in own] for part, split in PARTS.items()}
    for part, own in rows.items():
        write_folder(folder / f"{part}forget", [row for row in own if row["name"] in ("seven", "two")])
        write_folder(folder / f"{part}retain", [row for row in own if row["name"] not in ("seven", "two")])
    (folder / "concepts.txt").write_text("seven\ntwo\n")
    return folder


@pytest.fixture
def command(folders):
    parts = ("forget", "retain", "validation_retain", "test_retain")
    data = [each for key in parts for each in (f"--{key.replace('_', '-')}", str(folders / key))]
    quick = ["--template", "a {}", "--steps", "4", "--device", "cpu", "--tower", "text", "--front-only"]
    return ["unlearn", "--model", str(zoo.CLIP_FOLDER), *data, *quick]


def test_concepts_in_turn(command, folders, tmp_path, capsys):
    batch = [*command, "--concepts", str(folders / "concepts.txt"), "--output", str(tmp_path / "out")]
    batch += ["--validation-forget", str(folders / "validation_forget"), "--test-forget", str(folders / "test_forget")]
    assert main([*batch, "--in-turn", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["patches"]
    assert [[row["concept"] for row in said[name]["beside"]] for name in ("seven", "two")] == [[], ["seven"]]
    assert said["two"]["beside"][0]["source"] == str(tmp_path / "out" / "seven")
    assert not (tmp_path / "out" / "retain-stats").exists()
    # what was stopped goes on to the same
    made = (tmp_path / "out/two/adapter_model.safetensors").read_bytes()
    for file in (tmp_path / "out/two").iterdir():
        file.unlink()
    (tmp_path / "out/two").rmdir()
    assert main([*batch, "--in-turn"]) == 0
    assert "`hf-slug compose`" in capsys.readouterr().out
    assert (tmp_path / "out/two/adapter_model.safetensors").read_bytes() == made
    # patches made apart are not mixed in
    capsys.readouterr()
    assert main(batch) == 2 and "in_turn" in capsys.readouterr().err
    # the patch says so wherever it is looked at
    card = (tmp_path / "out/two/README.md").read_text()
    assert "beside the patch that forgets 'seven'" in card
    assert main(["inspect", str(tmp_path / "out/two")]) == 0
    assert "Made beside the patch of 'seven'" in capsys.readouterr().out
    verify = ["verify", str(tmp_path / "out/two"), "--model", str(zoo.CLIP_FOLDER), "--device", "cpu"]
    (tmp_path / "two").mkdir()
    own = write_folder(tmp_path / "two/test", rows_of("two", "test")[0])
    verify += ["--forget", str(own), "--retain", str(folders / "test_retain")]
    assert main(verify) == 2 and "measured beside" in capsys.readouterr().err
    assert main([*verify, "--beside", str(tmp_path / "out/seven")]) == 0
    composed = compose_patches({k: UnlearningPatch.from_pretrained(tmp_path / "out" / k) for k in ("seven", "two")})
    composed.save_pretrained(tmp_path / "both")
    assert "(beside 'seven')" in (tmp_path / "both/README.md").read_text()


def test_one_that_does_not_forget_is_put_beside_no_other(command, folders, tmp_path, monkeypatch):
    from hf_slug import batch

    output = tmp_path / "out"
    for name in ("a", "b"):
        (output / name).mkdir(parents=True)
        (output / name / "adapter_config.json").write_text("{}")
    (output / "batch.json").write_text(json.dumps({"concepts": {n: {"output": n} for n in ("b", "a", "later")}}))
    loaded = {"a": True, "b": False}
    read = lambda folder: types.SimpleNamespace(report={"succeeded": loaded[folder.name]})  # noqa: E731
    monkeypatch.setattr(batch.UnlearningPatch, "from_pretrained", staticmethod(read))
    assert batch._find_done(output) == [output / "a"]


def test_flags_that_say_nothing_together(command, folders, tmp_path, capsys, monkeypatch):
    start, none = [command[0], *command[1:3]], ["--output", str(tmp_path / "none")]
    batch = ["--concepts", str(folders / "concepts.txt"), "--forget", "x"]
    for flags, why in (
        (["--concept", "two", "--forget", "x", "--retain", "x", "--in-turn"], "Give --concepts, or --beside"),
        (["--concept", "two", "--forget", "x", "--retain-stats", "x", "--beside", "y"], "without patches"),
        ([*batch, "--retain-stats", "x", "--in-turn"], "without patches"),
    ):
        assert main([*start, *flags, *none]) == 2
        assert why in capsys.readouterr().err
    from hf_slug import processes

    two = types.SimpleNamespace(process_index=0, num_processes=2)
    monkeypatch.setattr(processes, "launched", lambda _: two)
    assert main([*start, *batch, "--retain", "x", "--in-turn", *none]) == 2
    assert "nothing for 2 processes to share" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()  # nothing was begun
