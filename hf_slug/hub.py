# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches on the Hub: everything that speaks to it does so through huggingface_hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def download(
    repo_id: str, names: Sequence[str], subfolder: str | None = None, revision: str | None = None, **hub_kwargs: Any
) -> Path:
    """
    Downloads files of a repository, or finds them in the cache.

    Args:
        repo_id (`str`): Repository id, `"user/name"`.
        names (`Sequence[str]`): File names; those that the repository lacks are left out.
        subfolder (`str`, *optional*): The folder of the repository they are in.
        revision (`str`, *optional*): Branch, tag or commit.
        hub_kwargs (additional keyword arguments, *optional*): As in [`~huggingface_hub.snapshot_download`].

    Returns:
        `Path`: The local folder that holds them.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{subfolder}/{name}" if subfolder else name for name in names]
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted, **hub_kwargs)) / (subfolder or "")


def upload(
    folder: str,
    repo_id: str,
    message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
) -> str:
    """
    Uploads a folder in one commit, so that an interrupted push leaves nothing behind.

    Args:
        folder (`str`): The folder.
        repo_id (`str`): Repository id; the repository is made if it does not exist.
        message (`str`): The commit's message.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str` or `bool`, *optional*): Token for the Hub.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        revision (`str`, *optional*): Branch to commit to.

    Returns:
        `str`: The commit's address.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=folder, commit_message=message, create_pr=create_pr, revision=revision
    )
    return commit.commit_url
