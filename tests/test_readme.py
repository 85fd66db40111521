# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""What the README says of the benchmarks is what their rows say."""

import pytest
import readme


def test_the_readme_says_what_was_measured():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.fill(text) == text, "run `python benchmarks/readme.py`"


def test_a_block_without_marks_is_an_error():
    with pytest.raises(ValueError, match="has no block that begins with"):
        readme.fill("# hf_slug")
