"""``image``: how a column of image files is decoded, cropped, resized and normalised.

The work is done by threads of the core, which all loaders of a process share.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from operator import index
from typing import Any, Literal, SupportsIndex

from lanceloader import _native
from lanceloader.choices import check_choice
from lanceloader.numbers import count
from lanceloader.world import num_cpus, num_workers

__all__ = ["ImageOptions", "decode_threads", "image"]

Crop = Literal["center", "random", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Layout = Literal["CHW", "HWC"]
Dtype = Literal["uint8", "float16", "bfloat16", "float32"]

MAX_PIXELS = 89_478_485
"""The number of pixels from which Pillow warns of a decompression bomb."""


@dataclass(frozen=True, repr=False)
class ImageOptions:
    """How a column of images is decoded; made by ``lanceloader.image``, which describes the options.

    Example:
        >>> ll.image(224, crop="center", resize=256)
        ImageOptions(size=(224, 224), crop='center', resize=256)
    """

    size: tuple[int, int] | None = None
    crop: Crop | None = None
    resize: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    fill: tuple[int, int, int] = (0, 0, 0)
    flip: float = 0.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    layout: Layout = "CHW"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dtype: Dtype = "uint8"
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    brightness: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None
    saturation: tuple[float, float] | None = None
    hue: tuple[float, float] | None = None

    def __repr__(self) -> str:
        passed = (
            f"{field.name}={value!r}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        )
        return f"ImageOptions({', '.join(passed)})"

    @functools.cached_property
    def recipe(self) -> _native.Recipe:
        """The options as the core takes them.

        Raises:
            ValueError: If an option is outside of its domain.
        """
        return _native.Recipe(
            size=self.size,
            crop=self.crop,
            resize=self.resize or min(self.size or (1, 1)),
            scale=self.scale,
            ratio=self.ratio,
            fill=self.fill,
            flip=self.flip,
            interpolation=self.interpolation,
            antialias=self.antialias,
            channels_first=self.layout == "CHW",
            dtype=self.dtype,
            norm=(self.mean or (0.0,) * 3, self.std or (1.0,) * 3),
            jitter=(self.brightness, self.contrast, self.saturation, self.hue),
            exif=self.exif,
            max_pixels=self.max_pixels,
        )

    @property
    def is_random(self) -> bool:
        """Whether a crop, a flip or a change of colours is random."""
        return self.recipe.is_random

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape of an image of a height and width."""
        return (3, *size) if self.layout == "CHW" else (*size, 3)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def image(
    size: SupportsIndex | Sequence[SupportsIndex] | None = None,
    *,
    crop: Crop | None = None,
    resize: SupportsIndex | None = None,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    fill: SupportsIndex | Sequence[SupportsIndex] = 0,
    flip: bool | float = False,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
    layout: Layout = "CHW",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: Dtype | None = None,
    exif: bool = True,
    max_pixels: SupportsIndex = MAX_PIXELS,
    brightness: float | Sequence[float] | None = None,
    contrast: float | Sequence[float] | None = None,
    saturation: float | Sequence[float] | None = None,
    hue: float | Sequence[float] | None = None,
) -> ImageOptions:
    """Return how a column of images is decoded, for ``loader(decode=...)`` and ``with_decode``.

    Images are JPEG, PNG, WebP, GIF (the first frame), BMP or TIFF files, which are told apart by their
    first bytes, in a column of bytes or of structs with a field ``bytes``. They become RGB as by
    Pillow's ``convert("RGB")``: alpha is dropped, grey is repeated, the upper eight of 16 bits are
    taken, and colour profiles are ignored.

    Args:
        size: The height and width of all images, or one number for both. With ``None``, images keep
            their sizes, and batches hold a list of them.
        crop: ``None`` stretches the whole image to ``size``. ``"random"`` takes a random part, by
            the distribution of torchvision's ``RandomResizedCrop``. ``"center"`` resizes the short
            side to ``resize`` and takes the middle. ``"pad"`` shows the whole image in its own
            proportions, in the middle of a background.
        resize: With ``crop="center"``, the short side before the crop; by default the smaller one
            of ``size``.
        scale: With ``crop="random"``, the least and the largest fraction of the area.
        ratio: With ``crop="random"``, the least and the largest ratio of width to height.
        fill: With ``crop="pad"``, the colour of the background: a grey, or red, green and blue.
        flip: The probability that an image is mirrored; ``True`` is 0.5.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        antialias: Whether all pixels count when an image is made smaller, as in Pillow.
        layout: ``"CHW"`` for batches of shape (rows, 3, height, width), ``"HWC"`` for (rows,
            height, width, 3).
        mean: The mean of each channel, subtracted after division by 255. Batches then hold floats.
        std: The standard deviation of each channel, to divide by.
        dtype: ``"uint8"``; or ``"float32"``, ``"float16"`` or ``"bfloat16"`` for numbers from 0 to
            1, or normalised ones. By default ``"uint8"``, or ``"float32"`` with ``mean`` or
            ``std``. NumPy has bfloat16 only with the package ml_dtypes, and Arrow data hold its
            bits as int16.
        exif: Whether images are turned as their EXIF orientation says.
        max_pixels: The most pixels of an image. A larger one is refused before memory is taken.
        brightness: As in torchvision's ``ColorJitter``, samples are multiplied by a random factor: a
            number for one from ``1 - brightness`` to ``1 + brightness``, or the least and the largest.
            Changes of colours come after the resize, in random order, and leave the background of
            ``crop="pad"`` as it is.
        contrast: Likewise, of the distance from the mean grey of the image.
        saturation: Likewise, of the distance from the grey of each pixel.
        hue: A random part of the circle, by which hues are turned: a number for one from ``-hue`` to
            ``hue``, or the least and the largest, from -0.5 to 0.5.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If an option is outside of its domain, or has no effect.

    Example:
        >>> train = ll.image(224, crop="random", flip=True)
        >>> train
        ImageOptions(size=(224, 224), crop='random', flip=0.5)
    """
    both = None if size is None else pair_of(size, "size")
    if crop is not None:
        check_choice("crop", crop, Crop)
        if both is None:
            message = f"`crop`={crop!r} needs the `size` of the images: pass it, too"
            raise ValueError(message)
    if resize is not None and crop != "center":
        raise ValueError(
            '`resize` is the short side before a crop: pass crop="center", too'
        )
    check_choice("interpolation", interpolation, Interpolation)
    check_choice("layout", layout, Layout)
    has_norm = mean is not None or std is not None
    if dtype is None:
        dtype = "float32" if has_norm else "uint8"
    check_choice("dtype", dtype, Dtype)
    if has_norm and dtype == "uint8":
        raise ValueError('`mean` and `std` make floats: leave dtype="uint8" out')
    if std is not None and not all(std):
        message = f"`std` must not contain 0, got {std!r}"
        raise ValueError(message)
    options = ImageOptions(
        both,
        crop,
        None if resize is None else count(resize, "resize", least=1),
        floats_of(scale, "scale", 2),
        floats_of(ratio, "ratio", 2),
        colour_of(fill),
        0.5 if flip is True else float(flip),
        interpolation,
        bool(antialias),
        layout,
        None if mean is None else floats_of(mean, "mean", 3),
        None if std is None else floats_of(std, "std", 3),
        dtype,
        bool(exif),
        count(max_pixels, "max_pixels", least=1),
        factors_of(brightness, "brightness"),
        factors_of(contrast, "contrast"),
        factors_of(saturation, "saturation"),
        factors_of(hue, "hue", around=0.0),
    )
    # The core checks the rest.
    _ = options.recipe
    return options


