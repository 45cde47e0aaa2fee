"""Examples that belong together, such as one patient's, are never on both sides of a split."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation
from metaleaf.data.prepare import prepare, verify
from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError
from metaleaf.raw import RawFiles

COUNTS = [12, 1, 30, 7, 2, 9, 16, 5, 11, 40, 3, 8]


def groups_of(counts: list[int]) -> np.ndarray:
    """About three examples a group, in no order; the client of 7 is one group."""
    rng = np.random.default_rng(5)
    return np.concatenate([np.zeros(n) if n == 7 else rng.integers(0, max(n // 3, 1), n) for n in counts]).astype(
        np.int32
    )


def federation(seed: int = 1, groups: bool = True, **rules: Any) -> Federation:
    offsets = np.concatenate([[0], np.cumsum(COUNTS)]).astype(np.int64)
    rows = np.arange(offsets[-1])
    about = {"name": "made_up", "spec": {"window": 0}, "data_hash": "d"}
    ids = np.array([f"client{i}" for i in range(len(COUNTS))])
    x = rows[:, None].astype(np.float32)
    found = groups_of(COUNTS) if groups else None
    store = ClientStore(x, (rows % 3).astype(np.int16), offsets, ids, np.array([""] * len(ids)), about, found)
    return Federation(store, Protocol(**{"min_examples": 1, "split_seed": seed, **rules}), seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("support", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("rules", [{}, {"held_out": 0.3}, {"max_examples": 10}, {"held_out": 0.2, "max_examples": 9}])
def test_support_query_and_held_out_share_no_group(seed: int, support: float, rules: dict[str, Any]) -> None:
    found = federation(seed, **rules)
    for client, n in enumerate(COUNTS):
        own = found._groups_of(client)
        held, query = found.split_rows(client, support)
        out = found._held_rows(client)
        parts = [set(own[rows].tolist()) for rows in (held, query, out)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        rows = np.concatenate([held, query, out])
        assert len(rows) == len(set(rows.tolist())) == min(n, rules.get("max_examples", n))
        assert len(held), "every client has something to adapt on"


def test_the_cut_is_the_nearest_between_two_groups() -> None:
    found = federation()
    for client, n in enumerate(COUNTS):
        ends = found._group_ends(client)
        cut = len(found.split_rows(client, 0.5)[0])
        wanted = min(max(round(0.5 * n), 1), max(n - 1, 1))
        inner = [end for end in ends if end < n]
        assert cut == (min(inner, key=lambda end: abs(end - wanted)) if inner else n)


def test_a_client_of_one_group_has_no_query() -> None:
    held, query = federation().split_rows(3, 0.2)
    assert (len(held), len(query)) == (7, 0)


def test_episodes_are_as_the_splits_say() -> None:
    found = federation(held_out=0.3)
    for client in found.clients["train"].tolist():
        episode = found.episode(client, 1)
        held, query = found.split_rows(client, found.protocol.support)
        start = found.store.offsets[client]
        assert (episode.support.x[:, 0].numpy() - start).tolist() == held.tolist()
        assert (episode.query.x[:, 0].numpy() - start).tolist() == query.tolist()


def test_without_groups_splits_are_as_ever() -> None:
    """Every example a group of its own would give the same order."""
    plain, apart = federation(groups=False), federation()
    alone = replace(apart.store, groups=np.concatenate([np.arange(n) for n in COUNTS]).astype(np.int32))
    grouped = Federation(alone, apart.protocol, 1)
    for client in range(len(COUNTS)):
        for one, other in zip(plain.split_rows(client, 0.4), grouped.split_rows(client, 0.4), strict=True):
            assert one.tolist() == other.tolist()


@dataclass(frozen=True)
class Ward:
    """Two patients with several stays each."""

    groups: Any = (7, 7, 3)
    grouped: bool = True

    spec: ClassVar[Spec] = Spec(
        version="1.0.0",
        x_shape=(1,),
        x_dtype="float32",
        classes=2,
        model="logistic",
        licence="",
        homepage="",
        citation="",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", replace(self.spec, grouped=self.grouped))

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        groups = None if self.groups is None else np.array(self.groups)
        for i in range(3):
            yield Client(f"c{i}", "", np.ones((3, 1), np.float32), np.array([0, 1, 0]), groups)


def test_prepared_data_keep_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    folder = prepare("ward", Ward(), progress=False)
    store = verify(folder, progress=False)
    assert store.groups is not None
    assert store.groups.tolist() == [1, 1, 0] * 3
    other = verify(prepare("ward", Ward(groups=(1, 2, 3)), progress=False), progress=False)
    assert other.about["data_hash"] != store.about["data_hash"]
    np.save(folder / "groups.npy", np.zeros(9, np.int32))
    with pytest.raises(DataError, match=r"groups\.npy is damaged"):
        verify(folder, progress=False)


@pytest.mark.parametrize(
    ("ward", "words"),
    [
        (Ward(groups=None), "client 'c0' has groups none, not one whole number an example"),
        (Ward(groups=(1, 2)), r"client 'c0' has groups int64\[2\], not one whole number an example"),
        (Ward(groups=(1.0, 2.0, 3.0)), r"client 'c0' has groups float64\[3\]"),
        (Ward(grouped=False), r"client 'c0' has groups int64\[3\], not none"),
    ],
)
def test_malformed_groups_are_refused(ward: Ward, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    with pytest.raises(DataError, match=words):
        prepare("ward", ward, progress=False)
