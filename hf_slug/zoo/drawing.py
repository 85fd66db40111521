# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Ten ways of drawing one real handwritten digit: the styles of the zoo.

A glyph is a (32, 32) float array in [0, 1] (how much of a pixel is stroke); a picture is a (32, 32, 3) `uint8` array.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter


SIZE = 32
GLYPH = 24  # the 8x8 scan, upsampled three times


def place(scan: np.ndarray, generator: np.random.Generator, augment: bool = False) -> np.ndarray:
    """
    Upsamples one 8x8 scan (values 0 to 16) and places it on the canvas, shifted by up to two pixels.

    Args:
        scan (`np.ndarray`): Handwriting of shape (8, 8) as scikit-learn ships it.
        generator (`np.random.Generator`): Source of the shift.
        augment (`bool`, *optional*, defaults to `False`): Also rotate, scale, shear and thicken a little (for training).

    Returns:
        `np.ndarray`: The glyph, shape (32, 32), in [0, 1].
    """
    picture = Image.fromarray((np.asarray(scan, dtype=np.float32) * (255 / 16)).astype(np.uint8))
    canvas = Image.new("L", (SIZE, SIZE))
    margin = (SIZE - GLYPH) // 2
    left, top = (int(v) for v in margin + generator.integers(-2, 3, size=2))
    canvas.paste(picture.resize((GLYPH, GLYPH), Image.Resampling.BICUBIC), (left, top))
    if augment:
        angle, shear = generator.uniform(-0.22, 0.22), generator.uniform(-0.18, 0.18)
        scale_x, scale_y = generator.uniform(0.85, 1.18, size=2)
        matrix = np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
        matrix = matrix / np.array([[scale_x], [scale_y]])
        center = np.array([SIZE / 2, SIZE / 2])
        offset = center - matrix @ center
        terms = (*matrix[0], offset[0], *matrix[1], offset[1])
        canvas = canvas.transform((SIZE, SIZE), Image.Transform.AFFINE, terms, Image.Resampling.BICUBIC)
    glyph = np.asarray(canvas, dtype=np.float32) / 255
    if augment:
        glyph = glyph ** generator.uniform(0.7, 1.45)
    return glyph


def _blur(values: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def _sharpen(glyph: np.ndarray) -> np.ndarray:
    return np.clip((glyph - 0.3) * 2.5, 0, 1)


def _mix(background: np.ndarray, colour: tuple[float, float, float] | np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return background * (1 - alpha[..., None]) + np.asarray(colour, dtype=np.float32) * alpha[..., None]


def _plain(colour: tuple[float, float, float]) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, dtype=np.float32), (SIZE, SIZE, 3))


def _shift(values: np.ndarray, down: int, right: int) -> np.ndarray:
    padded = np.pad(values, ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0))))
    return padded[max(-down, 0) :, max(-right, 0) :][:SIZE, :SIZE]


def _noise(generator: np.random.Generator, strength: float) -> np.ndarray:
    return generator.normal(0, strength, size=(SIZE, SIZE)).astype(np.float32)


