"""C-MAPSS: how many cycles a turbofan engine has left, from what its sensors said; one client per engine.

Saxena, Goebel, Simon and Eklund, "Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation", PHM 2008:
four subsets of simulated engines, which differ in operating conditions and in the faults that end an engine. NASA's
``train`` engines run until they fail; its ``test`` engines are cut off, and a file says how long each would have run.

An example is a window of 30 cycles; y belongs to its last cycle. Windows end at every `stride`-th cycle, counted back
from the engine's last, so that the cycle on which the field scores test engines is among them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._numbers import lines_of, table_of
from metaleaf.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from metaleaf.raw import RawFiles

Subset = Literal["all", "FD001", "FD002", "FD003", "FD004"]

ENVIRONMENTS = {
    "FD001": "1 condition, 1 fault",
    "FD002": "6 conditions, 1 fault",
    "FD003": "1 condition, 2 faults",
    "FD004": "6 conditions, 2 faults",
}
"""Operating conditions and fault modes of each subset."""

COMPLETE = {
    "train_FD001.txt": (100, 20_631),
    "test_FD001.txt": (100, 13_096),
    "train_FD002.txt": (260, 53_759),
    "test_FD002.txt": (259, 33_991),
    "train_FD003.txt": (100, 24_720),
    "test_FD003.txt": (100, 16_596),
    "train_FD004.txt": (249, 61_249),
    "test_FD004.txt": (248, 41_214),
}
"""Engines and rows of NASA's files: nothing else tells one that was cut off. (Its readme swaps FD004's engines.)"""

WINDOW = 30
"""Cycles of an example, as is usual in the field."""

SOON = 30
"""Target "fault": whether the engine fails within so many cycles."""

SENSORS = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)
"""The fourteen of 21 that papers keep: 1, 5, 16, 18 and 19 never change under one condition, 6 and 10 hardly do."""

ALTITUDES = (0, 10, 20, 25, 35, 42)
"""In thousands of feet; they tell the six operating conditions apart."""

CHANNELS = 3 + len(SENSORS)
COLUMNS = 26
REMEDY = (
    "take it from CMAPSSData.zip of NASA's prognostics data repository (Turbofan Engine Degradation Simulation) again."
)
MISSING = (
    "put train_FD00x.txt, test_FD00x.txt and RUL_FD00x.txt of NASA's CMAPSSData.zip (Turbofan Engine Degradation "
    "Simulation, https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/"
    "pcoe-data-set-repository/) into $METALEAF_RAW/cmapss/."
)


class Engine(NamedTuple):
    """What was recorded of an engine: rows float64 [cycles, 26], and how many cycles it had left after the last."""

    id: str
    rows: np.ndarray
    left: int


@dataclass(frozen=True)
class Cmapss:
    """709 engines that ran to failure and 707 that were cut off, in four subsets.

    subset: "FD001" to "FD004", or "all". target: "life", the remaining cycles, at most `cap` (0: no cap); or "fault",
    whether the engine fails within 30 cycles. stride: cycles from one window to the next. relative: sensors minus the
    engine's own mean in its first 30 cycles under the same operating condition; False: as recorded.

    left_out: a subset for the track of new environments, whose engines are the test environments; then NASA's train
    engines of the other subsets are those of training, its test engines those of validation. ConfigError for options
    that make no sense.
    """

    subset: Subset = "all"
    target: Literal["life", "fault"] = "life"
    cap: int = 125
    stride: int = 5
    relative: bool = True
    left_out: str = ""

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(WINDOW, CHANNELS),
        x_dtype="float32",
        classes=0,
        y_dtype="float32",
        task={"name": "regression", "metrics": ["rmse", "nasa", "mae"], "unit": "cycles"},
        model="cnn1d",
        standardise="xy",
        licence="work of the US government, free to use",
        homepage="https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/pcoe-data-set-repository/",
        citation="""@inproceedings{saxena2008damage,
  title = {Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation},
  author = {Saxena, Abhinav and Goebel, Kai and Simon, Don and Eklund, Neil},
  booktitle = {International Conference on Prognostics and Health Management},
  year = {2008}
}
@misc{saxena2008turbofan,
  title = {Turbofan Engine Degradation Simulation Data Set},
  author = {Saxena, Abhinav and Goebel, Kai},
  howpublished = {NASA Ames Prognostics Data Repository},
  year = {2008}
}""",
    )

    def __post_init__(self) -> None:
        if self.subset not in get_args(Subset):
            raise unknown("cmapss subset", self.subset, get_args(Subset))
        if self.target not in ("life", "fault"):
            raise unknown("cmapss target", self.target, ("life", "fault"))
        if self.left_out and self.left_out not in ENVIRONMENTS:
            raise unknown("cmapss subset", self.left_out, ENVIRONMENTS)
        if self.left_out and self.subset != "all":
            raise ConfigError(f"cmapss: left_out = {self.left_out!r} needs all subsets, and subset is {self.subset!r}.")
        # Windows that share no cycle would be split at random, a late life beside an early one.
        if not 1 <= self.stride < WINDOW:
            raise ConfigError(f"cmapss: stride is {self.stride}, not from 1 to {WINDOW - 1}.")
        if self.cap < 0:
            raise ConfigError(f"cmapss: cap is {self.cap}; give cycles, or 0 for none.")
        # Windows share cycles with those that end less than a window later.
        spec = replace(self.spec, window=math.ceil(WINDOW / self.stride) - 1)
        if self.target == "fault":
            task = {"name": "binary", "metrics": ["auc", "average_precision", "accuracy"]}
            spec = replace(spec, task=task, classes=2, y_dtype="", standardise="x")
        object.__setattr__(self, "spec", spec)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield clients "<subset>/<train or test>/<number>", subset by subset, first train, in the files' order.

        x float32 [windows, 30, 17]: three operating settings and fourteen sensors; y float32 [windows], in cycles, or
        uint8. Windows are in order of time; an engine of less than 30 cycles has none. x is NaN where a condition was
        not met in the first 30 cycles. DataError if a file is missing, cut off or damaged.
        """
        for subset in ENVIRONMENTS if self.subset == "all" else (self.subset,):
            for part in "train", "test":
                for engine in engines(raw, subset, part):
                    yield self._client(engine, self._environment(subset, part))

    def _environment(self, subset: str, part: str) -> str:
        if not self.left_out:
            return ENVIRONMENTS[subset]
        if subset == self.left_out:
            return f"test/{subset} {part}"
        return f"{'train' if part == 'train' else 'validation'}/{subset}"

    def _client(self, engine: Engine, environment: str) -> Client:
        cycles = len(engine.rows)
        channels = np.concatenate([engine.rows[:, 2:5], sensors(engine.rows, self.relative)], axis=1)
        last = np.arange(cycles - 1, WINDOW - 2, -self.stride)[::-1]
        x = channels[last[:, None] + np.arange(1 - WINDOW, 1)].astype(np.float32)
        life = engine.left + cycles - 1 - last
        if self.target == "fault":
            return Client(engine.id, environment, x, (life <= SOON).astype(np.uint8))
        return Client(engine.id, environment, x, np.minimum(life, self.cap or np.inf).astype(np.float32))


