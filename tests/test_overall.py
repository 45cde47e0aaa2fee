"""Several datasets of new clients in one table."""

from pathlib import Path

import pandas as pd
import pytest
from fake_records import write_suite
from latex import compile_within_a_page, needs_tex
from test_report import DIVERGED, change

from metaleaf.cli import main
from metaleaf.records.client_scores import client_scores
from metaleaf.records.records import Record, read_all
from metaleaf.report.markup import to_latex
from metaleaf.report.tables.overall import Overall, over_datasets, tables, to_frame
from metaleaf.report.tables.tables import Table
from metaleaf.statistics.comparison import MAJORITY, comparison


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three suites, each on its own dataset; the third lacks MAML."""
    algorithms = ["fedavg", "maml", "metasgd"]
    return [
        write_suite(tmp_path / "one", ["femnist"], algorithms, seeds=2, clients=20),
        write_suite(tmp_path / "two", ["shakespeare"], algorithms, seeds=2, clients=15),
        write_suite(tmp_path / "three", ["sent140"], ["fedavg", "metasgd"], seeds=2, clients=10),
    ]


def found(folders: list[Path]) -> tuple[list[Record], list[Overall], list[Table]]:
    records = read_all(Record, folders[0], also=folders[1:])
    scores = client_scores(records)
    numbers = comparison(records, scores)
    over = over_datasets(scores, numbers)
    return records, over, tables(records, scores, numbers, over)


def test_complete_algorithms_are_ranked(folders: list[Path]) -> None:
    _, over, made = found(folders[:2])
    assert [one.support for one in over] == [0.2, 0.5, 0.9]
    assert over[0].datasets == ("femnist", "shakespeare")
    assert over[0].ranking
    assert over[0].ranking.ranks == {"Meta-SGD": 1, "MAML": 2, "FedAvg": 3}
    assert over[0].ranking.blocks == 2
    first = made[0]
    assert [heading for _, heading in first.columns] == ["Algorithm", "femnist", "shakespeare", "IQM", "Rank"]
    assert [(row[0].text, row[-1].text) for row in first.rows] == [
        (MAJORITY, "–"),
        ("FedAvg", "3.0"),
        ("MAML", "2.0"),
        ("Meta-SGD", "1.0"),
    ]
    assert [row[-1].mark for row in first.rows] == ["", "", "second", "best"]
    assert [row[-2].mark for row in first.rows] == ["", "", "second", "best"]
    for fact in ("femnist: 100 rounds of 10 clients, mean over 2 seeds", "Friedman", "over 2 datasets"):
        assert fact in first.caption
    # two datasets are too few for the test of ranks
    assert "the ranks tell no two algorithms apart" in first.caption


def test_interquartile_mean_is_that_of_the_runs(folders: list[Path]) -> None:
    records, over, _ = found(folders[:2])
    runs = [r.content.scores["selected"]["0.2"].after.client_mean for r in records if r.content.algorithm == "maml"]
    value, low, high = over[0].means["MAML"]
    assert value == pytest.approx(sum(sorted(runs)[1:3]) / 2)
    assert low < value < high


def test_what_is_missing_is_said(folders: list[Path]) -> None:
    (folders[1] / "shakespeare" / "fedavg").rename(folders[1].parent / "gone")
    next((folders[1].parent / "gone").rglob("seed-1.json")).unlink()
    (folders[1].parent / "gone").rename(folders[1] / "shakespeare" / "fedavg")
    _, over, made = found(folders)
    assert over[0].lacking == {"FedAvg": "fewer seeds on shakespeare", "MAML": "no result on sent140"}
    assert over[0].ranking is None
    assert "FedAvg (fewer seeds on shakespeare); MAML (no result on sent140)" in made[0].caption
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in made[0].rows}
    assert rows["MAML"][2:] == ["–", "–", "–"]
    assert rows["FedAvg"][3:] == ["–", "–"]
    assert rows["Meta-SGD"][3] != "–"


def test_diverged_runs_are_not_ranked(folders: list[Path]) -> None:
    for path in (folders[1] / "shakespeare" / "maml").rglob("seed-*.json"):
        change(path, **DIVERGED)
    _, over, made = found(folders[:2])
    assert over[0].lacking == {"MAML": "no result on shakespeare"}
    rows = {row[0].text: row for row in made[0].rows}
    assert rows["MAML"][2].text == "diverged"
    assert rows["MAML"][1].mark


def test_one_dataset_has_no_overall_table(folders: list[Path]) -> None:
    assert found(folders[:1])[1:] == ([], [])


def test_numbers_for_further_work(folders: list[Path]) -> None:
    _, over, _ = found(folders)
    frame = to_frame(over)
    at = frame[frame["support"] == 0.5].set_index("algorithm")
    assert list(at.index) == [MAJORITY, "FedAvg", "Meta-SGD", "MAML"]
    assert at.loc["MAML", "lacks"] == "no result on sent140"
    assert at["iqm"].isna().tolist() == [False, False, False, True]
    assert at.loc[["FedAvg", "Meta-SGD"], "rank"].tolist() == [2, 1]
    assert at["friedman_p"].tolist() == [over[1].ranking.p if over[1].ranking else None] * 4


def test_command(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(folders[0]), "--also", str(folders[1]), "--output", str(tmp_path / "out")]
    assert main([*words, "--baseline", "fedavg"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("### Over datasets, 20 % support")
    assert "### shakespeare, 50 % support, difference from FedAvg" in printed
    frame = pd.read_csv(tmp_path / "out" / "overall.csv")
    assert set(frame["model"]) == {"final", "selected"}
    assert 'href="overall.csv"' in (tmp_path / "out" / "index.html").read_text()
    assert main([*words[:4], "--output", str(tmp_path / "no"), "--baseline", "mamal"]) == 2
    assert "unknown baseline 'mamal': did you mean 'maml'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@needs_tex
def test_latex_compiles_within_the_width_of_a_page(folders: list[Path], tmp_path: Path) -> None:
    compile_within_a_page(to_latex(found(folders)[2]), tmp_path)
