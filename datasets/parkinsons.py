"""How far Parkinson's disease has gone, from the voice over the telephone; a client is a patient.

Tsanas, Little, McSharry and Ramig, "Accurate Telemonitoring of Parkinson's Disease Progression by Noninvasive Speech
Tests", IEEE Transactions on Biomedical Engineering 57(4), 2010. 42 patients recorded themselves at home every week for
half a year, six times in a row: such a session is never divided. What is to be predicted, the points of the UPDRS, was
assessed three times and interpolated along straight lines by the authors, so that it hangs on the time of a recording
far more than on its sound: ``features="voice"`` leaves the time out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError, unknown
from metaleaf.raw.rows import Row, check_count, lines_of, rows

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

Target = Literal["motor", "total"]
Features = Literal["all", "voice"]

RECORDINGS = 5_875
PATIENTS = 42
PAUSE = 0.05
"""Days: recordings farther apart, in time, are of two sessions. Those of one are within 0.02 but for one."""

PERSON = ("age", "sex", "test_time")
VOICE = (
    "Jitter(%)", "Jitter(Abs)", "Jitter:RAP", "Jitter:PPQ5", "Jitter:DDP", "Shimmer", "Shimmer(dB)", "Shimmer:APQ3",
    "Shimmer:APQ5", "Shimmer:APQ11", "Shimmer:DDA", "NHR", "HNR", "RPDE", "DFA", "PPE",
)  # fmt: skip

_LOGS = VOICE[:12]
"""Those that are above 0 and skewed: the publisher's paper takes their logarithms, too."""

_RANGES = {"age": (18, 120), "sex": (0, 1), "test_time": (-30, 400)}
_MOST = {"motor": 108, "total": 176}
"""Points of the two scales."""

FILE = "parkinsons_updrs.data"
REMEDY = (
    f"put {FILE} (https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring) into $METALEAF_RAW/multitask/."
)


@dataclass(frozen=True)
class Parkinsons:
    """Recordings of 42 patients.

    target: "motor" (UPDRS part III, 0 to 108 points) or "total" (0 to 176). features: "all" are age, sex, days since
    recruitment and 16 measures of the voice (jitter, shimmer and NHR in logarithms), "voice" the 16 alone. future: a
    patient's support is the first sessions and the query what comes later, after a gap of six recordings; otherwise
    sessions are drawn.
    """

    target: Target = "motor"
    features: Features = "all"
    future: bool = False

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise unknown("parkinsons target", self.target, get_args(Target))
        if self.features not in get_args(Features):
            raise unknown("parkinsons features", self.features, get_args(Features))

    @property
    def columns(self) -> tuple[str, ...]:
        """What the numbers of x are."""
        return VOICE if self.features == "voice" else (*PERSON, *VOICE)

    @property
    def spec(self) -> Spec:
        """As the options have it."""
        return Spec(
            version="1.0.0",
            x_shape=(len(self.columns),),
            x_dtype="float32",
            classes=0,
            y_dtype="float32",
            task={"name": "regression", "metrics": ["mae", "rmse", "r2"], "unit": "points"},
            model="mlp",
            standardise="xy",
            grouped=True,
            window=6 if self.future else 0,
            licence="CC BY 4.0",
            homepage="https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
            citation="""@article{tsanas2010accurate,
  title = {Accurate Telemonitoring of {P}arkinson's Disease Progression by Noninvasive Speech Tests},
  author = {Tsanas, Athanasios and Little, Max A. and McSharry, Patrick E. and Ramig, Lorraine O.},
  journal = {IEEE Transactions on Biomedical Engineering},
  volume = {57},
  number = {4},
  year = {2010}
}""",
        )

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the patients by number: x float32 [n, 19 or 16], y float32 [n]; recordings in the order of time.

        The environment is the patient's sex. DataError if the file is not there, damaged, or not the whole data.
        """
        raw = raw.of("multitask")
        path = raw.require([FILE], REMEDY)
        names = ("subject#", *PERSON, "motor_UPDRS", "total_UPDRS", *VOICE)
        found: dict[int, list[list[float]]] = {}
        for row in rows(lines_of(raw, path, REMEDY), path, names, REMEDY, header=True):
            for name, (low, high) in _RANGES.items():
                row.number(name, low, high)
            first = [
                row.number("test_time"),
                row.whole("sex"),
                row.number(f"{self.target}_UPDRS", 0, _MOST[self.target]),
            ]
            x = [_value(row, name) for name in self.columns]
            found.setdefault(row.whole("subject#", 1, PATIENTS), []).append([*first, *x])
        check_count(path, sum(map(len, found.values())), RECORDINGS, "recordings", REMEDY)
        check_count(path, len(found), PATIENTS, "patients", REMEDY)
        for patient, recordings in sorted(found.items()):
            table = np.array(recordings)
            table = table[np.argsort(table[:, 0], kind="stable")]
            time, sex, y = table[:, :3].T
            if not (sex == sex[0]).all():
                raise DataError(f"{path}: patient {patient} is of both sexes: {REMEDY}")
            sessions = np.cumsum(np.diff(time, prepend=time[0]) > PAUSE)
            environment, values = "women" if sex[0] else "men", table[:, 3:].astype(np.float32)
            yield Client(f"patient {patient:02}", environment, values, y.astype(np.float32), sessions)


def _value(row: Row, name: str) -> float:
    """A number of x."""
    if name not in _LOGS:
        return row.number(name, *_RANGES.get(name, (0, 1000)))
    value = row.number(name, 0, 1000)
    if value == 0:
        raise row.fault(name, "above 0")
    return math.log(value)
