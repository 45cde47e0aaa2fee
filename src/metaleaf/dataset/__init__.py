"""What a dataset plugin is: a frozen dataclass of options that can yield its clients one by one.

A complete toy dataset (one file in ``datasets/``; the file's name is the name on the command line)::

    from collections.abc import Iterator
    from dataclasses import dataclass
    from typing import ClassVar

    import numpy as np

    from metaleaf.dataset import Client, Spec
    from metaleaf.raw import RawFiles

    @dataclass(frozen=True)
    class Coins:
        '''Clients who throw coins, each with a bias of its own.'''

        people: int = 100
        throws: int = 40
        spec: ClassVar[Spec] = Spec(version="1.0.0", x_shape=(1,), x_dtype="float32", classes=2,
                                    model="logistic", licence="CC0", homepage="", citation="")

        def clients(self, raw: RawFiles) -> Iterator[Client]:
            draw = np.random.default_rng(0)
            for i in range(self.people):
                y = (draw.random(self.throws) < draw.random()).astype(np.uint8)
                yield Client(f"coin {i}", "mint", np.ones((self.throws, 1), np.float32), y)

`metaleaf.data.prepare` turns a plugin into a tensorflow-datasets builder (one record per client) and flattens that
into a `metaleaf.data.client_store.ClientStore`; training only ever sees the store. A plugin imports neither
tensorflow-datasets nor torch, so that opening prepared data stays a matter of milliseconds.

Files come from ``raw`` (`metaleaf.raw.RawFiles`), or are named by an option: where one of these changes, the prepared
data is outdated. A file that a plugin finds in another way it has to name with ``raw.use(path)``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from metaleaf.raw import RawFiles


class Client(NamedTuple):
    """One client's examples: x [n, *x_shape], y [n, *y_shape]; rows in the client's own order where it has one.

    groups (integers [n], of a spec that is ``grouped``): examples with the same number, such as the stays of one
    patient, are never divided between support, query and what is held out.
    """

    id: str
    environment: str
    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Published:
    """Figures that the data's authors published, to print beside ours."""

    clients: int
    samples: int
    mean: float
    sd: float
    source: str


@dataclass(frozen=True)
class Spec:
    """What does not depend on the options: what x and y are, the default model, provenance.

    ``model``: by its name, or ``{"name": ..., <option>: ...}``.

    ``task``: what is asked of models, by its name (`metaleaf.tasks`), or ``{"name": ..., <option>: ...}``. ``y``: one
    class an example of ``classes`` (0, 1, ...), or with ``y_shape`` several; in a signed ``y_dtype`` such as
    ``"int16"`` -1 is where none is judged. Numbers that are no classes have a ``y_dtype`` such as ``"float32"``, and 0
    classes.

    ``labels``: what the classes are called, if not 0, 1, ...; then y is no number that could be predicted as one.

    ``window`` > 0 says that examples are overlapping windows of that many positions in the client's own order,
    so that support and query have to be contiguous and ``window`` examples apart.

    ``standardise``: which floats are centred and divided by their standard deviation, both of the training clients'
    examples alone, when they are read (`metaleaf.data.federation`): "x", each of its numbers (of series, each channel);
    "xy", y too; "series", where x [window] or [window, channels] and y continue one another, x's first channel as y.
    Metrics stay in y's own unit. x may then hold NaN for what was not measured; it becomes the training clients' mean.

    ``grouped``: clients have ``groups``. ``small_model``: one of at most about 100,000 parameters with which runs take
    minutes, where ``model`` is larger. ``terms``: what the publisher forbids, which is said as data
    are prepared.
    """

    version: str
    x_shape: tuple[int, ...]
    x_dtype: str
    classes: int
    model: str | Mapping[str, Any]
    licence: str
    homepage: str
    citation: str
    window: int = 0
    published: Published | None = None
    task: str | Mapping[str, Any] = "multiclass"
    y_shape: tuple[int, ...] = ()
    y_dtype: str = ""
    labels: tuple[str | int | bool, ...] = ()
    standardise: Literal["", "x", "xy", "series"] = ""
    grouped: bool = False
    small_model: str | Mapping[str, Any] = ""
    terms: str = ""

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype that y is stored in: the smallest for the classes unless ``y_dtype`` says another."""
        return np.dtype(self.y_dtype or np.min_scalar_type(max(self.classes - 1, 0)))


class Dataset(Protocol):
    """A dataset plugin. Options are its dataclass fields; they decide where the prepared data lies.

    A dataset may also declare ``target: ClassVar[float]``, the validation score of the track "cost to target"
    (`metaleaf.statistics.cost_to_target`); one without it has no such track.
    """

    @property
    def spec(self) -> Spec:
        """What the data are: an attribute of the class, or a property where it depends on the options."""
        ...

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield every client once, in a fixed order, holding about one client in memory at a time."""
        ...


class Stage(Protocol):
    """A step of a partition (`metaleaf.partition`): a frozen dataclass of options that makes clients of clients."""

    name: ClassVar[str]

    def check(self, spec: Spec) -> None:
        """ConfigError if this makes no sense for such data."""
        ...

    def apply(self, spec: Spec, clients: Iterator[Client], raw: "RawFiles") -> Iterator[Client]:
        """Yield the clients that these become, in a fixed order."""
        ...


@dataclass(frozen=True)
class Partitioned:
    """A dataset whose clients are made of another's, stage after stage: what the option ``partition`` makes of any."""

    dataset: Dataset
    stages: tuple[Stage, ...]

    @cached_property
    def spec(self) -> Spec:
        """The dataset's, without published figures; ConfigError if a stage makes no sense for such data."""
        spec = self.dataset.spec
        for stage in self.stages:
            stage.check(spec)
        return replace(spec, published=None)

    def clients(self, raw: "RawFiles") -> Iterator[Client]:
        """Yield the clients that the last stage makes."""
        clients = self.dataset.clients(raw)
        for stage in self.stages:
            clients = stage.apply(self.spec, clients, raw)
        return clients


def parts_of(plugin: Any) -> tuple[Any, ...]:
    """The plugin itself and, of a dataset, the stages of its partition."""
    return (plugin.dataset, *plugin.stages) if isinstance(plugin, Partitioned) else (plugin,)


def options_of(plugin: Any) -> dict[str, Any]:
    """The options that make a plugin what it is: its dataclass fields and, of a dataset, its partition."""
    own, *stages = parts_of(plugin)
    partition = [{"name": stage.name, **asdict(stage)} for stage in stages]
    return {**asdict(own), "partition": partition} if stages else asdict(own)
