"""City traffic: the next hour on a road, in a metro station, a car park or a taxi zone; one client per place.

Four cities, each a dataset of its own with its own unit:

- Los Angeles: METR-LA (Li et al. 2018), the first week of March 2012, speeds at loop detectors every five minutes;
- Hangzhou: passengers of metro stations in January 2019, every ten minutes from 6:00 to 24:00;
- Birmingham: occupied places of car parks in autumn 2016, every half hour from 8:00 to 17:00;
- New York: taxi trips that begin in a zone, every hour of May and June 2018.

The last three are the tensors of Chen and Sun's transdim. They bear no dates: with those above, which fit what is known
of them, weekends and holidays lie where they should. An example is a window of steps and those of the hour after it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets._matlab import array
from metaleaf.datasets._numbers import lines_of, table_of
from metaleaf.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    from pathlib import Path

    from metaleaf.raw import RawFiles

Name = Literal["los_angeles", "hangzhou", "birmingham", "new_york"]


class City(NamedTuple):
    """A city's file and the days in it.

    shape: places, days, steps of a day. hour: steps of an hour. opens: the hour at which a day's first step begins.
    history: steps of a window, unless another number is asked for. gaps: 0 stands for what was not recorded.
    """

    file: str
    place: str
    shape: tuple[int, int, int]
    hour: int
    opens: int
    first: date
    history: int
    unit: str
    gaps: bool
    licence: str

    @property
    def all_day(self) -> bool:
        """Whether there is no night without records."""
        return self.shape[2] == 24 * self.hour


CITIES = {
    "los_angeles": City(
        "los_speed.csv", "sensor", (207, 7, 288), 12, 0, date(2012, 3, 1), 12, "mph", False,
        "none stated with this copy; recorded by Los Angeles Metro",
    ),
    "hangzhou": City(
        "hangzhou_tensor.mat", "station", (80, 25, 108), 6, 6, date(2019, 1, 1), 12, "passengers", False,
        "MIT (transdim); Tianchi competition 2019",
    ),
    "birmingham": City(
        "birmingham_tensor.mat", "car park", (30, 77, 18), 2, 8, date(2016, 10, 4), 4, "cars", True,
        "CC BY 4.0; Birmingham City Council, Open Government Licence",
    ),
    "new_york": City(
        "nyc_tensor.mat", "zone", (30, 61, 24), 1, 0, date(2018, 5, 1), 24, "trips", False,
        "MIT (transdim); NYC Taxi and Limousine Commission, public",
    ),
}  # fmt: skip

TRIPS = (30, 30, 1464)
"""New York's tensor: zones of pick-up and of drop-off, hours. A client is a zone of pick-up, whatever the drop-off."""

CHANNELS = 4
"""The quantity; sine and cosine of the time of day; whether it is Saturday or Sunday."""

FASTEST = 100
"""Miles an hour: more is no speed of METR-LA, which ends at 70."""

REMEDY = (
    "put los_speed.csv (METR-LA's first week, from https://github.com/lehaifeng/T-GCN) and the tensor.mat of Hangzhou, "
    "Birmingham and New York (https://github.com/xinychen/transdim), named hangzhou_tensor.mat, birmingham_tensor.mat "
    "and nyc_tensor.mat, into $METALEAF_RAW/traffic/."
)
LI = """@inproceedings{li2018diffusion,
  title = {Diffusion Convolutional Recurrent Neural Network: Data-Driven Traffic Forecasting},
  author = {Li, Yaguang and Yu, Rose and Shahabi, Cyrus and Liu, Yan},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""
CHEN = """@article{chen2021bayesian,
  title = {Bayesian Temporal Factorization for Multidimensional Time Series Prediction},
  author = {Chen, Xinyu and Sun, Lijun},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2021}
}"""


@dataclass(frozen=True)
class Traffic:
    """The places of one city.

    city: "los_angeles" (207 sensors), "hangzhou" (80 stations), "birmingham" (30 car parks), "new_york" (30 zones).
    history: steps of a window; 0: the city's own, which are an hour, two hours, two hours and a day. stride: steps from
    one window to the next. ConfigError for options that make no sense.
    """

    city: Name = "los_angeles"
    history: int = 0
    stride: int = 1

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(12, CHANNELS),
        x_dtype="float32",
        classes=0,
        y_shape=(12,),
        y_dtype="float32",
        model="gru",
        standardise="series",
        licence="",
        homepage="https://github.com/xinychen/transdim",
        citation=CHEN,
    )

    def __post_init__(self) -> None:
        if self.city not in CITIES:
            raise unknown("traffic city", self.city, get_args(Name))
        city = CITIES[self.city]
        _, days, steps = city.shape
        history, most = self.history or city.history, (days * steps if city.all_day else steps) - city.hour
        if not 1 <= history <= most:
            raise ConfigError(f"traffic: history is {history} steps, not from 1 to {most} in {self.city}.")
        # Windows that share no step would be split at random, the future beside the past.
        if not 1 <= self.stride < history + city.hour:
            most = history + city.hour - 1
            raise ConfigError(f"traffic: stride is {self.stride} steps, not from 1 to {most} in {self.city}.")
        spec = replace(
            self.spec,
            x_shape=(history, CHANNELS),
            y_shape=(city.hour,),
            # Windows and what follows them share steps with those that begin less than their length later.
            window=math.ceil((history + city.hour) / self.stride) - 1,
            task={"name": "forecast", "metrics": ["mae", "rmse"], "loss": "absolute", "unit": city.unit},
            licence=city.licence,
        )
        if self.city == "los_angeles":
            spec = replace(spec, homepage="https://github.com/liyaguang/DCRNN", citation=LI)
        object.__setattr__(self, "spec", spec)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the places in the file's order, in environment "<city>", called "<city>/<number or sensor's id>".

        x float32 [windows, history, 4] as in `CHANNELS`; y float32 [windows, steps of an hour], in the city's unit. In
        order of time; no window crosses a night without records, and none has a missing value. DataError if the file is
        not there, cut off or damaged.
        """
        city, (history, _) = CITIES[self.city], self.spec.x_shape
        length = history + city.hour
        when = np.stack([windows(each, city, length)[:: self.stride, :history] for each in calendar(city)], axis=2)
        names, values = series(raw, self.city)
        for name, each in zip(names, values, strict=True):
            rows = windows(each, city, length)[:: self.stride]
            whole = np.isfinite(rows).all(axis=1)
            x = np.concatenate([rows[whole, :history, None], when[whole]], axis=2)
            yield Client(
                f"{self.city}/{name}", self.city, x.astype(np.float32), rows[whole, history:].astype(np.float32)
            )


