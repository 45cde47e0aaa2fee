"""Taiwan's credit cards: files in the publisher's format made here, faults in them, the real one if there."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from damaged import FUZZ, check_whole_or_refused, damages, placed, read, read_file, real, refusal
from hypothesis import given
from hypothesis import strategies as st

from metaleaf.datasets import credit_cards
from metaleaf.datasets.credit_cards import FEATURES, FILE, CreditCards
from metaleaf.errors import ConfigError, DataError
from metaleaf.raw import RawFiles

HEADER = (
    '"ID","LIMIT_BAL","SEX","EDUCATION","MARRIAGE","AGE","PAY_0","PAY_2","PAY_3","PAY_4","PAY_5","PAY_6","BILL_AMT1",'
    '"BILL_AMT2","BILL_AMT3","BILL_AMT4","BILL_AMT5","BILL_AMT6","PAY_AMT1","PAY_AMT2","PAY_AMT3","PAY_AMT4",'
    '"PAY_AMT5","PAY_AMT6","default.payment.next.month"'
)
LINES = (
    "1,20000,2,2,1,24,2,-1,-2,0,0,0,3913,-99,0,0,0,0,0,689,0,0,0,0,1",
    "2,120000,1,1,2,25,-1,2,0,0,0,2,2682,1725,2682,3272,3455,3261,0,1000,1000,1000,0,2000,0",
    "3,90000.0,2,2,1,21,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,0",
    "4,50000,2,5,0,79,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1,1",
)


def table(*lines: str) -> str:
    return "\n".join((HEADER, *(lines or LINES))) + "\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(credit_cards, "CARDS", len(LINES))
    path = placed(tmp_path, "credit", FILE)
    path.write_text(table())
    return path


def test_clients_are_strata(file: Path) -> None:
    found = read_file(CreditCards(people=1), file)
    assert {name: (client.environment, client.y.tolist()) for name, client in found.items()} == {
        "graduate school, single, 21-25": ("graduate school", [0]),
        "other, other, 51+": ("other", [1]),
        "university, married, 21-25": ("university", [1, 0]),
    }


def test_x_of_a_card(file: Path) -> None:
    card = read_file(CreditCards(people=1), file)["university, married, 21-25"].x[0]
    expected = dict.fromkeys(FEATURES, 0.0) | {
        "log limit": math.log(20000), "age": 24, "woman": 1, "university": 1, "married": 1,
        "PAY_0 months late": 2, "PAY_2 in full": 1, "PAY_3 no use": 1,
        "log BILL_AMT1": math.log(3914), "log BILL_AMT2": -math.log(100), "log PAY_AMT2": math.log(690),
    }  # fmt: skip
    assert dict(zip(FEATURES, card.tolist(), strict=True)) == pytest.approx(expected)


def test_clients_may_be_drawn(file: Path) -> None:
    found = read_file(CreditCards(partition="iid", people=2), file)
    assert [(name, client.environment, len(client.y)) for name, client in found.items()] == [
        ("client 00000", "taiwan", 2),
        ("client 00001", "taiwan", 2),
    ]
    assert sum(int(client.y.sum()) for client in found.values()) == 2
    draws = {
        tuple(read_file(CreditCards(partition="iid", people=2, seed=seed), file)["client 00000"].x[:, 0].tolist())
        for seed in range(8)
    }
    assert len(draws) > 1, "another seed draws others"


FAULTS = {
    "no column": (table().replace("PAY_2", "PAY_1"), f"{FILE} has 0 columns called 'PAY_2', not 1: "),
    "cut off": (table(*LINES[:-1]), " has 3 cards, not 4: it is cut off or another edition: "),
    "one more": (table(*LINES, LINES[3].replace("4,", "5,", 1)), "ID is '5', not a number from 1 to 4: "),
    "cut in a line": (table()[:-8], "line 5 has 22 fields, not 25: "),
    "out of order": (table(LINES[1], LINES[0]), "line 2: ID is '2', not 1, the number of its row: "),
    "a sex": (table().replace("000,2,2,1,24", "000,3,2,1,24"), "line 2: SEX is '3', not a number from 1 to 2: "),
    "an education": (table().replace("000,2,2,1,24", "000,2,7,1,24"), "EDUCATION is '7', not a number from 0 to 6: "),
    "a marriage": (table().replace("000,2,2,1,24", "000,2,2,4,24"), "MARRIAGE is '4', not a number from 0 to 3: "),
    "an age": (table().replace("000,2,2,1,24", "000,2,2,1,20"), "AGE is '20', not a number from 21 to 120: "),
    "a delay": (table().replace("24,2,-1,", "24,2,-3,"), "PAY_2 is '-3', not a number from -2 to 9: "),
    "a limit": (table().replace("1,20000,", "1,0,"), "LIMIT_BAL is '0', not a number from 1 to 1e+09: "),
    "a payment": (table().replace(",689,", ",-689,"), "PAY_AMT2 is '-689', not a number from 0 to 1e+09: "),
    "a third answer": (table()[:-2] + "2\n", "default.payment.next.month is '2', not a number from 0 to 1: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(file: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    found = refusal(CreditCards(people=1), file, content)
    assert said in found
    assert str(file) in found
    assert found.endswith("into $METALEAF_RAW/credit/.")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"credit: no {FILE} in .*https://archive.ics.uci.edu/dataset/350/"):
        list(CreditCards().clients(RawFiles("credit_cards", tmp_path, download=False)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"partition": "iidd"}, "unknown credit_cards partition 'iidd': did you mean 'iid'"),
        ({"people": 0}, "credit_cards: people = 0 is not from 1 to 30,000."),
        ({"people": 30_001}, "credit_cards: people = 30001 is not from 1 to 30,000."),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CreditCards(**options)


@FUZZ
@given(st.data())
def test_damage_is_refused_or_harmless(file: Path, data: st.DataObject) -> None:
    check_whole_or_refused(CreditCards(people=1), file, data.draw(damages(table().encode())))


def test_the_real_file() -> None:
    raw = real("credit", FILE)
    strata = read(CreditCards(), raw)
    sizes = [len(client.y) for client in strata.values()]
    assert (len(strata), sum(sizes), sum(n >= 50 for n in sizes), max(sizes)) == (82, 30_000, 43, 2919)
    assert sum(int(client.y.sum()) for client in strata.values()) == 6_636
    assert Counter(client.environment for client in strata.values()) == {
        "graduate school": 21, "university": 21, "high school": 21, "other": 19,
    }  # fmt: skip
    drawn = read(CreditCards(partition="iid"), raw)
    assert [len(client.y) for client in drawn.values()] == [300] * 100
    assert sum(int(client.y.sum()) for client in drawn.values()) == 6_636
