"""A quick probe of heterogeneity: how much better a linear model of a client's own is than one of all clients together.

Of each of some clients, half of the examples are to learn from and half to be scored on. Features are x, flattened,
centred and scaled as the first halves of all of them are, and projected at random where they are many. Classes are
predicted by logistic regression, numbers by ridge regression, once from everybody's first halves and once from the
client's own; both with half the sum of the squared weights as penalty.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metaleaf.data.client_store import ClientStore

CLIENTS = 100
"""Clients that are probed at most, drawn at random; always the same."""

EXAMPLES = 400
"""Examples that are used of each at most."""

FEATURES = 128
"""More are projected to so many."""

TASKS = ("multiclass", "binary", "regression", "forecast")
"""Those that linear models are probed on."""

STEPS = 50
"""Of L-BFGS, at most."""


def probe(store: ClientStore) -> dict[str, Any]:
    """What is predicted and how well, as plain values; only ``probe`` says why if nothing is.

    probe: "accuracy" of classes or "RMSE" of numbers; probe_pool, probe_own: that of everybody's model and of the
    clients' own, mean over clients; probe_gain: by how much the own are better; probe_clients: how many were probed.
    """
    if why := _unsuited(store.about["spec"]):
        return {"probe": f"none, as {why}"}
    large = np.flatnonzero(store.counts >= int(store.about["spec"]["window"]) + 2)
    chosen = np.sort(np.random.default_rng(0).choice(large, min(CLIENTS, len(large)), replace=False))
    halves = [pair for pair in (_halves(store, int(i)) for i in chosen) if all(map(len, pair))]
    if not halves:
        return {"probe": "none, as no client has two examples apart"}
    features, classes = _Features(store, [first for first, _ in halves]), bool(store.about["spec"]["classes"])
    clients = [[(features(rows), _y(store, rows)) for rows in pair] for pair in halves]
    fit = classifier if classes else ridge
    everybodys = fit(*(np.concatenate(leaves) for leaves in zip(*(first for first, _ in clients), strict=True)))
    pool = float(np.mean([_score(everybodys, *second) for _, second in clients]))
    own = float(np.mean([_score(fit(*first), *second) for first, second in clients]))
    found = {"probe": "accuracy" if classes else "RMSE", "probe_pool": pool, "probe_own": own}
    return {**found, "probe_gain": own - pool if classes else pool - own, "probe_clients": len(clients)}


def _unsuited(spec: Mapping[str, Any]) -> str:
    """Why nothing is probed; empty if something is."""
    if (task := named(spec.get("task", "multiclass"))) not in TASKS:
        return f"the task is {task}"
    if np.dtype(spec["x_dtype"]).kind in "iu" and len(spec["x_shape"]) == 1:
        return "x are symbols"
    return ""


def named(given: str | Mapping[str, Any]) -> str:
    """The name of a task or model, which may be given with options."""
    return given if isinstance(given, str) else str(given["name"])


def _halves(store: ClientStore, client: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the store to learn from and to be scored on, both in order.

    Examples that belong together are all in one half, which is drawn at random, always the same; of overlapping windows
    it is the first in the client's own order, before a gap. (An order that means nothing may still be one of classes.)
    """
    start, n, window = int(store.offsets[client]), int(store.counts[client]), int(store.about["spec"]["window"])
    if window:
        n = min(n, EXAMPLES + window)
        cut = (n - window) // 2
        return start + np.arange(cut), start + np.arange(cut + window, n)
    unit = np.arange(n) if store.groups is None else store.groups[start : start + n]
    units = np.random.default_rng(0).permutation(int(unit.max()) + 1)
    learns = np.isin(unit, units[: len(units) // 2])
    return start + np.flatnonzero(learns)[: EXAMPLES // 2], start + np.flatnonzero(~learns)[: EXAMPLES // 2]


def _y(store: ClientStore, rows: np.ndarray) -> np.ndarray:
    """Classes int64 [n], or numbers [n, outputs]."""
    y: np.ndarray = store.y[rows]
    return y.astype(np.int64) if store.about["spec"]["classes"] else y.reshape(len(y), -1).astype(float)


class _Features:
    """x of examples as a few numbers [n, features], which have the same scale in all clients."""

    def __init__(self, store: ClientStore, learning: Sequence[np.ndarray]) -> None:
        """learning: rows that decide the scale."""
        self._store = store
        count = np.maximum(sum(np.isfinite(x).sum(axis=0) for x in map(self._x, learning)), 1)
        self._mean = sum(np.nan_to_num(x).sum(axis=0) for x in map(self._x, learning)) / count
        squares = sum(np.nan_to_num((x - self._mean) ** 2).sum(axis=0) for x in map(self._x, learning))
        self._sd = np.sqrt(squares / count)
        self._sd[self._sd == 0] = 1
        d = len(self._mean)
        draw = np.random.default_rng(0).standard_normal
        self._turn = draw((d, FEATURES)) / np.sqrt(FEATURES) if d > FEATURES else None

    def _x(self, rows: np.ndarray) -> np.ndarray:
        x: np.ndarray = self._store.x[rows]
        return x.reshape(len(rows), -1).astype(float)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Those rows: what was not measured (NaN) is as the mean."""
        x: np.ndarray = np.nan_to_num((self._x(rows) - self._mean) / self._sd)
        return x if self._turn is None else x @ self._turn


Model = Callable[[np.ndarray], np.ndarray]
"""From features [n, d] to classes int64 [n] or numbers [n, outputs]."""


def classifier(x: np.ndarray, y: np.ndarray) -> Model:
    """Multinomial logistic regression of classes y [n], those that occur, on features x [n, d]."""
    from scipy.optimize import minimize  # only here: it takes long to import

    kinds, places = np.unique(y, return_inverse=True)
    inputs, n = _with_one(x), np.arange(len(y))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, len(kinds))
        logits = inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        sums = shares.sum(axis=1)
        value = np.log(sums).sum() - logits[n, places].sum() + (weights[:-1] ** 2).sum() / 2
        shares /= sums[:, None]
        shares[n, places] -= 1
        gradient = inputs.T @ shares
        gradient[:-1] += weights[:-1]
        return value, gradient.ravel()

    start = np.zeros(inputs.shape[1] * len(kinds))
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x.reshape(-1, len(kinds))
    return lambda x: kinds[(_with_one(x) @ weights).argmax(axis=1)]


def ridge(x: np.ndarray, y: np.ndarray) -> Model:
    """Linear regression of numbers y [n, outputs] on features x [n, d]."""
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    weights = np.linalg.solve(centred.T @ centred + np.eye(x.shape[1]), centred.T @ (y - y_mean))
    return lambda x: (x - x_mean) @ weights + y_mean


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.hstack([x, np.ones((len(x), 1))])


def _score(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of classes, RMSE of numbers."""
    answers = model(x)
    return float((answers == y).mean()) if y.ndim == 1 else float(np.sqrt(((answers - y) ** 2).mean()))
