# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Runs a command again and again, each time killed (SIGKILL) at another moment, until it is through.

    python killed_runs.py OUTPUT SEED TIMES ARGUMENT…

Moments are by turns those at which something is opened, made, moved or removed under OUTPUT, the same anywhere, and any by the clock. All runs
are forked off this process, which has imported everything and computed nothing. It begins again when it
is through before that. Prints, as JSON, what lay in OUTPUT after each kill, and how every run that was through has ended.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from hf_slug.cli import main


OUTPUT, SEED, TIMES, ARGUMENTS = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
EVENTS = ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.move")


def run(last: float | None, kind: str, counted: Path) -> int:
    """Runs the command in a process of its own that is killed at a moment, and returns how it ended; writes how many moments there are."""
    started = time.monotonic()
    child = os.fork()
    if child:
        timer = threading.Timer(last or 0, os.kill, (child, signal.SIGKILL))
        if kind == "clock" and last is not None:
            timer.start()
        ended = os.waitpid(child, 0)[1]
        timer.cancel()
        return ended
    seen = {"anywhere": 0, "output": 0}

    def note(event: str, args: tuple) -> None:
        if event not in EVENTS or not isinstance(args[0], str | os.PathLike):
            return
        for place in ("anywhere", "output") if os.fspath(args[0]).startswith(str(OUTPUT)) else ("anywhere",):
            seen[place] += 1
            if place == kind and seen[place] == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(note)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = main(ARGUMENTS)
    counted.write_text(json.dumps(seen | {"clock": time.monotonic() - started}))
    os._exit(code)


def patches() -> dict[str, str]:
    """What the weights of all patches are, by the names of their folders."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in OUTPUT.glob("*/adapter_model.*")
    }


with tempfile.TemporaryDirectory() as folder:
    counted, generator = Path(folder, "counted"), random.Random(SEED)
    run(None, "output", counted)
    most, whole = json.loads(counted.read_text()), patches()
    shutil.rmtree(OUTPUT)
    kills, ends = [], []
    while len(kills) < TIMES or not ends:
        kind = ("output", "clock", "anywhere")[len(kills) % 3]
        moment = generator.uniform(0, most[kind]) if kind == "clock" else generator.randint(1, most[kind])
        ended = run(None if len(kills) == TIMES else moment, kind, counted)
        if os.WIFSIGNALED(ended):
            kills.append(sorted(str(path.relative_to(OUTPUT)) for path in OUTPUT.rglob("*") if path.is_file()))
        else:  # it was through before that moment: begin again
            left = [path.name for path in OUTPUT.iterdir() if path.name.startswith(".")]
            ends.append([os.WEXITSTATUS(ended), patches() == whole, left])
            shutil.rmtree(OUTPUT)
print(json.dumps({"whole": list(whole), "kills": kills, "ends": ends, "moments": most}))
