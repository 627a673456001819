"""Changes of colours as torchvision's functions for bytes compute them, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

Pixels = np.ndarray[Any, Any]
"""Of shape (height, width, 3)."""


def cut(values: Pixels) -> Pixels:
    return values.clip(0, 255).astype(np.uint8)


def grey(pixels: Pixels) -> Pixels:
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    return np.floor((pixels * weights).sum(-1, keepdims=True))


def brightness(pixels: Pixels, factor: float) -> Pixels:
    return cut(pixels * np.float32(factor))


def contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = grey(pixels).mean(dtype=np.float64)
    return cut(pixels * np.float32(factor) + np.float32(mean * (1 - factor)))


def saturation(pixels: Pixels, factor: float) -> Pixels:
    return cut(pixels * np.float32(factor) + grey(pixels) * np.float32(1 - factor))


def hue(pixels: Pixels, part: float) -> Pixels:
    values = pixels.astype(np.float32) / 255
    red, green, _ = np.moveaxis(values, -1, 0)
    most, least = values.max(-1), values.min(-1)
    spread = most - least
    divisor = np.where(spread == 0, 1, spread)
    chroma = spread / np.where(spread == 0, 1, most)
    from_red, from_green, from_blue = np.moveaxis(
        (most[..., None] - values) / divisor[..., None], -1, 0
    )
    sixths = np.where(
        most == red,
        from_blue - from_green,
        np.where(most == green, 2 + from_red - from_blue, 4 + from_green - from_red),
    )
    turned = ((sixths / 6 + 1) % 1 + part) % 1 * 6
    sector = np.floor(turned).astype(int)
    within = turned - sector
    down = most * (1 - chroma * within)
    up = most * (1 - chroma * (1 - within))
    low = most * (1 - chroma)
    sector %= 6
    out = [
        np.choose(sector, [most, down, low, low, up, most]),
        np.choose(sector, [up, most, most, down, low, low]),
        np.choose(sector, [low, low, up, most, most, down]),
    ]
    return (np.stack(out, -1).clip(0, 1) * 255.999).astype(np.uint8)


CHANGES = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
"""Each function, by the name of the argument of ``lanceloader.image``."""
