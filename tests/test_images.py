"""Columns of image files as pixels: as Pillow decodes and resizes them, the same on all paths."""

from __future__ import annotations

import io
import pickle
import sys
import types

import determinism_page
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import torch
from lanceloader.errors import (
    ColumnNotFoundError,
    FormatError,
    ImageError,
)
from pictures import file_of, pattern, smooth, table_of
from PIL import Image, ImageOps

RANDOM = ll.image(32, crop="random", flip=True)


def pixels(file: bytes, *args, **options) -> np.ndarray:
    """Decode one file."""
    options.setdefault("layout", "HWC")
    perm = ll.open(table_of([file])).with_decode({"image": ll.image(*args, **options)})
    return perm.with_format("python_col")[:]["image"][0]


def by_pillow(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def difference(left: np.ndarray, right: np.ndarray) -> int:
    assert left.shape == right.shape
    return int(np.abs(left.astype(int) - right.astype(int)).max())


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return table_of([file_of(pattern(40 + n, 61 - n, n)) for n in range(25)])


@pytest.mark.parametrize("size", [(75, 100), (33, 47), (8, 8)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("subsampling", "most"), [(0, 3), (1, 4), (2, 5)])
def test_jpegs_are_decoded_as_by_libjpeg(size, progressive, subsampling, most):
    """Differences are those of chroma, which is upsampled linearly, and rounded otherwise."""
    file = file_of(
        smooth(*size),
        "JPEG",
        quality=90,
        subsampling=subsampling,
        progressive=progressive,
    )
    ours, theirs = pixels(file), by_pillow(file)
    # Few chroma samples, all of them at an edge.
    most = 12 if size == (8, 8) else most
    assert difference(ours, theirs) <= most
    assert np.abs(ours.astype(int) - theirs).mean() < (1 if size == (8, 8) else 0.5)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(mode):
    file = file_of(smooth(50, 60).convert(mode), "JPEG", quality=90)
    assert difference(pixels(file), by_pillow(file)) <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_other_kinds_are_decoded_exactly(kind, mode):
    if (kind, mode) == ("TIFF", "P"):
        pytest.skip("palettes of TIFF are refused")
    image = pattern(37, 50).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    file = file_of(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert difference(pixels(file), by_pillow(file)) == 0


def test_of_16_bits_the_upper_eight_are_taken():
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    found = pixels(file_of(Image.fromarray(values)))
    assert (found == (values >> 8)[..., None]).all()


@pytest.mark.parametrize(
    ("kind", "named"), [("BMP", "BMP of 1 bits"), ("TIFF", "TIFF of Gray")]
)
def test_kinds_that_are_not_decoded_are_refused(kind, named):
    with pytest.raises(ImageError, match=named):
        pixels(file_of(pattern(9, 21).convert("1"), kind))


@pytest.mark.parametrize("size", [(24, 24), (20, 55), (90, 120), (3, 5)])
@pytest.mark.parametrize(
    ("name", "filter_"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_images_are_resized_as_by_pillow(size, name, filter_):
    image = smooth(75, 100)
    wanted = np.asarray(image.resize(size[::-1], filter_))
    found = pixels(file_of(image), size, interpolation=name)
    # Cubics overshoot, and both round that at other places unless they average.
    assert difference(found, wanted) <= (2 if name == "bicubic" and size[1] > 50 else 1)


def test_without_antialias_few_pixels_count():
    values = torch.tensor(np.array(smooth(75, 100))).permute(2, 0, 1)[None].float()
    wanted = torch.nn.functional.interpolate(values, (20, 30), mode="bilinear")
    found = pixels(file_of(smooth(75, 100)), (20, 30), antialias=False, layout="CHW")
    assert difference(found, wanted[0].round().numpy()) <= 1


def test_the_middle_is_that_of_a_resized_image():
    image = smooth(75, 100)
    resized = image.resize((85, 64), Image.Resampling.BILINEAR)
    left, top = round((85 - 48) / 2), round((64 - 48) / 2)
    wanted = np.asarray(resized.crop((left, top, left + 48, top + 48)))
    found = pixels(file_of(image), 48, crop="center", resize=64)
    assert difference(found, wanted) <= 1


def test_padding_shows_the_whole_image():
    image = smooth(50, 100)
    found = pixels(file_of(image), 40, crop="pad", fill=(1, 2, 3))
    assert (found[:10] == (1, 2, 3)).all()
    assert (found[30:] == (1, 2, 3)).all()
    wanted = np.asarray(image.resize((40, 20), Image.Resampling.BILINEAR))
    assert difference(found[10:30], wanted) <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"subsampling": 0, "quality": 95}
    file = file_of(pattern(30, 44), kind, exif=exif, **options)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    most = 3 if kind == "JPEG" else 0
    assert difference(pixels(file), np.asarray(turned)) <= most
    resized = np.asarray(turned.resize((20, 24), Image.Resampling.BILINEAR))
    assert difference(pixels(file, (24, 20)), resized) <= 1 + most
    if kind != "TIFF":  # which Pillow always turns
        assert difference(pixels(file, exif=False), by_pillow(file)) <= most


def test_pixels_may_be_normalised():
    file = file_of(pattern(20, 30))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    found = pixels(file, mean=mean, std=std)
    wanted = (by_pillow(file) / 255 - mean) / std
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    scaled = pixels(file, dtype="float32", layout="CHW")
    np.testing.assert_allclose(
        scaled, by_pillow(file).transpose(2, 0, 1) / 255, atol=1e-6
    )


NORM = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_pixels_may_be_rounded_to_16_bits(table, name):
    dtype = getattr(torch, name)

    def tensors(size, dtype_name, **options):
        decode = {"image": ll.image(size, dtype=dtype_name, **NORM, **options)}
        loader = ll.open(table).loader(25, decode=decode, format="torch_dict")
        return next(iter(loader))["image"]

    found = tensors((8, 9), name)
    assert (found.dtype, found.shape) == (dtype, (25, 3, 8, 9))
    assert torch.equal(found, tensors((8, 9), "float32").to(dtype))
    last = tensors((8, 9), name, layout="HWC")
    assert torch.equal(last, found.permute(0, 2, 3, 1))
    for image, wanted in zip(
        tensors(None, name), tensors(None, "float32"), strict=True
    ):
        assert torch.equal(image, wanted.to(dtype))
    rows = ll.open(table).with_decode({"image": ll.image(8, dtype=name)})
    (row, *_) = rows.with_format("torch")[:]
    assert row["image"].dtype == dtype


def test_numpy_has_float16():
    file = file_of(pattern(20, 30))
    found = pixels(file, dtype="float16", **NORM)
    assert found.dtype == np.float16
    assert (found == pixels(file, **NORM).astype(np.float16)).all()


@pytest.mark.parametrize("format", ["numpy_dict", "numpy", "python", "python_col"])
@pytest.mark.parametrize("size", [8, None])
def test_numpy_needs_ml_dtypes_for_bfloat16(table, format, size, monkeypatch):
    perm = ll.open(table).select_columns(["image"])
    perm = perm.with_decode({"image": ll.image(size, dtype="bfloat16")})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(FormatError, match=r"`image` of type bfloat16 needs.*ml_dtypes"):
        perm.with_format(format)[:]
    # The dtype itself is not installed with the tests: any of 16 bits shows that it is used.
    stand_in = types.ModuleType("ml_dtypes")
    stand_in.bfloat16 = np.dtype(np.uint16)
    monkeypatch.setitem(sys.modules, "ml_dtypes", stand_in)
    found = perm.with_format("python_col")[:]["image"]
    tensors = perm.with_format("torch_dict")[:]["image"]
    for image, tensor in zip(found, tensors, strict=True):
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        assert (image.dtype, image.shape) == (np.uint16, bits.shape)
        assert (image == bits).all()


def test_arrow_holds_the_bits_of_bfloat16(table):
    perm = ll.open(table).with_decode({"image": ll.image(8, dtype="bfloat16")})
    column = perm.with_format("arrow")[:].column("image")
    bits = column.to_numpy_ndarray()
    assert (bits.dtype, bits.shape) == (np.int16, (25, 3, 8, 8))
    tensors = perm.with_format("torch_dict")[:]["image"]
    assert torch.equal(torch.from_numpy(bits.copy()).view(torch.bfloat16), tensors)


def test_functions_get_tensors_of_bfloat16(table):
    perm = ll.open(table, format="torch_dict")
    perm = perm.with_decode({"image": ll.image(8, dtype="bfloat16")})
    kinds = []
    mapped = perm.map(lambda batch: kinds.append(batch["image"].dtype), batched=True)
    assert mapped[:3]["image"].dtype == torch.bfloat16
    assert kinds == [torch.bfloat16]


def test_nulls_of_bfloat16_images_may_be_filled():
    table = table_of([file_of(pattern(9, 9)), None])
    perm = ll.open(table).with_decode({"image": ll.image(2, dtype="bfloat16")})
    masked = perm.with_format("torch_dict", nulls="mask")[:]
    assert masked["image_mask"].tolist() == [True, False]
    assert masked["image"].dtype == torch.bfloat16
    filled = perm.with_format("torch_dict", nulls="fill", fill_value=[0.5] * 12)
    assert (filled[:]["image"][1] == 0.5).all()


def test_formats_hold_pixels(table):
    perm = ll.open(table).with_decode({"image": ll.image((8, 9))})
    shape = (25, 3, 8, 9)
    tensors = perm.with_format("torch_dict")[:]["image"]
    assert (tensors.shape, tensors.dtype) == (shape, torch.uint8)
    wanted = tensors.numpy()
    arrays = perm.with_format("numpy_dict")[:]["image"]
    assert (arrays == wanted).all()
    assert (np.stack([row["image"] for row in perm[:]]) == wanted).all()
    assert (np.stack(perm.with_format("python_col")[:]["image"]) == wanted).all()
    rows = perm.with_format("torch")[:]
    assert torch.equal(torch.stack([row["image"] for row in rows]), tensors)
    column = perm.with_format("arrow")[:]["image"]
    assert (column.to_numpy_ndarray() == wanted).all()
    assert perm.to_arrow()["image"].combine_chunks().to_numpy_ndarray().shape == shape


def test_images_may_keep_their_sizes(table):
    perm = ll.open(table).with_decode({"image": ll.image()})
    for format_ in ("torch_dict", "numpy_dict", "python_col"):
        images = perm.with_format(format_)[:3]["image"]
        assert [tuple(image.shape) for image in images] == [
            (3, 40 + n, 61 - n) for n in range(3)
        ]
    wanted = by_pillow(table["image"][2].as_py()).transpose(2, 0, 1)
    assert (images[2] == wanted).all()
    cells = perm.with_format("numpy")[:3]
    assert cells.shape == (3, 2)
    assert (cells[2, 0] == wanted).all()


def test_structs_with_bytes_are_files(table):
    structs = pa.StructArray.from_arrays([table["image"].combine_chunks()], ["bytes"])
    perm = ll.open(pa.table({"image": structs})).with_decode({"image": ll.image(8)})
    wanted = ll.open(table).with_decode({"image": ll.image(8)})
    found = perm.with_format("numpy_dict")[:]["image"]
    assert (found == wanted.with_format("numpy_dict")[:]["image"]).all()


def test_functions_get_decoded_columns(table):
    perm = ll.open(table).with_format("numpy_dict")
    perm = perm.with_decode({"image": ll.image(8)}).map(
        lambda batch: {"mean": batch["image"].mean((1, 2, 3))}, batched=True
    )
    batch = perm[:4]
    np.testing.assert_allclose(batch["mean"], batch["image"].mean((1, 2, 3)))


def loaded(perm: ll.Permutation, size: int = 7, **options) -> dict[int, bytes]:
    """Return the pixels of each row, by its number."""
    options = {"shuffle": True, "seed": 5, "decode": {"image": RANDOM}} | options
    loader = perm.loader(size, format="numpy_dict", **options).set_epoch(2)
    return {
        int(number): image.tobytes()
        for batch in loader
        for number, image in zip(batch["number"], batch["image"], strict=True)
    }


def test_random_crops_depend_on_the_row_alone(table, tmp_path, monkeypatch):
    perm = ll.open(table)
    wanted = loaded(perm)
    assert len(set(wanted.values())) == 25
    assert loaded(perm, 4) == wanted
    assert loaded(perm, transform_threads=0) == wanted
    for world_size in (2, 3):
        parts = [
            loaded(perm, 3, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert {
            number: image for part in parts for number, image in part.items()
        } == wanted
    monkeypatch.setenv("LANCELOADER_DECODE_THREADS", "1")
    assert loaded(perm) == wanted
    monkeypatch.delenv("LANCELOADER_DECODE_THREADS")
    assert loaded(perm.select(range(10, 20))) == {
        number: wanted[number] for number in range(10, 20)
    }
    shuffled = perm.shuffle(5, epoch=2).with_decode({"image": RANDOM})
    for batches in (
        [shuffled.with_format("numpy_dict")[:]],
        shuffled.with_format("numpy_dict").iter(6),
    ):
        for batch in batches:
            for number, image in zip(batch["number"], batch["image"], strict=True):
                assert image.tobytes() == wanted[int(number)]
    other = loaded(perm, seed=6)
    assert all(other[number] != wanted[number] for number in range(5))
    assert loaded(perm, shuffle=False) == wanted


def test_random_crops_are_the_same_after_a_resume(table):
    options = {"shuffle": True, "seed": 5, "format": "torch_dict"}
    options["decode"] = {"image": RANDOM}
    perm = ll.open(table)
    whole = torch.cat([batch["image"] for batch in perm.loader(4, **options)])
    loader = perm.loader(4, **options)
    batches = iter(loader)
    before = [next(batches)["image"] for _ in range(3)]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    resumed = perm.loader(6, **options)
    resumed.load_state_dict(state)
    after = [batch["image"] for batch in resumed]
    assert torch.equal(torch.cat(before + after), whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_decode_the_same_pixels(tmp_path, num_workers, table):
    import lance
    from lanceloader.torch import DataLoader

    uri = str(tmp_path / "images.lance")
    lance.write_dataset(table, uri)
    perm = ll.open(uri)
    options = {"shuffle": True, "seed": 5, "format": "torch_dict"}
    options["decode"] = {"image": RANDOM}
    wanted = [batch["image"] for batch in perm.loader(4, **options)]
    workers = DataLoader(
        perm.loader(4, **options),
        num_workers=num_workers,
        multiprocessing_context="spawn",
    )
    found = [batch["image"] for batch in workers]
    assert torch.equal(torch.cat(found), torch.cat(wanted))


def test_crops_are_those_of_the_page(table):
    """A crop of ``docs/determinism.md``, cut and resized by Pillow."""
    page = determinism_page.load()
    found = loaded(ll.open(table))
    num_flipped = 0
    for place, file in enumerate(table["image"].to_pylist()):
        image = Image.open(io.BytesIO(file))
        key = page.row_key(5, 2, "image image", place)
        left, top, width, height = page.crop_of(key, image.height, image.width)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((32, 32), Image.Resampling.BILINEAR)
        if page.is_flipped(key, 0.5):
            image = ImageOps.mirror(image)
            num_flipped += 1
        ours = np.frombuffer(found[place], np.uint8).reshape(3, 32, 32)
        assert difference(ours.transpose(1, 2, 0), np.asarray(image)) <= 1
    assert 5 < num_flipped < 20


def broken_table() -> pa.Table:
    files: list[bytes | None] = [file_of(pattern(20, 30, n)) for n in range(9)]
    files[2] = file_of(smooth(60, 80), "JPEG")[:700]
    files[5] = b"no image"
    files[7] = None
    return table_of(files)


def test_a_broken_image_names_its_row_and_column():
    perm = ll.open(broken_table()).with_take(7)
    with pytest.raises(
        ImageError, match=r"`image`: a broken JPEG .* and 1 more"
    ) as raised:
        list(perm.loader(9, decode={"image": ll.image(8)}))
    assert "row offset 2" in "".join(raised.value.__notes__)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.row_in_batch) == (str(raised.value), 2)
    with pytest.raises(ImageError, match="begins with 6e 6f 20"):
        perm.with_decode({"image": ll.image(8)})[5]


@pytest.mark.parametrize("nulls", ["error", "mask"])
def test_broken_images_are_treated_as_on_error_says(nulls):
    perm = ll.open(broken_table())
    options = {"decode": {"image": RANDOM}, "format": "numpy_dict", "nulls": nulls}
    loader = perm.loader(4, on_error="skip", seed=1, **options)
    batches = list(loader)
    numbers = [n for batch in batches for n in batch["number"].tolist()]
    # A null is an error of the format, unless it is masked.
    assert numbers == [0, 1, 3, 4, 6, *([7] if nulls == "mask" else []), 8]
    if nulls == "mask":
        assert batches[1]["image_mask"].tolist() == [True, True, False]
        assert not batches[1]["image"][2].any()
    # The rows that are left have the pixels that they have in a whole batch.
    clean = ll.open(broken_table().slice(0, 2)).loader(2, seed=1, **options)
    assert (next(iter(clean))["image"] == batches[0]["image"][:2]).all()
    empty = {
        name: values[:1] * 0 if nulls == "mask" or name != "x" else values
        for name, values in batches[0].items()
    }
    filled = perm.loader(9, on_error="fill", error_value=empty, **options)
    assert len(next(iter(filled))["image"]) == 9


def test_a_bomb_is_refused():
    file = file_of(Image.new("RGB", (4000, 3000)))
    assert len(file) < 100_000
    with pytest.raises(
        ImageError, match="4000 x 3000 are more than max_pixels=1000000"
    ):
        pixels(file, 8, max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"size": 0}, ValueError, "size"),
        ({"size": (1, 2, 3)}, ValueError, "size"),
        ({"crop": "random"}, ValueError, "size"),
        ({"size": 8, "crop": "middle"}, ValueError, "crop"),
        ({"size": 8, "resize": 9}, ValueError, "resize"),
        ({"size": 8, "flip": 1.5}, ValueError, "flip"),
        ({"size": 8, "crop": "random", "scale": (0.5, 0.1)}, ValueError, "scale"),
        ({"size": 8, "crop": "random", "ratio": (0.5,)}, ValueError, "ratio"),
        ({"layout": "WHC"}, ValueError, "layout"),
        ({"interpolation": "lanczos"}, ValueError, "interpolation"),
        ({"mean": (0, 0, 0), "dtype": "uint8"}, ValueError, "dtype"),
        ({"std": (1, 0, 1)}, ValueError, "std"),
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"fill": 256}, ValueError, "fill"),
        ({"max_pixels": 0}, ValueError, "max_pixels"),
        ({"size": "8"}, TypeError, "size"),
    ],
)
def test_wrong_options_are_named(options, error, named):
    with pytest.raises(error, match=named):
        ll.image(**options)


def test_columns_that_hold_no_files_are_named(table):
    perm = ll.open(table)
    with pytest.raises(FormatError, match="number"):
        perm.with_decode({"number": ll.image(8)})
    with pytest.raises(ColumnNotFoundError, match="picture"):
        perm.loader(4, decode={"picture": ll.image(8)})
    with pytest.raises(TypeError, match=r"ll\.image"):
        perm.loader(4, decode=ll.image(8))
    with pytest.raises(TypeError, match="image"):
        perm.loader(4, decode={"image": 224})
    with pytest.raises(ValueError, match="at least one"):
        perm.loader(4, decode={})
    with pytest.raises(ValueError, match="with_transform"):
        perm.with_transform(len).with_decode({"image": ll.image(8)})


def test_options_can_be_pickled_and_compared(table):
    options = pickle.loads(pickle.dumps(RANDOM))
    assert options == RANDOM
    assert options.is_random
    perm = pickle.loads(pickle.dumps(ll.open(table).with_decode({"image": RANDOM})))
    assert perm.with_format("numpy_dict")[:2]["image"].shape == (2, 3, 32, 32)


def test_the_number_of_threads_may_be_set(monkeypatch, table):
    monkeypatch.setenv("LANCELOADER_DECODE_THREADS", "none")
    with pytest.raises(ValueError, match="LANCELOADER_DECODE_THREADS"):
        ll.open(table).with_decode({"image": ll.image(8)})[:]
