"""Small businesses' loans that the US Small Business Administration guaranteed; a client is a bank.

Li, Mickel and Taylor, "Should This Loan be Approved or Denied?", Journal of Statistics Education 26(1), 2018. Will a
loan be charged off? x is what was known when it was approved. What came later (ChgOffDate, ChgOffPrinGr, BalanceGross,
DisbursementDate and DisbursementGross) is never read, nor is the year, which says little but which recession came next.

The term is left out unless it is asked for, since the files seem to have it as it turned out to be: of the part's
16,272 loans over whole years 4 % were charged off, of the 6,036 others 67 %.
"""

import math
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import unknown
from metaleaf.raw.rows import Row, check_count, lines_of, rows

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Whose = Literal["bank", "state", "bank_state"]
Source = Literal["auto", "national", "part", "case"]

FILES = {"national": "SBAnational.csv", "part": "SBAnational_part.csv", "case": "SBAcase.11.13.17.csv"}
LOANS = {"national": 899_164, "part": 22_427, "case": 2_102}
"""All loans of each file, also those that are left out: a file with another number is cut off."""

REMEDY = (
    "put SBAnational.csv (the supplement of https://doi.org/10.1080/10691898.2018.1434342), or SBAnational_part.csv, "
    "into $METALEAF_RAW/credit/."
)

_READ = (
    "LoanNr_ChkDgt", "State", "Bank", "BankState", "NAICS", "Term", "NoEmp", "NewExist", "CreateJob", "RetainedJob",
    "FranchiseCode", "UrbanRural", "RevLineCr", "LowDoc", "MIS_Status", "GrAppv", "SBA_Appv",
)  # fmt: skip
_STATUS: Mapping[str, int | None] = {"P I F": 0, "CHGOFF": 1, "": None}
_MONEY = re.compile(r"\$?([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(\.[0-9]+)? *")
_STATE = re.compile("[A-Z]{2}")

SECTORS: Mapping[str, str] = {
    "11": "agriculture", "21": "mining", "22": "utilities", "23": "construction", "31": "manufacturing",
    "32": "manufacturing", "33": "manufacturing", "42": "wholesale", "44": "retail", "45": "retail", "48": "transport",
    "49": "transport", "51": "information", "52": "finance", "53": "real estate", "54": "professional services",
    "55": "management", "56": "administrative services", "61": "education", "62": "health", "71": "arts",
    "72": "accommodation and food", "81": "other services", "92": "public administration",
}  # fmt: skip
"""The sector that a NAICS code begins with. Codes of 0, before 1997 the rule, have none: then all its columns are 0."""

_NAMES = tuple(dict.fromkeys(SECTORS.values()))

FEATURES = (
    "log amount", "guaranteed share", "log employees", "log jobs created", "log jobs retained", "existing business",
    "new business", "franchise", "urban", "rural", "revolving", "not revolving", "low documentation",
    "full documentation", "bank of the same state", *_NAMES,
)  # fmt: skip
"""The columns of x. Of a pair such as urban and rural both are 0 where the file says neither."""

REGIONS: Mapping[str, str] = {
    state: region
    for region, states in {
        "Northeast": "CT ME MA NH RI VT NJ NY PA",
        "Midwest": "IL IN MI OH WI IA KS MN MO NE ND SD",
        "South": "DE DC FL GA MD NC SC VA WV AL KY MS TN AR LA OK TX",
        "West": "AZ CO ID MT NV NM UT WY AK CA HI OR WA",
    }.items()
    for state in states.split()
}
"""The region of each state by the US Census Bureau."""


class _Key(NamedTuple):
    """Whose a loan is, and in which environment."""

    client: str
    environment: str


