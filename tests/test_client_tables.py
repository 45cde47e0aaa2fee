"""Records of new clients -> comparison, pairs, and their tables, on made-up records."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from fake_records import write_record, write_suite
from latex import compile_within_a_page, needs_tex
from test_report import DIVERGED, EVIL, change

from metaleaf.errors import ConfigError, DataError
from metaleaf.records.client_scores import Setting, client_scores
from metaleaf.records.records import Model, Record, read_records
from metaleaf.report import client_report
from metaleaf.report.markup import to_csv, to_latex, to_markdown
from metaleaf.report.tables import clients as client_tables
from metaleaf.report.tables.tables import Cell, Field, Table, amount_cell, lay_out
from metaleaf.statistics.comparison import MAJORITY, WITH_INTERVAL, comparison, pairs
from metaleaf.statistics.paired import compare


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "small"
    return write_suite(folder, ["femnist"], ["fedavg", "local", "maml"], seeds=2, clients=20)


@pytest.fixture(scope="module")
def records(suite: Path) -> list[Record]:
    return read_records(suite)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """One record on its own, to be changed."""
    return write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)


def numbers_of(records: list[Record], model: Model = "selected") -> pd.DataFrame:
    return comparison(records, client_scores(records, model), model)


def tables_of(records: list[Record], model: Model = "selected", baseline: str | None = None) -> list[Table]:
    """At each support fraction the comparison and, where there are two algorithms, the pairs."""
    scores = client_scores(records, model)
    numbers = comparison(records, scores, model)
    return client_tables.tables(records, scores, numbers, pairs(scores, model), baseline)


def column(table: Table, heading: str) -> dict[str, Cell]:
    at = [text for _, text in table.columns].index(heading)
    return {row[0].text: row[at] for row in table.rows}


def copy_of(path: Path, label: str, title: str) -> Path:
    """The same run as that of another algorithm."""
    folder = path.parents[2] / label / "c0ffee"
    folder.mkdir(parents=True)
    for kind in (".json", ".clients.csv", ".rounds.csv"):
        (folder / (path.stem + kind)).write_text(path.with_suffix(kind).read_text())
    change(folder / path.name, algorithm=label, title=title, config_hash="c0ffee")
    return folder / path.name


class TestComparison:
    def test_means(self, records: list[Record]) -> None:
        frame = numbers_of(records, "final")
        assert frame["algorithm"].tolist() == [MAJORITY, "FedAvg", "Local", "MAML"] * 3
        maml = frame[(frame["algorithm"] == "MAML") & (frame["support"] == 0.5)].iloc[0]
        seeds = [r.content.scores["final"]["0.5"] for r in records if r.content.algorithm == "maml"]
        accuracies = [s.after.pooled for s in seeds]
        assert maml["after_pooled_mean"] == pytest.approx(sum(accuracies) / 2)
        assert maml["after_pooled_sd"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / math.sqrt(2))
        assert maml["before_pooled_mean"] == pytest.approx(sum(s.before.pooled for s in seeds) / 2)
        assert maml["bytes"] == 2 * 100 * 10 * 26_000_000
        baseline = frame[(frame["algorithm"] == MAJORITY) & (frame["support"] == 0.5)].iloc[0]
        assert baseline["after_pooled_mean"] == pytest.approx(sum(s.majority.pooled for s in seeds) / 2)
        assert math.isnan(baseline["before_pooled_mean"])
        assert math.isnan(baseline["before_pooled_low"])

    def test_intervals_hold_their_means(self, records: list[Record]) -> None:
        frame = numbers_of(records).set_index("algorithm")
        for metric in WITH_INTERVAL:
            rows = frame.drop(MAJORITY) if metric.startswith("before") else frame
            low, mean, high = (rows[f"{metric}_{part}"] for part in ("low", "mean", "high"))
            assert (low <= mean).all()
            assert (mean <= high).all()
            assert (low < high).all() or metric == "after_bottom10", "the worst may all be at 0"

    def test_pairs_are_each_once_and_corrected_together(self, records: list[Record]) -> None:
        scores = client_scores(records)
        frame = pairs(scores)
        here = frame[(frame["support"] == 0.2) & (frame["side"] == "after")]
        assert list(zip(here["name"], here["other"], strict=True)) == [
            (MAJORITY, "FedAvg"),
            (MAJORITY, "Local"),
            (MAJORITY, "MAML"),
            ("FedAvg", "Local"),
            ("FedAvg", "MAML"),
            ("Local", "MAML"),
        ]
        at = scores[Setting("femnist", 0.2)]
        wanted = compare(at["FedAvg"], at["MAML"])
        found = here.iloc[4]
        assert tuple(found[["difference", "low", "high"]]) == wanted.difference
        assert (found["improvement"], found["p"], found["seeds"]) == (wanted.improvement, wanted.p, 2)
        ordered = here.sort_values("p")
        assert ordered["p_holm"].iloc[0] == pytest.approx(6 * ordered["p"].iloc[0])
        assert ordered["p_holm"].is_monotonic_increasing
        before = frame[(frame["support"] == 0.2) & (frame["side"] == "before")]
        assert MAJORITY not in set(before["name"])


class TestCompared:
    def test_marks(self, suite: Path, tmp_path: Path) -> None:
        for path in sorted(suite.rglob("seed-*.json")):
            target = tmp_path / path.relative_to(suite.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            for kind in (".json", ".clients.csv", ".rounds.csv"):
                target.with_suffix(kind).write_text(path.with_suffix(kind).read_text())
            if "maml" in path.parts:
                copy = copy_of(target, f"twin{target.stem}", "Twin")
                change(copy, algorithm="twin")
        table = tables_of(read_records(tmp_path / "small"))[0]
        mean = {name: cell.mark for name, cell in column(table, "Mean").items()}
        # FedAvg at 0.72 is the best of those that the test tells from MAML's 0.83 and its twin's
        assert mean == {MAJORITY: "", "FedAvg": "second", "Local": "", "MAML": "best", "Twin": "best"}
        before = {name: cell.mark for name, cell in column(table, "Before").items()}
        assert before == {MAJORITY: "", "FedAvg": "best", "Local": "", "MAML": "second", "Twin": "second"}

    def test_the_test_marks_its_own_column_only(self) -> None:
        rows = pd.DataFrame({"algorithm": list("abcd"), "value": [0.9, 0.89, 0.8, 0.95]})
        show = lambda row: Cell(f"{row['value']}", 100 * row["value"])  # noqa: E731
        fields = [Field("", "tested", show, max, {"a", "b"}), Field("", "other", show, max)]
        _, laid = lay_out(rows, fields, [True, True, True, False])
        assert [row[0].mark for row in laid] == ["best", "best", "second", ""]
        assert [row[1].mark for row in laid] == ["best", "second", "", ""]

    def test_smaller_may_be_better_and_equal_prints_share(self) -> None:
        rows = pd.DataFrame({"algorithm": list("abcd"), "value": [1.52, 1.54, 2.0, 3.0]})
        _, laid = lay_out(rows, [Field("", "rank", lambda row: Cell("", row["value"]), min)], [True] * 4)
        assert [row[0].mark for row in laid] == ["best", "best", "second", ""]

    def test_intervals_are_shown(self, records: list[Record]) -> None:
        row = numbers_of(records).set_index("algorithm").loc["MAML"].iloc[0]
        cell = column(tables_of(records)[0], "Worst 10 %")["MAML"]
        ends = tuple(f"{100 * row[f'after_bottom10_{end}']:.1f}" for end in ("low", "high"))
        assert (cell.text, cell.interval) == (f"{100 * row['after_bottom10_mean']:.1f}", ends)

    def test_caption_states_the_protocol(self, records: list[Record]) -> None:
        caption = tables_of(records)[0].caption
        for fact in (
            "20 test clients",
            "20 % of",
            "160 clients",
            "100 rounds of 10 clients",
            "2 seeds",
            "10 trials",
            "95 % intervals: bootstrap over seeds and clients",
            "Holm-corrected for all pairs",
        ):
            assert fact in caption
        assert "last round" in tables_of(records, "final")[0].caption

    def test_one_seed(self, one: Path) -> None:
        made = tables_of(read_records(one.parent))
        assert [row[0].text for row in made[1].rows] == [MAJORITY], "the only one that it can be paired with"
        assert column(made[0], "After")["MAML"].interval, "an interval over clients"
        assert "nan" not in to_markdown(made)
        assert "one seed" in made[0].caption

    def test_one_client_has_no_interval(self, tmp_path: Path) -> None:
        write_suite(tmp_path / "suite", ["femnist"], ["maml", "fedavg"], seeds=1, clients=1)
        made = tables_of(read_records(tmp_path / "suite"))
        assert column(made[0], "After")["MAML"].interval is None
        assert column(made[1], "p")["FedAvg"].text == "–"
        assert "nan" not in to_markdown(made) + to_latex(made)

    def test_diverged_runs_are_shown(self, tmp_path: Path) -> None:
        for seed, changes in ((0, {}), (1, DIVERGED)):
            write_record(tmp_path, "femnist", "maml", seed, clients=12, **changes)
        write_record(tmp_path, "femnist", "local", 0, clients=12, **DIVERGED)
        made = tables_of(read_records(tmp_path))
        rows = {row[0].text: [cell.text for cell in row] for row in made[0].rows}
        assert "1 (1 diverged)" in rows["MAML"]
        assert not any(cell.mark for row in made[0].rows for cell in row), "the mean of the survivors wins nothing"
        assert rows["Local"][2] == "diverged"
        assert "0 (1 diverged)" in rows["Local"]

    def test_fewer_seeds_do_not_compete(self, suite: Path, tmp_path: Path) -> None:
        for seed in (0, 1):
            write_record(tmp_path, "femnist", "fedavg", seed, clients=12)
        write_record(tmp_path, "femnist", "maml", 0, clients=12)
        made = tables_of(read_records(tmp_path))
        assert [name for name, cell in column(made[0], "After").items() if cell.mark] == ["FedAvg"]
        assert column(made[1], "Seeds")["MAML"].text == "1"

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (5.2e10, "52"), (1.234e10, "12.3"), (4.5e8, "0.45"), (1.23456e12, "1235")],
    )
    def test_amounts(self, value: float, text: str) -> None:
        assert amount_cell(value, 1e9).text == text


class TestPaired:
    def test_the_best_is_what_others_are_paired_with(self, records: list[Record]) -> None:
        table = tables_of(records)[1]
        assert table.title == "femnist, 20 % support, difference from MAML"
        frame = pairs(client_scores(records))
        found = frame[(frame["support"] == 0.2) & (frame["side"] == "after") & (frame["name"] == "FedAvg")].iloc[1]
        cell = column(table, "After")["FedAvg"]
        assert cell.value == pytest.approx(100 * found["difference"])
        assert cell.text.startswith("−")
        assert cell.interval == tuple(f"{100 * found[end]:+.1f}".replace("-", "−") for end in ("low", "high"))

    def test_groups_stand_over_their_columns(self, records: list[Record]) -> None:
        table = tables_of(records)[1]
        assert table.groups == [("", 1), ("Before adaptation", 3), ("After adaptation", 3), ("", 1)]
        assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in to_latex([table])

    def test_a_baseline_turns_differences_round(self, records: list[Record]) -> None:
        from_best, from_other = tables_of(records)[1], tables_of(records, baseline="fedavg")[1]
        assert from_other.title.endswith("difference from FedAvg")
        assert list(column(from_other, "After")) == [MAJORITY, "Local", "MAML"]
        forth, back = column(from_best, "After")["FedAvg"], column(from_other, "After")["MAML"]
        assert back.value == -forth.value
        assert back.interval
        assert forth.interval
        assert [end.strip("+−") for end in back.interval] == [end.strip("+−") for end in forth.interval[::-1]]
        better = [column(table, "Better") for table in (from_best, from_other)]
        assert better[0]["FedAvg"].value + better[1]["MAML"].value == pytest.approx(100)

    def test_the_majority_class_is_a_baseline(self, records: list[Record]) -> None:
        table = tables_of(records, baseline="majority")[1]
        assert list(column(table, "After")) == ["FedAvg", "Local", "MAML"]
        assert column(table, "Before")["MAML"].text == "–"
        scores = client_scores(records)[Setting("femnist", 0.2)]["MAML"]
        wanted = (scores.scores() - scores.scores("majority")).mean()
        assert column(table, "After")["MAML"].value == pytest.approx(100 * wanted)

    def test_an_unknown_baseline(self, records: list[Record]) -> None:
        with pytest.raises(ConfigError, match="unknown baseline 'fedavgg': did you mean 'fedavg'"):
            tables_of(records, baseline="fedavgg")

    def test_a_baseline_with_two_configurations(self, one: Path) -> None:
        change(write_record(one.parents[3], "femnist", "maml", 1, clients=12), config_hash="f" * 12)
        with pytest.raises(DataError, match="baseline maml has several configurations"):
            tables_of(read_records(one.parents[3]), baseline="maml")


class TestMarkup:
    def test_csv_has_both_models_as_fractions(self, records: list[Record], tmp_path: Path) -> None:
        files = client_report.contents(records)
        for name in ("table.csv", "pairs.csv"):
            (tmp_path / name).write_bytes(files[name])
            assert set(pd.read_csv(tmp_path / name)["model"]) == {"final", "selected"}
        frame = pd.read_csv(tmp_path / "table.csv")
        for part in ("mean", "low", "high"):
            assert frame[f"after_pooled_{part}"].between(0, 1).all()
        paired = pd.read_csv(tmp_path / "pairs.csv")
        assert len(paired) == 2 * 3 * (3 + 6)  # models, supports, pairs before and after
        assert (paired["p_holm"] >= paired["p"]).all()

    def test_csv_holds_no_formula(self, one: Path) -> None:
        change(one, title="=1+1")
        write_record(one.parents[3], "femnist", "fedavg", 0, clients=12)
        files = client_report.contents(read_records(one.parents[3]))
        assert b",'=1+1," in files["table.csv"]
        assert b",'=1+1," in files["pairs.csv"]
        assert to_csv(pd.DataFrame({"a": ["-x", "y"], "b": [-1.0, 2.0]})) == "a,b\n'-x,-1\ny,2\n"

    def test_markdown(self, records: list[Record], one: Path) -> None:
        change(one, title=EVIL)
        text = to_markdown(tables_of(read_records(one.parent))[::2])
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {15}
        assert "<script>" not in text.replace("\\<", "")
        text = to_markdown(tables_of(records)[:1])
        assert re.search(r"\| +\*\*\d\d\.\d\*\* \[\d\d\.\d, \d\d\.\d\] \|", text)
        assert re.search(r"<u>\d\d\.\d</u> \[", text)
        assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1, "lined up in a terminal"

    def test_latex_escapes_everything(self, one: Path) -> None:
        change(one, title=EVIL + " ~ # } 漢")
        text = to_latex(tables_of(read_records(one.parent)))
        row = next(line for line in text.splitlines() if "script" in line)
        assert r"\$x\_1\textasciicircum{}2\textbackslash{}frac\{" in row
        assert text.isascii()
        assert len(re.findall(r"(?<!\\)&", row)) == 13
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 6
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))

    def test_latex_of_a_difference(self, records: list[Record]) -> None:
        text = to_latex(tables_of(records)[1:2])
        assert re.search(r"& \$-\$\d+\.\d\$\\,_\{-\d+\.\d\}\^\{-\d+\.\d\}\$ &", text)
        assert text.isascii()

    @needs_tex
    def test_latex_compiles_within_the_width_of_a_page(self, suite: Path, tmp_path: Path) -> None:
        write_suite(tmp_path / "suite", seeds=3, clients=30)
        evil = write_record(tmp_path / "suite", "femnist", "maml", 7, clients=30)
        change(evil, title=EVIL[:20], config_hash="e")
        log = compile_within_a_page(to_latex(tables_of(read_records(tmp_path / "suite"))), tmp_path)
        assert "Output written on paper.pdf" in log


def test_a_client_without_scores_is_refused(one: Path) -> None:
    path = one.with_suffix(".clients.csv")
    frame = pd.read_csv(path)
    damages = {
        "lacks clients' scores": frame[(frame["step"] > 0) | (frame["client"] != "f0003")],
        "without a number of correct": frame.assign(majority=frame["majority"].where(frame["client"] != "f0003")),
        "lacks clients' scores before": frame.assign(n=0),
    }
    for message, damaged in damages.items():
        damaged.to_csv(path, index=False)
        with pytest.raises(DataError, match=message):
            client_scores(read_records(one.parent))
