"""Plugins by name: built in, from other packages, and names that do not exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metaleaf import registry
from metaleaf.errors import ConfigError

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
from metaleaf.algorithms.fedavg import FedAvg

@dataclass(frozen=True)
class Mine(FedAvg):
    """Mine."""

    title: ClassVar[str] = "Mine"
'''


HALF = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    def adapt(self, task, params, support): ...

@dataclass(frozen=True)
class Data:
    def clients(self, raw): ...
"""


def test_built_in_names() -> None:
    assert {"fedavg", "fedavg_meta", "fomaml", "local", "maml", "meta_sgd", "reptile"} <= set(
        registry.names("algorithms")
    )
    assert {"femnist", "shakespeare", "synthetic"} <= set(registry.names("datasets"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown algorithm 'mamml': did you mean 'maml'"):
        registry.plugin("algorithms", "mamml")
    with pytest.raises(ConfigError, match=r"unknown dataset 'femist': did you mean 'femnist'"):
        registry.plugin("datasets", "femist")


def package(folder: Path, name: str, code: str, points: dict[str, str]) -> None:
    """An installed package of that name with one module, its code, and entry points (group.name -> object)."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[metaleaf.{point.split('.')[0]}]\n{point.split('.')[1]} = {found}\n" for point, found in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


SCRIPT = """
import contextlib, io, json, sys
sys.path.append(sys.argv[1])
from metaleaf.cli import main
done = []
for words in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


def cli(folder: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, in one process that finds the packages in the folder."""
    words = json.dumps([command.split() for command in commands])
    environment = {**os.environ, "METALEAF_DATA": str(folder / "data")}
    command = [sys.executable, "-c", SCRIPT, str(folder), words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def test_another_package_adds_an_algorithm_by_entry_point(tmp_path: Path) -> None:
    package(tmp_path, "mine", PLUGIN, {"algorithms.mine": "mine:Mine"})
    script = (
        "import sys; sys.path.append(sys.argv[1]); from metaleaf import registry; "
        "print('mine' in registry.names('algorithms'), registry.plugin('algorithms', 'mine').title)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "Mine"], done.stderr


def test_broken_entry_points_are_named_and_left_out(tmp_path: Path) -> None:
    """Of every list that names plugins; the others are in it."""
    package(tmp_path, "mine", PLUGIN, {"algorithms.mine": "mine:Mine", "algorithms.both": "mine:Mine"})
    package(tmp_path, "yours", PLUGIN, {"algorithms.both": "yours:Mine"})
    package(tmp_path, "bad", "1 / 0\n", {"algorithms.crooked": "bad:X", "datasets.skew": "bad:Y"})
    package(tmp_path, "odd", "X = 1\n", {"algorithms.number": "odd:X", "algorithms.absent": "odd:Y"})
    loud = r"raise ValueError('\x1b[2J\nmetaleaf: all is well')"
    package(tmp_path, "loud", loud, {"algorithms.loud": "loud:X"})
    package(tmp_path, "gone", "import sys\nsys.exit(3)\n", {"algorithms.gone": "gone:X"})
    package(tmp_path, "lost", "import not_installed\n", {"algorithms.lost": "lost:X"})
    package(tmp_path, "half", HALF, {"algorithms.untitled": "half:Mine", "datasets.shapeless": "half:Data"})
    commands = ("list algorithms", "list datasets", "data list", "algorithms", "run --algorithm crooked")
    algorithms, *datasets, counted, run = cli(tmp_path, *commands)
    code, out, err = algorithms
    assert (code, "mine  " in out, "crooked" in out) == (0, True, False)
    for sentence in (
        r"the algorithm crooked of bad cannot be loaded: ZeroDivisionError: .* \(\S*bad\.py, line 1\)\.",
        r"the algorithm absent of odd cannot be loaded: AttributeError: ",
        r"the algorithm number of odd is 1, not a dataclass with a method 'adapt'\.",
        r"the algorithm gone of gone cannot be loaded: SystemExit: 3 \(\S*gone\.py, line 2\)\.",
        r"the algorithm lost of lost cannot be loaded: ModuleNotFoundError: .* \(\S*lost\.py, line 1\)\.",
        r"the algorithm untitled of half has no 'title': give its class Mine one\.",
        r"mine and yours both have algorithm 'both': rename an entry point, or uninstall one\.",
    ):
        assert re.search("metaleaf: " + sentence, err), err
    assert len(err.splitlines()) == 8
    assert all("\x1b" not in text for text in (err, counted[1], counted[2]))
    for code, out, err in datasets:
        assert (code, "femnist" in out, "skew" in out) == (0, True, False)
        assert "metaleaf: the dataset skew of bad cannot be loaded" in err
        assert "metaleaf: the dataset shapeless of half has no 'spec': give its class Data one." in err
    assert (counted[0], "crooked: the algorithm crooked of bad" in counted[1]) == (0, True)
    assert (run[0], len(run[2].splitlines())) == (2, 1)
    assert run[2].startswith("metaleaf: the algorithm crooked of bad cannot be loaded: ZeroDivisionError")


def test_an_entry_point_that_is_named_like_ours_is_not_used_and_said(tmp_path: Path) -> None:
    package(tmp_path, "mine", PLUGIN, {"algorithms.fedavg": "mine:Mine"})
    script = "import sys; sys.path.append(sys.argv[1]); from metaleaf import registry; " + (
        "registry.plugin('algorithms', 'fedavg')\nprint(registry.plugin('algorithms', 'fedavg').title)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "FedAvg"
    sentence = "the algorithm 'fedavg' of mine is not used, metaleaf's own is: rename the entry point."
    assert done.stderr.count(sentence) == 1, done.stderr


def test_loading_a_plugin_list_imports_no_plugin() -> None:
    script = "import sys; from metaleaf import registry; registry.names('algorithms'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


NET = """
from torch import nn

class Net(nn.Module):
    '''Two layers.'''

    def __init__(self, outputs, x_shape, width: int = 4):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(x_shape[0], width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.net(x)
"""


def test_another_package_adds_a_model(tmp_path: Path) -> None:
    package(tmp_path, "nets", NET, {"models.net": "nets:Net"})
    small = "--options tasks=40 --options dimension=5 --protocol rounds=2 --results results"
    model = '{name="net",width=3}'
    listed, run, plain, wrong, counted = cli(
        tmp_path,
        "list models",
        f"run --algorithm maml --model {model} {small}",
        f"run --algorithm fedavg --model net {small}",
        f"run --algorithm fedrep --model net {small}",
        "algorithms --dataset synthetic --model net",
    )
    assert re.search(r"^net +Two layers\.$", listed[1], re.MULTILINE)
    assert (run[0], plain[0], counted[0]) == (0, 0, 0), (run, plain, counted)
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("results/runs/synthetic/*/*/seed-1.json"))]
    assert [record["config"]["model"] for record in records] == ["net", {"name": "net", "width": 3}]
    assert {record["versions"]["nets"] for record in records} == {"1.0"}
    assert records[0]["sources"]["model"] == records[1]["sources"]["model"]
    assert wrong[0] == 2
    assert "Net has no parameters in a part 'head', which the algorithm asks for" in wrong[2]
    [path] = tmp_path.glob("results/runs/synthetic/maml/*/seed-1.json")
    [(code, out, err)] = cli(tmp_path, f"verify {path} --results results")
    assert (code, "is verified, bit for bit" in out) == (0, True), err
    (tmp_path / "nets.py").write_text(NET.replace("ReLU", "Tanh"), encoding="utf-8")
    [(code, _, err)] = cli(tmp_path, f"run --algorithm maml --model {model} {small}")
    assert code == 2
    assert "was made by other code than what is here (model): add --again" in err


SENSORS = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from metaleaf.dataset import Client, Spec

@dataclass(frozen=True)
class Sensors:
    '''Sensors whose reading is a line of their own.'''
    sensors: int = 40
    spec: ClassVar[Spec] = Spec(version="1.0.0", x_shape=(2,), x_dtype="float32", classes=0, y_dtype="float32",
                                task={"name": "regression", "metrics": ["mae", "r2"], "unit": "kW"},
                                model="line", licence="CC0", homepage="", citation="")

    def clients(self, raw):
        draw = np.random.default_rng(0)
        for i in range(self.sensors):
            x = draw.normal(size=(20, 2)).astype(np.float32)
            yield Client(f"sensor {i}", "plant", x, (x @ draw.normal(size=2)).astype(np.float32))
"""

LINE = """
from torch import nn

class Line(nn.Module):
    '''A line.'''
    def __init__(self, outputs, x_shape, bias: bool = False):
        super().__init__()
        self.out = nn.Linear(x_shape[0], outputs, bias)

    def forward(self, x):
        return self.out(x)
"""

PATIENT = """
from dataclasses import dataclass
from typing import ClassVar
from metaleaf.algorithm import About, State
from metaleaf.gradient import grad
from metaleaf.learning import descend
from metaleaf.trees import add

@dataclass(frozen=True)
class Patient:
    '''One gradient a round, many steps when it counts.'''
    title: ClassVar[str] = "Patient"
    about: ClassVar[About] = About("averaging", "a gradient a round", "nobody 2026")
    space: ClassVar[dict] = {"lr": (0.1, 0.3)}
    lr: float = 0.1

    def init(self, task, params):
        return State(params)

    def client(self, task, params, episode):
        return grad(task.loss)(params, episode.data)

    def server(self, state, update):
        return State(add(state.broadcast, update, -self.lr))

    def adapt(self, task, params, support):
        yield from descend(task, params, support, self.lr, 30)
"""


SEARCHED = """
name = "searched"
title = "Searched"
seeds = [1]
[tuning]
trials = 2
rounds = 3
[datasets.sensors]
[algorithms.patient]
"""


def test_a_package_with_a_dataset_an_algorithm_and_a_model_is_run_and_verified(tmp_path: Path) -> None:
    package(tmp_path, "sensors", SENSORS, {"datasets.sensors": "sensors:Sensors"})
    package(tmp_path, "line", LINE, {"models.line": "line:Line"})
    package(tmp_path, "patient", PATIENT, {"algorithms.patient": "patient:Patient"})
    run, stats, reported = cli(
        tmp_path,
        "run --dataset sensors --algorithm patient --protocol rounds=6 --results results",
        "data stats sensors",
        "report results/runs --output out --metric r2",
    )
    assert run[0] == 0, run
    record = Path(run[1].strip())
    content = json.loads((tmp_path / record).read_text(encoding="utf-8"))
    assert [metric["name"] for metric in content["metrics"]] == ["MAE", "R²"]
    after, constant = (content["scores"]["final"]["0.5"][side]["pooled"] for side in ("after", "majority"))
    assert after < 0.5 * constant
    assert "test MAE" in run[2]
    assert "kW" in run[2]
    assert stats[0] == 0
    assert "y sd within" in stats[1]
    assert reported[0] == 0, reported
    assert "R² on the query examples" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    (tmp_path / "suite.toml").write_text(SEARCHED, encoding="utf-8")
    [tuned] = cli(tmp_path, "tune suite.toml --results searched")
    assert tuned[0] == 0, tuned
    assert re.search(r"sensors patient: \{'lr': 0\.3\} \(validation [0-9.]+ kW\)", tuned[1]), "the smaller error wins"
    [verified] = cli(tmp_path, f"verify {record}")
    assert verified[0] == 0, verified
    assert "same" in verified[1]
