# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The folder on disk: what is written, and every way in which it can be broken."""

import itertools
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import assert_same, make_clip, snapshot
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file

from hf_slug import SlugConfig, UnlearningPatch
from hf_slug.errors import CorruptPatchError, UnsupportedModelError, WrongBaseError
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.patch_files import CARD, CONFIG, REPORT, WEIGHTS


MODULES = ["text_model.encoder.layers.1.mlp.fc1", "text_model.encoder.layers.1.mlp.fc2"]


def make_patch(rank=None, model=None):
    torch.manual_seed(7)
    model = model or make_clip()
    weights = {name: model.get_submodule(name).weight for name in MODULES}
    config = SlugConfig(
        target_modules=MODULES,
        tower="text",
        concept="mira",
        step_size=1.5,
        rank=rank,
        base_model_name_or_path="user/clip",
        base_fingerprint=compute_fingerprint(weights),
        inference_mode=True,
    )
    return UnlearningPatch.from_deltas({n: 0.1 * torch.randn_like(w) for n, w in weights.items()}, config)


@pytest.fixture
def folder(tmp_path):
    make_patch().save_pretrained(tmp_path / "patch")
    return tmp_path / "patch"


@pytest.mark.parametrize("rank", [None, 3])
def test_what_is_loaded_is_what_was_saved(tmp_path, rank):
    patch = make_patch(rank)
    patch.report = {
        "concept": "mira",
        "succeeded": True,
        "metrics": {"before": _M, "after": _M, "fa_interval": [0, 1], **_N},
    }
    patch.report |= {"seed": 0, "data": {part: {"source": "a folder"} for part in ("test_forget", "test_retain")}}
    patch.save_pretrained(tmp_path)
    again = UnlearningPatch.from_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, CONFIG, REPORT, CARD])
    assert all(torch.equal(again.tensors[key], patch.tensors[key]) for key in patch.tensors)
    assert all(tensor.dtype == torch.float32 for tensor in again.tensors.values())
    assert again.report == patch.report and again.modules == MODULES
    assert again.config.to_dict() == patch.config.to_dict()
    assert all(torch.equal(again.deltas[name], patch.deltas[name]) for name in MODULES)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


_M = {"fa1": 0.0, "fa5": 0.1, "ta": 0.9, "ta_neighbors": 0.8}
_N = {"n_forget": 3, "n_retain": 4, "n_names": 5, "neighbors": []}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [None, 3])
def test_peft_from_a_folder_peft_in_memory_and_the_arithmetic_agree(tmp_path, dtype, rank):
    patch = make_patch(rank)
    patch.save_pretrained(tmp_path)
    base = make_clip(dtype=dtype)
    expected = patch.new_weights(base)
    for model in (PeftModel.from_pretrained(make_clip(dtype=dtype), tmp_path), patch.to_peft(make_clip(dtype=dtype))):
        merged = model.merge_and_unload()
        assert all(torch.equal(merged.get_submodule(name).weight, expected[name]) for name in MODULES)
    for name in MODULES:
        exact = base.get_submodule(name).weight.double() + patch.deltas[name].double()
        assert torch.equal(expected[name], exact.to(dtype))


def test_attaching_in_memory_leaves_the_patch_alone(tiny):
    patch = make_patch()
    tiny.name_or_path = "other/clone"
    patch.to_peft(tiny)
    assert patch.config.base_model_name_or_path == "user/clip"


@pytest.mark.parametrize("change", [
    lambda t, up, down: t.update({down: torch.zeros(2, t[down].shape[1])}),
    lambda t, up, down: t.pop(up),
    lambda t, up, down: t.update({up: torch.zeros(t[up].shape[0], 4), down: torch.zeros(4, t[down].shape[1])}),
])  # fmt: skip
def test_factors_that_do_not_fit_are_refused(tmp_path, change):
    make_patch(rank=3).save_pretrained(tmp_path)
    key = KEY.removesuffix("slug_delta")
    rewrite(tmp_path, lambda tensors: change(tensors, key + "slug_up", key + "slug_down"))
    with pytest.raises(CorruptPatchError, match="factors"):
        UnlearningPatch.from_pretrained(tmp_path)


def test_weight_scales_the_patch_and_zero_is_the_base(tiny):
    patch = make_patch()
    assert all(torch.equal(w, tiny.get_submodule(n).weight) for n, w in patch.new_weights(tiny, weight=0.0).items())
    half = patch.new_weights(tiny, weight=0.5)
    for name in MODULES:
        exact = tiny.get_submodule(name).weight.double() + 0.5 * patch.deltas[name].double()
        assert torch.equal(half[name], exact.float())


