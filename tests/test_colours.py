"""Random changes of colours: the numbers of torchvision's functions, the same for a row on all paths."""

from __future__ import annotations

import io
import pickle

import determinism_page
import lanceloader as ll
import numpy as np
import pytest
from colours import CHANGES
from pictures import file_of, pattern, smooth, table_of
from PIL import Image, ImageOps

RANGES = {"brightness": 0.4, "contrast": 0.5, "saturation": (0.2, 1.8), "hue": 0.1}


@pytest.fixture(scope="module")
def table():
    files = [file_of(pattern(40, 30 + n, n)) for n in range(6)]
    return table_of([*files, *(file_of(smooth(33, 41, n)) for n in range(6))])


def decoded(table, *args, seed=None, **options):
    """Return the images of all rows, in the order of the table."""
    decode = {"image": ll.image(*args, layout="HWC", **options)}
    perm = ll.open(table).with_decode(decode).with_format("python_col")
    if seed is None:
        return perm[:]["image"]
    rows = perm.shuffle(seed).with_epoch(2)[:]
    places = np.argsort(rows["number"])
    return [rows["image"][place] for place in places]


def difference(left, right):
    return int(np.abs(left.astype(int) - right.astype(int)).max())


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_that_of_torchvision(table, name):
    factors = [-0.5, -0.2, 0.01, 1 / 3] if name == "hue" else [0.0, 0.3, 0.9, 2.5]
    plain = decoded(table)
    for factor in factors:
        found = decoded(table, **{name: (factor, factor)})
        for pixels, changed in zip(plain, found, strict=True):
            wanted = CHANGES[name](pixels, factor)
            assert difference(changed, wanted) <= 1, factor
            assert difference(wanted, pixels) > 1


def test_torchvision_agrees(table):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    torch = pytest.importorskip("torch")
    for name, change in CHANGES.items():
        adjust = getattr(functional, f"adjust_{name}")
        for pixels in decoded(table):
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
            wanted = adjust(tensor, 0.3).numpy().transpose(1, 2, 0)
            assert difference(change(pixels, 0.3), wanted) <= 1


def test_changes_are_those_of_the_page(table):
    """The draws of ``docs/determinism.md``, made one after another."""
    page = determinism_page.load()
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.5, 1.5),
        "saturation": (0.2, 1.8),
        "hue": (-0.1, 0.1),
    }
    plain, found = decoded(table), decoded(table, seed=5, **RANGES)
    orders = set()
    for place, pixels in enumerate(plain):
        key = page.row_key(5, 2, "image image", place)
        changes = page.changes_of(key, ranges)
        orders.add(tuple(name for name, _ in changes))
        for name, factor in changes:
            pixels = CHANGES[name](pixels, factor)
        # Rounding differs by a level, which later changes multiply.
        assert difference(found[place], pixels) <= 6
    assert len(orders) > 5


def test_crops_and_flips_do_not_depend_on_colours(table):
    options = {"crop": "random", "flip": True, "seed": 5}
    plain = decoded(table, 16, **options)
    bright = decoded(table, 16, brightness=(0.5, 0.5), **options)
    for one, other in zip(plain, bright, strict=True):
        np.testing.assert_array_equal(one // 2, other)


def test_the_background_keeps_its_colour():
    file = file_of(Image.new("RGB", (20, 10), (100, 100, 100)))
    options = {"crop": "pad", "fill": 200, "brightness": (0.5, 0.5)}
    (found,) = decoded(table_of([file]), 20, **options)
    assert (found[:5] == 200).all()
    assert (found[15:] == 200).all()
    assert (found[5:15] == 50).all()


def test_mirrored_images_have_the_same_colours():
    image = smooth(30, 20)
    files = [file_of(image), file_of(ImageOps.mirror(image))]
    options = {"contrast": (1.7, 1.7), "saturation": (0.4, 0.4)}
    one, other = (decoded(table_of([file]), **options)[0] for file in files)
    np.testing.assert_array_equal(one, other[:, ::-1])


def test_images_of_a_window_are_changed_alike(table):
    same = table_of([file_of(pattern(20, 20))] * 6)
    windows = ll.open(same).windows({"image": range(3)}, by=None)
    decode = {"image": ll.image(16, hue=0.5)}
    found = windows.with_decode(decode).with_format("numpy_dict")[:]["image"]
    assert (found == found[:, :1]).all()
    assert len({row.tobytes() for row in found}) == 6


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"brightness": 0.25}, (0.75, 1.25)),
        ({"brightness": 3}, (0.0, 4.0)),
        ({"saturation": [0.5, 0.75]}, (0.5, 0.75)),
        ({"hue": 0.25}, (-0.25, 0.25)),
        ({"hue": np.float32(0.5)}, (-0.5, 0.5)),
        ({"contrast": 0}, None),
        ({"hue": (0.0, 0.0)}, None),
    ],
)
def test_numbers_are_ranges_around_no_change(options, wanted):
    (name,) = options
    found = ll.image(**options)
    assert getattr(found, name) == wanted
    assert found.is_random == (wanted is not None)
    assert pickle.loads(pickle.dumps(found)) == found
    assert (name in repr(found)) == (wanted is not None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"brightness": -0.1}, ValueError),
        ({"contrast": (1.5, 0.5)}, ValueError),
        ({"contrast": (0.5,)}, ValueError),
        ({"saturation": (-0.5, 0.5)}, ValueError),
        ({"saturation": float("nan")}, ValueError),
        ({"brightness": 1e9}, ValueError),
        ({"hue": 0.6}, ValueError),
        ({"hue": (-0.6, 0.0)}, ValueError),
        ({"hue": "red"}, TypeError),
        ({"brightness": True}, TypeError),
        ({"brightness": {}}, TypeError),
    ],
)
def test_wrong_ranges_are_named(options, error):
    (name,) = options
    with pytest.raises(error, match=f"`{name}`"):
        ll.image(**options)


def test_options_of_earlier_versions_change_no_colours():
    options = ll.image(8, flip=True)
    state = options.__getstate__()
    names = ("brightness", "contrast", "saturation", "hue")
    earlier = object.__new__(ll.ImageOptions)
    earlier.__dict__.update({k: v for k, v in state.items() if k not in names})
    assert earlier == options
    assert earlier.recipe.is_random


def test_a_file_that_is_not_resized_is_changed():
    image = smooth(24, 32)
    (found,) = decoded(table_of([file_of(image)]), (24, 32), brightness=(0.5, 0.5))
    with Image.open(io.BytesIO(file_of(image))) as opened:
        np.testing.assert_array_equal(found, np.asarray(opened) // 2)
