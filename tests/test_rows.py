"""Tables of text: what is read, and the sentence about every field that is not what it should be."""

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.errors import DataError
from metaleaf.raw import RawFiles
from metaleaf.raw.rows import Row, by_number
from metaleaf.raw.rows import table as read


def table(folder: Path, data: bytes, name: str = "t.csv", **options: object) -> list[Row]:
    path = folder / name
    path.write_bytes(data)
    return read(RawFiles("it", download=False), path, ("id", "x"), "fetch it.", **options)  # type: ignore[arg-type]


def row(x: str) -> Row:
    return Row("t.csv, line 3", "fetch it.", {"x": x})


def test_fields_by_name_with_lines_and_quotes(tmp_path: Path) -> None:
    found = table(tmp_path, '\ufeff"other","x","id"\r\n"a, ""b""",2.5,7\r\n,"",8\r\n'.encode())
    assert [list(one.fields.items()) for one in found] == [
        [("id", "7"), ("x", "2.5")],
        [("id", "8"), ("x", "")],
    ]
    assert [one.where.rsplit(" ")[-1] for one in found] == ["2", "3"]
    assert sorted(by_number(found, "id")) == [7, 8]


def test_packed_and_without_a_header(tmp_path: Path) -> None:
    [one] = table(tmp_path, gzip.compress(b"7,?\n"), "t.csv.gz", header=False)
    assert one.whole("id") == 7
    assert math.isnan(one.number("x", 0, 1, missing="?"))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"id\n1\n", r"has 0 columns called 'x', not 1: fetch it\."),
        (b"", r"has 0 columns called 'id', not 1"),
        (b"id,x\n", r"has 0 rows, not 1"),
        (b"id,x,x\n1,2,3\n", r"has 2 columns called 'x', not 1: fetch it\."),
        (b"id,x\n1\n", r"line 2 has 1 fields, not 2: fetch it\."),
        (b"id,x\n1,2\n2,3\n", r"has 2 rows, not 1: .*fetch it\."),
        (b"id,x\n1,\xff\n", r"is not a UTF-8 text \(.*utf-8.*\): fetch it\."),
        (b'id,x\n1,"2\n', r"line 2 cannot be read \(unexpected end of data\)"),
        (b'id,x\n1,"2"3\n', r"line 2 cannot be read"),
    ],
)
def test_what_is_no_such_table(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=rf"t\.csv,? {sentence}"):
        table(tmp_path, data, count=1)


def test_a_number_that_two_rows_have(tmp_path: Path) -> None:
    found = table(tmp_path, b"id,x\n1,2\n1,3\n")
    with pytest.raises(DataError, match=r"t\.csv, line 3: id is '1', not a number that no other row has: fetch it\."):
        by_number(found, "id")


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", " 1", "1e999", "0x1", "٣", "-0.1", "10.1", "1,2"])
def test_what_is_no_number_in_range(text: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv, line 3: x is .*, not a number from 0 to 10: fetch it\."):
        row(text).number("x", 0, 10)


def test_what_is_no_whole_number_or_not_known() -> None:
    with pytest.raises(DataError, match=r"line 3: x is '1\.5', not a whole number: fetch it\."):
        row("1.5").whole("x")
    with pytest.raises(DataError, match=r"line 3: x is 'b', not one of a: fetch it\."):
        row("b").text("x", {"a"})
    assert row("a").text("x", {"a"}) == "a"


@given(st.floats(0, 10))
def test_numbers_as_others_write_them(value: float) -> None:
    assert row(repr(value)).number("x", 0, 10) == value
