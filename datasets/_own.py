"""Examples of one's own: what y is where nobody has said it, what a model is asked for, and whose each example is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError

MOST_CLASSES = 100
"""Whole numbers with more values than this are numbers, unless they are said to be classes."""

Target = Literal["classes", "numbers"]


@dataclass(frozen=True)
class Inferred:
    """y as it is stored; the classes' names in order, where these are not 0, 1, ...; and the kind of task."""

    y: np.ndarray
    classes: int
    labels: tuple[str, ...]
    task: str


class Own(NamedTuple):
    """All examples: clients and environments are texts [n], x [n, ...]; a client's rows are in its own order."""

    clients: np.ndarray
    environments: np.ndarray
    x: np.ndarray
    target: Inferred

    def by_client(self) -> Iterator[Client]:
        """One after the other, in the order of their first rows; DataError for one in several environments."""
        names, first, inverse = np.unique(self.clients, return_index=True, return_inverse=True)
        ends = np.cumsum(np.bincount(inverse))
        order = np.argsort(inverse, kind="stable")
        for i in np.argsort(first):
            rows = order[ends[i - 1] if i else 0 : ends[i]]
            environments = np.unique(self.environments[rows])
            if len(environments) > 1:
                raise DataError(
                    f"client {str(names[i])!r} is in several environments, {' and '.join(environments[:2])}."
                )
            yield Client(str(names[i]), str(environments[0]), self.x[rows], self.target.y[rows])


def inferred(y: np.ndarray, what: str, target: Target | None = None) -> Inferred:
    """What y [n] or [n, ...] is: texts and truth values are classes, fractions are numbers, `target` decides otherwise.

    Two classes make a task binary, several columns of them multilabel; a class at every position is a sequence. `what`
    names y where it makes no sense, which is a DataError.
    """
    kind = y.dtype.kind
    if kind not in "biufUSO":
        raise DataError(f"{what} is {y.dtype}: give numbers, texts or truth values.")
    if kind == "f" and not np.isfinite(y).all():
        raise DataError(f"{what} has a value that is missing or not finite: leave its rows out.")
    texts = kind in "USO"
    if target == "numbers" and texts:
        raise DataError(f"{what} holds texts, which are no numbers.")
    whole = not texts and (kind in "biu" or bool((y == np.round(y)).all()))
    if target == "classes" and not (texts or whole):
        raise DataError(f"{what} has fractions, which are no classes.")
    # Fractional types hold whole numbers wherever a table has a gap, so it is the values that count.
    values = np.unique(y) if texts or whole else np.empty(0)
    classes = texts or kind == "b" or (whole and len(values) <= MOST_CLASSES)
    if target == "numbers" or (target is None and not classes):
        return Inferred(y.astype(np.float32), 0, (), "regression")
    return _classes(y, values, what)


def _classes(y: np.ndarray, values: np.ndarray, what: str) -> Inferred:
    if y.ndim > 1 and values[0] == -1:  # where a position of a sequence is not judged
        return Inferred(y.astype(np.int32), int(values[-1]) + 1, (), "sequence")
    if len(values) < 2:
        raise DataError(f"{what} is {values[0]} everywhere: there is nothing to learn.")
    plain = values.dtype.kind not in "USO" and bool((values == np.arange(len(values))).all())
    labels = () if plain else tuple(str(_shortest(value)) for value in values)
    found = np.searchsorted(values, y).astype(np.min_scalar_type(len(values) - 1))
    if y.ndim == 1:
        task = "binary" if len(values) == 2 else "multiclass"
    else:
        task = "multilabel" if len(values) == 2 else "sequence"
    return Inferred(found, len(values), labels, task)


def _shortest(value: object) -> object:
    """A whole number without its point."""
    return int(value) if isinstance(value, float) else value


def spec_of(own: Own, *, ordered: bool) -> Spec:
    """The spec of these examples; where their order counts, there is a gap of one between support and query."""
    found, x = own.target, own.x
    return Spec(
        version="1.0.0",
        x_shape=x.shape[1:],
        x_dtype=str(x.dtype),
        classes=found.classes,
        model=_model(found, x),
        licence="",
        homepage="",
        citation="",
        window=int(ordered),
        task=found.task,
        y_shape=found.y.shape[1:],
        y_dtype="" if found.classes and found.y.dtype.kind == "u" else str(found.y.dtype),
    )


def _model(found: Inferred, x: np.ndarray) -> str:
    """A small one that reads such examples."""
    shape = x.shape[1:]
    if found.task == "sequence":
        return "gru"
    if len(shape) in (2, 3) and shape[0] == shape[1] and shape[0] >= 8:
        return "small_cnn" if len(shape) == 2 else "resnet8"
    return "mlp"
