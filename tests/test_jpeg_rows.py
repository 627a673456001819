"""JPEG files of which only the rows down to the crop are decoded: the pixels are those of the whole image."""

from __future__ import annotations

import io

import lanceloader as ll
import numpy as np
import pytest
from lanceloader.errors import ImageError
from pictures import file_of, smooth, table_of
from PIL import Image

SIZES = [(90, 120), (131, 77), (64, 48), (17, 200)]
CROPS = [
    {"size": 24, "crop": "random", "scale": (0.05, 0.5), "flip": True},
    {"size": (8, 40), "crop": "random", "interpolation": "bicubic"},
    {"size": 20, "crop": "center", "resize": 33},
    {"size": 20, "crop": "center", "resize": 60, "interpolation": "bicubic"},
    {"size": 20, "crop": "center", "resize": 33, "antialias": False},
    {"size": 20, "crop": "center", "resize": 33, "interpolation": "nearest"},
    {"size": 16, "crop": "pad"},
]


def decoded(files, **options):
    decode = {"image": ll.image(layout="HWC", **options)}
    perm = ll.open(table_of(files)).with_decode(decode).with_format("python_col")
    rows = perm.shuffle(3)[:]
    return [rows["image"][place] for place in np.argsort(rows["number"])]


def jpegs(**options):
    exif = Image.Exif()
    files = []
    for number, (height, width) in enumerate(SIZES * 4):
        exif[0x0112] = number % 8 + 1
        image = smooth(height, width, number)
        if options.get("grey"):
            image = image.convert("L")
        encoding = {k: v for k, v in options.items() if k != "grey"}
        files.append(file_of(image, "JPEG", quality=85, exif=exif, **encoding))
    return files


def as_png(pixels, number=0):
    exif = Image.Exif()
    exif[0x0112] = number % 8 + 1
    return file_of(Image.fromarray(pixels), exif=exif)


@pytest.mark.parametrize(
    "encoding",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"subsampling": 2, "restart_marker_blocks": 3},
        {"subsampling": 2, "progressive": True},
        {"grey": True},
    ],
    ids=str,
)
def test_crops_are_those_of_the_whole_image(encoding):
    files = jpegs(**encoding)
    whole = decoded(files, exif=False)
    lossless = [as_png(pixels, number) for number, pixels in enumerate(whole)]
    for options in CROPS:
        found, wanted = decoded(files, **options), decoded(lossless, **options)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


UPPER = {"size": 8, "crop": "random", "scale": (1e-3, 2e-3), "ratio": (1, 1)}
"""Small crops, of which most end far above the lower edge."""


def test_files_that_end_early_are_broken_wherever_the_crop_is():
    file = file_of(smooth(200, 160), "JPEG", quality=90)
    for kept in (len(file) // 2, len(file) - 40):
        with pytest.raises(ImageError, match=r"a broken JPEG .* and 19 more"):
            decoded([file[:kept]] * 20, **UPPER)


def test_an_end_within_the_header_is_none_of_the_image():
    """Of a thumbnail, for example."""
    exif = b"Exif\0\0" + file_of(smooth(16, 16), "JPEG")
    file = file_of(smooth(200, 160), "JPEG", exif=exif)
    whole = decoded([file] * 20, **UPPER)
    lossless = decoded([as_png(decoded([file])[0])] * 20, **UPPER)
    np.testing.assert_array_equal(whole, lossless)


def test_the_limit_of_pixels_is_that_of_the_whole_image():
    file = file_of(smooth(200, 160), "JPEG")
    with pytest.raises(ImageError, match="max_pixels=31999"):
        decoded([file] * 20, max_pixels=200 * 160 - 1, **UPPER)
    decoded([file] * 20, max_pixels=200 * 160, **UPPER)


def test_bytes_after_the_image_do_not_matter():
    file = file_of(smooth(200, 160), "JPEG")
    once = decoded([file] * 20, **UPPER)
    again = decoded([file + b"more" * 20] * 20, **UPPER)
    twice = decoded([file + file] * 20, **UPPER)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once, twice)
    assert len(Image.open(io.BytesIO(file)).getbands()) == 3