def windows(days: np.ndarray, city: City, length: int) -> np.ndarray:
    """All stretches of so many steps without a night in them, in order of time: [n, length] of values [days, steps]."""
    whole = days.reshape(1, -1) if city.all_day else days
    return np.lib.stride_tricks.sliding_window_view(whole, length, axis=1).reshape(-1, length)


def calendar(city: City) -> np.ndarray:
    """Sine and cosine of the time of day at which each step begins, and whether it is weekend; [3, days, steps]."""
    _, days, steps = city.shape
    turn = 2 * np.pi * (city.opens + np.arange(steps) / city.hour) / 24
    weekend = (city.first.weekday() + np.arange(days)) % 7 >= 5
    return np.stack([*np.broadcast_arrays(np.sin(turn), np.cos(turn), weekend[:, None].astype(float))])


def series(raw: "RawFiles", name: str) -> tuple[list[str], np.ndarray]:
    """The places' names and what was recorded there, float64 [places, days, steps]; NaN where nothing was.

    DataError as in `Traffic.clients`.
    """
    city = CITIES[name]
    path = raw.require([city.file], REMEDY)
    if name == "los_angeles":
        return _speeds(raw, path, city)
    if name == "new_york":
        tensor = _tensor(raw, path, TRIPS).sum(axis=1).reshape(city.shape)
    else:
        tensor = _tensor(raw, path, city.shape)
    if city.gaps:
        tensor[tensor == 0] = np.nan
    return [f"{city.place} {i:02}" for i in range(1, len(tensor) + 1)], tensor


def _speeds(raw: "RawFiles", path: "Path", city: City) -> tuple[list[str], np.ndarray]:
    """A line of the sensors' ids, and one for each five minutes."""
    places, days, steps = city.shape
    header, *lines = lines_of(raw, path, REMEDY) or [""]
    names = [f"{city.place} {name}" for name in header.split(",")]
    if len(set(names)) != places or not all(name.isdigit() for name in header.split(",")):
        raise DataError(f"{path} does not begin with the ids of {places} sensors: {REMEDY}")
    values = table_of(lines, path, places, REMEDY, separator=",")
    if len(values) != days * steps:
        raise DataError(f"{path} has {len(values):,} steps of five minutes instead of {days * steps:,}: {REMEDY}")
    if len(wrong := np.argwhere((values < 0) | (values > FASTEST))):
        row, column = wrong[0]
        raise DataError(
            f"{path} has a speed of {values[row, column]:g} mph at {names[column]}, step {row + 1:,}: {REMEDY}"
        )
    return names, values.T.reshape(city.shape)


def _tensor(raw: "RawFiles", path: "Path", shape: tuple[int, ...]) -> np.ndarray:
    """The counts in a MATLAB file's variable "tensor", float64."""
    tensor = array(raw, path, "tensor", shape, REMEDY)
    if len(wrong := tensor[(tensor < 0) | (tensor != np.rint(tensor))]):
        raise DataError(f"{path} has a count of {wrong[0]:g}: {REMEDY}")
    return tensor
