"""Participants' scores in records and what is read from them: checks, tables, figures, the page."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_records import write_suite

from metaleaf.cli import main
from metaleaf.errors import DataError
from metaleaf.jobs.execute import Settings
from metaleaf.records.client_scores import Setting, client_scores
from metaleaf.records.records import Record, read_records
from metaleaf.report.client_report import contents
from metaleaf.report.figures.makers import MAKERS
from metaleaf.report.figures.runs import Runs
from metaleaf.report.report import write_report
from metaleaf.report.site.page import write_site
from metaleaf.report.tables import clients as client_tables
from metaleaf.report.tables.overall import over_datasets, tables
from metaleaf.report.tables.tables import Table
from metaleaf.statistics.comparison import MAJORITY, comparison, pairs
from metaleaf.statistics.paired import compare
from metaleaf.submission.check import Invalid, check
from metaleaf.submission.verify import verify

HERE = Setting("femnist", 0.8, "participants")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("results") / "small"
    algorithms = ["fedavg", "local", "maml"]
    return read_records(write_suite(folder, ["femnist", "sent140"], algorithms, seeds=2, clients=15, held_out=0.2))


def column(table: Table, heading: str) -> dict[str, str]:
    at = [text for _, text in table.columns].index(heading)
    return {row[0].text: row[at].text for row in table.rows}


def tables_of(records: list[Record]) -> list[Table]:
    scores = client_scores(records)
    return client_tables.tables(records, scores, comparison(records, scores), pairs(scores))


# ------------------------------------------------------------------------------------------ numbers and tables


def test_scores_are_those_of_the_table_of_participants(records: list[Record]) -> None:
    found = client_scores(records)[HERE]["MAML"]
    [first] = [r for r in records if (r.content.dataset, r.content.title, r.content.seed) == ("femnist", "MAML", 0)]
    table = pd.read_csv(first.path.with_suffix(".participants.csv"))
    last = table[(table["model"] == "selected") & (table["step"] == 5)].set_index("client")
    assert found.clients == tuple(last.index)
    assert found.after[0].tolist() == last["correct"].tolist()
    assert len(found.clients) == 120, "the training clients, not the 15 that test"


def test_a_row_and_pairs_for_participants(records: list[Record]) -> None:
    scores = client_scores(records)
    numbers = comparison(records, scores)
    at = numbers[HERE.of(numbers)].set_index("algorithm")
    assert at.index.tolist() == [MAJORITY, "FedAvg", "Local", "MAML"]
    seeds = [r.content for r in records if (r.content.dataset, r.content.title) == ("femnist", "MAML")]
    means = [content.participants["selected"].after.client_mean for content in seeds if content.participants]
    assert at.loc["MAML", "after_client_mean_mean"] == pytest.approx(sum(means) / 2)
    paired = pairs(scores)
    pair = paired[HERE.of(paired) & (paired["side"] == "after") & (paired["name"] == "FedAvg")]
    expected = compare(scores[HERE]["FedAvg"], scores[HERE]["MAML"])
    assert pair.set_index("other").loc["MAML", "difference"] == expected.difference.value


def test_tables(records: list[Record]) -> None:
    made = {table.title: table for table in tables_of(records)}
    assert {"femnist, 20 % support", "femnist, participants (20 % held out)"} <= set(made)
    own = made["femnist, participants (20 % held out)"]
    assert "on the 20 % of their examples that the training clients held out" in own.caption
    assert "femnist, participants (20 % held out), difference from MAML" in made


def test_new_clients_beside_participants(records: list[Record]) -> None:
    [table] = [table for table in tables_of(records) if table.title == "femnist, new clients beside participants"]
    scores = client_scores(records)
    headings = [f"{100 * support} % support" for support in (20, 50, 90)]
    assert [text for _, text in table.columns] == [
        "Algorithm",
        *(text.replace("00 %", " %") for text in headings),
        "After",
        "Gap",
    ]
    for name in ("FedAvg", "Local", "MAML"):
        new = scores[Setting("femnist", 0.9)][name].scores().mean()
        own = scores[HERE][name].scores().mean()
        assert column(table, "90 % support")[name] == f"{100 * new:.1f}"
        assert column(table, "After")[name] == f"{100 * own:.1f}"
        assert column(table, "Gap")[name] == f"{100 * (own - new):+.1f}".replace("-", "−")
    assert table.baseline == MAJORITY


def test_over_datasets(records: list[Record]) -> None:
    scores = client_scores(records)
    numbers = comparison(records, scores)
    found = over_datasets(scores, numbers)
    assert [(one.who, one.support) for one in found] == [*(("new", p) for p in (0.2, 0.5, 0.9)), ("participants", 0.8)]
    *_, last = tables(records, scores, numbers, found)
    assert last.title == "Over datasets, participants (20 % held out)"


def test_a_support_that_is_what_participants_kept_is_no_support_of_theirs(tmp_path: Path) -> None:
    """At 90 % support and 10 % held out, new clients and participants are kept apart."""
    made = read_records(write_suite(tmp_path / "small", ["femnist"], ["maml"], seeds=1, clients=10, held_out=0.1))
    scores = client_scores(made)
    assert len(scores[Setting("femnist", 0.9)]["MAML"].clients) == 10
    assert len(scores[Setting("femnist", 0.9, "participants")]["MAML"].clients) == 80
    numbers = comparison(made, scores)
    assert numbers.groupby(["support", "who"]).size().to_dict()[0.9, "participants"] == 2
    for name in ("overview", "participants", "support", "adaptation_steps"):
        MAKERS[name](Runs(made))


def test_figures(records: list[Record]) -> None:
    runs = Runs(records)
    assert runs.settings == [Setting("femnist", 0.2), Setting("sent140", 0.2), *runs.participants]
    assert runs.participants == [HERE, Setting("sent140", 0.8, "participants")]
    for name, make in MAKERS.items():
        if name not in ("cost_to_target", "protection", "convergence_hours"):
            make(runs)
    figure, caption = MAKERS["participants"](runs)
    assert len(figure.axes) == 2
    assert "on the 20 % of their examples that they held out" in caption
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in figure.axes[0].lines]
    points = [float(x[0]) for x in drawn if len(x) == 1]
    assert points[::2] == pytest.approx([100 * one.scores().mean() for one in runs.scores[HERE].values()])


def test_records_without_participants_make_the_same_report_but_for_a_column(tmp_path: Path) -> None:
    made = read_records(write_suite(tmp_path / "plain", ["femnist"], ["fedavg", "maml"], seeds=1, clients=8))
    files = contents(made)
    assert "participants" not in files["table.md"].decode()
    assert not any(name.startswith("participants") for name in files)


# -------------------------------------------------------------------------------------------- records that are run

SUITE = """
name = "small"
title = "Small"
seeds = [1, 2, 3]

