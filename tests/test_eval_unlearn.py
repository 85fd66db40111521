# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""The technique `slug` of eval-unlearn: what its runners ask for, with or without eval-unlearn installed."""

import importlib.util
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_interpreter import run
from tiny_hosts import PIPELINES

from hf_slug import UnlearningPatch, zoo
from hf_slug.encoders import find_encoders
from hf_slug.errors import CorruptPatchError, UnsupportedModelError, WrongBaseError
from hf_slug.eval_unlearn import SlugTechnique, SlugTechniqueConfig
from hf_slug.fingerprint import compute_fingerprint
from hf_slug.tuner import SlugConfig


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GROUP = "eval_unlearn.techniques"
LAYERS = ("text_model.encoder.layers.1.mlp.fc1", "text_model.encoder.layers.2.self_attn.out_proj")
DRAWING = {"num_inference_steps": 2, "guidance_scale": 3.0, "device": "cpu"}
PROMPTS = ["a seven in neon style", "a two in ink style", "a six in fire style"]


def text_encoder_of(pipe):
    (encoder,) = find_encoders(pipe, "text_encoder")
    return encoder


def weight_of(pipe, layer):
    return text_encoder_of(pipe).resolve([layer])[layer].weight


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A random patch of each of two layers of the zoo's Stable Diffusion."""
    pipe, folders = zoo.load_stable_diffusion(), []
    for seed, layer in enumerate(LAYERS):
        weight = weight_of(pipe, layer).detach()
        delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * weight.std()
        config = SlugConfig(
            target_modules=[layer],
            tower="text",
            step_size=1.0,
            concept="seven",
            base_fingerprint=compute_fingerprint({layer: weight}),
            inference_mode=True,
        )
        folders.append(str(tmp_path_factory.mktemp("patches") / str(seed)))
        UnlearningPatch.from_deltas({layer: delta}, config).save_pretrained(folders[-1])
    return folders


def technique_of(patch, **config):
    return SlugTechnique(patch=patch, **{"model_id": str(zoo.STABLE_DIFFUSION_FOLDER), **DRAWING, **config})


# the plug-in


def declared():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["entry-points"][GROUP], project["optional-dependencies"]["eval"]


def test_the_entry_point_is_the_technique():
    found, extra = declared()
    assert EntryPoint("slug", found["slug"], GROUP).load() is SlugTechnique
    assert set(found) == {"slug"} and any(one.startswith("eval-unlearn>=") for one in extra)


def test_the_technique_is_what_their_runners_take(patches):
    """By eval-unlearn's own registry where it is installed, else by what that does with an entry point."""
    if importlib.util.find_spec("eval_unlearn") is not None:
        from eval_unlearn.registry import get_technique, register_technique

        register_technique("slug")(EntryPoint("slug", declared()[0]["slug"], GROUP).load())
        factory = get_technique("SLUG")  # names are told apart without case
    else:
        factory = EntryPoint("slug", declared()[0]["slug"], GROUP).load()
    # as in `SingleBenchmarkRunner.run`
    technique = factory(patch=patches[0], model_id=str(zoo.STABLE_DIFFUSION_FOLDER), erase_concept="seven", **DRAWING)
    images = technique.generate(prompts=PROMPTS, seed=None)
    assert len(images) == len(PROMPTS) and all(image.size == (32, 32) and image.mode == "RGB" for image in images)
    assert technique.config.to_dict()["erase_concept"] == "seven"


@pytest.mark.skipif(importlib.util.find_spec("eval_unlearn") is None, reason="needs the extra 'eval' (Python 3.11)")
def test_their_registry_finds_it_once_it_is_installed():
    code = (
        "from eval_unlearn.registry import get_technique; from eval_unlearn.registry.entrypoints import load_entrypoints; "
        "load_entrypoints(); print(get_technique('slug').__name__)"
    )
    assert run(code).splitlines()[-1] == "SlugTechnique"


def test_importing_it_brings_nothing_of_eval_unlearn():
    code = "import sys, hf_slug.eval_unlearn; print([name for name in sys.modules if name.split('.')[0] == 'eval_unlearn'])"
    assert run(code) == "[]"


# the patch


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_weights_are_those_of_load_unlearning(patches, weight):
    technique = technique_of(patches[0], weight=weight)
    pipe = zoo.load_stable_diffusion()
    untouched = weight_of(pipe, LAYERS[0]).detach().clone()
    pipe.load_unlearning(patches[0], weight=weight)
    assert torch.equal(weight_of(technique.pipe, LAYERS[0]), weight_of(pipe, LAYERS[0]))
    assert not torch.equal(weight_of(pipe, LAYERS[0]), untouched)
    assert technique.adapters == ["default_0"]


def test_several_patches_are_stacked_with_a_weight_each(patches):
    technique = technique_of(patches, weight=[0.25, 1.0])
    pipe = zoo.load_stable_diffusion()
    for folder, weight in zip(patches, (0.25, 1.0)):
        pipe.load_unlearning(folder, weight=weight)
    for layer in LAYERS:
        assert torch.equal(weight_of(technique.pipe, layer), weight_of(pipe, layer))
    assert len(technique.adapters) == 2


def test_a_dtype_is_that_of_the_whole_pipeline(patches):
    technique = technique_of(patches[0], dtype="bfloat16")
    pipe = zoo.load_stable_diffusion(torch.bfloat16)
    pipe.load_unlearning(patches[0])
    assert technique.pipe.unet.dtype == torch.bfloat16
    assert torch.equal(weight_of(technique.pipe, LAYERS[0]), weight_of(pipe, LAYERS[0]))


