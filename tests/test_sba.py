"""SBA loans: files in the publisher's formats made here, faults planted in them, and the real ones if there."""

import math
from pathlib import Path

import numpy as np
import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.dataset import Client
from metaleaf.datasets import sba
from metaleaf.datasets.sba import FEATURES, FILES, LOANS, REGIONS, SECTORS, Sba
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

HEADER = (
    "LoanNr_ChkDgt,Name,City,State,Zip,Bank,BankState,NAICS,ApprovalDate,ApprovalFY,Term,NoEmp,NewExist,CreateJob,"
    "RetainedJob,FranchiseCode,UrbanRural,RevLineCr,LowDoc,ChgOffDate,DisbursementDate,DisbursementGross,MIS_Status,"
    "ChgOffPrinGr,GrAppv,SBA_Appv"
)
LINES = (
    "1001,TOYS,GARY,IN,46401,FIRST NATIONAL,OH,451120,,1997,84,4,2,0,0,1,0,N,Y,,,60000,P I F,0,60000,48000",
    '1002,"DOE, J.",RENO,NV,89501,FIRST NATIONAL,NV,621210,,1997,60,2,1,1,7,0,1,Y,N,,,4000,CHGOFF,900,4000,2000',
    "1003,CAKES,RENO,NV,89501,FIRST NATIONAL,OH,0,,1997,7,1,0,0,0,78760,2,T,C,1-Mar-99,,5000,CHGOFF,10,5000,5000",
    "1004,NO STATUS,RENO,NV,89501,FIRST NATIONAL,OH,0,,1997,7,1,0,0,0,1,2,0,N,,,5000,,0,5000,2500",
    "1005,NO BANK,RENO,NV,89501,,,0,,1997,7,1,0,0,0,1,2,0,N,,,5000,P I F,0,5000,2500",
    "1006,PIES,GARY,IN,46401,FIRST NATIONAL,OH,722110,,1997,240,9,1,0,0,1,1,0,,,,5000,P I F,0,5000,2500",
)  # fmt: skip


def table(*lines: str) -> str:
    return "\n".join((HEADER, *(lines or LINES))) + "\n"


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(LOANS, "part", len(LINES))
    path = placed(tmp_path, "credit", FILES["part"])
    path.write_text(table())
    return path


def value(client: Client, row: int, name: str) -> float:
    return float(client.x[row, FEATURES.index(name)])


def test_a_client_is_a_bank_with_its_state(part: Path) -> None:
    found = read_file(Sba(), part)
    assert {name: (client.environment, client.y.tolist()) for name, client in found.items()} == {
        "FIRST NATIONAL, NV": ("NV", [1]),
        "FIRST NATIONAL, OH": ("OH", [0, 1, 0]),
    }, "loans 1004 and 1005 lack a status and a bank"


def test_x_is_what_was_known_at_approval(part: Path) -> None:
    found = read_file(Sba(), part)
    toys = dict(zip(FEATURES, found["FIRST NATIONAL, OH"].x[0].tolist(), strict=True))
    expected = dict.fromkeys(FEATURES, 0.0) | {
        "log amount": math.log(60000), "guaranteed share": 0.8, "log employees": math.log(5), "new business": 1,
        "not revolving": 1, "low documentation": 1, "retail": 1,
    }  # fmt: skip
    assert toys == pytest.approx(expected)
    doe = dict(zip(FEATURES, found["FIRST NATIONAL, NV"].x[0].tolist(), strict=True))
    assert doe == pytest.approx(
        dict.fromkeys(FEATURES, 0.0)
        | {
            "log amount": math.log(4000), "guaranteed share": 0.5, "log employees": math.log(3),
            "log jobs created": math.log(2), "log jobs retained": math.log(8), "existing business": 1, "urban": 1,
            "revolving": 1, "full documentation": 1, "bank of the same state": 1, "health": 1,
        }
    )  # fmt: skip


