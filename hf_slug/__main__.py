# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`python -m hf_slug`, for `accelerate launch -m hf_slug`: the same as `hf-slug`."""

import sys

from .cli import main


if __name__ == "__main__":
    sys.exit(main())
