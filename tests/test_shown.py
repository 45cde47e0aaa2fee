"""What a person chooses to see of records, and suites on the same data side by side."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_environments import level
from fake_environments import write_record as write_environments
from fake_records import write_record, write_suite

from metaleaf.cli import main
from metaleaf.errors import ConfigError, DataError
from metaleaf.records.records import Record, in_order, read_all, read_records
from metaleaf.report import client_report
from metaleaf.report.figures.adaptation import support
from metaleaf.report.figures.overview import overview
from metaleaf.report.figures.runs import Runs
from metaleaf.report.shown import Shown
from metaleaf.report.tables.clients import budget
from metaleaf.report.tables.tables import systems_and_protection, tuning_sentence


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "baselines"
    return write_suite(folder, ["femnist"], ["fedavg", "local", "maml"], seeds=2, clients=20)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Another suite on the same split, of fewer rounds."""
    for seed in (0, 1):
        path = write_record(tmp_path / "mine", "femnist", "reptile", seed, clients=20, rounds=2, place=0)
        edit(path, lambda content: content["config"]["protocol"].update(rounds=2))
    return tmp_path / "mine"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """In reports, where they take most of the time."""
    monkeypatch.setattr(client_report, "draw", lambda *_: {})


def edit(path: Path, change: Any) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def names(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record.content.title for record in records))


