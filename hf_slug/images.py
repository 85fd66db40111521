# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""One image: kept as it is stored (bytes, a path, or what PIL already holds), decoded to RGB when it is looked at."""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .errors import UnreadableImageError


Encoded = bytes | str | Image.Image


def encode(value: Any) -> Encoded:
    """
    Brings whatever a dataset calls an image to one of three forms, without decoding it.

    Args:
        value (`Any`):
            A PIL image, the bytes of an image file, a path, a `{"bytes", "path"}` mapping as `datasets` stores images,
            or an array or tensor of the shape (H, W), (H, W, C) or (C, H, W), with integers in 0..255 or floats
            in 0..1.

    Raises:
        UnreadableImageError: If it is none of these.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        return _fetch(path) if "://" in path else path
    if hasattr(value, "__array__"):
        return _from_array(value)
    raise UnreadableImageError("no image" if value is None else f"not an image but {_described(value)}")


def decode(encoded: Encoded) -> Image.Image:
    """
    Decodes an image to RGB: upright (EXIF), on white where it is transparent, 16 bits a channel brought to 8.

    Raises:
        UnreadableImageError: If it is missing, truncated or not an image.
    """
    try:
        if isinstance(encoded, Image.Image):
            image = encoded
            image.load()
        else:
            with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
                image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UnreadableImageError(f"no such file: {encoded!s}") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(f"not an image: {_described(encoded)}") from error
    # PIL's decoders fail in as many ways as there are formats (SyntaxError, struct.error, DecompressionBombError, …).
    except Exception as error:
        raise UnreadableImageError(f"{error or type(error).__name__}: {_described(encoded)}") from error


def content(encoded: Encoded) -> bytes:
    """Returns what identifies an image: the bytes of its file, or those of its pixels where there is no file."""
    if isinstance(encoded, bytes):
        return encoded
    if isinstance(encoded, Image.Image):
        return f"{encoded.mode} {encoded.size}".encode() + encoded.tobytes()
    with open(encoded, "rb") as file:
        return file.read()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        # Dropping alpha would uncover the colours that were hidden under it.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        # `convert` would clip every value over 255 to white.
        pixels = np.asarray(image).astype(np.float64)
        pixels = pixels / 257 if pixels.max() > 255 else pixels
        image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
    return image.convert("RGB")


def _from_array(value: Any) -> Image.Image:
    if hasattr(value, "detach"):
        value = value.detach().cpu()  # a tensor
        value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise UnreadableImageError(f"an array of the shape {array.shape}, not (H, W), (H, W, C) or (C, H, W)")
    highest = 1 if array.dtype.kind in "bf" else 255
    if array.dtype.kind not in "buif" or not (array.min() >= 0 and array.max() <= highest):
        raise UnreadableImageError(f"an array of {array.dtype} outside 0..{highest}; undo its normalisation")
    return Image.fromarray(np.ascontiguousarray((array * (255 // highest)).round().astype(np.uint8)))


def _fetch(url: str) -> bytes:
    """Reads what `datasets` streams from the Hub (`hf://…`, `zip://…`); a loader has no business on the open web."""
    if url.startswith(("http://", "https://", "ftp://")):
        raise UnreadableImageError(f"a URL, not an image: {url} (download the images first)")
    try:
        from datasets.utils.file_utils import xopen

        with xopen(url, "rb") as file:
            return bytes(file.read())
    except Exception as error:
        raise UnreadableImageError(f"{error or type(error).__name__}: {url}") from error


def _described(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