def test_what_the_file_does_not_say_is_neither_of_two(part: Path) -> None:
    cakes = read_file(Sba(), part)["FIRST NATIONAL, OH"]
    for name in ("existing business", "new business", "revolving", "low documentation", "full documentation"):
        assert value(cakes, 1, name) == 0
    assert not cakes.x[1, -20:].any(), "no sector"
    assert value(cakes, 1, "franchise") == value(cakes, 1, "rural") == 1
    assert value(cakes, 0, "franchise") == value(cakes, 2, "franchise") == 0


@pytest.mark.parametrize("column", ["ChgOffDate", "DisbursementDate", "DisbursementGross", "ChgOffPrinGr"])
def test_what_came_after_approval_changes_nothing(part: Path, column: str) -> None:
    before = read_file(Sba(term=True), part)
    place = HEADER.split(",").index(column)
    changed = [line.split(",") for line in LINES if '"' not in line]
    for fields in changed:
        fields[place] = "12345"
    kept = next(line for line in LINES if '"' in line)
    part.write_text(table(*map(",".join, changed), kept))
    after = read_file(Sba(term=True), part)
    assert all(np.array_equal(before[name].x, after[name].x) for name in before)


def test_the_term_comes_last_if_asked_for(part: Path) -> None:
    found = read_file(Sba(term=True), part)["FIRST NATIONAL, OH"]
    assert found.x[:, -1].tolist() == [84, 7, 240]
    assert np.array_equal(found.x[:, :-1], read_file(Sba(), part)["FIRST NATIONAL, OH"].x)


def test_clients_of_the_other_kinds(part: Path) -> None:
    states = read_file(Sba(client="state"), part)
    assert {name: (client.environment, len(client.y)) for name, client in states.items()} == {
        "IN": ("Midwest", 2),
        "NV": ("West", 2),
    }
    both = read_file(Sba(client="bank_state"), part)
    assert {name: (client.environment, len(client.y)) for name, client in both.items()} == {
        "FIRST NATIONAL, NV: NV": ("NV", 1),
        "FIRST NATIONAL, OH: IN": ("IN", 2),
        "FIRST NATIONAL, OH: NV": ("NV", 1),
    }


