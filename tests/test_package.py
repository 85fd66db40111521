# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import pytest
from fresh_interpreter import run

import hf_slug


def test_importing_the_package_brings_hardly_more_than_peft():
    code = "import sys, peft; before = set(sys.modules); import hf_slug; print(*(sys.modules.keys() - before))"
    extra = set(run(code).split())
    assert not {
        name for name in extra if name.split(".")[0] in ("diffusers", "datasets", "pandas", "matplotlib", "sklearn")
    }
    assert not {name for name in extra if name.startswith("transformers.models.clip")}
    own = {name for name in extra if name.startswith("hf_slug")}
    hooks = {
        name for name in extra if name.split(".")[0] == "wrapt"
    }  # a few small modules, for methods on what is not imported
    assert own and len(extra - own - hooks) <= 5, extra - own - hooks
    assert len(hooks) <= 15


def test_reading_data_imports_datasets_when_it_must():
    # pandas and pyarrow, too, but these some versions of scikit-learn import, which transformers imports
    run("import sys, hf_slug.data, hf_slug.captions", "assert 'datasets' not in sys.modules")


def test_importing_the_package_makes_slug_a_peft_type():
    code = "import hf_slug; from peft import PeftType, get_peft_config; print(get_peft_config({'peft_type': 'SLUG'}))"
    assert "SlugConfig" in run(code)


@pytest.mark.parametrize(
    "before", ["", "import hf_slug.unlearn", "from hf_slug import UnlearningResult", "import hf_slug.cli, hf_slug.zoo"]
)
def test_unlearn_is_the_function_whatever_was_imported_before(before):
    code = f"{before}\nimport hf_slug.unlearn, hf_slug\nfrom hf_slug import unlearn\nprint(unlearn.__name__, hf_slug.unlearn.__name__)"
    assert run(code).split() == ["unlearn", "unlearn"]


@pytest.mark.parametrize("name", hf_slug.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert callable(getattr(hf_slug, name)) and getattr(hf_slug, name).__doc__.strip()
    assert name in dir(hf_slug)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'unlern'"):
        getattr(hf_slug, "unlern")  # noqa: B009