# the pictures


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def test_picture_i_starts_from_the_noise_of_seed_plus_i(patches):
    technique = technique_of(patches[0], batch_size=1)
    pipe = zoo.load_stable_diffusion()
    pipe.load_unlearning(patches[0])
    expected = [
        pipe(
            prompt, num_inference_steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(40 + i)
        ).images[0]
        for i, prompt in enumerate(PROMPTS)
    ]
    assert np.array_equal(pixels(technique.generate(PROMPTS, seed=40)), pixels(expected))
    # as any other pipeline without a patch draws something else
    pipe.unload_unlearning()
    plain = pipe(PROMPTS[0], num_inference_steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(40))
    assert not np.array_equal(pixels(plain.images), pixels(expected[:1]))


def test_a_batch_changes_no_picture_and_arguments_reach_the_pipeline(patches):
    technique = technique_of(patches[0], batch_size=2)
    one = technique_of(patches[0], batch_size=1)
    difference = pixels(technique.generate(PROMPTS, seed=3)).astype(int) - pixels(one.generate(PROMPTS, seed=3))
    assert np.abs(difference).max() <= 1  # the order of sums
    more = technique.generate(PROMPTS, seed=3, num_inference_steps=4, guidance_scale=1.0)
    assert not np.array_equal(pixels(more), pixels(technique.generate(PROMPTS, seed=3)))
    assert technique.generate([], seed=3) == []


def test_without_a_seed_pictures_come_by_chance(patches):
    technique = technique_of(patches[0])
    torch.manual_seed(5)
    first, second = technique.generate(PROMPTS[:1]), technique.generate(PROMPTS[:1])
    assert not np.array_equal(pixels(first), pixels(second))
    torch.manual_seed(5)
    assert np.array_equal(pixels(technique.generate(PROMPTS[:1])), pixels(first))


def test_by_the_seed_of_the_config_every_picture_is_another_and_all_are_the_same_again(patches):
    first, again = technique_of(patches[0], seed=40), technique_of(patches[0], seed=40)
    made = [first.generate(PROMPTS[:2]), first.generate(PROMPTS[2:3])]
    expected = again.generate(PROMPTS[:3])
    assert np.array_equal(pixels([*made[0], *made[1]]), pixels(expected))
    assert np.array_equal(pixels(again.generate(PROMPTS[:1], seed=40)), pixels(expected[:1]))
    assert not np.array_equal(pixels(again.generate(PROMPTS[:1])), pixels(expected[:1]))


def test_a_safety_checker_is_taken_off(patches, tmp_path, monkeypatch):
    class Checker(torch.nn.Module):
        def forward(self, images, **_):
            raise AssertionError("what it blackens would count as forgotten")

    pipe = zoo.load_stable_diffusion()
    pipe.register_modules(safety_checker=Checker())
    monkeypatch.setattr("hf_slug.eval_unlearn.load_host", lambda *_: (pipe, None))
    technique = technique_of(patches[0])
    assert technique.pipe.safety_checker is None and len(technique.generate(PROMPTS, seed=0)) == 3


# the config


def test_the_default_pipeline_is_that_of_their_own_techniques():
    config = SlugTechniqueConfig.from_dict({"patch": "user/forget-it"})
    assert config.model_id == "CompVis/stable-diffusion-v1-4"
    assert (config.num_inference_steps, config.guidance_scale) == (50, 7.5)
    arguments = {"source": "user/forget-it", "weight": 1.0, "revision": None, "subfolder": None, "strict": True}
    assert config.loads() == [arguments]


def test_each_patch_has_its_own_arguments():
    config = SlugTechniqueConfig(["a/b", "c/d"], [1, 0.5], ["main", "v1"], subfolder="patch", strict=False)
    assert config.loads() == [
        {"source": "a/b", "weight": 1, "revision": "main", "subfolder": "patch", "strict": False},
        {"source": "c/d", "weight": 0.5, "revision": "v1", "subfolder": "patch", "strict": False},
    ]


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "needs 'patch'. Its keys are: patch, weight"),
        ({"patch": "a/b", "wieght": 0.5}, "knows no 'wieght'. Its keys are"),
        ({"patch": ""}, "Expected `patch`, .* found ''"),
        ({"patch": []}, r"found \[\]"),
        ({"patch": ["a/b", None]}, "found"),
        ({"patch": "a/b", "weight": [1, 2]}, "Found 2 of `weight` for 1 patches"),
        ({"patch": ["a/b", "c/d"], "subfolder": ["x"]}, "Found 1 of `subfolder` for 2 patches"),
        ({"patch": "a/b", "dtype": "int8"}, "Unknown dtype 'int8'"),
    ],
)
def test_a_config_that_is_none_is_refused_before_anything_is_loaded(config, message, monkeypatch):
    monkeypatch.setattr("hf_slug.eval_unlearn.load_host", None)
    with pytest.raises(ValueError, match=message):
        SlugTechnique(**config)


def test_what_does_not_fit_is_refused(patches, tmp_path):
    with pytest.raises(UnsupportedModelError, match="model_index.json"):
        technique_of(patches[0], model_id=str(zoo.CLIP_FOLDER))
    with pytest.raises((OSError, CorruptPatchError)):
        technique_of(str(tmp_path))
    pipe = PIPELINES["sd1"]()
    pipe.save_pretrained(tmp_path / "another")
    with pytest.raises((WrongBaseError, UnsupportedModelError)):
        technique_of(patches[0], model_id=str(tmp_path / "another"))
    with pytest.raises(ValueError, match="finite"):
        technique_of(patches[0], weight=float("nan"))