def test_another_base_is_refused_by_both_ways_of_loading(folder):
    other = make_clip(seed=1)
    before = snapshot(other)
    with pytest.raises(WrongBaseError, match="user/clip"):
        UnlearningPatch.from_pretrained(folder).new_weights(other)
    with pytest.raises(WrongBaseError, match="user/clip"):
        PeftModel.from_pretrained(other, folder)
    assert_same(other, before)
    assert UnlearningPatch.from_pretrained(folder).new_weights(other, strict=False)


def test_a_model_without_the_tower_is_refused(folder):
    with pytest.raises(UnsupportedModelError, match="has no text_model"):
        UnlearningPatch.from_pretrained(folder).new_weights(torch.nn.Linear(2, 2))


def test_the_card_has_the_hubs_metadata_and_the_numbers(tmp_path):
    patch = make_patch()
    after = {"fa1": 0.0, "fa5": 0.125, "ta": 0.875, "ta_neighbors": 0.75}
    patch.report = {
        "succeeded": True,
        "seed": 3,
        "metrics": {"before": _M, "after": after, "fa_interval": [0.0, 0.3], **_N},
        "data": {part: {"source": "a folder"} for part in ("test_forget", "test_retain")},
    }
    patch.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.base_model == "user/clip" and card.data.base_model_relation == "adapter"
    assert card.data.library_name == "peft" and "unlearning" in card.data.tags
    assert {r.metric_name: r.metric_value for r in card.data.eval_results} == {"FA@1": 0.0, "FA@5": 0.125, "TA": 0.875}
    assert "87.50%" in card.text and "seed 3" in card.text and "NOT forgotten" not in card.text
    assert all(f"| `{name}` | " in card.text for name in MODULES)
    patch.config.base_model_name_or_path = "/home/me/clip"  # no model id: the Hub would refuse the card
    patch.save_pretrained(tmp_path)
    assert ModelCard.load(tmp_path / CARD).data.base_model is None


def rewrite(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    fields = json.loads((folder / CONFIG).read_text())  # whoever forges a patch leaves its hashes out
    (folder / CONFIG).write_text(json.dumps(fields | {"content_sha256": None}))


KEY = f"base_model.model.{MODULES[0]}.slug_delta"
BROKEN = {
    "truncated": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-50]),
    "empty": lambda f: (f / WEIGHTS).write_bytes(b""),
    "not safetensors": lambda f: (f / WEIGHTS).write_bytes(b"hello" * 99),
    "missing": lambda f: (f / WEIGHTS).unlink(),
    "a key too few": lambda f: rewrite(f, lambda t: t.pop(KEY)),
    "a key too many": lambda f: rewrite(f, lambda t: t.update({KEY.replace("fc1", "fc3"): torch.zeros(1)})),
    "a stranger's key": lambda f: rewrite(f, lambda t: t.update({"base_model.model.logit_scale": torch.zeros(1)})),
    "NaN": lambda f: rewrite(f, lambda t: t[KEY].view(-1)[3:4].fill_(float("nan"))),
    "infinity": lambda f: rewrite(f, lambda t: t[KEY].view(-1)[3:4].fill_(float("inf"))),
    "integers": lambda f: rewrite(f, lambda t: t.update({KEY: t[KEY].int()})),
    "report is no report": lambda f: (f / REPORT).write_text("[1]"),
    "config is no JSON": lambda f: (f / CONFIG).write_text("{"),
    "config of code": lambda f: (f / CONFIG).write_text(
        json.dumps(json.loads((f / CONFIG).read_text()) | {"auto_map": {"AutoModel": "evil.Model"}})
    ),
    "another method": lambda f: (f / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2})),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_patch_is_refused_and_the_model_unchanged(folder, damage):
    damage(folder)
    with pytest.raises((ValueError, OSError)) as caught:
        UnlearningPatch.from_pretrained(folder)
    assert len(str(caught.value)) > 20
    if "LORA" in (folder / CONFIG).read_text() or (folder / REPORT).read_text() == "[1]":
        return  # PEFT loads the one as what it is, and does not read the other
    model = make_clip()
    before = snapshot(model)
    with pytest.raises((ValueError, OSError, RuntimeError)):
        PeftModel.from_pretrained(model, folder)
    assert_same(model, before)


def test_a_wrong_shape_is_refused(folder, tiny):
    rewrite(folder, lambda t: t.update({KEY: torch.zeros(2, 2)}))
    with pytest.raises(ValueError, match="shape"):
        UnlearningPatch.from_pretrained(folder).new_weights(tiny, strict=False)


