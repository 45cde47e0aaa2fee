"""Traffic of four cities in one form: the next hour at a place, from the four hours before; each city an environment.

Places and files are those of `metaleaf.datasets.traffic`. Miles an hour, passengers, cars and trips have no common
unit, so every place is measured by itself: hourly means, less the mean of its first day and in standard deviations of
that day. The day is one that lies before all examples of the place and is in none, so nothing of the future is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.datasets.traffic import CHANNELS, CHEN, CITIES, LI, City, Traffic, calendar, series, windows
from metaleaf.errors import unknown

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles

HISTORY = 4
"""Hours of a window: Birmingham's days have nine."""


@dataclass(frozen=True)
class TrafficCities:
    """347 places in four cities.

    left_out: a city for the track of new environments. Its places are those of two test environments, every other one
    of each; of the other cities every other place is for training, and the rest for validation. ConfigError for a city
    that is none of the four.
    """

    left_out: str = ""

    spec: ClassVar[Spec] = replace(
        Traffic.spec,
        version="1.0.0",
        x_shape=(HISTORY, CHANNELS),
        y_shape=(1,),
        window=HISTORY,
        task={"name": "forecast", "metrics": ["mae", "rmse"], "loss": "absolute", "unit": "sd"},
        model="mlp",
        licence="; ".join(f"{name}: {city.licence}" for name, city in CITIES.items()),
        citation=f"{LI}\n{CHEN}",
    )

    def __post_init__(self) -> None:
        if self.left_out and self.left_out not in CITIES:
            raise unknown("traffic city", self.left_out, CITIES)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the places city by city, in the files' order, called as in `Traffic`.

        x float32 [windows, 4, 4]: the quantity, sine and cosine of the time of day, weekend; y float32 [windows, 1]. In
        order of time, within a day where there is a night, and without missing hours. DataError as in `Traffic`.
        """
        files = raw.of("traffic")
        for name, city in CITIES.items():
            names, values = series(files, name)
            hourly = values.reshape(*values.shape[:2], -1, city.hour).mean(axis=3)
            times = calendar(city)[:, :, :: city.hour]
            for i, (place, hours) in enumerate(zip(names, hourly, strict=True)):
                yield Client(f"{name}/{place}", self._environment(name, i), *examples(hours, times, city))

    def _environment(self, city: str, place: int) -> str:
        if not self.left_out:
            return city
        if city == self.left_out:
            return f"test/{city} {place % 2 + 1}"
        return f"{('train', 'validation')[place % 2]}/{city}"


def examples(hours: np.ndarray, times: np.ndarray, city: City) -> tuple[np.ndarray, np.ndarray]:
    """x [n, 4, 4] and y [n, 1] of a place, from its hours [days, hours] and their calendar [3, days, hours].

    The first day that was recorded as a whole, and on which something changed, measures all days after it; days up to
    it make no examples.
    """
    fit = np.flatnonzero(np.isfinite(hours).all(axis=1) & (np.ptp(hours, axis=1) > 0))
    start = int(fit[0]) + 1 if len(fit) else len(hours)
    if start == len(hours):
        return np.empty((0, HISTORY, CHANNELS), np.float32), np.empty((0, 1), np.float32)
    own = hours[start - 1]
    later = (hours[start:] - own.mean()) / own.std()
    values, *when = (windows(each, city, HISTORY + 1) for each in (later, *times[:, start:]))
    whole = np.isfinite(values).all(axis=1)
    x = np.stack([values, *when], axis=2)[whole, :HISTORY]
    return x.astype(np.float32), values[whole, HISTORY:].astype(np.float32)
