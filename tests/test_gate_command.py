"""``metaleaf gate`` as a person meets it, on a suite of one's own: exit codes, files, refusals."""

import json
from pathlib import Path

import pytest

from metaleaf.cli import main
from metaleaf.data.federation import Federation

SUITE = """
name = "own"
title = "Own"
seeds = [1]

[protocol]
rounds = 10
clients_per_round = 32
test_supports = [0.5]

[datasets.synthetic]
options = { tasks = 40, dimension = 4, clusters = 1 }

[algorithms.fedavg]
client_optimizer = { name = "sgd", lr = 0.3 }

[algorithms.maml]
server_optimizer = { name = "adam", lr = 0.3 }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(data))
    for name in ("METALEAF_RAW", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(SUITE)
    return tmp_path


@pytest.fixture(scope="module")
def made(data: Path) -> Path:
    """A baseline, made once."""
    folder = data / "made"
    folder.mkdir()
    (folder / "own.toml").write_text(SUITE)
    words = ["gate", str(folder / "own.toml"), "--update", "--seeds", "11", "12", "13", "14"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(data))
        assert main([*words, "--results", str(folder / "runs")]) == 0
    return folder / "baselines" / "own.json"


@pytest.fixture
def baseline(here: Path, made: Path) -> Path:
    path = here / "baselines" / "own.json"
    path.parent.mkdir()
    path.write_bytes(made.read_bytes())
    return path


def test_nothing_moved(baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--junit", "gate.xml", "--summary", "gate.md", "--history", "history.jsonl"]
    assert main(["gate", "own.toml", *words]) == 0
    assert "nothing moved (26 values of 2 cells compared, false-alarm rate 0.01)" in capsys.readouterr().out
    assert Path("gate.xml").read_text().count("<testcase") == 26
    assert "nothing moved" in Path("gate.md").read_text()
    assert main(["gate", "own.toml", "--seeds", "3", "--history", "history.jsonl"]) == 0
    assert main(["gate", "--steps", "history.jsonl"]) == 0
    assert "no step in 2 runs" in capsys.readouterr().out


def test_what_moves_is_an_alarm_though_the_runs_are_stored_already(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", "own.toml"]) == 0
    right = Federation.support_queries
    monkeypatch.setattr(
        Federation,
        "support_queries",
        lambda *given: [(held, rest.between(1, len(rest.y))) for held, rest in right(*given)],
    )
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["gate", "own.toml"]) == 1
    out, err = capsys.readouterr()
    assert "::error title=metaleaf gate%3A count changed::own/synthetic/fedavg points@0.5" in out
    assert "moved" in err


def test_another_suite_than_the_baselines_is_not_measured(
    baseline: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own.toml").write_text(SUITE.replace("rounds = 10", "rounds = 9"))
    assert main(["gate", "own.toml"]) == 3
    out, err = capsys.readouterr()
    assert "the configuration changed since the baseline was made" in " ".join(out.split())
    assert "2 cells could not be measured" in err


def test_without_baseline_nothing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "own.toml"]) == 3
    assert "could not be measured" in capsys.readouterr().err


def test_without_data_a_suite_is_skipped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own.toml").write_text(SUITE.replace("[datasets.synthetic]", "[datasets.femnist]").replace("options", "# "))
    assert main(["gate", "own.toml"]) == 3
    assert "skipped own: femnist is not here" in capsys.readouterr().out


def test_an_algorithm_that_fails_is_not_measured_and_its_baseline_stays(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metaleaf.algorithms.maml import MAML

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(MAML, "server", fail)
    before = baseline.read_bytes()
    assert main(["gate", "own.toml"]) == 3
    assert "broken" in capsys.readouterr().err
    assert main(["gate", "own.toml", "--update"]) == 3
    assert baseline.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "11"], "seed 11 is one of the baseline's"),
        (["--false-alarm", "1.5"], "give a fraction between 0 and 1"),
        (["--update", "--seeds", "1", "2"], "seed 1 is one of the baseline's"),
        (["own.toml"], "two suites of the gate have the same name"),
    ],
)
def test_refusals(baseline: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["gate", "own.toml", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[tuning]\ntrials = 1\nrounds = 1", "needs fixed hyper-parameters"),
        ("[protocol.environments]\nbudget = 10", "of the track of new environments"),
    ],
)
def test_suites_that_cannot_be_gated(here: Path, capsys: pytest.CaptureFixture[str], line: str, sentence: str) -> None:
    (here / "own.toml").write_text(SUITE.replace("[datasets.synthetic]", f"{line}\n\n[datasets.synthetic]"))
    assert main(["gate", "own.toml"]) == 2
    assert sentence in capsys.readouterr().err


def test_the_baseline_says_what_it_is_of(baseline: Path) -> None:
    content = json.loads(baseline.read_text())
    assert set(content["cells"]) == {"synthetic/fedavg", "synthetic/maml"}
    measure = content["cells"]["synthetic/maml"]["measures"]["after_accuracy@0.5"]
    assert measure["n"] == len(measure["values"]) == 4
    assert content["made_with"]["versions"]["torch"]
