# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""How a command ends: the folder it writes to, and what it prints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .tables import caution, format_metrics, verdict


if TYPE_CHECKING:
    from .result import UnlearningResult


def check_output(folder: Path) -> None:
    """
    Checks, before minutes of work, that a folder can be written to.

    Raises:
        NotADirectoryError: If it, or what it would lie in, is a file.
    """
    blocking = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise NotADirectoryError(f"{blocking} is a file. Give a folder for --output.")


def finish(result: "UnlearningResult", files: Sequence[Path], as_json: bool) -> int:
    """Prints the report, as JSON or for people, and returns the exit code: 0 forgotten, 1 not."""
    report = result.report
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        chosen, cost = report["chosen"], report["cost"]
        print(f"Concept {report['concept']!r}: {chosen['layer']}, step size {chosen['step_size']:.4g} ", end="")
        print(f"(changes the layer by {chosen['relative_change']:.0%} of its norm)\n")
        print(format_metrics(report))
        print(
            f"\nGradient {cost['gradient_s']:.1f} s, search {cost['search_s']:.1f} s, patch {cost['patch_bytes']:,} bytes."
        )
        print("Saved: " + "\n       ".join(str(file) for file in files))
        print("\n".join(filter(None, [verdict(report), caution(report)])))
    return 0 if result.succeeded else 1
