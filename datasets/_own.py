"""Examples of one's own: what y is where nobody has said it, what a model is asked for, and whose each example is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError

MOST_CLASSES = 100
"""Whole numbers with more values than this are numbers, unless they are said to be classes."""

Target = Literal["classes", "numbers"]


@dataclass(frozen=True)
class Inferred:
    """y as it is stored; what the classes were called, in order, where not 0, 1, ...; and the kind of task."""

    y: np.ndarray
    classes: int
    labels: tuple[str | int | bool, ...]
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

    Two classes make a task binary; several columns of 0 and 1 make it multilabel, a class at every position a sequence.
    `what` names y where it makes no sense, which is a DataError.
    """
    kind = y.dtype.kind
    if kind not in "biufUS":
        raise DataError(f"{what} is {y.dtype}: give numbers, texts or truth values.")
    if y.ndim > 1 and y.shape[1] == 1:
        raise DataError(f"{what} has shape {list(y.shape)}: give one y an example, [{len(y)}].")
    if kind == "f" and not np.isfinite(y).all():
        raise DataError(f"{what} has a value that is missing or not finite: leave its rows out.")
    texts = kind in "US"
    if target == "numbers" and texts:
        raise DataError(f"{what} holds texts, which are no numbers.")
    whole = not texts and (kind in "biu" or bool((y == np.round(y)).all()))
    if target == "classes" and not (texts or whole):
        raise DataError(f"{what} has fractions, which are no classes.")
    # Fractional types hold whole numbers wherever a table has a gap, so it is the values that count.
    values = np.unique(y) if texts or whole else np.empty(0)
    classes = texts or kind == "b" or (whole and len(values) <= MOST_CLASSES)
    if (y == y.flat[0]).all():
        raise DataError(f"{what} is {y.flat[0]} everywhere: there is nothing to learn.")
    if target == "numbers" or (target is None and not classes):
        return Inferred(y.astype(np.float32), 0, (), "regression")
    return _classes(y, values, what) if y.ndim == 1 else _several(y, values, what)


def several(columns: Sequence[np.ndarray], what: str, target: Target | None) -> Inferred:
    """What several columns [n] are, side by side: labels if all are of 0 and 1 or truth values, else numbers."""
    if any(column.dtype.kind not in "biuf" for column in columns):
        raise DataError(f"{what} holds texts: several targets are labels of 0 and 1, or numbers.")
    y = np.stack(columns, axis=1)
    labels = all(np.isin(column, (0, 1)).all() for column in columns)
    if target == "numbers" or (not labels and target is None):
        return inferred(y, what, "numbers")
    if not labels:
        raise DataError(f"{what} has other classes than 0 and 1, of which several targets are made.")
    return Inferred(y.astype(np.uint8), 2, (), "multilabel")


def _classes(y: np.ndarray, values: np.ndarray, what: str) -> Inferred:
    plain = values.dtype.kind in "iuf" and bool((values == np.arange(len(values))).all())
    labels = () if plain else tuple(_shortest(value) for value in values.tolist())
    found = np.searchsorted(values, y).astype(np.min_scalar_type(len(values) - 1))
    return Inferred(found, len(values), labels, "binary" if len(values) == 2 else "multiclass")


def _several(y: np.ndarray, values: np.ndarray, what: str) -> Inferred:
    """Of several columns: labels of 0 and 1, or a class 0, 1, ... at every position, -1 where none is judged."""
    if y.dtype.kind in "US" or values[0] < -1:
        raise DataError(f"{what} must be of 0 and 1, or of classes 0, 1, ... and -1 where a position is not judged.")
    if values[0] == 0 and values[-1] == 1:
        return Inferred(y.astype(np.uint8), 2, (), "multilabel")
    if values[-1] < 2 and values[0] == -1:
        raise DataError(f"{what} is of -1 and {int(values[-1])}: give labels as 0 and 1.")
    return Inferred(y.astype(np.int32), int(values[-1]) + 1, (), "sequence")


def _shortest(value: Any) -> Any:
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
        labels=found.labels,
    )


def _model(found: Inferred, x: np.ndarray) -> str:
    """A small one that reads such examples."""
    shape = x.shape[1:]
    if found.task == "sequence":
        return "gru"
    if len(shape) in (2, 3) and shape[0] == shape[1] and shape[0] >= 8:
        return "small_cnn" if len(shape) == 2 and x.dtype == np.uint8 else "resnet8"
    return "mlp"
