# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Whatever goes wrong, in the call, in the patch or in the middle of a write: an error that says what to do, and nothing changed."""

import json
import shutil

import pytest
import torch
from attachment_helpers import CASES, FC1, V_PROJ, assert_state, assert_tensors, make_patch, state, tensors
from safetensors.torch import load_file, save_file
from tiny_hosts import HOSTS, make_clip

import hf_slug
from hf_slug.errors import (
    CorruptPatchError,
    NoSuchFolderError,
    UnsupportedModelError,
    WrongBaseError,
)
from hf_slug.live_weight import LiveWeight
from hf_slug.patch_files import CONFIG, WEIGHTS


KEY = f"base_model.model.{FC1}.slug_delta"


@pytest.fixture
def loaded():
    """A pipeline with two patches, of which one is on, and its state."""
    pipe = HOSTS["sd1"].build()
    pipe.load_unlearning(make_patch(make_clip(), (FC1,), 1), "a", 0.3)
    pipe.load_unlearning(make_patch(make_clip(), (FC1, V_PROJ), 2), "b")
    pipe.set_unlearning("a", 0.3)
    return pipe


WRONG_CALLS = {
    "set an unknown name": (lambda p: p.set_unlearning("c"), "no unlearning patch called 'c'. Loaded: a, b"),
    "set a known and an unknown name": (lambda p: p.set_unlearning(["b", "c"]), "called 'c'"),
    "set a name twice": (lambda p: p.set_unlearning(["b", "b"]), "named once; found 'b', 'b'"),
    "a weight too few": (lambda p: p.set_unlearning(["a", "b"], [1.0]), "Found 1 weights for 2 patches"),
    "a weight too many": (lambda p: p.set_unlearning("a", [1.0, 2.0]), "Found 2 weights for 1 patches"),
    "a weight of NaN": (lambda p: p.set_unlearning("b", float("nan")), "finite number.*nan"),
    "an infinite weight": (lambda p: p.set_unlearning(["a", "b"], [1, float("inf")]), "finite number.*inf"),
    "a weight that is no number": (lambda p: p.set_unlearning("b", "much"), "finite number.*'much'"),
    "a weight that is a text": (lambda p: p.set_unlearning("b", "1"), "finite number.*'1'"),
    "a weight that is a truth": (lambda p: p.set_unlearning("b", True), "finite number.*True"),
    "weights by name": (lambda p: p.set_unlearning({"b": 0.3}), "list of names, found {'b': 0.3}"),
    "no name": (lambda p: p.set_unlearning(None), "list of names, found None"),
    "delete a number": (lambda p: p.delete_unlearning(3), "list of names, found 3"),
    "delete an unknown name": (lambda p: p.delete_unlearning(["a", "c"]), "called 'c'"),
    "delete a name twice": (lambda p: p.delete_unlearning(["a", "a"]), "named once"),
    "a name that is taken": (
        lambda p: p.load_unlearning(make_patch(make_clip()), "a"),
        "'a' already.*delete_unlearning",
    ),
    "an empty name": (lambda p: p.load_unlearning(make_patch(make_clip()), " "), "name ' ' is empty"),
    "a name that is none": (lambda p: p.load_unlearning(make_patch(make_clip()), 3), "name 3 is empty"),
    "load with a weight of NaN": (lambda p: p.load_unlearning(make_patch(make_clip()), weight=float("nan")), "finite"),
    "load with no weight": (lambda p: p.load_unlearning(make_patch(make_clip()), weight=None), "finite number.*None"),
    "an unknown component": (
        lambda p: p.load_unlearning(make_patch(make_clip()), components="unet"),
        "'unet'. Found: text_",
    ),
    "save an unknown patch": (lambda p: p.save_unlearning("/nowhere", "c"), "no patch 'c'. Loaded: a, b"),
    "save one of several": (lambda p: p.save_unlearning("/nowhere"), "Say which patch"),
    "push one of several": (lambda p: p.push_unlearning("user/mira"), "Say which patch"),
}


