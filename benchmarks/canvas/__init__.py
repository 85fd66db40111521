# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The parts of `benchmarks/unlearn_canvas.py`, one idea a file."""
