"""What Hugging Face's ``datasets`` and Arrow's extension types say about columns."""

from __future__ import annotations

import json

import lance
import lanceloader as ll
import pyarrow as pa
import pytest
from lanceloader import errors
from lanceloader.cli.app import app
from lanceloader.features import features_of
from typer.testing import CliRunner

LABEL = {"_type": "ClassLabel", "names": ["cat", "dog"]}
FEATURES = {
    "label": LABEL,
    "image": {"_type": "Image"},
    "x": {"_type": "Value", "dtype": "int64"},
    "tags": {"_type": "List", "feature": LABEL},
    "old": [LABEL],
    "deep": {"inner": {"y": LABEL}},
    "many": {"_type": "ClassLabel", "names": list("abcdefg")},
}


def table():
    data = pa.table(
        {
            "label": [1, 0],
            "image": [{"bytes": b"x", "path": None}, None],
            "x": [1, 2],
            "tags": [[0], [1, 0]],
            "old": [[1], []],
            "deep": [{"inner": {"y": 1}}, None],
            "many": [6, 0],
            "other": ["a", "b"],
        }
    )
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return data.replace_schema_metadata(metadata)


@pytest.fixture(params=["memory", "lance"])
def opened(request, tmp_path):
    if request.param == "memory":
        return table()
    lance.write_dataset(table(), tmp_path / "t.lance")
    return str(tmp_path / "t.lance")


def test_features_of_columns(opened):
    perm = ll.open(opened)
    assert perm.features == FEATURES
    assert perm.select_columns({"y": "label", "other": "other"}).features == {
        "y": LABEL
    }


@pytest.mark.parametrize("column", ["label", "tags", "old"])
def test_names_of_classes(opened, column):
    assert ll.open(opened).class_names(column) == ["cat", "dog"]


def test_names_of_classes_of_a_struct(opened):
    perm = ll.open(opened)
    assert perm.class_names("deep.inner.y") == ["cat", "dog"]
    renamed = perm.select_columns({"y": "deep.inner.y"})
    assert renamed.class_names("y") == ["cat", "dog"]
    assert renamed.shuffle(seed=1).class_names("y") == ["cat", "dog"]


def test_columns_without_names(opened):
    perm = ll.open(opened)
    for column in ("image", "x", "other", "deep"):
        with pytest.raises(ValueError, match="no names of classes"):
            perm.class_names(column)
    with pytest.raises(errors.ColumnNotFoundError):
        perm.class_names("nothing")


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"info": null}', '{"info": {"features": 3}}', "{}"]
)
def test_metadata_of_others(text):
    data = pa.table({"x": [1]}).replace_schema_metadata({"huggingface": text})
    assert features_of(data.schema) == {}
    assert ll.open(data).features == {}


def test_info(opened, tmp_path):
    found = {column.name: column for column in ll.table_info(opened).columns}
    assert {name: column.feature for name, column in found.items()} == {
        "label": "ClassLabel(cat, dog)",
        "image": "Image",
        "x": None,
        "tags": "list of ClassLabel(cat, dog)",
        "old": "list of ClassLabel(cat, dog)",
        "deep": None,
        "many": "ClassLabel(a, b, c, … 7 in all)",
        "other": None,
    }
    assert found["label"].description == "int64: ClassLabel(cat, dog)"
    assert "int64: ClassLabel(cat, dog)" in ll.table_info(opened)._repr_html_()


def test_info_on_the_command_line(tmp_path):
    lance.write_dataset(table(), tmp_path / "t.lance")
    found = CliRunner().invoke(app, ["info", str(tmp_path / "t.lance")])
    assert found.exit_code == 0
    assert "ClassLabel(cat, dog)" in found.output


def test_info_of_extension_types(tmp_path):
    fields = [
        pa.field("j", pa.string(), metadata={"ARROW:extension:name": "some.json"}),
        pa.field("u", pa.uuid()),
    ]
    data = pa.table(
        [["{}"], pa.array([b"0" * 16], pa.uuid())], schema=pa.schema(fields)
    )
    lance.write_dataset(data, tmp_path / "t.lance")
    for opened in (data, str(tmp_path / "t.lance")):
        columns = ll.table_info(opened).columns
        assert [column.feature for column in columns] == ["some.json", "arrow.uuid"]


def test_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["new"])),
            "sound": datasets.Audio(),
        }
    )
    data = datasets.Dataset.from_dict(
        {"label": [1], "tags": [[0]], "sound": [None]}, features=features
    )
    lance.write_dataset(data.data.table, tmp_path / "t.lance")
    for perm in (ll.open(data), ll.open(tmp_path / "t.lance")):
        assert perm.class_names("label") == ["cat", "dog"]
        assert perm.class_names("tags") == ["new"]
        assert perm.features["sound"]["_type"] == "Audio"