def test_a_pickle_is_never_read(folder):
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/hf-slug-was-here'\ntR.")
    with pytest.raises(CorruptPatchError, match="adapter_model.bin, which may run code"):
        UnlearningPatch.from_pretrained(folder)
    model = make_clip()
    before = snapshot(model)
    with pytest.raises((ValueError, OSError, RuntimeError)):
        PeftModel.from_pretrained(model, folder)
    assert_same(model, before)


def test_a_failed_save_leaves_no_half_a_patch(tmp_path):
    patch = make_patch()
    patch.report = {"value": float("nan")}  # not JSON
    with pytest.raises(ValueError):
        patch.save_pretrained(tmp_path / "patch")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        make_patch().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("name", ["", "a.b", "mlp", "fc1", "encoder", "slug_", "slug_delta"])
def test_adapter_names_that_would_break_saving_are_refused(folder, name):
    model = make_clip()
    before = snapshot(model)
    with pytest.raises(ValueError, match="adapter name|Adapter name"):
        PeftModel.from_pretrained(model, folder, adapter_name=name)
    assert_same(model, before)


def test_no_network_is_asked_for_a_local_folder(folder, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("a network call for a local folder")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert UnlearningPatch.from_pretrained(folder).modules == MODULES
    assert PeftModel.from_pretrained(make_clip(), folder)


def test_what_a_killed_save_left_is_removed_and_nothing_else(tmp_path):
    for name in (".unfinished-patch-abcd1234", ".unfinished-patch-more-abcd1234", "patch-more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"half of it")
    make_patch().save_pretrained(tmp_path / "patch")
    assert {path.name for path in tmp_path.iterdir()} == {".unfinished-patch-more-abcd1234", "patch-more", "patch"}
    assert UnlearningPatch.from_pretrained(tmp_path / "patch")


def test_a_save_over_a_patch_that_is_killed_leaves_one_of_the_two_or_none(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    old, new, found = make_patch(rank=1), make_patch(rank=2), set()
    for moment in itertools.count(1):
        folder, left = tmp_path / str(moment) / "patch", itertools.count(moment - 1, -1)
        old.save_pretrained(folder)

        def dies(function, left=left):
            def call(*args, **kwargs):
                if next(left) <= 0:  # from then on nothing is done any more, nor tidied up
                    raise Killed
                return function(*args, **kwargs)

            return call

        try:
            with monkeypatch.context() as patched:
                for owner, names in ((Path, ("rename", "replace", "write_text")), (os, ("unlink", "rmdir"))):
                    for name in names:
                        patched.setattr(owner, name, dies(getattr(owner, name)))
                new.save_pretrained(folder)
        except Killed:
            found.add(UnlearningPatch.from_pretrained(folder).config.rank if folder.exists() else "none")
        else:
            break
        new.save_pretrained(folder)
        assert UnlearningPatch.from_pretrained(folder).config.rank == 2
        assert [path.name for path in folder.parent.iterdir()] == ["patch"]
    assert found == {1, 2, "none"}


@pytest.mark.parametrize("kind", ["empty", "full", "link", "here", "mount"])
def test_a_patch_is_saved_into_a_folder_that_is_there(tmp_path, kind, monkeypatch):
    folder = tmp_path / "patch"
    (tmp_path / "behind").mkdir()
    if kind == "link":
        folder.symlink_to(tmp_path / "behind")
    else:
        folder.mkdir()
    if kind == "full":
        (folder / "notes.txt").write_text("mine")
        make_patch().save_pretrained(folder)
    if kind == "here":
        monkeypatch.chdir(folder)
    aside, make = [], tempfile.TemporaryDirectory
    monkeypatch.setattr(
        tempfile, "TemporaryDirectory", lambda dir, prefix: aside.append(dir) or make(dir=dir, prefix=prefix)
    )
    if kind == "mount":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    make_patch().save_pretrained("." if kind == "here" else folder)
    if kind == "mount":  # of another file system: nothing can be moved there from beside it
        assert aside == [folder]
    expected = {"README.md", "adapter_config.json", "adapter_model.safetensors", "unlearning_report.json"}
    assert {path.name for path in folder.iterdir()} == expected | ({"notes.txt"} if kind == "full" else set())
    assert (
        folder.is_symlink() == (kind == "link")
        and folder.stat().st_mode & 0o077 == (tmp_path / "behind").stat().st_mode & 0o077
    )
    assert {path.name for path in tmp_path.iterdir()} == {"patch", "behind"}
