"""What is in prepared data: what x and y are, in words, and counts and heterogeneity as plain numbers."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from metaleaf.data.client_store import ClientStore
from metaleaf.data.probe import named, probe


def described(spec: Mapping[str, Any]) -> str:
    """What x and y are, and the task and model that follow from it unless a suite says otherwise."""
    x = ", ".join(map(str, ["n", *spec["x_shape"]]))
    y = ", ".join(map(str, ["n", *spec.get("y_shape", ())]))
    labels = spec.get("labels", ())
    kind = f"{spec['classes']} classes" if spec["classes"] else "numbers"
    some = ", ".join(map(str, labels[:MOST_LABELS])) + (", ..." if len(labels) > MOST_LABELS else "")
    names, order = f" ({some})" if labels else "", ", in order" if spec["window"] else ""
    task, model = (named(given) for given in (spec.get("task", "multiclass"), spec["model"]))
    return f"x {spec['x_dtype']} [{x}]{order}, y [{y}] of {kind}{names}, task {task}, model {model}"


MOST_LABELS = 6
"""Classes whose names are listed."""


def stats(store: ClientStore, *, probed: bool = True) -> dict[str, Any]:
    """What is in a prepared dataset, as plain numbers.

    clients, samples, environments; mean, sd, min, median, max and Gini coefficient of the examples per client; of
    classes (of several labels, how often each occurs): classes_per_client and majority_share (the share of a client's
    most frequent class), averaged over clients; label_entropy in bits, averaged over clients, and pool_entropy, of all
    examples; label_distance, the Jensen-Shannon distance (0 to 1) of clients' shares of classes to those of all
    examples, averaged over clients and, weighted_distance, over examples; of numbers: mean and sd of clients' means,
    and the mean of their sds, all over the numbers of y; what `metaleaf.data.probe.probe` finds, if `probed`;
    published: the authors' own clients, samples, mean, sd and their source, or None. sd is the population's (divided by
    n), as in LEAF's ``data/utils/stats.py``.
    """
    counts = store.counts
    return {
        "name": store.about["name"],
        "version": store.about["version"],
        "clients": len(store),
        "samples": int(counts.sum()),
        "environments": len(np.unique(store.environments)),
        "mean": float(counts.mean()),
        "sd": float(counts.std()),
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "gini": _gini(counts),
        **(label_figures(store) if store.about["spec"]["classes"] else _numbers(store)),
        **(probe(store) if probed else {}),
        "published": store.about["spec"]["published"],
    }


def _gini(sizes: np.ndarray) -> float:
    """0 where all are alike, towards 1 where one has everything."""
    n, ordered = len(sizes), np.sort(sizes)
    return float(2 * (np.arange(1, n + 1) @ ordered) / (n * ordered.sum()) - (n + 1) / n)


def label_figures(store: ClientStore) -> dict[str, float]:
    """What `stats` says of classes: of what is judged only, and of the clients who have any of it."""
    pool = sum(counts.sum(axis=0) for counts in label_counts(store))
    everybodys = pool / max(pool.sum(), 1)
    blocks = [_of_clients(counts[counts.any(axis=1)], everybodys) for counts in label_counts(store)]
    examples, found, majority, entropy, distance = np.concatenate(blocks, axis=1)
    return {
        "classes_per_client": float(found.mean()),
        "majority_share": float(majority.mean()),
        "label_entropy": float(entropy.mean()),
        "pool_entropy": float(_entropy(everybodys)),
        "label_distance": float(distance.mean()),
        "weighted_distance": float(np.average(distance, weights=examples)),
    }


def _of_clients(counts: np.ndarray, everybodys: np.ndarray) -> np.ndarray:
    """Five numbers of each of these clients, from how often it has each class [clients, classes]."""
    examples = counts.sum(axis=1)
    shares = counts / examples[:, None]
    entropy = _entropy(shares)
    divergence = _entropy((shares + everybodys) / 2) - (entropy + _entropy(everybodys)) / 2
    distance = np.sqrt(divergence.clip(0))
    return np.stack([examples, np.count_nonzero(counts, axis=1), shares.max(axis=1), entropy, distance])


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Of distributions along the last axis, in bits."""
    found: np.ndarray = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return found