def decode_threads() -> int:
    """Return the number of threads that decode images in this process.

    That is what the environment variable ``LANCELOADER_DECODE_THREADS`` says, or the number of cores
    divided by that of the worker processes of torch.

    Raises:
        ValueError: If the variable is not a positive number.
    """
    text = os.environ.get("LANCELOADER_DECODE_THREADS")
    if not text:
        return max(1, num_cpus() // num_workers())
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        message = f"`LANCELOADER_DECODE_THREADS` must be a whole number of at least 1, got {text!r}"
        raise ValueError(message)
    return int(text)


def pair_of(size: Any, name: str) -> tuple[int, int]:
    """Return a height and a width."""
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2:
        message = f"`{name}` must be one number or a height and a width, got {size!r}"
        raise ValueError(message)
    height, width = (count(side, name, least=1) for side in sides)
    return height, width


def floats_of(values: Any, name: str, length: int) -> Any:
    """Return numbers as a tuple of floats.

    Raises:
        ValueError: If there are more or fewer.
    """
    found = tuple(float(value) for value in values)
    if len(found) != length:
        message = f"`{name}` must be {length} numbers, got {values!r}"
        raise ValueError(message)
    return found


def factors_of(
    values: Any, name: str, around: float = 1.0
) -> tuple[float, float] | None:
    """Return the least and the largest factor of a change of colours, ``None`` for no change.

    Args:
        values: Both, or one number: their distance from ``around``.
        name: The name of the argument.
        around: What changes nothing.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they are not in order, or outside of what the change allows.
    """
    least, most = (0.0, 1000.0) if around else (-0.5, 0.5)
    if values is None:
        return None
    if isinstance(values, str | bool) or not isinstance(values, Real | Sequence):
        message = f"`{name}` must be a number, or the least and the largest factor, not {values!r}"
        raise TypeError(message)
    if isinstance(values, Real):
        spread = float(values)
        low, high = max(around - spread, least), around + spread
        is_wrong = not spread >= 0
    else:
        low, high = floats_of(values, name, 2)
        is_wrong = not low <= high
    if is_wrong or not (least <= low and high <= most):
        message = (
            f"`{name}` must be a number from 0 to {most - around:g}, or the least and the largest factor, "
            f"from {least:g} to {most:g}, got {values!r}"
        )
        raise ValueError(message)
    return None if low == high == around else (low, high)


def colour_of(fill: Any) -> tuple[int, int, int]:
    """Return red, green and blue.

    Raises:
        ValueError: If they are not three numbers from 0 to 255.
    """
    values = fill if isinstance(fill, list | tuple) else (fill,) * 3
    found = tuple(index(value) for value in values)
    if len(found) != 3 or not all(0 <= value < 256 for value in found):
        message = f"`fill` must be one or three numbers from 0 to 255, got {fill!r}"
        raise ValueError(message)
    return found
