# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""A pytest plugin: make PEFT's tests importable, keep those that run on `SlugConfig`, skip what can't apply."""

from __future__ import annotations

import os
import sys
import types

import pytest


# A delta is computed once, by a search, and stays as it is. These tests want an adapter that changes.
TRAINS = "trains the adapter; the delta of a patch is computed, never trained"
FOLLOWS = "expects the adapter to take on the dtype of the base; a delta stays in float32"
SKIPPED = {
    "test_training_custom_models": TRAINS,
    "test_only_params_are_updated": TRAINS,
    "test_parameters_after_loading_model": TRAINS,
    "test_inference_safetensors": TRAINS,
    "test_disable_adapters": TRAINS,
    "test_disable_adapters_with_merging": TRAINS,
    "test_set_requires_grad": TRAINS,
    "test_loading_model_requires_grad_set_correctly": TRAINS,
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly": TRAINS,
    "test_adapter_dtype_autocast": FOLLOWS,
}


def pytest_configure(config: pytest.Config) -> None:
    # The files import each other relatively, but are shipped without an `__init__.py`.
    package = types.ModuleType("peft_tests")
    package.__path__ = [os.environ["PEFT_TESTS"]]
    sys.modules["peft_tests"] = package
    pytest.register_assert_rewrite("peft_tests.testing_common", "peft_tests.test_custom_models")


def _runs_on_slug(item: pytest.Item) -> bool:
    from hf_slug.tuner import SlugConfig

    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    return any(value is SlugConfig or isinstance(value, SlugConfig) for value in values)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dropped = [item for item in items if not _runs_on_slug(item)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]
    for item in items:
        reason = SKIPPED.get(getattr(item, "originalname", ""))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
