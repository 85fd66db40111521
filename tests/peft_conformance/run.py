# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Run PEFT's own generic tests on `SlugConfig`.

The tests come from the source distribution of the very PEFT that is installed, kept under `.cache/`:

    python tests/peft_conformance/run.py [pytest options]

Ends with 0 only if the tests could be fetched and none failed. Needs `pytest`, `parameterized`, `setuptools` and
`wheel`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def fetch_tests(cache: Path) -> Path:
    """
    The folder of PEFT's tests, downloaded once.

    Args:
        cache (`Path`): Where to keep it.

    Returns:
        `Path`: The folder.

    Raises:
        SystemExit: If the source distribution can't be had.
    """
    name = f"peft-{version('peft')}"
    tests = cache / name / "tests"
    if (tests / "testing_common.py").is_file():
        return tests
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", name.replace("-", "=="), "--dest", scratch]
        command += ["--no-binary", "peft", "--no-deps", "--no-build-isolation"]
        done = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["pip said nothing"]
            sys.exit(
                f"The tests of {name} can't be fetched: {last[0]}\nThey are in its source distribution. Make the "
                f"package index reachable (and `pip install setuptools wheel`), or unpack {name}.tar.gz into {cache}."
            )
        with tarfile.open(archives[0]) as archive:
            # no links out of the folder; Pythons before 3.11.4 (3.10.12) know no filters, and pass the attribute by
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch)
        if not (Path(scratch) / name / "tests" / "testing_common.py").is_file():
            sys.exit(
                f"{archives[0].name} holds no tests/testing_common.py: PEFT has moved its tests, adapt {__file__}."
            )
        shutil.rmtree(cache / name, ignore_errors=True)
        shutil.move(Path(scratch) / name, cache / name)
    return tests


def main(options: list[str]) -> int:
    """Fetch the tests and run them; returns pytest's exit status."""
    environment = {
        **os.environ,
        "PEFT_TESTS": str(fetch_tests(ROOT / ".cache")),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",  # every model is made in memory
    }
    # A plugin instead of a conftest.py, and a module not called test_*: `pytest tests` passes this folder by.
    command = [sys.executable, "-m", "pytest", "-p", "selection", "-p", "no:cacheprovider", "-c", os.devnull, "-q"]
    command += ["-rs", "--disable-warnings", f"--rootdir={HERE}", str(HERE / "suite.py"), *options]
    return subprocess.run(command, env=environment, cwd=HERE).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
