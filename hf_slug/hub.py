# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches on the Hub: everything that speaks to it does so through huggingface_hub."""

import glob
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

from transformers.utils import logging

from .errors import CorruptPatchError, HubConnectionError
from .files import MOST_BYTES, sha256_of


logger = logging.get_logger(__name__)

_PAUSES = (0.5, 2.0)  # seconds before the Hub is asked again
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def download(
    repo_id: str, names: Sequence[str], subfolder: str | None = None, revision: str | None = None, **hub_kwargs: Any
) -> Path:
    """
    Downloads files of a repository, or finds them in the cache.

    The cache names large files by their SHA-256. What does not have it was damaged on its way: it is taken out of the cache and
    downloaded once more.

    Args:
        repo_id (`str`): Repository id, `"user/name"`.
        names (`Sequence[str]`): File names; those that the repository lacks are left out.
        subfolder (`str`, *optional*): The folder of the repository they are in.
        revision (`str`, *optional*): Branch, tag or commit.
        hub_kwargs (additional keyword arguments, *optional*): As in [`~huggingface_hub.snapshot_download`].

    Returns:
        `Path`: The local folder that holds them.

    Raises:
        HubConnectionError: If the connection breaks and stays broken.
        CorruptPatchError: If what arrives is not what the Hub says it is, twice.
        OSError: huggingface_hub's own errors: `RepositoryNotFoundError`, `GatedRepoError`, `LocalEntryNotFoundError`, …
    """
    from huggingface_hub import snapshot_download

    inside = check_subfolder(subfolder)
    _check_reachable(repo_id, names, inside, revision, **hub_kwargs)
    wanted = [f"{glob.escape(str(inside))}/{name}" if inside.parts else name for name in names]

    def get() -> tuple[Path, list[Path]]:
        root = Path(_persistently(snapshot_download, repo_id, revision=revision, allow_patterns=wanted, **hub_kwargs))
        return root / inside, [path for path in (root / inside / name for name in names) if path.is_file()]

    return _until_whole(get, repo_id)


def _until_whole(get: Callable[[], tuple[Path, list[Path]]], repo_id: str) -> Path:
    """Downloads, and downloads once more what arrived damaged. `get` returns what is wanted and the files it consists of."""
    for last in (False, True):
        wanted, files = get()
        damaged = [path for path in files if not is_whole(path)]
        if not damaged or (last and not any(map(_is_large, damaged))):
            return wanted
        logger.warning(f"{', '.join(path.name for path in damaged)} of {repo_id} arrived damaged; downloading again.")
        discard(damaged)
    raise CorruptPatchError(
        f"{damaged[0].name} of {repo_id} is not what the Hub says it is (its SHA-256 differs), twice in a row. Nothing of it was kept."
    )


def check_subfolder(subfolder: str | None) -> PurePosixPath:
    """
    Returns a folder of a repository as a path.

    Raises:
        ValueError: If it leads out of the repository.
    """
    inside = PurePosixPath(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"subfolder={subfolder!r} leads out of the repository. Expected a folder inside it.")
    return inside


def is_offline(local_files_only: bool = False) -> bool:
    """Whether nobody may be asked."""
    from huggingface_hub import constants

    return local_files_only or bool(constants.HF_HUB_OFFLINE)


def _check_reachable(
    repo_id: str, names: Sequence[str], inside: PurePosixPath, revision: str | None, **hub_kwargs: Any
) -> None:
    """
    Asks the Hub for the revision before anything is downloaded: its client would take what is in the cache, or give up, after one
    answer that was not well. Files that are larger than any patch are refused.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if is_offline(hub_kwargs.get("local_files_only", False)):
        return
    try:
        api = HfApi(token=hub_kwargs.get("token"))
        found = _persistently(api.repo_info, repo_id, revision=revision, files_metadata=True)
    except (HubConnectionError, HfHubHTTPError) as error:
        if hub_kwargs.get("force_download") or _status(error) < 500:
            raise
        logger.warning(f"{error} Looking into the cache.")
        return
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    for name in names:
        size = sizes.get(str(inside / name), 0)
        if size > MOST_BYTES:
            raise CorruptPatchError(
                f"{inside / name} of {repo_id} has {size:,} bytes, more than any patch. It was not downloaded."
            )


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 500))


def fetch(repo_id: str, name: str, subfolder: str | None = None, **hub_kwargs: Any) -> Path | None:
    """
    Downloads one file of a repository, or finds it in the cache; likewise checked.

    Args:
        repo_id (`str`): Repository id.
        name (`str`): The file's name.
        subfolder (`str`, *optional*): The folder of the repository it is in.
        hub_kwargs (additional keyword arguments, *optional*): As in [`~huggingface_hub.hf_hub_download`].

    Returns:
        `Path`: The local file, or `None` if the repository has none of that name.

    Raises:
        HubConnectionError, CorruptPatchError, OSError: As [`download`].
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    check_subfolder(subfolder)

    def get() -> tuple[Path, list[Path]]:
        path = Path(_persistently(hf_hub_download, repo_id, name, subfolder=subfolder, **hub_kwargs))
        return path, [path]

    try:
        return _until_whole(get, repo_id)
    except LocalEntryNotFoundError:  # nobody could be asked
        raise
    except EntryNotFoundError:
        return None


