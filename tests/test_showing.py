"""What notebooks show of permutations, splits, packed documents and tables."""

from __future__ import annotations

import html.parser
import re

import lance
import lanceloader as ll
import lanceloader.permutation
import pyarrow as pa
import pytest
import tables


class Page(html.parser.HTMLParser):
    """The cells of tables, and other text; tags must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def page(value):
    return Page(value._repr_html_())


@pytest.fixture
def uri(tmp_path):
    return lance.write_dataset(tables.narrow(30), tmp_path / "t.lance").uri


@pytest.mark.parametrize("cls", [ll.Permutation, lanceloader.permutation.Permutation])
def test_a_permutation_shows_columns_rows_and_reading(uri, cls):
    perm = cls.identity(uri).shuffle(seed=1)
    found = page(perm)
    assert found.rows[0] == ["idint64", "xfloat", "ydouble", "labelint32", "namestring"]
    assert [row[0] for row in found.rows[1:]] == [str(r["id"]) for r in perm.head()]
    assert [row[4] for row in found.rows[1:]] == [r["name"] for r in perm.head()]
    assert "30 rows" in found.text
    assert "… 25 more rows" in found.text
    assert "How it is read" in found.text
    for line in perm.explain().splitlines()[:6]:
        assert line in found.text
    assert repr(perm).startswith("<Permutation of 30 rows and 5 columns of ")


def test_values_are_short_and_escaped():
    data = pa.table(
        {
            "<b>": ["<script>" * 50, None],
            "list": [list(range(100)), []],
            "bytes": [b"x" * 5000, b""],
            "number": [1 / 3, 1e300],
            "struct": [{"a": 1, "b": [0.5] * 9}, {"a": None, "b": None}],
        }
    )
    found = page(ll.open(data))
    assert found.rows[0][0] == "<b>string"
    text, numbers, size, number, struct = found.rows[1]
    assert text == "<script>" * 7 + "<scr…"
    assert numbers == "[0, 1, 2, 3, … (100)]"
    assert size == "5,000 bytes"
    assert number == "0.333333"
    assert struct == "{a: 1, b: [0.5, 0.5, 0.5, 0.5, … (9)]}"
    assert found.rows[2] == ["null", "[]", "0 bytes", "1e+300", "{a: null, b: null}"]
    assert "script" not in re.findall(r"<(\w+)", ll.open(data)._repr_html_())


def test_wide_and_empty_tables():
    wide = ll.open(pa.table({f"c{at}": [at] for at in range(33)}))
    found = page(wide)
    assert len(found.rows[0]) == 20
    assert "… 13 more columns" in found.text
    empty = page(wide.take(0))
    assert len(empty.rows) == 1
    assert "0 rows" in empty.text


def test_large_rows_are_shown_one_at_a_time(tmp_path):
    data = pa.table({"image": [b"x" * (3 << 20)] * 4})
    perm = ll.open(lance.write_dataset(data, tmp_path / "t.lance"))
    found = page(perm)
    assert found.rows[1:] == [["3,145,728 bytes"]]
    assert "… 3 more rows" in found.text


def test_functions_of_map_are_shown_by_their_results():
    perm = ll.open(pa.table({"x": range(3)})).with_format("torch_dict")
    found = page(perm.map(lambda row: {"y": row["x"] * 2}))
    assert found.rows[0] == ["xint64", "yint64"]
    assert found.rows[3] == ["2", "4"]

    def fails(row):
        raise ValueError("<not> today\nmore")

    assert "Rows cannot be read: <not> today" in page(perm.map(fails)).text


def test_splits_blocks_and_tables(uri):
    perm = ll.open(uri)
    splits = perm.split({"train": 0.9, "<val>": 0.1}, seed=1)
    assert page(splits).rows == [
        ["split", "rows", "share"],
        ["train", "27", "90.0%"],
        ["<val>", "3", "10.0%"],
    ]
    rows = page(perm.split(2, seed=1)).rows
    assert rows[1:] == [["0", "15", "50.0%"], ["1", "15", "50.0%"]]
    packed = ll.open(pa.table({"tokens": [[1, 2], [3]]})).pack(4, labels="shifted")
    found = page(packed)
    assert "num_tokens, labels" in found.text
    assert found.rows[1] == ["[1, 2]"]
    info = page(ll.table_info(uri))
    assert info.rows[0] == ["column", "type"]
    assert ["label", "int32"] in info.rows
    assert ["num rows", "30"] in info.rows