@pytest.mark.parametrize("call, message", WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
@pytest.mark.parametrize("disabled", [False, True])
def test_a_wrong_call_changes_nothing(loaded, call, message, disabled):
    if disabled:
        loaded.disable_unlearning()
    before = state(loaded)
    with pytest.raises(ValueError, match=message):
        call(loaded)
    assert_state(loaded, before)


def test_nothing_to_save_is_said():
    with pytest.raises(ValueError, match="Say which patch.*Loaded: none"):
        make_clip().save_unlearning("/nowhere")


# sources


def tensors_of(folder):
    return load_file(folder / WEIGHTS)


def rewrite(folder, change):
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    fields = json.loads((folder / CONFIG).read_text())  # whoever forges a patch leaves its hashes out
    (folder / CONFIG).write_text(json.dumps(fields | {"content_sha256": None}))
    return folder


def of_another_method(folder):
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    return folder


WRONG_SOURCES = {
    "no such folder": (lambda f: f / "nowhere", NoSuchFolderError, "no folder"),
    "an empty folder": (lambda f: f.parent / "empty", CorruptPatchError, "no such file"),
    "a file of another kind": (
        lambda f: shutil.copy(f / WEIGHTS, f / "patch.bin"),
        CorruptPatchError,
        "not a .safetensors",
    ),
    "a truncated file": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]) and f,
        ValueError,
        "can't be read|damaged|read",
    ),
    "another method": (of_another_method, CorruptPatchError, "LORA"),
    "NaN": (lambda f: rewrite(f, lambda t: t[KEY].view(-1)[:1].fill_(float("nan"))), ValueError, "NaN|finite"),
    "another shape": (lambda f: rewrite(f, lambda t: t.update({KEY: t[KEY][:5].clone()})), WrongBaseError, "shape"),
    "an empty dict": (lambda f: {}, CorruptPatchError, "nothing"),
    "a stranger's dict": (
        lambda f: {"lora.weight": torch.zeros(2, 2)},
        CorruptPatchError,
        "unknown key 'lora.weight'",
    ),
    "a dict with numbers for keys": (lambda f: {0: torch.zeros(2, 2)}, CorruptPatchError, "unknown key 0"),
    "a dict of no tensors": (lambda f: {KEY: [1.0]}, CorruptPatchError, "no float32"),
    "a factor that is a number": (lambda f: {KEY.replace("delta", "up"): 1.0}, CorruptPatchError, "no float32"),
    "a dict of integers": (lambda f: {KEY: tensors_of(f)[KEY].int()}, CorruptPatchError, "no float32"),
    "a dict of infinity": (lambda f: {KEY: tensors_of(f)[KEY] / 0}, CorruptPatchError, "infinite"),
    "half of the factors": (
        lambda f: {KEY.replace("delta", "up"): torch.zeros(32, 2)},
        CorruptPatchError,
        "both factors",
    ),
    "factors without a rank": (
        lambda f: {KEY.replace("delta", "up"): torch.zeros(32), KEY.replace("delta", "down"): torch.zeros(2, 16)},
        CorruptPatchError,
        "factors of shape",
    ),
}


@pytest.mark.parametrize("make, error, message", WRONG_SOURCES.values(), ids=WRONG_SOURCES.keys())
def test_a_wrong_source_changes_nothing(loaded, tmp_path, make, error, message):
    (tmp_path / "empty").mkdir()
    make_patch(make_clip()).save_pretrained(tmp_path / "patch")
    source = make(tmp_path / "patch")
    before, output = state(loaded), HOSTS["sd1"].generate(loaded)
    with pytest.raises(error, match=message):
        loaded.load_unlearning(source)
    assert_state(loaded, before)
    assert torch.equal(HOSTS["sd1"].generate(loaded), output)


def test_what_the_caller_does_to_a_source_later_does_not_matter():
    for source in (make_patch(make_clip()).tensors, make_patch(make_clip())):
        host = make_clip()
        base = state(host)
        host.load_unlearning(source)
        before = host.get_submodule(FC1).weight.clone()
        for tensor in (source if isinstance(source, dict) else source.tensors).values():
            tensor.zero_()
        host.disable_unlearning()
        host.enable_unlearning()
        assert torch.equal(host.get_submodule(FC1).weight, before)
        host.unload_unlearning()
        assert_state(host, base)


# in the middle of a write


def half_written(weight, value):
    for place in weight._places():
        place[: len(place) // 2] = value[: len(place) // 2]


def cut_off(monkeypatch, method, countdown, error=OSError):
    """Makes a method of `LiveWeight` fail once, at its n-th call; a write has half happened by then."""
    original = getattr(LiveWeight, method)

    def fail(self, *args):
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            if method == "write":
                half_written(self, *args)
            raise error("pulled the plug")
        return original(self, *args)

    monkeypatch.setattr(LiveWeight, method, fail)


CHANGES = {
    "load": lambda host, patch: host.load_unlearning(patch, "new"),
    "set": lambda host, patch: host.set_unlearning(["a", "b"], [2.0, 0.5]),
    "disable": lambda host, patch: host.disable_unlearning(),
    "delete": lambda host, patch: host.delete_unlearning("b"),
    "unload": lambda host, patch: host.unload_unlearning(),
}


# only loading keeps an original
BREAKS = [*((verb, "write") for verb in CHANGES), ("load", "keep_original")]


@pytest.mark.parametrize("verb, method", BREAKS)
@pytest.mark.parametrize("case", ["CLIPModel, text", "sd1 with a safety checker", "llava", "video_llava"])
def test_a_change_that_breaks_off_is_undone(monkeypatch, case, verb, method):
    case = CASES[case]
    host, other = case.build(), case.build()
    more = (*case.modules, case.modules[0].replace("layers.1", "layers.2"))
    one, two = case.patch(host), make_patch(host, more, 7, component=case.component)
    for each in (host, other):
        each.load_unlearning(one, "a")
        each.load_unlearning(one, "b", weight=0.5)
    before = state(host)
    encoders = len(host.get_list_unlearning())
    if method == "keep_original":
        steps = encoders  # of the one layer that has none yet
    else:
        steps = encoders * len(more if verb == "load" else case.modules)
    for countdown in range(1, steps + 1):
        with monkeypatch.context() as broken:
            cut_off(broken, method, countdown, KeyboardInterrupt if countdown == 1 else OSError)
            with pytest.raises((OSError, KeyboardInterrupt), match="pulled the plug"):
                CHANGES[verb](host, two)
        assert_state(host, before)
    for each in (host, other):
        CHANGES[verb](each, two)
    assert_tensors(host, tensors(other))
    host.unload_unlearning()
    assert_tensors(host, tensors(case.build()))


def test_an_unsupported_host_is_refused():
    with pytest.raises(UnsupportedModelError, match="Linear embeds no CLIP encoder"):
        hf_slug.load_unlearning(torch.nn.Linear(2, 2), make_patch(make_clip()))
