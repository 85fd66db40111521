# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Loading CLIP models, hosts, their processors, and judges, from folders or the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import NoSuchFolderError, UnsupportedModelError


HOSTS = ("stable-diffusion", "llava")
_PIPELINE = "diffusers pipeline"
_LLAVA = ("llava", "llava_next", "vipllava", "video_llava")


def load_clip(name: str, dtype: str = "auto", device: str | None = None, revision: str = "main") -> tuple[Any, Any]:
    """
    Loads a `CLIPModel` and its processor onto a device.

    Args:
        name (`str`): Folder or Hub id.
        dtype (`str`, *optional*, defaults to `"auto"`): `"float32"`, `"bfloat16"`, `"float16"`, or that of the checkpoint.
        device (`str`, *optional*): Defaults to what accelerate finds.
        revision (`str`, *optional*, defaults to `"main"`): Revision on the Hub.

    Returns:
        `tuple[CLIPModel, CLIPProcessor]`

    Raises:
        UnsupportedModelError: If the checkpoint is of another kind.
    """
    from transformers import CLIPModel, CLIPProcessor

    kind = _model_type(name, revision)
    if kind != "clip":
        raise UnsupportedModelError(
            f"{name} is a {kind!r} model. Expected a checkpoint of CLIPModel (both towers), such as "
            f"openai/clip-vit-base-patch32."
        )
    model = _load(CLIPModel, name, dtype, _one(device), revision)
    return model, CLIPProcessor.from_pretrained(name, revision=revision)


def load_host(
    kind: str, name: str, dtype: str = "auto", device: str | None = None, revision: str = "main"
) -> tuple[Any, Any]:
    """
    Loads a host onto a device.

    Args:
        kind (`str`): `"stable-diffusion"` for any diffusers pipeline with CLIP text encoders, or `"llava"`.
        name, dtype, revision: See [`load_clip`].
        device (`str`, *optional*): `"auto"` puts the parts of a LLaVA where they fit, beside each other or on the CPU (`device_map`).

    Returns:
        `tuple`: The pipeline and `None`, or the model and its processor.

    Raises:
        UnsupportedModelError: If the checkpoint is of another kind.
    """
    if kind == "llava":
        from transformers import AutoModelForImageTextToText, AutoProcessor

        found = _model_type(name, revision)
        if found not in _LLAVA:
            raise UnsupportedModelError(f"{name} is a {found!r} model. Expected one of {', '.join(_LLAVA)}.")
        model = _load(AutoModelForImageTextToText, name, dtype, device, revision)
        return model, AutoProcessor.from_pretrained(name, revision=revision)
    import torch
    from diffusers import DiffusionPipeline

    _check_folder(name, "a diffusers pipeline")
    if Path(name).is_dir() and not (Path(name) / "model_index.json").is_file():
        raise UnsupportedModelError(f"{name} holds no model_index.json. Expected the folder of a diffusers pipeline.")
    with _said(name, device):
        pipe = DiffusionPipeline.from_pretrained(name, revision=revision)
        # pipelines have no "auto": what is stored in half precision is only so to be small. The argument of `from_pretrained` is
        # called differently in each version of diffusers.
        pipe.to(_one(device) or _default_device(), torch.float32 if dtype == "auto" else getattr(torch, dtype))
    return pipe, None


def find_processor(model: Any) -> Any:
    """
    Loads the processor of a model of the LLaVA family from where the model came from.

    Args:
        model (`PreTrainedModel` or `DiffusionPipeline`): The model.

    Returns:
        `ProcessorMixin`, *optional*: `None` for a pipeline, and if there is none.
    """
    from transformers import AutoProcessor, PreTrainedModel

    if not isinstance(model, PreTrainedModel) or not model.can_generate() or not model.name_or_path:
        return None
    try:
        revision = getattr(model.config, "_commit_hash", None) or "main"
        processor = AutoProcessor.from_pretrained(model.name_or_path, revision=revision)
    except (OSError, ValueError):
        return None
    return processor if hasattr(processor, "tokenizer") else None  # else it is only a part of one


def host_kind(name: str, revision: str = "main") -> str | None:
    """
    Says what kind of host a checkpoint is.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*, defaults to `"main"`): Revision on the Hub.

    Returns:
        `str`, *optional*: `"stable-diffusion"` for a diffusers pipeline, `"llava"`, or `None` for anything else.
    """
    kind = _model_type(name, revision)
    return "llava" if kind in _LLAVA else "stable-diffusion" if kind == _PIPELINE else None


def load_judge(name: str, names: list[str], device: str | None = None) -> Any:
    """
    Loads an image classifier that says which of some names a picture shows.

    Args:
        name (`str`): Folder or Hub id of a model for image classification.
        names (`list[str]`): Labels among which it decides.
        device (`str`, *optional*): Defaults to what accelerate finds.

    Returns:
        [`ClassifierJudge`]

    Raises:
        ValueError: If a name is none of its labels.
    """
    from transformers import AutoModelForImageClassification

    # not from `transformers`, whose early 5.x versions keep it from everybody without torchvision
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .evaluation import ClassifierJudge

    _check_folder(name, "an image classifier")
    model = _load(AutoModelForImageClassification, name, "float32", _one(device), "main")
    return ClassifierJudge(model, AutoImageProcessor.from_pretrained(name), [names])


def _load(kind: Any, name: str, dtype: str, device: str | None, revision: str) -> Any:
    import torch

    settings = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype), "revision": revision}
    with _said(name, device):
        if device == "auto":
            return kind.from_pretrained(name, device_map="auto", **settings).eval()
        return kind.from_pretrained(name, **settings).eval().to(device or _default_device())


def _one(device: str | None) -> str | None:
    """The device of a model that is small enough for one."""
    return None if device == "auto" else device


@contextmanager
def _said(name: str, device: str | None) -> Iterator[None]:
    """Says what could not be loaded, and where to."""
    import torch
    from safetensors import SafetensorError

    what = f"{name} can't be loaded on {device or 'the default device'}"
    try:
        torch.empty(0, device=None if device == "auto" else device)
    except (AssertionError, RuntimeError) as error:  # a device that this torch was not built for; one without a driver
        raise UnsupportedModelError(f"{what}: {error}") from error
    try:
        yield
    except SafetensorError as error:  # damaged weights
        raise UnsupportedModelError(f"{what}: {error}") from error


def _default_device() -> Any:
    from accelerate import PartialState

    return PartialState().default_device


def _check_folder(name: str, what: str) -> None:
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise NoSuchFolderError(name, what)


def _model_type(name: str, revision: str) -> str:
    from transformers import AutoConfig

    _check_folder(name, "a model")
    if (Path(name) / "model_index.json").is_file():
        return _PIPELINE
    if not Path(name).is_dir() and _has_index(name, revision):
        return _PIPELINE
    return AutoConfig.from_pretrained(name, revision=revision).model_type


def _has_index(name: str, revision: str) -> bool:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, "model_index.json", revision=revision)
    except LocalEntryNotFoundError:  # offline and not in the cache: transformers says more about that
        return False
    except (EntryNotFoundError, HFValidationError):
        return False
    return True