def label_counts(store: ClientStore, clients: Iterable[tuple[int, int]] | None = None) -> Iterator[np.ndarray]:
    """How often clients have each class where it is judged, or each of several labels, int64 [clients, classes].

    A block of clients after the other: those given, each from one to below another, or else all, a few megabytes each.
    """
    classes, y_shape = int(store.about["spec"]["classes"]), store.y.shape[1:]
    labels = named(store.about["spec"].get("task", "multiclass")) == "multilabel"
    columns = y_shape[0] if labels else classes
    for first, last in clients or _blocks(store, max(columns, math.prod(y_shape))):
        y, sizes = store.y[store.offsets[first] : store.offsets[last]], store.counts[first:last]
        if labels:
            yield np.add.reduceat(y, store.offsets[first:last] - store.offsets[first], dtype=np.int64)
            continue
        owner = np.repeat(np.arange(last - first), sizes * math.prod(y_shape))
        y = y.ravel().astype(np.int64)
        cells = (owner * classes + y)[y >= 0]
        yield np.bincount(cells, minlength=(last - first) * classes).reshape(-1, classes)


def _blocks(store: ClientStore, width: int) -> Iterator[tuple[int, int]]:
    """All clients, in blocks of so many of them at most, and about so many examples, as make BLOCK numbers."""
    rows, first = max(BLOCK // width, 1), 0
    while first < len(store):
        full = int(np.searchsorted(store.offsets, store.offsets[first] + rows, side="right")) - 1
        last = min(max(full, first + 1), first + rows, len(store))
        yield first, last
        first = last


BLOCK = 1 << 20
"""Numbers that are counted at once."""


def _numbers(store: ClientStore) -> dict[str, float]:
    each = (store.client(i)[1].astype(float) for i in range(len(store)))
    means, sds = np.array([(y.mean(), y.std()) for y in each]).T
    return {"y_mean": float(means.mean()), "y_sd_between": float(means.std()), "y_sd_within": float(sds.mean())}


def stats_table(store: ClientStore, *, probed: bool = True) -> str:
    """`stats` as a table of plain text, ours beside the published figures where there are any."""
    figures = stats(store, probed=probed)
    published = figures["published"] or {}
    shown = [key for key, value in figures.items() if isinstance(value, int | float)]
    rows = [("", "prepared", "published" if published else "")]
    rows += [(key.replace("_", " "), in_digits(figures[key]), in_digits(published.get(key))) for key in shown]
    lines = [f"{label:<20}{ours:>14}{theirs:>14}".rstrip() for label, ours, theirs in rows]
    probe = [f"probe: {figures['probe']}"] if "probe" in figures else []
    source = [f"published: {published['source']}"] if published else []
    return "\n".join([f"{figures['name']} {figures['version']}", *lines, *probe, *source])


def in_digits(value: float | None) -> str:
    """A figure of `stats` as people read it; empty where there is none."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{2 if abs(value) >= 1 else 3}f}"


COLUMNS = {
    "clients": "clients",
    "samples": "samples",
    "environments": "environments",
    "mean": "mean",
    "sd": "sd",
    "gini": "Gini",
    "label_entropy": "label entropy",
    "label_distance": "label distance",
    "probe": "probe",
    "probe_pool": "everybody's",
    "probe_own": "own",
}
"""Of `markdown`, by the name in `stats`."""


def markdown(stores: Iterable[ClientStore]) -> str:
    """A row of `stats` for each of several datasets, with the published counts where there are any."""
    heads = ["dataset", *COLUMNS.values(), "published clients", "published samples"]
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for figures in map(stats, stores):
        published = figures["published"] or {}
        figures["probe"] = figures["probe"].partition(",")[0]
        cells = [_cell(figures.get(key)) for key in COLUMNS]
        cells += [_cell(published.get(key)) for key in ("clients", "samples")]
        rows.append([figures["name"], *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else in_digits(value) or "–"