def test_the_national_file_comes_first_and_has_dollars(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 27 columns; amounts as the publisher writes them."""
    monkeypatch.setitem(LOANS, "national", 1)
    header = HEADER.replace("DisbursementGross,", "DisbursementGross,BalanceGross,").replace("\n", "")
    line = (
        '1000014003,ABC HOBBYCRAFT,EVANSVILLE,IN,47711,FIFTH THIRD BANK,OH,451120,28-Feb-97,1976A,84,4,2,0,0,1,0,N,Y,,'
        '28-Feb-99,"$60,000.00 ",$0.00 ,P I F,$0.00 ,"$60,000.00 ","$48,000.00 "'
    )  # fmt: skip
    (part.parent / FILES["national"]).write_text(f"{header}\n{line}\n")
    (client,) = read_file(Sba(), part).values()
    assert client.id == "FIFTH THIRD BANK, OH"
    assert value(client, 0, "log amount") == pytest.approx(math.log(60000))
    assert value(client, 0, "guaranteed share") == pytest.approx(0.8)
    assert len(read_file(Sba(source="part"), part)) == 2


def test_the_case_begins_with_a_mark_and_has_columns_of_its_own(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOANS, "case", 1)
    header = f"\ufeffSelected,{HEADER.replace('DisbursementGross,', 'DisbursementGross,BalanceGross,')},Default"
    fields = LINES[0].split(",")
    line = ",".join(["1", *fields[:22], "0", *fields[22:], "0"])
    (part.parent / FILES["case"]).write_text(f"{header}\r\n{line}\r\n", encoding="utf-8")
    (client,) = read_file(Sba(source="case"), part).values()
    assert client.y.tolist() == [0]


def test_regions_hold_every_state_once() -> None:
    assert len(REGIONS) == 51
    assert len(FEATURES) == 15 + len(set(SECTORS.values())) == 35


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "no column": (table().replace("GrAppv", "Approved"), "SBAnational_part.csv has 0 columns called 'GrAppv', not 1: "),
    "twice a column": (table().replace("Zip", "Term", 1), " has 2 columns called 'Term', not 1: "),
    "a field short": (table().replace(",46401", "", 1), "line 2 has 25 fields, not 26: "),
    "a number twice": (table().replace("1002,", "1001,"), "line 3: LoanNr_ChkDgt is '1001', not a number that no"),
    "cut off": (table(*LINES[:-1]), " has 5 loans, not 6: it is cut off or another edition: "),
    "cut in a line": (table()[:-5], "line 7: SBA_Appv is '', not an amount of dollars: "),
    "no number": (table().replace(",84,4,", ",84,four,"), "line 2: NoEmp is 'four', not a number from 0: "),
    "below 0": (table().replace(",84,4,", ",84,-4,"), "line 2: NoEmp is '-4', not a number from 0: "),
    "a fraction": (table().replace(",84,4,", ",84,4.5,"), "line 2: NoEmp is '4.5', not a whole number: "),
    "not finite": (table().replace(",84,4,", ",84,inf,"), "line 2: NoEmp is 'inf', not a number from 0: "),
    "no dollars": (table().replace("60000,48000", "6 0000,48000"), "GrAppv is '6 0000', not an amount of dollars: "),
    "no loan": (table().replace("60000,48000", "0,48000"), "GrAppv is '0', not an amount above 0: "),
    "a status": (table().replace("CHGOFF", "LATE", 1), "MIS_Status is 'LATE', not one of P I F, CHGOFF: "),
    "a sector": (table().replace("451120", "45112x"), "NAICS is '45112x', not a code of digits: "),
    "a state": (table().replace(",IN,", ",Ind,", 1), "State is 'Ind', not two capital letters: "),
    "a quote": (table().replace("TOYS", '"TOYS'), "line 3 cannot be read ("),
    "another code": (table().replace("TOYS", "TÖYS").encode("latin-1"), " is not a UTF-8 text ("),
    "nothing": ("", " has 0 columns called 'LoanNr_ChkDgt', not 1: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(part: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(Sba(), part, content)
    assert said in found
    assert str(part) in found
    assert found.endswith("into $METALEAF_RAW/credit/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"credit: no SBAnational.csv in .*put SBAnational.csv \(the supplement"):
        list(Sba().clients(RawFiles("sba", tmp_path, download=False)))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown sba client 'bnak': did you mean 'bank'"):
        Sba(client="bnak")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown sba source"):
        Sba(source="all")  # type: ignore[arg-type]


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(part: Path, data: st.DataObject) -> None:
    check_whole_or_refused(Sba(term=True), part, data.draw(damages(table().encode())))


# The publishers' own


def test_the_part() -> None:
    raw = real("credit", FILES["part"])
    banks = read(Sba(source="part"), raw)
    sizes = [len(client.y) for client in banks.values()]
    assert (len(banks), sum(sizes), sum(n >= 10 for n in sizes), max(sizes)) == (1657, 22_304, 174, 5712)
    assert sum(int(client.y.sum()) for client in banks.values()) == 4_690
    assert len({client.environment for client in banks.values()}) == 52
    assert len({name.rsplit(", ", 1)[0] for name in banks}) == 1338
    states = read(Sba(source="part", client="state"), raw)
    assert (len(states), min(len(client.y) for client in states.values())) == (51, 31)
    assert len(read(Sba(source="part", client="bank_state"), raw)) == 2447


def test_the_case() -> None:
    found = read(Sba(source="case"), real("credit", FILES["case"]))
    assert (len(found), sum(len(client.y) for client in found.values())) == (168, 2_099)
    assert sum(int(client.y.sum()) for client in found.values()) == 686


def test_constants_are_those_of_the_publisher() -> None:
    assert sba.LOANS == {"national": 899_164, "part": 22_427, "case": 2_102}