class TestShown:
    def test_algorithms_are_chosen_ordered_and_renamed(self, baselines: Path) -> None:
        chosen = Shown(algorithms=["maml", "fedavg=FedAvg = averaging"]).of(read_records(baselines))
        assert names(chosen) == ["MAML", "FedAvg = averaging"]
        assert [record.content.seed for record in chosen] == [0, 1, 0, 1]
        assert Runs(chosen).names == ["MAML", "FedAvg = averaging"]

    def test_supports_are_chosen(self, baselines: Path) -> None:
        chosen = Shown(supports=[0.5]).of(read_records(baselines))
        assert {tuple(by) for r in chosen for by in r.content.scores.values()} == {("0.5",)}
        assert Runs(chosen).supports("femnist") == [0.5]

    @pytest.mark.usefixtures("no_figures")
    def test_columns_and_model_are_chosen(self, baselines: Path) -> None:
        shown = Shown(["maml", "fedavg"], [0.2], "final", ["after", "mean", "bottom10", "seeds"])
        files = client_report.contents(shown.of(read_records(baselines)), shown)
        first = files["table.md"].decode().split("###")[1]
        heading = [cell.strip() for cell in first.splitlines()[2].strip("|").split("|")]
        assert heading == ["Algorithm", "After", "Mean", "Worst 10 %", "Seeds"]
        assert "model of the last round" in first
        assert "50 % support" not in files["table.md"].decode()
        table = pd.read_csv(BytesIO(files["table.csv"]))
        assert list(table["algorithm"].unique()) == ["Majority class", "MAML", "FedAvg"]

    @pytest.mark.parametrize(
        ("shown", "sentence"),
        [
            (Shown(["mamal"]), "unknown algorithm of the records 'mamal': did you mean 'maml'"),
            (Shown(["maml", "maml=M"]), "maml is there twice"),
            (Shown(["maml="]), "the name '' of maml must not be empty"),
            (Shown(["maml=a\nb"]), r"must be printable text, without U\+000A"),
            (Shown(supports=[0.3]), "the records have no 0.3, but 0.2, 0.5, 0.9"),
            (Shown(columns=["botom10"]), "unknown column 'botom10': did you mean 'bottom10'"),
            (Shown(statistic="p99"), "unknown statistic 'p99'"),
        ],
    )
    def test_what_is_not_there_is_named(self, baselines: Path, shown: Shown, sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            client_report.contents(shown.of(read_records(baselines)), shown)

    def test_figures_show_the_metric(self, baselines: Path) -> None:
        for draw in (overview, support):
            starts = ("Accuracy over test points ", "Accuracy, mean over clients, ")
            for metric, start in zip(("pooled", "mean"), starts, strict=True):
                assert draw(Runs(read_records(baselines), number=metric)).caption.startswith(start)
        plain, worst = (
            max(float(text.get_text()) for axes in overview(runs).figure.axes for text in axes.texts)
            for runs in (Runs(read_records(baselines), number=metric) for metric in ("pooled", "bottom10"))
        )
        assert worst < plain


class TestCommand:
    @pytest.mark.usefixtures("no_figures")
    def test_my_method_beside_the_baselines(
        self, baselines: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["report", str(mine), "--also", str(baselines), "--output", str(tmp_path / "out"), "--supports", "0.2"]
        words += ["--algorithms", "fedavg=Baseline", "reptile=Mine", "--columns", "after", "seeds"]
        nowhere = str(tmp_path / "nowhere")
        assert main([*words[:3], nowhere, *words[4:]]) == 2
        assert f"no records below {nowhere}; run that suite first" in capsys.readouterr().err
        assert main(words) == 0
        printed = capsys.readouterr().out
        heading, _, *rows = printed.split("\n\n")[1].splitlines()
        assert [line.split("|")[1].strip() for line in rows] == ["Majority class", "Baseline", "Mine"]
        assert [cell.strip() for cell in heading.strip("|").split("|")] == ["Algorithm", "After", "Seeds"]
        unequal = "Not all trained as long, or with as many clients: 100 rounds of 10 clients (Baseline), "
        assert f"{unequal}2 rounds of 10 clients (Mine); mean over 2 seeds, model of" in printed
        figures = ["figures", *words[1:6], "--only", "overview", "--formats", "svg", "--statistic", "bottom10"]
        assert main([*figures, "--algorithms", "maml", "reptile=Mine"]) == 0
        assert "Accuracy of the worst tenth of clients" in (tmp_path / "out/overview.txt").read_text(encoding="utf-8")

    def test_new_environments_have_algorithms_to_choose_only(self, tmp_path: Path) -> None:
        for algorithm in ("few_round", "learned_start"):
            write_environments(tmp_path / "plays", algorithm, 1, level(0.4, 0.6))
        words = ["report", str(tmp_path / "plays"), "--output", str(tmp_path / "out")]
        assert main([*words, "--algorithms", "learned_start=Ours", "few_round"]) == 0
        table = (tmp_path / "out/table.md").read_text(encoding="utf-8")
        assert table.index("| Ours ") < table.index("| few\\_round ")
        assert main([*words, "--supports", "0.2"]) == 2


class TestSuitesOnOneDataset:
    def test_each_follows_in_its_own_order(self, baselines: Path, tmp_path: Path) -> None:
        for place, algorithm in enumerate(["reptile", "metasgd", "fomaml"]):
            write_record(tmp_path / "mine", "femnist", algorithm, 0, clients=20, place=place)
        records = in_order(read_all(Record, tmp_path / "mine", None, [baselines]))
        assert names(records) == ["Reptile", "Meta-SGD", "FOMAML", "FedAvg", "Local", "MAML"]
        records = in_order(read_all(Record, baselines, None, [tmp_path / "mine"]), ["maml", "local"])
        assert names(records) == ["MAML", "Local", "FedAvg", "Reptile", "Meta-SGD", "FOMAML"]

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (
                lambda content: content["data"].update(split_hash="6" * 16),
                "other clients or other data",
            ),
            (lambda content: content["data"].update(data_hash="e" * 16), "other clients or other data"),
            (lambda content: content["config"].update(model="small_cnn"), "another model"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, baselines: Path, mine: Path, change: Any, what: str) -> None:
        edit(next(mine.rglob("seed-1.json")), change)
        with pytest.raises(DataError, match=f"have {what}.* and cannot be compared; report them apart"):
            read_all(Record, baselines, None, [mine])
        edit(next(mine.rglob("seed-0.json")), lambda content: content["data"].update(split_hash="7" * 16))
        with pytest.raises(DataError, match=r"cannot be compared; remove the older ones"):
            read_records(mine)

    def test_a_run_of_both_counts_once(self, baselines: Path, tmp_path: Path) -> None:
        write_suite(tmp_path / "again", ["femnist"], ["fedavg"], seeds=3, clients=20)
        records = read_all(Record, tmp_path / "again", None, [baselines])
        fedavg = [record for record in records if record.content.algorithm == "fedavg"]
        assert [(r.content.suite, r.content.seed) for r in fedavg] == [("again", seed) for seed in (0, 1, 2)]
        assert len(records) == 3 + 4


def test_captions_say_who_trained_how_long_and_searched_how_much(baselines: Path, mine: Path) -> None:
    both = read_all(Record, baselines, None, [mine])
    assert budget(both) == (
        "Not all trained as long, or with as many clients: 100 rounds of 10 clients (FedAvg, Local, MAML), 2 rounds of "
        "10 clients (Reptile); mean over 2 seeds"
    )
    assert budget(read_records(baselines)) == "100 rounds of 10 clients, mean over 2 seeds"
    edit(next(mine.rglob("seed-0.json")), lambda content: content.update(tuning=None))
    edit(next(mine.rglob("seed-1.json")), lambda content: content.update(tuning=None))
    both = read_all(Record, baselines, None, [mine])
    assert tuning_sentence(record.content for record in both) == (
        "Hyper-parameters: unequal numbers of trials on validation clients: 10 (FedAvg, Local, MAML), 0 (Reptile)."
    )


def test_captions_say_what_protects_and_what_noise_leaves(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "suite", ["femnist"], ["fedavg", "maml"], seeds=1, clients=4)

    def sentences() -> list[str]:
        return systems_and_protection(record.content for record in read_records(folder))

    assert sentences() == []
    phones = {
        "availability": None,
        "deadline": 20.0,
        "over_select": 1.3,
        "weigh": "arrived",
        "devices": [{"name": "phone"}],
    }
    for path in folder.rglob("fedavg/**/seed-*.json"):
        edit(path, lambda content: content["config"].update(systems=phones))
    said = "deadline 20.0, over_select 1.3, weigh arrived, devices phone"
    assert sentences() == [f"Systems: {said} (FedAvg), none (MAML)."]
    for path in folder.rglob("fedavg/**/seed-*.json"):
        edit(path, lambda content: content["config"].pop("systems"))
    layers = {"attack": {"name": "sign_flip", "share": 0.3}, "clip": {"norm": 1.0, "quantile": None}, "secure": {}}
    for path in folder.rglob("seed-*.json"):
        edit(path, lambda content: content["config"].update(protection=layers))
    said = "attack (sign_flip, share 0.3); clip (norm 1.0); secure"
    assert sentences() == [f"Protection: {said}."]
    told = {"epsilon": 3.254, "delta": 1e-3, "of": "all broadcasts"}
    for path in folder.rglob("maml/**/seed-*.json"):
        edit(path, lambda content: content["config"].update(protection={"noise": {"multiplier": "1\x1b[2J"}}))
        edit(path, lambda content: content.update(privacy=told))
    assert sentences() == [
        f"Protection: {said} (FedAvg), noise (multiplier 1[2J) (MAML).",
        "Of one client: ε = 3.25 at δ = 0.001.",
    ]
