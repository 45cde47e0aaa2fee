"""Sources: what code a number rests on, and what becomes of a number that other code made."""

import ast
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coins
import pytest

from metaleaf import registry
from metaleaf.cli import main
from metaleaf.config import sources
from metaleaf.config.sources import MIXED, Making, common, differing, of_run
from metaleaf.errors import StaleError
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell

ABOUT: dict[str, Any] = {"source_hash": "d"}


def tree(text: str) -> str:
    found = sources._Tree("package")
    found.visit(ast.parse(text))
    return "".join(found.text)


PLAIN = '''
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from somewhere import Type

class A:
    """What it is."""
    rate: float = 0.1

    def step(self, x: "Type") -> float:
        """Doc."""
        return self.rate * x
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it is."""', '"""Something else."""'),
        ('"""What it is."""\n', "\n"),
        ('"""Doc."""', '"""Doc."""  # a comment'),
        ("rate: float = 0.1", 'rate: float = (0.1)\n    """Of learning."""'),
        ("    from somewhere import Type", "    from elsewhere import Type"),
        ("return self.rate * x", "return (\n            self.rate\n            * x\n        )"),
    ],
)
def test_what_decides_nothing_does_not_count(old: str, new: str) -> None:
    assert old in PLAIN
    assert tree(PLAIN.replace(old, new)) == tree(PLAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.1", "0.2"), ("self.rate * x", "self.rate + x"), ("def step", "def walk"), ("0.1", "1"), ("0.1", '"0.1"')],
)
def test_what_decides_something_counts(old: str, new: str) -> None:
    assert tree(PLAIN.replace(old, new)) != tree(PLAIN)


def test_a_tree_is_written_the_same_in_every_version_of_python() -> None:
    """3.12 added `type_params` and 3.13 leaves out what is empty; neither is to be seen."""
    assert tree("def f(): return None") == (
        "Module(body FunctionDef(name 'f')(args arguments)(body Return(value Constant),),)"
    )


def test_a_plugin_is_what_it_imports_too() -> None:
    def closure(name: str) -> set[str]:
        return set(sources._closure([f"metaleaf.{name}"], sources.UNDECIDING))

    assert "metaleaf.algorithms.fedavg" in closure("algorithms.fedavg_meta")
    assert "metaleaf.hypernetwork" in closure("algorithms.pefll")
    assert "metaleaf.datasets.femnist" in closure("datasets.femnist_shifts")
    assert not [name for name in closure("run") if name.startswith(("metaleaf.algorithms", "metaleaf.datasets"))]


def test_every_file_that_a_run_imports_decides_or_is_said_not_to() -> None:
    """Found by importing, not by reading: what is imported in another way would be in neither."""
    script = (
        "import sys, metaleaf.runs.run, metaleaf.environments.run; "
        "print(*(name for name in sys.modules if name.partition('.')[0] == 'metaleaf'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    beyond = {*sources.UNDECIDING, sources.MODELS}
    harness = set(sources._closure(["metaleaf.runs.run", "metaleaf.environments.run"], beyond))
    model = set(sources._closure([sources.MODELS], sources.UNDECIDING))
    assert set(done.stdout.split()) - harness - model == sources.UNDECIDING, "no more, and none that is not imported"


def test_no_file_of_the_harness_is_in_two_parts_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    real = sources._digest

    def digest(found: dict[str, str]) -> str:
        seen.append(set(found))
        return real(found)

    monkeypatch.setattr(sources, "_digest", digest)
    found = of_run(coins.config("pefll"), "metaleaf.runs.run", ABOUT)
    assert found["dataset"] == "d"
    assert len(set().union(*seen)) == sum(map(len, seen))
    assert {"metaleaf.engine.engine", "metaleaf.models", "metaleaf.algorithms.pefll"} <= set().union(*seen)


def test_sources_that_are_not_known_do_not_differ() -> None:
    one: dict[str, str | None] = {"algorithm": "a", "dataset": "b", "model": None, "harness": "d"}
    assert differing({}, one) == []
    assert differing({**one, "model": "c", "harness": "e"}, one) == ["harness"]
    assert common([one, {**one, "dataset": "c"}]) == {**one, "dataset": MIXED}
    assert common([one, {}]) == dict.fromkeys(one)
    now = Making("data", one)
    assert now.unlike("data", None) == now.unlike(None, {}) == now.unlike("data", one) == ""
    assert now.unlike("other", {**one, "dataset": "c"}) == (
        "from other data than what is prepared now and by other code than what is here (dataset)"
    )


def test_packages_installed_together_count_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "_folders", lambda: (tmp_path.resolve(),))
    monkeypatch.setattr(sources, "_known", {})
    (tmp_path / "one_plugin.py").write_text("import one_layers, one_other\n")
    (tmp_path / "one_layers.py").write_text("")
    (tmp_path / "one_other.py").write_text("")
    assert set(sources._closure(["one_plugin"], ())) == {"one_plugin"}
    assert set(sources._closure(["one_plugin"], (), {"one_layers"})) == {"one_plugin", "one_layers"}


def test_a_file_written_over_counts_once_its_module_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that runs for days has the code of its start in memory."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "written_over.py"
    path.write_text("A = 1\n")
    module = importlib.import_module("written_over")
    before = sources._closure(["written_over"], ())
    path.write_text("A = 1.5\n")
    assert sources._closure(["written_over"], ()) == before
    importlib.reload(module)
    assert sources._closure(["written_over"], ()) != before


# ------------------------------------------------------------------------------- a plugin of another package changes

ALGORITHM = """
from dataclasses import dataclass
from typing import ClassVar

from metaleaf.algorithms.fedavg import FedAvg

from . import rates


@dataclass(frozen=True)
class Mine(FedAvg):
    \"\"\"Mine.\"\"\"

    title: ClassVar[str] = "Mine"

    def server(self, state, update):
        return super().server(state, {name: rates.MU * leaf for name, leaf in update.items()})
"""

DATASET = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from metaleaf.dataset import Client, Spec

SHIFT = 0.0


@dataclass(frozen=True)
class Table:
    \"\"\"Rows of a table.\"\"\"

    spec: ClassVar[Spec] = Spec("1.0.0", (2,), "float32", 2, "logistic", "CC0", "", "")

    def clients(self, raw):
        rows = np.loadtxt(raw.require(["table.csv"], "write it."), delimiter=",", dtype=np.float32)
        for who in np.unique(rows[:, 0]):
            mine = rows[rows[:, 0] == who]
            yield Client(f"client {who:.0f}", "all", mine[:, 1:3] + np.float32(SHIFT), mine[:, 3].astype(np.uint8))
"""

SUITE = """
name = "tiny"
title = "Tiny"
seeds = [1]

[protocol]
rounds = 2
clients_per_round = 5
evaluate_every = 2
test_supports = [0.5]

[datasets.sheet]

[algorithms.mine]

[algorithms.fedavg]
"""


class Package:
    """A package with a plugin of each kind, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        """Change a file, as if by an editor between two processes."""
        (self.folder / "mine" / name).write_text(text)
        # Python tells compiled files by size and second, and a test may change a file twice in one.
        shutil.rmtree(self.folder / "mine" / "__pycache__", ignore_errors=True)
        for module in [one for one in sys.modules if one.partition(".")[0] == "mine"]:
            del sys.modules[module]
        importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    for name in ("METALEAF_DATA", "METALEAF_RAW"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    info = tmp_path / "installed" / "mine_plugins-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-plugins\nVersion: 1.5\n")
    points = "[metaleaf.algorithms]\nmine = mine.core:Mine\n[metaleaf.datasets]\nsheet = mine.data:Table\n"
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "installed" / "mine").mkdir()
    made = Package(tmp_path / "installed")
    made.write("core.py", ALGORITHM)
    made.write("rates.py", "MU = 1.0\n")
    made.write("data.py", DATASET)
    (tmp_path / "METALEAF_RAW" / "sheet").mkdir(parents=True)
    write_table(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE)
    registry._third_party.cache_clear()
    monkeypatch.setattr(sources, "_known", {})
    yield made
    registry._third_party.cache_clear()
    made.write("__init__.py", "")


def write_table(folder: Path, label: int = 0) -> Path:
    """Ten clients of eight rows each; `label` is the last row's."""
    rows = [f"{who},{i * 0.1},{who * 0.1},{(i + who) % 2}" for who in range(10) for i in range(8)]
    path = folder / "METALEAF_RAW" / "sheet" / "table.csv"
    path.write_text("\n".join([*rows[:-1], rows[-1][:-1] + str(label)]) + "\n")
    return path


def record(algorithm: str) -> tuple[Path, dict[str, Any]]:
    [path] = Path("results/tiny/sheet", algorithm).rglob("seed-*.json")
    return path, json.loads(path.read_text())


def suite(*words: str) -> int:
    return main(["suite", "tiny.toml", "--no-report", *words])


def test_a_changed_plugin_makes_its_records_a_question(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite() == 0
    (_, mine), (other, fedavg) = record("mine"), record("fedavg")
    assert sorted(mine["sources"]) == sorted(sources.PARTS)
    assert {part for part in sources.PARTS if mine["sources"][part] != fedavg["sources"][part]} == {"algorithm"}
    assert mine["versions"]["mine-plugins"] == "1.5"
    package.write("rates.py", "# The same.\nMU = 1.00\n")
    capsys.readouterr()
    assert suite() == 0
    assert capsys.readouterr().err.count("already finished") == 2, "a comment decides nothing"

    package.write("rates.py", "MU = 1000.0\n")
    other.unlink()
    assert suite() == 2
    said = capsys.readouterr().err
    assert "was made by other code than what is here (algorithm): add --again" in said
    assert said.strip().splitlines()[-1].startswith("metaleaf: sheet mine seed 1 failed: the record")
    assert record("mine")[1] == mine
    package.write("rates.py", "raise ValueError('half written')\n")
    assert suite("--again") == 2
    assert record("mine")[1] == mine, "a run that fails replaces nothing"
    package.write("rates.py", "MU = 1000.0\n")
    assert record("fedavg")[1]["scores"] == fedavg["scores"], "the other cells are done all the same"

    assert suite("--keep") == 0
    assert "runs kept though made by other code or from other data: 1\n" in capsys.readouterr().err
    assert record("mine")[1] == mine
    before = other.stat().st_mtime_ns
    assert suite("--again") == 0
    assert record("mine")[1]["cost"] == mine["cost"]
    assert record("mine")[1]["sources"]["algorithm"] != mine["sources"]["algorithm"]
    assert other.stat().st_mtime_ns == before
    assert suite() == 0
    assert suite("--again", "--keep") == 2


def test_a_changed_table_or_its_plugin_makes_data_and_records_a_question(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite() == 0
    hashes = [record("mine")[1]["data"]["data_hash"]]
    for said in ("by other code than its plugin", "from another table.csv than"):
        if "code" in said:
            package.write("data.py", DATASET.replace("SHIFT = 0.0", "SHIFT = 1.0"))
        else:
            write_table(tmp_path, label=1)
        assert suite() == 2
        assert f"was prepared {said}" in capsys.readouterr().err
        assert suite("--keep") == 0
        assert record("mine")[1]["data"]["data_hash"] == hashes[-1]
        assert suite("--again") == 0
        hashes.append(record("mine")[1]["data"]["data_hash"])
        assert suite() == 0
    assert len(set(hashes)) == 3


def test_a_record_that_names_no_code_is_taken_and_counted(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite() == 0
    path, mine = record("mine")
    del mine["sources"]
    path.write_text(json.dumps(mine))
    capsys.readouterr()
    assert suite() == 0
    assert "runs that do not say what code made them: 1\n" in capsys.readouterr().err


def test_a_title_changed_in_the_suite_needs_no_run(package: Package) -> None:
    assert suite() == 0
    _, before = record("mine")
    Path("tiny.toml").write_text(SUITE.replace("[algorithms.mine]", '[algorithms.mine]\ntitle = "My own"'))
    assert suite() == 0
    _, after = record("mine")
    assert after == {**before, "title": "My own"}
    assert main(["submit", "check", "results/tiny", "--suite", "tiny.toml", "--partial"]) == 0


def test_a_checkpoint_of_other_code_is_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = coins.config("fedavg", rounds=4), coins.store()
    cell = Cell(tmp_path, config)

    def stop(number: int, *_: object) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(config, store).train(cell, stop)
    here = {**Run(config, store).sources, "harness": "0" * 64}
    monkeypatch.setattr("metaleaf.runs.run.of_run", lambda *_: dict(here))
    with pytest.raises(StaleError, match=r"its checkpoint was made by other code \(harness\): add --again"):
        Run(config, store).train(cell)
    rounds: list[int] = []
    kept = Run(config, store, stale="keep")
    kept.train(cell, lambda number, *_: rounds.append(number))
    assert rounds == [3, 4]
    assert kept.sources == {**here, "harness": None}, "two codes made it"
    again = Run(config, store, stale="again")
    rounds.clear()
    cell.save_checkpoint(*changed(cell.load_checkpoint(), "harness"))
    again.train(cell, lambda number, *_: rounds.append(number))
    assert rounds == [1, 2, 3, 4]
    assert again.sources == here


def changed(saved: Any, part: str) -> Any:
    """The checkpoint as other code would have made it."""
    tensors, note = saved
    note["made_by"]["sources"][part] = "1" * 64
    return tensors, note
