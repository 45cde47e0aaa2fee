"""Rules that records keep together: the same data, clients, protocol and budget, or no number can be compared."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import pandas as pd

from metaleaf.metrics import constant
from metaleaf.records.records import sums_of
from metaleaf.submission.entry import Entry

Broken = Iterator[tuple[Entry, str]]
"""The later of two records that do not agree, and why."""


def data(entries: Iterable[Entry]) -> Broken:
    """Records of one dataset (of one drawing of it) were made from the same data in the same split."""
    for first, entry in _pairs(entries):
        ours, theirs = entry.content.data, first.content.data
        for name in ("name", "data_hash", "split_hash", "clients"):
            if getattr(ours, name) != getattr(theirs, name):
                yield entry, f"data.{name} is another than in {first.where}"


def protocol(entries: Iterable[Entry]) -> Broken:
    """Records of one dataset have the same model, protocol and budget of the search."""
    for first, entry in _pairs(entries):
        for name in ("dataset", "model", "protocol"):
            if entry.content.config[name] != first.content.config[name]:
                yield entry, f"config.{name} is another than in {first.where}"
        ours, theirs = (_budget(one) for one in (entry, first))
        if ours != theirs:
            yield entry, f"the search had {ours}, that of {first.where} {theirs}"


def _budget(entry: Entry) -> str:
    tuning = entry.content.tuning or {}
    found = [f"{tuning[unit]} {unit}" for unit in ("trials", "rounds", "budget") if unit in tuning]
    return ", ".join(found) or "no trials"


def split(entries: Iterable[Entry]) -> Broken:
    """The same clients are scored, with as many support and query examples, by every algorithm and seed."""
    for first, entry in _pairs(one for one in entries if not one.clients.empty):
        yield from ((entry, what) for what in _other_split(first, entry, first.clients, entry.clients))
        if not first.participants.empty and not entry.participants.empty:
            yield from ((entry, what) for what in _other_split(first, entry, first.participants, entry.participants))


def _other_split(first: Entry, entry: Entry, its: pd.DataFrame, table: pd.DataFrame) -> Iterator[str]:
    expected, found = _split(first, its), _split(entry, table)
    if repeated := found.index[found.index.duplicated()].tolist():
        yield f"{_name(repeated[0])} has not always the same examples"
    elif difference := _difference(expected[~expected.index.duplicated()], found, first.where):
        yield difference


def _split(entry: Entry, table: pd.DataFrame) -> pd.DataFrame:
    """What was asked of whom; a row per client and support, or per client, environment and draw."""
    keys, values = (
        ["support", "client"],
        ["environment", "n_support", "n", *map(constant, sums_of(entry.content.metrics))],
    )
    if entry.config.protocol.environments:
        keys, values = ["environment", "draw", "client"], ["n"]
    return table[keys + values].drop_duplicates().set_index(keys).sort_index()


def _difference(first: pd.DataFrame, other: pd.DataFrame, where: str) -> str | None:
    if lacking := sorted(set(first.index) - set(other.index)):
        return f"lacks {_name(lacking[0])}, who is scored in {where}"
    if more := sorted(set(other.index) - set(first.index)):
        return f"has {_name(more[0])}, who is not scored in {where}"
    differs = (first != other).any(axis=1).to_numpy()
    return f"{_name(first.index[differs].tolist()[0])} has other examples than in {where}" if differs.any() else None


def _name(key: tuple[object, ...]) -> str:
    return f"the client {key[-1]} ({', '.join(str(part) for part in key[:-1])})"


def _pairs(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Every entry with the first of its federation (itself, too)."""
    ordered = sorted(entries, key=lambda entry: tuple(map(str, entry.federation)))
    for _, group in groupby(ordered, key=lambda entry: entry.federation):
        first, *others = group
        yield first, first
        for entry in others:
            yield first, entry


RULES = {"data": data, "protocol": protocol, "split": split}
