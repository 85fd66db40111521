# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Other ways to take a concept out of a model, written from their papers' equations, to compare with."""
