"""Cost to target: the first evaluated round that is good enough, and what had been spent by then."""

from pathlib import Path

import pandas as pd
import pytest
from fake_records import write_record, write_suite

from metaleaf import registry
from metaleaf.errors import DataError
from metaleaf.records.records import read_records
from metaleaf.statistics.cost_to_target import cost_to_target, target_of


def _validated(path: Path, scores: dict[int, float]) -> None:
    """Give a record's table of rounds these validation accuracies and no others."""
    table = path.with_suffix(".rounds.csv")
    rounds = pd.read_csv(table)
    rounds["validation_after"] = rounds["round"].map(scores)
    rounds.to_csv(table, index=False)


def test_the_first_evaluated_round_at_the_target_counts(tmp_path: Path) -> None:
    _validated(write_record(tmp_path, "femnist", "maml", 1), {10: 0.4, 30: 0.5, 60: 0.6, 90: 0.5})
    [row] = cost_to_target(read_records(tmp_path), 0.5).to_dict("records")
    assert row == {
        "dataset": "femnist",
        "name": "MAML",
        "seed": 1,
        "reached": True,
        "rounds": 30,
        "bytes": 30 * 10 * 26_000_000 * 2,
        "flops": 30 * 4e11 * 2.4,
        "resolution": 20,
    }
    [late] = cost_to_target(read_records(tmp_path), 0.55).to_dict("records")
    assert (late["rounds"], late["resolution"]) == (60, 30)
    [first] = cost_to_target(read_records(tmp_path), 0.1).to_dict("records")
    assert (first["rounds"], first["resolution"]) == (10, 10), "before the first evaluation nothing is known"


def test_a_run_that_never_gets_there_or_diverged_has_no_cost(tmp_path: Path) -> None:
    _validated(write_record(tmp_path, "femnist", "maml", 1), {10: 0.4})
    _validated(write_record(tmp_path, "femnist", "maml", 2, status="diverged", scores={}), {10: 0.9})
    found = cost_to_target(read_records(tmp_path), 0.5)
    assert not found["reached"].any()
    assert found[["rounds", "bytes", "flops", "resolution"]].isna().all(axis=None)


def test_a_row_per_record_in_their_order(tmp_path: Path) -> None:
    records = read_records(write_suite(tmp_path, ("femnist", "sent140"), ("reptile", "local"), seeds=2))
    found = cost_to_target(records, 0.5)
    assert list(found["seed"]) == [record.content.seed for record in records]
    assert list(found["dataset"]) == [record.content.dataset for record in records]
    assert list(found.columns) == list(cost_to_target([], 0.5).columns)


def test_a_table_without_costs_is_named(tmp_path: Path) -> None:
    table = write_record(tmp_path, "femnist", "maml", 1).with_suffix(".rounds.csv")
    pd.read_csv(table).drop(columns="bytes_up").to_csv(table, index=False)
    with pytest.raises(DataError, match=r"rounds\.csv lacks the column 'bytes_up'"):
        cost_to_target(read_records(tmp_path), 0.5)


def test_targets_are_the_datasets_own() -> None:
    declared = {name: target for name in registry.names("datasets") if (target := target_of(name)) is not None}
    assert set(declared) >= {"femnist", "synthetic"}
    assert all(0 < target < 1 for target in declared.values())
    assert target_of("synthetic_environments") is None, "not inherited: on this track nothing is reached"
    assert target_of("nonesuch") is None