@contextmanager
def _connection(repo_id: str) -> Iterator[None]:
    """Makes the errors of the connection itself, which belong to the HTTP library of the day, a [`HubConnectionError`]."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        if isinstance(error, HfHubHTTPError) or not _is_of_http(error):
            raise
        raise HubConnectionError(
            f"The connection to the Hub broke off over {repo_id} ({type(error).__name__}: {error}). Nothing was changed; try "
            f"again, or load it with `local_files_only=True` if it is in the cache."
        ) from error


def _persistently(call: Callable[..., Any], repo_id: str, *args: Any, **options: Any) -> Any:
    """Calls the Hub once more, twice at most, where it has only broken off or was not well: its client gives up at once."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for pause in _PAUSES:
        try:
            with _connection(repo_id):
                return call(repo_id, *args, **options)
        except (HubConnectionError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            hidden = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
            if (
                hidden is None
                or _status(cast(Exception, hidden)) < 500
                or is_offline(options.get("local_files_only", False))
            ):
                raise
            logger.warning(f"{error} Trying again in {pause} s.")
            time.sleep(pause)
    with _connection(repo_id):
        return call(repo_id, *args, **options)


def _is_of_http(error: BaseException) -> bool:
    # huggingface_hub has changed its HTTP library twice: requests, httpx, httpx2
    return any(kind.__module__.startswith(("http", "requests")) for kind in type(error).__mro__)


def is_whole(path: Path) -> bool:
    """Whether a file in the cache is what it is named by: its SHA-256, or, if it is small, git's hash."""
    name = path.resolve().name
    if not path.is_symlink() or not _HASH.fullmatch(name):
        return True
    if len(name) == 64:
        return sha256_of(path) == name
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == name


def _is_large(path: Path) -> bool:
    """Whether a file is named by its SHA-256. The names of small ones, on another Hub than the real one, may mean anything."""
    return len(path.resolve().name) == 64


def discard(paths: Iterable[Path]) -> None:
    """Takes files out of the Hub's cache; files elsewhere, which are nobody's copies, are left alone."""
    for path in paths:
        target = path.resolve()
        if path.is_symlink() and target.parent.name == "blobs":
            path.unlink()
            target.unlink(missing_ok=True)


def find_repository(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """
    Finds a repository, or makes it.

    Args:
        repo_id (`str`): Repository id; without an owner it is one's own.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str` or `bool`, *optional*): Token for the Hub.

    Returns:
        `str`: Its whole id, `"user/name"`.
    """
    from huggingface_hub import HfApi

    with _connection(repo_id):
        return str(HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id)


def upload(
    folder: str,
    repo_id: str,
    message: str,
    token: str | bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
) -> str:
    """
    Uploads a folder in one commit, so that an interrupted push leaves nothing behind.

    Args:
        folder (`str`): The folder.
        repo_id (`str`): Repository id.
        message (`str`): The commit's message.
        token (`str` or `bool`, *optional*): Token for the Hub.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        revision (`str`, *optional*): Branch to commit to.
        subfolder (`str`, *optional*): The folder of the repository to put it in, where that holds several patches.

    Returns:
        `str`: The address of the commit, or of the pull request.

    Raises:
        HubConnectionError: If the connection breaks. No file of the repository has changed then.
        OSError: huggingface_hub's own errors.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _connection(repo_id):
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=subfolder,
            commit_message=message,
            create_pr=create_pr,
            revision=revision,
        )
    return str(commit.pr_url or commit.commit_url)
