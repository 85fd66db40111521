# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""
Runs code where nothing was imported but PEFT and what PEFT imports.

Each run is a process of its own, forked off one that has done those imports: to start an interpreter for each takes many seconds.
"""

import contextlib
import io
import multiprocessing
import traceback
from multiprocessing.connection import Connection


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["peft"])


def run(*lines: str) -> str:
    """Returns what the code prints. If it raises, so does this, with its traceback."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_execute, args=("\n".join(lines), sender))
    process.start()
    sender.close()
    try:
        failed, said = receiver.recv()
    finally:
        process.join()
    assert not failed, said
    return said.strip()


def _execute(code: str, sender: Connection) -> None:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, "<fresh>", "exec"), {"__name__": "__main__"})
    except BaseException:
        sender.send((True, traceback.format_exc()))
    else:
        sender.send((False, out.getvalue()))
