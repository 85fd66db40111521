# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test may depend on a network
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # the suite runs one process a core; those that tests start know it from here

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import tuner_helpers
from peft import get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from hf_slug import zoo
from hf_slug.data import Pairs, load_pairs
from hf_slug.evaluation import PreparedZeroShot
from hf_slug.towers import Layer


torch.set_num_threads(1)

NAMES = ["zero", "one", "two", "three", "four"]


def make_clip(seed: int = 0, dtype: torch.dtype = torch.float32) -> CLIPModel:
    """A random CLIPModel of three blocks a tower that understands the zoo's processor."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    tokens = {"vocab_size": 644, "max_position_embeddings": 16, "bos_token_id": 642, "eos_token_id": 643}
    config = CLIPConfig(
        text_config={**tower, **tokens, "pad_token_id": 643, "projection_dim": 12},
        vision_config={**tower, "image_size": 32, "patch_size": 16, "projection_dim": 12},
        projection_dim=12,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # the default initialisation is too small for the towers to tell anything apart
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.to(dtype).eval()


@pytest.fixture
def tiny() -> CLIPModel:
    return make_clip()


@pytest.fixture(scope="session")
def processor() -> CLIPProcessor:
    return zoo.load_clip()[1]


@pytest.fixture
def zoo_clip() -> CLIPModel:
    return zoo.load_clip()[0]


def noise_rows(count: int, seed: int = 0, names: list[str] | None = None) -> list[dict]:
    """Rows with random pictures, their names by turns."""
    generator = np.random.default_rng(seed)
    names = names or NAMES
    rows = []
    for i in range(count):
        image = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        rows.append({"image": image, "text": f"a photo of {names[i % len(names)]}", "name": names[i % len(names)]})
    return rows


def write_folder(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """An image folder with metadata.jsonl, as a user would have it."""
    folder.mkdir()
    with open(folder / "metadata.jsonl", "w") as metadata:
        for i, row in enumerate(rows):
            row["image"].save(folder / f"{i}.png")
            metadata.write(json.dumps({"file_name": f"{i}.png", "text": row["text"], "name": row["name"]}) + "\n")
    return str(folder)


def noise_pairs(count: int, seed: int = 0, names: list[str] | None = None) -> Pairs:
    return load_pairs(noise_rows(count, seed, names))


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@contextmanager
def completed_looks() -> Iterator[list[Layer]]:
    """Notes the layers that a search looks at again in full."""
    completed: list[Layer] = []
    plain = PreparedZeroShot.probe

    def note(self: PreparedZeroShot, layer: Layer, whole: bool = False) -> Any:
        completed.extend([layer] if whole else [])
        return plain(self, layer, whole)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PreparedZeroShot, "probe", note)
        yield completed


# of the tests of the tuner


@pytest.fixture
def clip() -> CLIPModel:
    return tuner_helpers.make_clip()


@pytest.fixture
def patch(tmp_path):
    """A saved patch of two modules, and its deltas."""
    config = tuner_helpers.config(tuner_helpers.TEXT_FC1, "text_projection")
    get_peft_model(tuner_helpers.make_clip(), config).save_pretrained(tmp_path)
    return tmp_path, load_file(tmp_path / "adapter_model.safetensors")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Refuses every connection, and a copy of a local source in the cache."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was called")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for config in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)  # or a call might not get as far as the socket
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert not list((tmp_path / "cache").rglob("*.arrow")), "a local source was copied to the cache"


@pytest.fixture
def graphs():
    """A function that counts what dynamo has compiled so far."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """A folder of drawn photographs, and the random CLIP that knows their names in `model`."""
    from photo_miniature import draw_photographs

    return draw_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def photographs(photo_folder, monkeypatch, tmp_path):
    """Benchmarks find these photographs and write into a folder of the test."""
    import photo_data
    import photo_picture
    import photo_sources
    import photo_stacks
    import photo_tables
    import tables

    monkeypatch.setenv("HF_SLUG_DATA", str(photo_folder))
    monkeypatch.setattr(photo_data, "VALIDATION_OBJECTS", 40)
    for module in (tables, photo_picture, photo_stacks):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(photo_tables, "PATCHES", tmp_path / "patches")
    photo_sources.open_objects.cache_clear()
    yield
    photo_sources.open_objects.cache_clear()
