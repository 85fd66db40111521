# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What is asked of the Hub, with its client replaced by a recording one."""

from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from attachment_helpers import FC1, assert_state, make_patch, state
from tiny_hosts import HOSTS, make_clip

from hf_slug.patch import CARD, CONFIG, REPORT, WEIGHTS


FILES = [WEIGHTS, CONFIG, REPORT, CARD]


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Calls of `snapshot_download`, which finds a patch of `make_clip()` in a repository, and in a folder of it."""
    calls = []

    def snapshot_download(repo_id, **options):
        calls.append((repo_id, options))
        return str(tmp_path)

    for folder in (tmp_path, tmp_path / "styles"):
        make_patch(make_clip()).save_pretrained(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_repository_is_loaded_by_its_name(downloads):
    pipe = HOSTS["sd1"].build()
    options = {"token": "secret", "cache_dir": "/cache", "force_download": True, "local_files_only": True}
    pipe.load_unlearning("user/forget-mira", revision="v2", **options)
    assert downloads == [("user/forget-mira", {"revision": "v2", "allow_patterns": FILES, **options})]
    wanted = make_patch(make_clip()).new_weights(make_clip())[FC1]
    assert torch.equal(pipe.text_encoder.get_submodule("encoder.layers.1.mlp.fc1").weight, wanted)


def test_a_folder_of_a_repository_is_loaded(downloads, tmp_path):
    pipe = HOSTS["sd1"].build()
    pipe.load_unlearning("user/forget", subfolder="styles")
    assert downloads[0][1]["allow_patterns"] == [f"styles/{name}" for name in FILES]  # nothing else is fetched
    assert pipe.get_active_unlearning() == ["default_0"]
    pipe.load_unlearning(tmp_path, subfolder="styles")  # a local folder asks nobody
    assert len(downloads) == 1 and pipe.get_active_unlearning() == ["default_0", "default_1"]


def test_a_repository_that_can_not_be_reached_changes_nothing():
    pipe = HOSTS["sd1"].build()
    before = state(pipe)
    with pytest.raises(OSError):  # the tests run offline
        pipe.load_unlearning("user/forget-mira")
    assert_state(pipe, before)


@pytest.fixture
def uploads(monkeypatch):
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **options):
            from hf_slug import UnlearningPatch

            calls.append(("upload", repo_id, UnlearningPatch.from_pretrained(folder_path), options))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return calls


def test_a_loaded_patch_is_pushed_as_it_was_published(uploads):
    pipe, patch = HOSTS["sd1"].build(), make_patch(make_clip())
    pipe.load_unlearning(patch, "a", weight=0.25)
    pipe.load_unlearning(make_patch(make_clip(), seed=1), "b")
    address = pipe.push_unlearning("forget-mira", "a", private=True, token="secret", create_pr=True)
    assert address == "https://hub/commit/1"
    (_, token), created, (_, repo, pushed, options) = uploads
    assert (token, created) == ("secret", ("create", "forget-mira", {"private": True, "exist_ok": True}))
    assert repo == "me/forget-mira" and "mira" in options["commit_message"]
    assert options["create_pr"] and options["revision"] is None
    assert list(pushed.tensors) == list(patch.tensors)
    assert all(torch.equal(pushed.tensors[key], patch.tensors[key]) for key in patch.tensors)  # not weighted
    assert pushed.config.to_dict() == patch.config.to_dict()


def test_an_upload_that_fails_is_not_hidden(uploads, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", refuse)
    host = make_clip()
    host.load_unlearning(make_patch(host))
    before = state(host)
    with pytest.raises(ConnectionError, match="gone"):
        host.push_unlearning("forget-mira")
    assert_state(host, before)