def sensors(rows: np.ndarray, relative: bool) -> np.ndarray:
    """The fourteen sensors [cycles, 14] of an engine's rows [cycles, 26].

    relative: minus the mean of the engine's first 30 cycles under the same condition, NaN where there is none. A new
    engine is taken for a healthy one; its first window, which is always support, is all that this looks at.
    """
    values = rows[:, [4 + number for number in SENSORS]]
    if not relative:
        return values
    condition, found = np.rint(rows[:, 2]), np.full_like(values, np.nan)
    for each in np.unique(condition[:WINDOW]):
        here = condition == each
        found[here] = values[here] - values[:WINDOW][here[:WINDOW]].mean(axis=0)
    return found


def engines(raw: "RawFiles", subset: str, part: str) -> list[Engine]:
    """The engines of NASA's file of that subset and part ("train", "test"), in its order."""
    path = raw.require([f"{part}_{subset}.txt"], MISSING)
    rows = _rows(raw, path, f"{part}_{subset}.txt")
    each = np.split(rows, np.flatnonzero(np.diff(rows[:, 0])) + 1)
    left = _left(raw, subset, len(each)) if part == "test" else [0] * len(each)
    return [Engine(f"{subset}/{part}/{i}", *pair) for i, pair in enumerate(zip(each, left, strict=True), 1)]


def _rows(raw: "RawFiles", path: "Path", name: str) -> np.ndarray:
    """All rows [n, 26] of a file: engines numbered 1, 2, ..., each engine's cycles likewise."""
    rows = table_of(lines_of(raw, path, REMEDY), path, COLUMNS, REMEDY)
    new = np.diff(rows[:, 0], prepend=np.nan) != 0
    number = np.cumsum(new)
    wanted = np.column_stack([number, np.arange(len(rows)) - np.flatnonzero(new)[number - 1] + 1])
    if len(wrong := np.flatnonzero((rows[:, :2] != wanted).any(axis=1))):
        has, due = (f"unit {unit:g} and cycle {cycle:g}" for unit, cycle in (rows[wrong[0], :2], wanted[wrong[0]]))
        raise DataError(f"{path} has {has} in row {wrong[0] + 1:,}, where {due} should be: {REMEDY}")
    if (found := (int(number[-1]), len(rows))) != COMPLETE[name]:
        has, whole = (f"{units:,} engines and {count:,} rows" for units, count in (found, COMPLETE[name]))
        raise DataError(f"{path} has {has}, the complete file {whole}: {REMEDY}")
    odd = np.abs(rows[:, 2:3] - np.array(ALTITUDES)).min(axis=1) > 0.5
    if len(wrong := np.flatnonzero(odd)):
        raise DataError(f"{path} has operating setting 1 = {rows[wrong[0], 2]:g} in row {wrong[0] + 1:,}: {REMEDY}")
    return rows


def _left(raw: "RawFiles", subset: str, engines: int) -> list[int]:
    """How many cycles each test engine had left."""
    path = raw.require([f"RUL_{subset}.txt"], MISSING)
    left = table_of(lines_of(raw, path, REMEDY), path, 1, REMEDY)[:, 0]
    if len(left) != engines:
        raise DataError(f"{path} has {len(left):,} remaining lives for {engines:,} engines: {REMEDY}")
    if len(wrong := np.flatnonzero((left < 0) | (left != np.rint(left)))):
        raise DataError(
            f"{path} has {left[wrong[0]]:g} in row {wrong[0] + 1:,}, which is no number of cycles: {REMEDY}"
        )
    return [int(value) for value in left]