@dataclass(frozen=True)
class Sba:
    """Loans and whether they were charged off.

    client: "bank", a bank by its name and its own state, since names such as First National Bank occur in many; its
    environment is that state. "bank_state", what such a bank lent in one state, which is its environment. "state", all
    that was lent in a state; its environment is the Census region. source: "national" (all 899,164 loans), "part" (the
    first 22,427), "auto" (the first of these that is there), "case" (the authors' 2,102 Californian loans for
    teaching). term: whether the term in months is among x.
    """

    client: Whose = "bank"
    source: Source = "auto"
    term: bool = False

    def __post_init__(self) -> None:
        if self.client not in get_args(Whose):
            raise unknown("sba client", self.client, get_args(Whose))
        if self.source not in get_args(Source):
            raise unknown("sba source", self.source, get_args(Source))

    @property
    def spec(self) -> Spec:
        """One number more in x with `term`."""
        return Spec(
            version="1.0.0",
            x_shape=(len(FEATURES) + self.term,),
            x_dtype="float32",
            classes=2,
            task={"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]},
            model="mlp",
            standardise="x",
            licence="work of the US government (Small Business Administration), public",
            homepage="https://doi.org/10.1080/10691898.2018.1434342",
            citation="""@article{li2018should,
  title = {``{S}hould This Loan be Approved or Denied?'': A Large Dataset with Class Assignment Guidelines},
  author = {Li, Min and Mickel, Amy and Taylor, Stanley},
  journal = {Journal of Statistics Education},
  volume = {26},
  number = {1},
  pages = {55--66},
  year = {2018}
}""",
        )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the clients, sorted by id; x float32 [n, features], y uint8 [n], 1 where it was charged off.

        A client's loans are in the file's order, that of their numbers. Left out are loans without a status, a bank,
        its state or the business's. DataError if no file is found, or one that is damaged or not whole.
        """
        raw = raw.of("credit")
        x: dict[_Key, array[float]] = {}
        y: dict[_Key, bytearray] = {}
        for row in _loans(raw, *_source(raw, self.source)):
            status = row.one_of("MIS_Status", _STATUS)
            features = _features(row) + ([float(row.whole("Term", 0, 1200))] if self.term else [])
            if status is None or (key := _key(row, self.client)) is None:
                continue
            x.setdefault(key, array("f")).extend(features)
            y.setdefault(key, bytearray()).append(status)
        for key in sorted(x):
            own = np.array(x.pop(key), np.float32).reshape(-1, *self.spec.x_shape)
            yield Client(key.client, key.environment, own, np.frombuffer(y[key], np.uint8))


def _source(raw: "RawFiles", source: Source) -> tuple[Path, int]:
    """The file to read and how many loans it has to have."""
    found = raw.find(FILES["national"], FILES["part"]) if source == "auto" else None
    if source == "auto":
        source = "part" if found and found.name.startswith(FILES["part"]) else "national"
    return raw.require([FILES[source]], REMEDY), LOANS[source]


def _loans(raw: "RawFiles", path: Path, count: int) -> Iterator[Row]:
    """Every loan of the file; DataError for a number that occurs twice, or another count."""
    seen: set[int] = set()
    for row in rows(lines_of(raw, path, REMEDY), path, _READ, REMEDY, header=True):
        number = row.whole("LoanNr_ChkDgt", 0)
        if number in seen:
            raise row.fault("LoanNr_ChkDgt", "a number that no other loan has")
        seen.add(number)
        yield row
    check_count(path, len(seen), count, "loans", REMEDY)


def _features(row: Row) -> list[float]:
    """The numbers of `FEATURES`."""
    amount, guaranteed = _money(row, "GrAppv"), _money(row, "SBA_Appv")
    if amount == 0:
        raise row.fault("GrAppv", "an amount above 0")
    if not re.fullmatch("[0-9]+", row["NAICS"]):
        raise row.fault("NAICS", "a code of digits")
    sector = SECTORS.get(row["NAICS"][:2])
    people = [math.log1p(row.whole(name, 0)) for name in ("NoEmp", "CreateJob", "RetainedJob")]
    says = [
        row[name] == value
        for name, value in (
            ("NewExist", "1"), ("NewExist", "2"), ("UrbanRural", "1"), ("UrbanRural", "2"),
            ("RevLineCr", "Y"), ("RevLineCr", "N"), ("LowDoc", "Y"), ("LowDoc", "N"),
        )
    ]  # fmt: skip
    franchise = row.whole("FranchiseCode", 0) > 1  # 0 and 1 are no franchise
    same = row["State"] == row["BankState"]
    shown = [*says[:2], franchise, *says[2:], same, *(sector == name for name in _NAMES)]
    return [math.log(amount), guaranteed / amount, *people, *map(float, shown)]


def _money(row: Row, name: str) -> float:
    """Dollars, as in ``60000`` or ``$60,000.00``."""
    match = _MONEY.fullmatch(row[name])
    if match is None:
        raise row.fault(name, "an amount of dollars")
    return float(match[1].replace(",", "") + (match[2] or ""))


def _key(row: Row, whose: Whose) -> _Key | None:
    """Whose the loan is; None if the file does not say."""
    bank, home, state = row["Bank"].strip(), row["BankState"], row["State"]
    for name in ("State", "BankState"):
        if row[name] and not _STATE.fullmatch(row[name]):
            raise row.fault(name, "two capital letters")
    if not (bank and home and state):
        return None
    if whose == "state":
        return _Key(state, REGIONS.get(state, "elsewhere"))
    client = f"{bank}, {home}"
    return _Key(client, home) if whose == "bank" else _Key(f"{client}: {state}", state)
