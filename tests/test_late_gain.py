"""How much better validation became at a run's end."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from fake_records import write_record

from metaleaf.records.client_scores import client_scores
from metaleaf.records.records import Record, read_record, read_records
from metaleaf.report.tables.clients import tables
from metaleaf.statistics.comparison import comparison, pairs
from metaleaf.statistics.late_gain import late_gain


def record(folder: Path, validation: dict[int, float], seed: int = 0, algorithm: str = "maml") -> Record:
    """A run of 100 rounds that was evaluated after some of them."""
    path = write_record(folder, "femnist", algorithm, seed, clients=12)
    table = path.with_suffix(".rounds.csv")
    rounds = pd.read_csv(table)
    rounds["validation_after"] = rounds["round"].map(validation)
    rounds.to_csv(table, index=False)
    return read_record(Record, path)


def test_it_is_the_last_quarter_less_the_quarter_before(tmp_path: Path) -> None:
    """Round 50 belongs to neither, 75 to the earlier one."""
    found = record(tmp_path, {0: 0.1, 50: 0.9, 60: 0.5, 75: 0.6, 90: 0.7, 100: 0.8})
    assert found.content.rounds == 100
    assert late_gain(found) == pytest.approx(0.75 - 0.55)


def test_where_lower_is_better_a_fall_is_a_gain(tmp_path: Path) -> None:
    found = record(tmp_path, {60: 3.0, 100: 2.0})
    metric = {"name": "RMSE", "total": "correct", "weight": "n", "form": "root", "higher_is_better": False, "unit": ""}
    content = json.loads(found.path.read_text()) | {"metrics": [{**metric, "low": 0.0, "high": None}]}
    found.path.write_text(json.dumps(content))
    assert late_gain(read_record(Record, found.path)) == pytest.approx(1.0)


def test_without_evaluations_it_is_not_known(tmp_path: Path) -> None:
    assert math.isnan(late_gain(record(tmp_path, {0: 0.1, 100: 0.5})))
    assert math.isnan(late_gain(record(tmp_path, {0: 0.1, 60: 0.5}, seed=1)))


def test_tables_have_the_mean_over_seeds(tmp_path: Path) -> None:
    for seed, gain in enumerate((0.01, 0.03)):
        record(tmp_path / "s", {60: 0.5, 100: 0.5 + gain}, seed)
        record(tmp_path / "s", {60: 0.5, 100: 0.46}, seed, "fedavg")
    records = read_records(tmp_path / "s")
    scores = client_scores(records)
    numbers = comparison(records, scores)
    found = numbers.set_index("algorithm")["late_gain"].groupby(level=0).first()
    assert found[["MAML", "FedAvg"]].tolist() == pytest.approx([0.02, -0.04])
    first = tables(records, scores, numbers, pairs(scores))[0]
    place = [heading for _, heading in first.columns].index("Late gain")
    shown = {row[0].text: row[place].text for row in first.rows}
    assert shown == {"Majority class": "–", "MAML": "+2.0", "FedAvg": "−4.0"}
    assert "still learning" in first.caption