def _chalk(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    board = _plain((0.13, 0.27, 0.21)) + _noise(generator, 0.02)[..., None]
    dust = np.clip(0.85 + _noise(generator, 0.3), 0.25, 1)
    return _mix(board, (0.95, 0.95, 0.9), _sharpen(glyph) * dust)


def _neon(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    tube = _sharpen(glyph)
    image = _mix(_plain((0.04, 0.02, 0.1)), (1.0, 0.1, 0.75), np.clip(_blur(tube, 2.5) * 1.3, 0, 1))
    return _mix(image, (1.0, 0.9, 1.0), np.clip(tube * 1.1 - 0.25, 0, 1))


def _blueprint(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    grid = np.zeros((SIZE, SIZE), dtype=np.float32)
    first = generator.integers(0, 6)
    grid[first::6, :] = grid[:, first::6] = 0.25
    edges = np.clip(4 * glyph * (1 - glyph), 0, 1) ** 2
    image = _mix(_plain((0.1, 0.28, 0.62)), (0.75, 0.85, 1.0), grid)
    return _mix(_mix(image, (0.35, 0.55, 0.9), _sharpen(glyph) * 0.45), (1.0, 1.0, 1.0), edges)


def _ink(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    paper = _plain((0.96, 0.94, 0.88)) + _noise(generator, 0.015)[..., None]
    return _mix(paper, (0.06, 0.06, 0.14), np.clip(_sharpen(glyph) * 1.2, 0, 1))


def _gold(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    slope = np.linspace(0, 1, SIZE, dtype=np.float32)
    shine = 0.55 + 0.45 * np.sin(6.0 * (slope[:, None] + slope[None, :]) + generator.uniform(0, 6.28))
    metal = np.stack([0.65 + 0.35 * shine, 0.45 + 0.4 * shine, 0.05 + 0.35 * shine], axis=-1)
    return _mix(_plain((0.32, 0.02, 0.08)), metal, _sharpen(glyph))


def _pixel(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    coarse = glyph.reshape(16, 2, 16, 2).mean(axis=(1, 3)) > 0.42
    blocks = np.kron(coarse, np.ones((2, 2))).astype(np.float32)
    checks = (np.indices((16, 16)).sum(0) % 2).repeat(2, 0).repeat(2, 1).astype(np.float32)
    return _mix(_mix(_plain((0.55, 0.67, 0.06)), (0.6, 0.73, 0.1), checks), (0.06, 0.22, 0.06), blocks)


def _watercolor(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    wash = np.clip(_blur(glyph, 1.2) * 1.25, 0, 1) * np.clip(
        0.8 + 4 * (_blur(0.5 + _noise(generator, 0.5), 3) - 0.5), 0.4, 1
    )
    blend = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    pigment = (1 - blend) * np.array([0.1, 0.65, 0.75]) + blend * np.array([0.6, 0.3, 0.8])
    return _mix(_plain((0.99, 0.98, 1.0)), np.broadcast_to(pigment, (SIZE, SIZE, 3)).astype(np.float32), wash)


def _striped(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    stripes = ((rows + columns + generator.integers(0, 6)) // 3 % 2).astype(np.float32)
    image = _mix(_plain((0.95, 0.75, 0.2)), (0.9, 0.45, 0.15), stripes)
    return _mix(image, (0.05, 0.2, 0.35), _sharpen(glyph))


def _shadow(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    stroke = _sharpen(glyph)
    image = _mix(_plain((0.72, 0.74, 0.78)), (0.2, 0.2, 0.25), _blur(_shift(stroke, 3, 3), 1.0) * 0.85)
    return _mix(image, (1.0, 1.0, 1.0), stroke)


def _fire(glyph: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    stroke = _sharpen(glyph)
    flame = stroke.copy()
    for step in range(1, 6):
        flame = np.maximum(flame, _shift(stroke, -step, 0) * (1 - step / 6))
    flame = _blur(np.clip(flame * (0.85 + _noise(generator, 0.12)), 0, 1), 0.7)
    image = _mix(_plain((0.05, 0.02, 0.02)), (0.95, 0.2, 0.02), np.clip(flame * 1.4, 0, 1))
    return _mix(image, (1.0, 0.9, 0.3), np.clip(stroke * 1.2 - 0.3, 0, 1))


STYLES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "chalk": _chalk,
    "neon": _neon,
    "blueprint": _blueprint,
    "ink": _ink,
    "gold": _gold,
    "pixel": _pixel,
    "watercolor": _watercolor,
    "striped": _striped,
    "shadow": _shadow,
    "fire": _fire,
}


def draw(glyph: np.ndarray, style: str, generator: np.random.Generator) -> np.ndarray:
    """
    Draws one glyph in one style.

    Args:
        glyph (`np.ndarray`): What [`place`] returns, shape (32, 32), in [0, 1].
        style (`str`): One of `STYLES`.
        generator (`np.random.Generator`): Source of grain, grid offsets and the like.

    Returns:
        `np.ndarray`: The picture, shape (32, 32, 3), `uint8`.
    """
    return (np.clip(STYLES[style](glyph, generator), 0, 1) * 255).astype(np.uint8)
