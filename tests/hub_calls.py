# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the Hub do in another process, where huggingface_hub has read the loopback server's address when it was imported."""

import contextlib
import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


REPO = "mira/forget-mira"


def environment(url: str, home: Path) -> dict[str, str]:
    """What makes another process's huggingface_hub know one server only."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "OMP_NUM_THREADS": "1",
    }


def start(environment: Mapping[str, str]) -> None:
    """Before anything is imported that reads it. Nor does anybody here wait between two tries."""
    os.environ.update(environment)
    time.sleep = lambda seconds: None


def digest(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: digest_of(tensor) for name, tensor in tensors.items()}


def digest_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def new_patch(seed: int = 0, **settings: Any) -> Any:
    from attachment_helpers import make_patch
    from tiny_hosts import make_clip

    return make_patch(make_clip(), seed=seed, **settings)


def push(seed: int = 0, repo: str = REPO, token: str = "token-mira", **options: Any) -> str:
    return new_patch(seed).push_to_hub(repo, token=token, **options)


def push_example(repo: str, folder: str) -> str:
    from hf_slug import UnlearningPatch

    return UnlearningPatch.from_pretrained(folder).push_to_hub(repo, token="token-mira")


def push_from_a_host(repo: str, **options: Any) -> str:
    from tiny_hosts import HOSTS

    pipe = HOSTS["sd1"].build()
    pipe.load_unlearning(new_patch(), "a", weight=0.25)
    pipe.load_unlearning(new_patch(1), "b")
    return pipe.push_unlearning(repo, "a", token="token-mira", **options)


def push_with_peft(repo: str, from_base: bool = False) -> str:
    from tiny_hosts import make_clip

    model = new_patch().to_peft(make_clip())
    pushed = (model.base_model if from_base else model).push_to_hub(repo, token="token-mira")
    return str(pushed)


def load(repo: str = REPO, **options: Any) -> dict[str, str]:
    from hf_slug import UnlearningPatch

    return digest(UnlearningPatch.from_pretrained(repo, **options).tensors)


def load_onto_pipeline(source: str = REPO, **options: Any) -> str:
    from attachment_helpers import FC1, weights_of
    from tiny_hosts import HOSTS

    pipe = HOSTS["sd1"].build()
    pipe.load_unlearning(source, **options)
    return digest_of(weights_of(pipe, (FC1,))[FC1])


def load_with_peft(source: str = REPO, **options: Any) -> str:
    from attachment_helpers import FC1
    from peft import PeftModel
    from tiny_hosts import make_clip

    import hf_slug  # noqa: F401 - makes SLUG a method of PEFT

    model = PeftModel.from_pretrained(make_clip(), source, **options).merge_and_unload()
    return digest_of(model.get_submodule(FC1).weight)


def load_with_transformers(source: str = REPO, **options: Any) -> str:
    from attachment_helpers import FC1
    from tiny_hosts import make_clip

    import hf_slug  # noqa: F401

    model = make_clip()
    model.load_adapter(source, adapter_kwargs=options)
    (layer,) = [m for n, m in model.named_modules() if n.endswith("layers.1.mlp.fc1") and "text" in n]
    layer.merge()
    assert FC1.endswith("layers.1.mlp.fc1")
    return digest_of(layer.get_base_layer().weight)


def load_second_with_peft(source: str = REPO, **options: Any) -> str:
    """A second adapter beside a first one."""
    from attachment_helpers import FC1
    from peft import PeftModel
    from tiny_hosts import make_clip

    import hf_slug  # noqa: F401

    model: Any = PeftModel.from_pretrained(make_clip(), source, adapter_name="first", **options)
    model.load_adapter(source, adapter_name="second", **options)
    model.set_adapter("second")
    return digest_of(model.merge_and_unload().get_submodule(FC1).weight)


WAYS: dict[str, Callable[..., str]] = {
    "a pipeline": load_onto_pipeline,
    "PEFT": load_with_peft,
    "PEFT, a second one": load_second_with_peft,
    "transformers": load_with_transformers,
}


def expected_weight(seed: int = 0) -> str:
    from attachment_helpers import FC1
    from tiny_hosts import make_clip

    return digest_of(new_patch(seed).new_weights(make_clip())[FC1])


def try_to_load(way: str, source: str, **options: Any) -> tuple[str, str, bool]:
    """Loads onto a model that must stay as it is; returns the error's types, what it says, and whether nothing has changed."""
    from attachment_helpers import assert_state, state
    from peft import PeftModel
    from tiny_hosts import HOSTS, make_clip

    host = HOSTS["sd1"].build() if way == "a pipeline" else make_clip()
    before = state(host)
    try:
        if way == "a pipeline":
            host.load_unlearning(source, **options)
        elif way == "PEFT":
            PeftModel.from_pretrained(host, source, **options)
        else:
            host.load_adapter(source, adapter_kwargs=options)
    except Exception as error:
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        try:
            assert_state(host, before)
        except AssertionError:
            return kinds, str(error), False
        return kinds, str(error), True
    return "", "", False


def run_command(*arguments: str) -> tuple[int, str, str]:
    """`hf-slug`, with what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        from hf_slug.cli import main

        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


class refused_sockets:
    """Whatever opens a connection within fails, and is counted."""

    def __enter__(self) -> "refused_sockets":
        self.opened: list[Any] = []
        self.connect = socket.socket.connect

        def connect(_: Any, address: Any) -> None:
            self.opened.append(address)
            raise OSError(f"a socket was opened to {address}")

        socket.socket.connect = connect  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: Any) -> None:
        socket.socket.connect = self.connect  # type: ignore[method-assign]


def without_sockets(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, list[Any]]:
    with refused_sockets() as refused:
        return function(*args, **options), refused.opened


def cached_files() -> list[str]:
    """All that lies in the Hub's cache, but for its own bookkeeping."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts
    )


def damaged_files() -> list[str]:
    """Blobs that are not what they are named by."""
    from huggingface_hub import constants

    found = []
    for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*"):
        content = path.read_bytes()
        names = (hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
        if not path.name.endswith(".incomplete") and path.name not in names:
            found.append(path.name)
    return found


def push_statistics(repo: str) -> str:
    """Statistics of made-up numbers; what is in the file."""
    statistics = made_up_statistics()
    statistics.push_to_hub(repo, token="token-mira")
    return digest_of(torch.cat([value.flatten() for value in statistics.gradients.values()]))


def load_statistics(repo: str, **options: Any) -> str:
    from hf_slug import RetainStatistics

    statistics = RetainStatistics.from_pretrained(repo, **options)
    assert statistics.about["retain"]["n"] == 3 and list(statistics.moments) == ["a"]
    return digest_of(torch.cat([value.flatten() for value in statistics.gradients.values()]))


def made_up_statistics() -> Any:
    from hf_slug import RetainStatistics

    gradients = {name: torch.full((2, 3), float(i)) for i, name in enumerate("ab")}
    about = {
        "base_model": {"name_or_path": "user/clip"},
        "base_fingerprint": {},
        "objective": "clip",
        "names": ["one"],
    }
    about |= {
        "retain": {"source": "some", "n": 3, "skipped": 0, "sha256": "0"},
        "retain_batch_size": 64,
        "software": {},
    }
    return RetainStatistics(gradients, {"a": torch.eye(3)}, about)
