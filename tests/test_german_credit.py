"""German credit: files in the publisher's format made here, faults planted in them, the real one if there."""

from pathlib import Path

import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.datasets import german_credit
from metaleaf.datasets.german_credit import CODES, FILE, NUMBERS, GermanCredit
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

LINES = (
    "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1",
    "A12 48 A32 A43 5951 A61 A73 2 A92 A101 2 A121 22 A143 A152 1 A173 1 A191 A201 2",
    "A14 12 A34 A410 2096 A61 A74 2 A93 A101 3 A121 49 A143 A152 1 A172 2 A191 A201 1",
)


def table(*lines: str) -> str:
    return "\n".join(lines or LINES) + "\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(german_credit, "LOANS", len(LINES))
    path = placed(tmp_path, "credit", FILE)
    path.write_text(table())
    return path


def test_a_client_is_a_purpose(file: Path) -> None:
    found = read_file(GermanCredit(), file)
    assert {name: (client.environment, client.y.tolist()) for name, client in found.items()} == {
        "radio and television": ("household", [0, 1]),
        "others": ("other", [0]),
    }
    x = found["radio and television"].x[0]
    assert x[: len(NUMBERS)].tolist() == [6, 1169, 4, 4, 67, 2, 1]
    codes = [code for codes in CODES.values() for code in codes]
    marked = [code for code, mark in zip(codes, x[len(NUMBERS) :].tolist(), strict=True) if mark]
    assert marked == ["A11", "A34", "A65", "A75", "A93", "A101", "A121", "A143", "A152", "A173", "A192", "A201"]


FAULTS = {
    "cut off": (table(*LINES[:-1]), f"{FILE} has 2 loans, not 3: it is cut off or another edition: "),
    "cut in a line": (table()[:-4], "line 3 has 20 fields, not 21: "),
    "a code": (
        table().replace("A75", "A76"),
        "line 1: employment since is 'A76', not one of A71, A72, A73, A7",
    ),
    "a purpose": (table().replace("A410", "A411"), "line 3: purpose is 'A411', not one of A40, A41, "),
    "no number": (table().replace(" 1169 ", " much "), "line 1: amount is 'much', not a number from 1 to 1e+06: "),
    "an age": (table().replace(" 67 ", " 7 "), "line 1: age is '7', not a number from 18 to 120: "),
    "a risk": (table()[:-2] + "3\n", "line 3: risk is '3', not a number from 1 to 2: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(GermanCredit(), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/credit/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"credit: no {FILE} in .*https://archive.ics.uci.edu/dataset/144/"):
        list(GermanCredit().clients(RawFiles("german_credit", tmp_path, download=False)))


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    check_whole_or_refused(GermanCredit(), file, data.draw(damages(table().encode())))


def test_the_real_file() -> None:
    found = read(GermanCredit(), real("credit", FILE))
    sizes = {name: len(client.y) for name, client in found.items()}
    assert sizes == {
        "new car": 234, "used car": 103, "furniture": 181, "radio and television": 280, "appliances": 12,
        "repairs": 22, "education": 50, "retraining": 9, "business": 97, "others": 12,
    }  # fmt: skip
    assert sum(int(client.y.sum()) for client in found.values()) == 300
