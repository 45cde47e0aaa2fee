"""What is in prepared data: what x and y are, in words, and counts as plain numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metaleaf.data.client_store import ClientStore


def described(spec: Mapping[str, Any]) -> str:
    """What x and y are, and the task and model that follow from it unless a suite says otherwise."""
    x = ", ".join(map(str, ["n", *spec["x_shape"]]))
    y = ", ".join(map(str, ["n", *spec.get("y_shape", ())]))
    labels = spec.get("labels", ())
    kind = f"{spec['classes']} classes" if spec["classes"] else "numbers"
    some = ", ".join(map(str, labels[:MOST_LABELS])) + (", ..." if len(labels) > MOST_LABELS else "")
    names, order = f" ({some})" if labels else "", ", in order" if spec["window"] else ""
    task, model = (
        given if isinstance(given, str) else given["name"] for given in (spec.get("task", "multiclass"), spec["model"])
    )
    return f"x {spec['x_dtype']} [{x}]{order}, y [{y}] of {kind}{names}, task {task}, model {model}"


MOST_LABELS = 6
"""Classes whose names are listed."""


def stats(store: ClientStore) -> dict[str, Any]:
    """What is in a prepared dataset, as plain numbers.

    clients, samples, environments; mean, sd, min, median, max of the examples per client; of classes:
    classes_per_client and majority_share (the share of a client's most frequent class), averaged over clients; of
    numbers: mean and sd of clients' means, and the mean of their sds, all over the numbers of y; published: the
    authors' own clients, samples, mean, sd and their source, or None. sd is the population's (divided by n), as in
    LEAF's ``data/utils/stats.py``.
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
        **(_classes(store) if store.about["spec"]["classes"] else _numbers(store)),
        "published": store.about["spec"]["published"],
    }


def _classes(store: ClientStore) -> dict[str, float]:
    """Of what is judged only."""
    found, shares = np.empty(len(store)), np.empty(len(store))
    for i in range(len(store)):
        y = store.client(i)[1].ravel()
        per_class = np.bincount(y[y >= 0], minlength=1)
        found[i], shares[i] = np.count_nonzero(per_class), per_class.max() / max(per_class.sum(), 1)
    return {"classes_per_client": float(found.mean()), "majority_share": float(shares.mean())}


def _numbers(store: ClientStore) -> dict[str, float]:
    each = [store.client(i)[1].astype(float) for i in range(len(store))]
    means, sds = np.array([y.mean() for y in each]), np.array([y.std() for y in each])
    return {"y_mean": float(means.mean()), "y_sd_between": float(means.std()), "y_sd_within": float(sds.mean())}


def stats_table(store: ClientStore) -> str:
    """`stats` as a table of plain text, ours beside the published figures where there are any."""
    figures = stats(store)
    published = figures["published"] or {}
    shown = [key for key, value in figures.items() if isinstance(value, int | float)]
    rows = [("", "prepared", "published" if published else "")]
    rows += [(key.replace("_", " "), _number(figures[key]), _number(published.get(key))) for key in shown]
    lines = [f"{label:<20}{ours:>14}{theirs:>14}".rstrip() for label, ours, theirs in rows]
    source = [f"published: {published['source']}"] if published else []
    return "\n".join([f"{figures['name']} {figures['version']}", *lines, *source])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
