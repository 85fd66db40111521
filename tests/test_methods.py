# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Who gets the methods, whichever library is imported first, and what that costs those who don't use them."""

import inspect

import diffusers
import pytest
import torch
import transformers
from fresh_interpreter import run

import hf_slug
from hf_slug.hosts import VERBS


CLASSES = {
    "diffusers": ["DiffusionPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"],
    "transformers": [
        "CLIPModel",
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPVisionModel",
        "CLIPVisionModelWithProjection",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "VipLlavaForConditionalGeneration",
        "VideoLlavaForConditionalGeneration",
    ],
}
IMPORTS = [f"from {library} import {', '.join(names)}" for library, names in CLASSES.items()]
CHECK = f"""
from hf_slug.hosts import VERBS
for cls in ({", ".join(name for names in CLASSES.values() for name in names)}):
    for verb in VERBS:
        assert getattr(cls, verb.__name__) is verb, (cls, verb)
print(len(VERBS))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "order", [("import hf_slug", *IMPORTS), (*IMPORTS, "import hf_slug"), (IMPORTS[0], "import hf_slug", IMPORTS[1])]
)
def test_the_methods_are_there_whatever_is_imported_first(order):
    assert run(*order, CHECK) == str(len(VERBS))


def test_importing_the_package_imports_none_of_its_hosts():
    heavy = (
        "diffusers",
        "transformers.models.clip",
        "transformers.models.llava",
        "hf_slug.hosts",
        "hf_slug.patch",
        "hf_slug.unlearn",
    )
    loaded = run(
        "import sys, transformers, peft",  # early 5.x versions of transformers enter other names for some modules at once
        "known = set(sys.modules)",
        "import hf_slug",
        f"print([m for m in sys.modules if m.startswith({heavy}) and m not in known])",
    )
    assert loaded == "[]"
    assert run("import sys, hf_slug", "print([m for m in sys.modules if m.startswith('diffusers')])") == "[]"


@pytest.mark.parametrize("library, name", [(library, name) for library, names in CLASSES.items() for name in names])
def test_every_verb_is_a_method_and_a_function(library, name):
    cls = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
    for verb in VERBS:
        assert getattr(cls, verb.__name__) is verb is getattr(hf_slug, verb.__name__)
        assert next(iter(inspect.signature(verb).parameters)) == "host" and verb.__doc__


def test_other_models_are_left_alone():
    for cls in (
        torch.nn.Module,
        transformers.PreTrainedModel,
        transformers.LlamaModel,
        diffusers.UNet2DConditionModel,
    ):
        assert not any(hasattr(cls, verb.__name__) for verb in VERBS)


def test_the_signature_is_the_documented_one():
    parameters = inspect.signature(hf_slug.load_unlearning).parameters
    assert list(parameters)[:4] == ["host", "source", "adapter_name", "weight"]
    keywords = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    hub = ["subfolder", "revision", "token", "cache_dir", "force_download", "local_files_only"]
    assert keywords == [*hub, "strict", "components"]
    # every argument is described where it is read
    for verb in VERBS:
        for name in list(inspect.signature(verb).parameters)[1:]:
            assert f"{name} (" in verb.__doc__, (verb.__name__, name)
