# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Patches by way of a Hub server that others wrote: olah (github.com/vtuber-plan/olah), a mirror that answers for the loopback Hub.

    python -m venv /tmp/olah && /tmp/olah/bin/pip install olah
    python tests/third_party_hub.py /tmp/olah/bin/olah-cli

Not part of the suite: olah wants a web framework of its own. It speaks the reading half of the protocol, so pushes go to the loopback Hub.
"""

import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hub_calls
from hub_calls import REPO, WAYS, environment
from loopback_hub import LoopbackHub


CONFIG = """[basic]
host = "127.0.0.1"
port = {port}
hf-scheme = "http"
hf-netloc = "{hub}"
hf-lfs-netloc = "{hub}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
metadata-cache-ttl = 0
repos-path = "{folder}/repos"
log-path = "{folder}/logs"
"""


class Reader:
    """A process of its own with an empty cache, whose Hub is at an address."""

    def __init__(self, url, home, **more):
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, hub_calls.start, (environment(url, home) | more,))

    def __call__(self, function, *args, **options):
        return self.pool.submit(function, *args, **options).result(timeout=200)


def start_mirror(command, hub, folder):
    """Starts olah before a Hub; returns its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "repos").mkdir()
    (folder / "olah.toml").write_text(CONFIG.format(port=port, hub=hub.url.split("//")[1], folder=folder))
    log = (folder / "log").open("w")
    process = subprocess.Popen([command, "-c", folder / "olah.toml"], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    for _ in range(120):
        if process.poll() is not None:
            raise RuntimeError(f"olah did not start: {(folder / 'log').read_text()[-500:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}"
        time.sleep(0.5)
    raise RuntimeError("olah did not start within a minute.")


def main(command):
    with tempfile.TemporaryDirectory() as name, LoopbackHub() as hub:
        folder = Path(name)
        writer = Reader(hub.url, folder / "writer")
        writer(hub_calls.push)
        old = hub.repos[REPO].refs["main"]
        mirror, url = start_mirror(command, hub, folder)
        try:
            for i, (way, load) in enumerate(WAYS.items()):
                assert Reader(url, folder / f"home{i}")(load) == hub_calls.expected_weight(), way
                print("loaded by", way)
            reader = Reader(url, folder / "reader")
            for source, options, wanted in (
                ("mira/none", {}, "RepositoryNotFoundError"),
                (REPO, {"revision": "none"}, "RevisionNotFoundError"),
                (REPO, {"subfolder": "none"}, "CorruptPatchError"),
            ):
                try:
                    reader(hub_calls.load, source, **options)
                    raise SystemExit(f"{source} with {options} was found")
                except Exception as error:
                    assert type(error).__name__ == wanted, error
                print("refused:", source, options, wanted)
            writer(hub_calls.push, 1)
            patches = [hub_calls.digest(hub_calls.new_patch(seed).tensors) for seed in (0, 1)]
            assert reader(hub_calls.load, revision=old) == patches[0]
            assert reader(hub_calls.load) == patches[1]
            print("a pinned revision is the old patch, the branch the new one")
        finally:
            mirror.terminate()
            mirror.wait()
        offline = Reader(url, folder / "reader", HF_HUB_OFFLINE="1")
        assert offline(hub_calls.load, revision=old) == patches[0]
        print("from the cache, offline, the mirror stopped")


if __name__ == "__main__":
    main(sys.argv[1])
