"""Whether what a client learns from and what it is scored on share a moment of its life: for datasets of windows."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation

Moments = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of x [n, ...] and y [n, ...], what tells the moments that each row knows of, [n, moments]."""

PROTOCOL = Protocol.model_validate({"support": 0.2, "test_supports": (0.2, 0.5, 0.9), "held_out": 0.25})


def shared(store: ClientStore, moments: Moments) -> list[str]:
    """Clients that share a moment between support and query, or between what they keep and what they hold out."""
    federation = Federation(store, PROTOCOL, seed=1)
    found, divided = [], 0
    for client in range(len(store)):
        for ours, theirs in divisions(federation, client):
            divided += 1
            x, y = store.client(client)
            if len(np.intersect1d(moments(x[ours], y[ours]), moments(x[theirs], y[theirs]))):
                found.append(str(store.ids[client]))
    assert divided, "nothing was divided"
    return sorted(set(found))


def divisions(federation: Federation, client: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of the sides that have to be apart, where both have any."""
    n = int(federation.store.counts[client])
    divided = [federation.split_rows(client, support) for support in PROTOCOL.test_supports]
    if client in federation.clients["train"]:
        held = len(federation.held_out([client])[0].y)
        divided.append((np.arange(federation.size(client)), np.arange(n - held, n)))
    return ((ours, theirs) for ours, theirs in divided if len(ours) and len(theirs))


def with_gap(store: ClientStore, window: int) -> ClientStore:
    """The same store, whose spec says another number of overlapping rows: to plant a leak."""
    about: dict[str, Any] = {**store.about, "spec": {**store.about["spec"], "window": window}}
    return replace(store, about=about)