[protocol]
rounds = 3
clients_per_round = 4
evaluate_every = 2
test_supports = [0.5]
held_out = 0.25

[datasets.synthetic]
options = { tasks = 30, dimension = 5, classes = 3 }

[algorithms.fedavg]

[algorithms.ditto]
adapt_epochs = 1
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(root / "data"))
        (root / "small.toml").write_text(SUITE)
        assert main(["suite", str(root / "small.toml"), "--results", str(root / "results")]) == 0
        yield root


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the records that a test may damage."""
    return shutil.copytree(
        whole / "results" / "small", tmp_path / "results" / "small", ignore=shutil.ignore_patterns("report")
    )


def a_record(folder: Path) -> Path:
    [path] = folder.glob("*/ditto/*/seed-2.json")
    return path


def test_they_keep_the_rules(whole: Path, folder: Path) -> None:
    assert "keeps the rules: 6 records" in check(folder, str(whole / "small.toml"))


def test_they_are_reported(folder: Path, tmp_path: Path) -> None:
    write_report(folder, tmp_path / "report")
    text = (tmp_path / "report" / "table.md").read_text()
    assert "synthetic, participants (25 % held out)" in text
    assert "synthetic, new clients beside participants" in text


def test_they_have_a_track_on_the_page(folder: Path, tmp_path: Path) -> None:
    page, refused = write_site(folder.parent, tmp_path / "site")
    assert not refused
    html = page.read_text()
    assert ">Participants<" in html


def test_one_is_verified_bit_for_bit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_record(folder)
    engine = json.loads(path.read_text())["engine"]
    assert "bit for bit" in verify(path, Settings(folder, mode=engine["mode"], threads=engine["threads"]), 0.01)
    assert "participants' correct" in capsys.readouterr().out


def edited(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path.with_suffix(".participants.csv")
        change(pd.read_csv(file)).to_csv(file, index=False)

    return damage


def without_key(path: Path) -> None:
    content: dict[str, Any] = json.loads(path.read_text())
    del content["participants"]
    path.write_text(json.dumps(content))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "one answer is none": (
        edited(lambda t: t.assign(correct=t["correct"].mask(t.index == t["correct"].idxmax(), 0))),
        "sums",
        r"participants\.final\.(before|after)\.\w+ is ",
    ),
    "a client is missing": (edited(lambda t: t.iloc[:-1]), "clients", "participants: 23 clients are scored"),
    "more right than asked": (edited(lambda t: t.assign(correct=t["n"] + 1)), "counts", "examples of the client"),
    "other examples": (edited(lambda t: t.assign(n_support=t["n_support"] + 1)), "split", "other examples than in"),
    "another support": (edited(lambda t: t.assign(support=0.8)), "clients", "participants: has scores of the"),
    "no table": (lambda path: path.with_suffix(".participants.csv").unlink(), "schema", "cannot be read"),
    "no column": (edited(lambda t: t.drop(columns="loss")), "schema", "lacks the column 'loss'"),
    "no totals": (without_key, "schema", "must have scores of participants just if"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damage_is_seen_and_named(whole: Path, folder: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, rule, sentence = DAMAGES[what]
    damage(a_record(folder))
    with pytest.raises(Invalid):
        check(folder, str(whole / "small.toml"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"[{rule}]")]
    assert lines
    assert re.search(sentence, "\n".join(lines))


def test_scores_of_participants_that_nobody_asked_for_are_seen(tmp_path: Path) -> None:
    made = write_suite(tmp_path / "plain", ["femnist"], ["maml"], seeds=1, clients=8)
    [path] = made.rglob("seed-0.json")
    content = json.loads(path.read_text())
    content["participants"] = {}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="just if its protocol holds something out"):
        read_records(made)
