"""The front door: what `import metaleaf` gives, and that it is what the command line does."""

import gc
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from documented import fenced
from nbclient import NotebookClient
from torch import nn

import metaleaf as ml
from metaleaf import registry
from metaleaf.algorithm import About, Space, State
from metaleaf.algorithms.fedavg import FedAvg
from metaleaf.algorithms.maml import MAML
from metaleaf.catalogue.starter import checkout
from metaleaf.cli import main
from metaleaf.errors import ConfigError, DataError, StaleError, UserError
from metaleaf.gradient import grad
from metaleaf.jobs.execute import Outcome
from metaleaf.records.records import Record
from metaleaf.trees import add

FEW: dict[str, Any] = {"rounds": 3, "test_supports": [0.2], "progress": False}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_brought", {})


def own(clients: int = 20, size: int = 12, seed: int = 0) -> ml.Clients:
    """Clients with a rule of three classes each."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(clients):
        x = rng.normal(size=(size, 4)).astype(np.float32)
        found[f"client {i}"] = x, (x @ rng.normal(size=(4, 3)) + x[:, :3]).argmax(1)
    return ml.clients(found, name="own")


@dataclass(frozen=True)
class OneStep:
    """Clients send one gradient; the server follows it; nobody adapts."""

    title: ClassVar[str] = "One step"
    about: ClassVar[About] = About("averaging", "clients send one gradient", "nobody 2026")
    space: ClassVar[Space] = {"lr": (0.01, 0.1)}
    lr: float = 0.1

    def init(self, task: Any, params: Any) -> State:
        return State(params)

    def client(self, task: Any, params: Any, episode: Any) -> Any:
        return grad(task.loss)(params, episode.data)

    def server(self, state: State, update: Any) -> State:
        return State(add(state.broadcast, update, -self.lr))

    def adapt(self, task: Any, params: Any, support: Any) -> Any:
        yield params


class Net(nn.Module):
    """A module that knows nothing of metaleaf."""

    def __init__(self, outputs: int = 3, width: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(4, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.inner(x).relu())
        return found


class TestClients:
    def test_they_are_a_sequence(self) -> None:
        clients = own(5)
        assert len(clients) == 5
        assert clients.ids == [f"client {i}" for i in range(5)]
        assert clients[-1].id == "client 4"
        assert [client.id for client in clients[1:3]] == ["client 1", "client 2"]
        np.testing.assert_array_equal(clients["client 3"].x, clients[3].x)
        assert [len(client.y) for client in clients] == [12] * 5
        with pytest.raises(IndexError, match="own has 5 clients, no number 5"):
            clients[5]
        with pytest.raises(KeyError, match="no client 'client 9'"):
            clients["client 9"]

    def test_stats_are_a_row_a_client(self) -> None:
        table = own(3).stats()
        assert list(table["examples"]) == [12] * 3
        assert table["majority_share"].between(1 / 3, 1).all()

    def test_y_is_as_it_was_given(self) -> None:
        frame = pd.DataFrame({"client": list("aabb"), "x": [1.0, 2, 3, 4], "y": ["low", "high", "high", "low"]})
        clients = ml.clients(frame)
        assert clients.labels == ("high", "low")
        assert clients["a"].y.tolist() == ["low", "high"]
        assert "y [n] of 2 classes (high, low), task binary, model mlp" in repr(clients)

    def test_the_same_data_are_prepared_once(self, tmp_path: Path) -> None:
        for seed in (0, 0, 1):
            own(3, seed=seed)
        assert len(list((tmp_path / "data" / "arrays").glob("*/about.json"))) == 2

    def test_a_dataset_by_name_and_one_that_is_none(self) -> None:
        clients = ml.load("synthetic", tasks=20, dimension=5)
        assert (len(clients), clients[0].x.shape[1]) == (20, 5)
        with pytest.raises(ConfigError, match="unknown dataset 'sinthetic': did you mean"):
            ml.load("sinthetic")
        with pytest.raises(ConfigError, match=r"use metaleaf\.clients"):
            ml.load("mine.csv")
        with pytest.raises(ConfigError, match="give a DataFrame, a path, or a dict"):
            ml.clients([1, 2])  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"DataFrame is no dataset: .* or your data to metaleaf\.clients"):
            ml.run("fedavg", pd.DataFrame(), **FEW)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="unknown choice of stale 'kep': did you mean 'keep'"):
            ml.load("synthetic", tasks=20, stale="kep")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"name = 'My data': .*names a folder"):
            ml.clients({"a": (np.ones((2, 1)), np.array([0, 1]))}, name="My data")

    def test_they_are_found_by_id(self) -> None:
        clients = own(3)
        found: list[Any] = ["client 1", clients[1], "client 7"]
        assert [one in clients for one in found] == [True, True, False]
        assert clients.index("client 2") == clients.index(clients[2]) == 2

    def test_classes_that_are_numbers_or_truth_values_stay_so(self) -> None:
        x = np.ones((4, 1))
        assert ml.clients({"a": (x, np.array([5, 8, 8, 5]))})["a"].y.tolist() == [5, 8, 8, 5]
        assert ml.clients({"a": (x, np.array([True, False, True, True]))})["a"].y.tolist() == [True, False, True, True]
        assert ml.clients({"a": (x.tolist(), ["u", "v", "v", "u"])})["a"].y.tolist() == ["u", "v", "v", "u"]
        texts = np.array(["u", "v", "v", "u"], dtype=object)
        assert ml.clients({"a": (x, texts)})["a"].y.tolist() == ["u", "v", "v", "u"]

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            ({1: (np.ones((2, 1)), [0, 1]), "1": (np.ones((2, 1)), [0, 1])}, "two clients are called '1'"),
            ({"a": np.ones((2, 1))}, "client 'a' is a ndarray: give a pair"),
            ({"a": ([[1, 2], [3]], [0, 1])}, "its values are of different lengths"),
            ({"a": (np.ones((2, 1)), np.array([0, None]))}, "values that are neither numbers nor texts"),
        ],
    )
    def test_what_is_no_client(self, data: Any, sentence: str) -> None:
        with pytest.raises(DataError, match=sentence):
            ml.clients(data)

    def test_clients_of_other_lengths_are_refused(self) -> None:
        with pytest.raises(DataError, match="client 'a' has x"):
            ml.clients({"a": (np.ones((2, 1)), np.ones(3))})
        with pytest.raises(DataError, match="there are no clients"):
            ml.clients({})


class TestRun:
    def test_it_is_the_run_of_the_command_line(self, tmp_path: Path) -> None:
        words = ["--options", "tasks=40", "--options", "dimension=5", "--set", "inner_lr=0.2", "--protocol", "rounds=3"]
        words += ["--protection", "clip={norm = 0.5}", "--protection", "compress=sign"]
        assert main(["run", *words, "--results", "there", "--threads", "1"]) == 0
        [path] = Path("there").rglob("seed-1.json")
        clients = ml.load("synthetic", tasks=40, dimension=5)
        layers = {"clip": {"norm": 0.5}, "compress": "sign"}
        known: dict[str, Any] = {"protection": layers, "rounds": 3, "progress": False}
        result = ml.run(MAML(inner_lr=0.2), clients, results="here", threads=1, **known)
        assert result.path == Path("here", *path.parts[1:])
        there, here = json.loads(path.read_text()), json.loads(result.path.read_text())
        for part in ("config", "config_hash", "scores", "data", "cost", "sources", "title"):
            assert here[part] == there[part], part
        assert here["config"]["protection"]["clip"]["norm"] == 0.5
        named = ml.run("maml", clients, hyperparameters={"inner_lr": 0.2}, **known)
        assert named.record.content.config_hash == there["config_hash"]

    def test_it_is_not_made_again(self) -> None:
        clients, heard = own(), []
        for _ in range(2):
            ml.run("fedavg", clients, results="kept", on_round=lambda number, row: heard.append(number), **FEW)
        assert heard == [1, 2, 3]

    def test_what_it_leaves(self) -> None:
        result = ml.run("ditto", own(), held_out=0.2, **FEW)
        assert result.status == "finished"
        assert list(result.rounds["round"]) == [0, 1, 2, 3]
        assert set(result.clients["model"]) == {"final", "selected"}
        assert result.participants["client"].nunique() == 16
        assert set(result.scores["who"]) == {"new", "participants"}
        assert "new clients at 20 % support" in repr(result)
        assert "participants" in result._repr_html_()

    @pytest.mark.parametrize("algorithm", [OneStep, OneStep(), OneStep(lr=0.2)])
    def test_any_object_that_fits_the_contract(self, algorithm: Any) -> None:
        result = ml.run(algorithm, own(), **FEW)
        assert result.record.content.algorithm == "one_step"
        assert result.record.content.config["algorithm"]["hyperparameters"] == {"lr": getattr(algorithm, "lr", 0.1)}

    def test_what_does_not_fit_is_said(self) -> None:
        with pytest.raises(ConfigError, match="is no algorithm: give a name, a plugin class or an object"):
            ml.run(object(), own(), **FEW)
        with pytest.raises(ConfigError, match="unknown algorithm 'mamml'"):
            ml.run("mamml", own(), **FEW)
        with pytest.raises(ConfigError, match=r"unknown key in suite runs \[protocol\] 'ronds': did you mean 'rounds'"):
            ml.run("maml", own(), progress=False, ronds=3)
        with pytest.raises(ConfigError, match="device tpu: choose cpu or cuda"):
            ml.run("maml", own(), device="tpu", **FEW)
        with pytest.raises(ConfigError, match="unknown stale 'kep': did you mean 'keep'"):
            ml.run("maml", own(), stale="kep", **FEW)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="unknown engine 'x'"):
            ml.run("maml", own(), engine="x", **FEW)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="model = a list: give a name"):
            ml.run("maml", own(), model=[], **FEW)

    def test_numbers_of_numpys_are_numbers(self) -> None:
        steps: Any = np.int64(2)
        result = ml.run(MAML(inner_steps=steps), own(), hyperparameters={"inner_lr": np.float64(0.5)}, **FEW)
        given = result.record.content.config["algorithm"]["hyperparameters"]
        assert (given["inner_steps"], given["inner_lr"]) == (2, 0.5)

    def test_what_another_process_computes_is_no_result_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("metaleaf.jobs.execute.compute", lambda *given: Outcome("left to the process"))
        with pytest.raises(UserError, match="another process is computing own fedavg seed 1 in kept: call this again"):
            ml.run("fedavg", own(), results="kept", **FEW)

    def test_an_algorithms_own_error_is_the_cause(self) -> None:
        @dataclass(frozen=True)
        class Broken(OneStep):
            def client(self, task: Any, params: Any, episode: Any) -> Any:
                raise ZeroDivisionError("of my own")

        with pytest.raises(UserError, match="failed: of my own") as caught:
            ml.run(Broken(), own(), **FEW)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_a_diverged_run_is_a_result(self) -> None:
        @dataclass(frozen=True)
        class Leap(OneStep):
            def server(self, state: State, update: Any) -> State:
                return State({name: leaf * float("nan") for name, leaf in state.broadcast.items()})

        result = ml.run(Leap(), own(), **FEW)
        assert result.status.startswith("diverged (round")
        assert "diverged" in repr(result)
        with pytest.raises(DataError, match="diverged: it has no model"):
            result.params()

    def test_models_of_a_notebook(self) -> None:
        torch.manual_seed(0)
        module = Net()
        result = ml.run("fedavg", own(), model=module, **{**FEW, "rounds": 0})
        params = result.params()
        for name, leaf in module.state_dict().items():
            torch.testing.assert_close(params[name], leaf)
        other = ml.run("fedavg", own(), model=Net(), **{**FEW, "rounds": 0})
        assert other.record.content.config_hash != result.record.content.config_hash
        wide = ml.run("fedavg", own(), model={"name": Net, "width": 5}, **FEW)
        assert wide.record.content.config["model"] == {"name": "net", "width": 5}
        assert ml.run("fedavg", own(), model=Net, **FEW).record.content.config["model"] == "net"


class TestSession:
    """Classes that a notebook's cell or a script defines live in `__main__`."""

    TEXT = "class Typed(OneStep):\n    title = 'Typed'\n    def server(self, state, update):\n        return SERVER\n"

    def typed(self, server: str, monkeypatch: pytest.MonkeyPatch, known: bool = True) -> Any:
        text = self.TEXT.replace("SERVER", server)
        scope = {"OneStep": OneStep, "State": State, "add": add, "__name__": "__main__"}
        exec(text, scope)
        monkeypatch.setattr("inspect.getsource", lambda cls: text if known else (_ for _ in ()).throw(OSError()))
        made: Any = scope["Typed"]
        return dataclass(frozen=True)(made)

    def test_their_text_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        step = "State(add(state.broadcast, update, -self.lr))"
        first = ml.run(self.typed(step, monkeypatch), own(), results="kept", **FEW)
        again = ml.run(self.typed(step + "  # a remark", monkeypatch), own(), results="kept", **FEW)
        assert again.record.content == first.record.content
        changed = self.typed("state", monkeypatch)
        with pytest.raises(UserError, match="by other code than what is here") as caught:
            ml.run(changed, own(), results="kept", **FEW)
        assert isinstance(caught.value.__cause__, StaleError)
        anew = ml.run(changed, own(), results="kept", stale="again", **FEW)
        assert anew.scores["after_pooled"].tolist() != first.scores["after_pooled"].tolist()

    def test_what_nobody_can_read_is_a_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        heard: list[int] = []
        typed = self.typed("state", monkeypatch, known=False)

        def run(**how: Any) -> ml.Result:
            return ml.run(typed, own(), results="kept", on_round=lambda number, row: heard.append(number), **how, **FEW)

        first = run()
        with pytest.raises(UserError, match=r"by code that may have changed since, as it cannot be read here"):
            run()
        assert run(stale="keep").record.content == first.record.content
        assert heard == [1, 2, 3]
        run(stale="again")
        assert heard == [1, 2, 3, 1, 2, 3]

    def test_what_they_name_in_the_script_counts(self, tmp_path: Path) -> None:
        (tmp_path / "beside.py").write_text("LENGTH = 1.0\n")
        script = tmp_path / "script.py"
        text = "\n".join(
            [
                "from dataclasses import dataclass",
                "import beside",
                "from metaleaf.config.sources import _typed",
                "STEP = 1.0",
                "UNUSED = 1",
                "def helper():",
                "    return STEP * beside.LENGTH",
                "@dataclass(frozen=True)",
                "class Mine:",
                "    def server(self, state, update):",
                "        return helper()",
                "print(_typed(Mine))",
                "",
            ]
        )

        def digest(text: str) -> str:
            script.write_text(text)
            return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout

        first = digest(text)
        assert first != "None\n"
        assert digest(text + "# another experiment\n") == digest(text.replace("UNUSED = 1", "UNUSED = 2")) == first
        assert digest(text.replace("STEP = 1.0", "STEP = 2.0")) != first
        assert digest(text.replace("return STEP", "return 2 * STEP")) != first
        (tmp_path / "beside.py").write_text("LENGTH = 2.0\n")
        assert digest(text) != first

    def test_a_class_of_a_cell_counts_by_its_methods(self) -> None:
        """IPython knows where a function was typed, and of a class only from Python 3.13 on."""
        cells = {
            "first": "SCALE = 1.0\ndef helper(p): return {k: SCALE * v for k, v in p.items()}",
            "base": "@dataclass(frozen=True)\nclass Base(MAML):\n    def client(self, *given):\n"
            "        return helper(MAML.client(self, *given))",
            "mine": "@dataclass(frozen=True)\nclass Mine(Base):\n    title = 'Mine'\n    steps: int = 3\n"
            "    def adapt(self, task, params, support):\n        yield params",
        }
        changes = [
            ("first", "1.0", "2.0"),
            ("first", "SCALE * v", "v"),
            ("base", "*given)", "*given,)"),
            ("mine", "steps: int = 3", "steps: int = 4"),
            ("mine", "yield params", "yield {}"),
        ]
        script = """
import json, sys, __main__
from dataclasses import dataclass
from IPython.core.interactiveshell import InteractiveShell
from metaleaf.algorithms.maml import MAML
from metaleaf.config.sources import _typed
shell = InteractiveShell.instance()
shell.user_module, shell.user_ns = __main__, __main__.__dict__
def digest(cells):
    for cell in cells.values():
        shell.run_cell(cell).raise_error()
    return _typed(Mine)
cells, changes = json.loads(sys.argv[1])
first = digest(cells)
print(first is not None, digest(cells) == first)
print([digest({**cells, name: cells[name].replace(a, b)}) == first for name, a, b in changes])
"""
        path = Path("shell.py")
        path.write_text(script)
        words = [sys.executable, str(path), json.dumps([cells, changes])]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        # A comma more in the call is another text, and the same code.
        assert done.stdout.splitlines() == ["True True", "[False, False, True, False, False]"]

    def test_a_cell_that_is_run_again_replaces_its_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = self.typed("state", monkeypatch)
        second = self.typed("state", monkeypatch)
        assert registry.bring("algorithms", first) == registry.bring("algorithms", second) == "typed"
        assert registry.plugin("algorithms", "typed") is second

    def test_ours_keep_their_names(self) -> None:
        assert registry.bring("algorithms", MAML) == "maml"
        assert registry.bring("algorithms", type("MAML", (MAML,), {"__module__": "elsewhere"})) == "own_maml"

    def test_workers_do_not_know_them(self) -> None:
        with pytest.raises(ConfigError, match="only this process knows the algorithm 'one_step', so workers must be 1"):
            ml.compare([OneStep()], own(), workers=2, **FEW)


class TestAdapting:
    def test_a_client_of_the_table_gets_its_recorded_score(self) -> None:
        clients = own(20, size=40)
        result = ml.run(FedAvg(), clients, **FEW)  # FedAvg's clients do not adapt: one model for all
        row = result.clients[(result.clients["model"] == "selected")].iloc[0]
        client = clients[row["client"]]
        predict = result.adapt(client.x[:8], client.y[:8])
        params = result.params()
        hidden = np.tanh(client.x @ params["hidden.weight"].numpy().T + params["hidden.bias"].numpy())
        scores = hidden @ params["out.weight"].numpy().T + params["out.bias"].numpy()
        np.testing.assert_allclose(predict.outputs(client.x), scores, rtol=1e-4, atol=1e-5)
        assert predict(client.x).tolist() == scores.argmax(1).tolist()

    def test_names_of_classes_are_no_numbers(self) -> None:
        """Their places would be learnt instead: 0, 1, 2 for ages of 20, 30, 50."""
        frame = pd.DataFrame({"client": np.repeat(np.arange(20), 6), "v": np.arange(120.0), "y": [20, 30, 50] * 40})
        with pytest.raises(UserError, match=r"needs numbers; the data's y are classes called 20, 30, \.\.\.: where"):
            ml.run(FedAvg(), ml.clients(frame), task="regression", **FEW)
        numbers = ml.clients(frame, target_type="numbers")
        assert numbers[0].y.tolist() == [20.0, 30.0, 50.0] * 2
        assert ml.run(FedAvg(), numbers, **FEW).record.content.metric.name == "RMSE"

    def test_clients_need_no_file_once_they_are_prepared(self) -> None:
        names = np.repeat(list("abcdefghij"), 6)
        pd.DataFrame({"client": names, "v": np.arange(60.0), "y": ["no", "yes"] * 30}).to_csv("m.csv", index=False)
        clients = ml.clients("m.csv")
        Path("m.csv").unlink()
        assert clients[0].y.tolist() == ["no", "yes"] * 3

    def test_numbers_come_back_as_numbers(self) -> None:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(
            {"client": np.repeat(np.arange(20), 10), "a": rng.normal(size=200), "b": rng.normal(size=200)}
        )
        frame["y"] = frame["a"] * 3 + frame["client"] / 4
        result = ml.run(MAML(inner_lr=0.1), ml.clients(frame), **{**FEW, "rounds": 60})
        some = frame[frame["client"] == 3]
        predict = result.adapt(some.head(6), some["y"].head(6))
        assert predict.steps == 2
        assert predict(some.tail(4)).shape == (4,)
        assert np.abs(predict(some.tail(4)) - some["y"].tail(4)).mean() < frame["y"].std()

    def test_what_does_not_fit_is_said(self) -> None:
        frame = pd.DataFrame(
            {"client": np.repeat(list("abcdefghij"), 6), "v": np.arange(60.0), "y": ["no", "yes"] * 30}
        )
        result = ml.run(FedAvg(), ml.clients(frame), **FEW)
        with pytest.raises(DataError, match="y has 'maybe', which is none of the classes 'no', 'yes'"):
            result.adapt([[1.0]], ["maybe"])
        with pytest.raises(DataError, match="x has 1 examples and y 2"):
            result.adapt([[1.0]], ["no", "yes"])
        with pytest.raises(DataError, match=r"x has shape \[1, 2\], not \['n', 1\]"):
            result.adapt([[1.0, 2.0]], ["no"])
        with pytest.raises(DataError, match="the rows have no column 'v'"):
            result.adapt(pd.DataFrame({"w": [1.0]}), ["no"])
        with pytest.raises(DataError, match="x has a value that is missing or not finite"):
            result.adapt([[np.inf]], ["no"])
        with pytest.raises(DataError, match="x is no array of numbers"):
            result.adapt([["a", None]], ["no"])
        with pytest.raises(ConfigError, match="unknown model 'best'"):
            result.params("best")  # type: ignore[arg-type]

    @pytest.mark.parametrize("classes", [(0, 1), (5, 8), (-1, 1), (False, True), ("no", "yes")])
    def test_answers_are_as_y_was_given(self, classes: tuple[Any, Any]) -> None:
        a = np.random.default_rng(0).normal(size=400)
        y = np.array(classes)[(a > 0).astype(int)]
        frame = pd.DataFrame({"client": np.repeat(np.arange(20), 20), "a": a, "y": y})
        result = ml.run(MAML(inner_lr=0.5), ml.clients(frame), **{**FEW, "rounds": 40})
        some = frame[frame["client"] == 3]
        predict = result.adapt(some.head(10), some["y"].head(10))
        assert (predict(some.tail(10)) == some["y"].tail(10)).mean() >= 0.8
        for wrong in (0.5, 9, "maybe"):
            with pytest.raises(DataError, match="y "):
                result.adapt(some.head(1), [wrong])

    def test_a_table_that_has_changed_is_refused(self) -> None:
        frame = pd.DataFrame(
            {"client": np.repeat(list("abcdefghij"), 6), "v": np.arange(60.0), "y": ["no", "yes"] * 30}
        )
        frame.to_csv("mine.csv", index=False)
        path = ml.run(FedAvg(), ml.clients("mine.csv"), **FEW).save("kept")
        assert ml.Result(path).adapt(frame.head(2), ["no", "yes"]).steps == 1
        frame.assign(v=frame["v"] * 100).to_csv("mine.csv", index=False)
        with pytest.raises(StaleError, match=r"from another .*mine\.csv"):
            ml.Result(path).adapt(frame.head(2), ["no", "yes"])


class TestSaving:
    def test_a_saved_result_is_a_record_like_any_other(self, capsys: pytest.CaptureFixture[str]) -> None:
        result = ml.run("maml", "synthetic", **FEW)
        path = result.save("results")
        assert main(["verify", str(path)]) == 0
        assert main(["evaluate", str(path)]) == 0
        assert main(["report", "results/runs"]) == 0
        assert "synthetic, 20 % support" in capsys.readouterr().out
        assert len(ml.read("results/runs")) == len(ml.read(path)) == 1
        assert ml.Result(path).adapt(np.zeros((2, 60)), [0, 1])(np.zeros((3, 60))).shape == (3,)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> ml.Records:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEAF_DATA", str(tmp_path_factory.mktemp("data")))
        return ml.compare(["fedavg", MAML(inner_lr=0.1), MAML(inner_lr=0.2)], own(), seeds=2, held_out=0.2, **FEW)


class TestCompare:
    def test_it_is_a_table_of_all(self, compared: ml.Records) -> None:
        table = compared.table()
        names = ["Majority class", "FedAvg", "MAML (inner_lr 0.1)", "MAML (inner_lr 0.2)"]
        assert table[table["who"] == "new"]["algorithm"].tolist() == names
        assert table["seeds"].tolist() == [2] * 8
        assert {"own, 20 % support", "own, participants (20 % held out)"} <= {t.title for t in compared._glance()}
        assert not any("difference" in one.title for one in compared._glance())

    def test_a_row_a_run(self, compared: ml.Records) -> None:
        runs = compared.runs
        assert len(runs) == len(compared) == 6
        assert sorted(runs["seed"]) == [1, 1, 1, 2, 2, 2]
        assert runs.loc[runs["algorithm"] == "maml_2", "inner_lr"].tolist() == [0.2, 0.2]
        assert runs[["before@0.2", "after@0.2", "participants"]].notna().all(axis=None)

    def test_scores_of_clients_are_those_of_the_table(self, compared: ml.Records) -> None:
        clients = compared.clients()
        last = clients[clients["step"] == clients.groupby("algorithm")["step"].transform("max")]
        means = last.groupby(["algorithm", "seed"])["score"].mean().groupby("algorithm").mean()
        table = compared.table()
        table = table[table["who"] == "new"].set_index("label")
        for label in ("fedavg", "maml", "maml_2"):
            assert means[label] == pytest.approx(table.loc[label, "after_client_mean_mean"])
        assert set(compared.choose(supports=0.2).clients()["support"]) == {0.2}
        assert "Ours" in set(compared.choose({"maml": "Ours"}).clients()["name"])
        assert compared.clients("participants")["client"].nunique() == 16
        assert len(compared.rounds()) == 6 * 4
        assert len(compared.pairs()) > 0

    def test_it_is_shown_as_chosen(self, compared: ml.Records) -> None:
        chosen = compared.choose({"maml_2": "Ours", "fedavg": ""}, columns=("after", "mean"))
        assert chosen.to_markdown().count("Ours") >= 2
        assert "inner" not in chosen.to_markdown()
        assert r"\toprule" in chosen.to_latex()
        assert "Ours" in chosen._repr_html_()
        assert "difference from FedAvg" in chosen.to_markdown(baseline="fedavg")
        with pytest.raises(ConfigError, match="unknown algorithm of the records 'mmal'"):
            compared.choose(["mmal"])
        with pytest.raises(ConfigError, match="unknown choice 'metrik': did you mean 'metric'"):
            compared.choose(metrik="auc")

    @pytest.mark.parametrize("who", ["new", "participants"])
    def test_one_kind_of_client_alone(self, compared: ml.Records, tmp_path: Path, who: str) -> None:
        alone = compared.choose(who=who)
        assert set(alone.table()["who"]) == set(alone.pairs()["who"]) == {who}
        assert ("participants" in alone.to_markdown()) == (who == "participants")
        written = {path.name for path in alone.report(tmp_path / who)}
        assert {"index.html", "clients.png", "overview.png"} <= written
        other = ml.Records(tuple(compared.all[:1])).choose(who=who, metric="accuracy")
        assert set(other.table()["who"]) == {who}

    def test_figures(self, compared: ml.Records, tmp_path: Path) -> None:
        plot = compared.plot("clients", width="single")
        assert plot._repr_png_().startswith(b"\x89PNG")
        assert plot.save(tmp_path / "clients.pdf").read_bytes().startswith(b"%PDF")
        assert "accuracy over test clients" in plot.caption
        with pytest.raises(ConfigError, match="a figure ends in"):
            plot.save("clients.tiff")
        with pytest.raises(ConfigError, match="unknown figure 'clinets'"):
            compared.plot("clinets")
        with pytest.raises(DataError, match="the figure cost_to_target cannot be made"):
            compared.plot("cost_to_target")

    def test_all_are_kept(self, compared: ml.Records, tmp_path: Path) -> None:
        paths = compared.save(tmp_path / "kept")
        assert len(paths) == 6
        assert ml.read(tmp_path / "kept" / "comparison").table().equals(compared.table())
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="move away what is in the place"):
            compared.save(tmp_path / "file")

    def test_tables_outlive_their_folder(self) -> None:
        record = ml.compare("fedavg", own(), seeds=1, **FEW)[0]
        gc.collect()
        assert not record.path.exists()
        assert len(record.clients) > 0
        with pytest.raises(DataError, match="is gone"):
            ml.Records((record,)).save("kept")

    def test_nothing_is_no_comparison(self) -> None:
        for algorithms, clients in ([], own()), (["fedavg"], {}):
            with pytest.raises(ConfigError, match="there is nothing to compare"):
                ml.compare(algorithms, clients, **FEW)
        with pytest.raises(ConfigError, match="say with tune= how many trials"):
            ml.compare(["fedavg"], own(), tune_rounds=3, **FEW)

    def test_a_report(self, compared: ml.Records, tmp_path: Path) -> None:
        names = {path.name for path in compared.report(tmp_path / "report")}
        assert {"index.html", "table.md", "table.tex", "pairs.csv", "overview.png"} <= names

    def test_the_search_is_that_of_a_suite(self) -> None:
        records = ml.compare({"First": OneStep()}, own(), seeds=[5], tune=2, tune_rounds=2, **FEW)
        [record] = records
        assert record.content.title == "First"
        assert record.content.seed == 5
        tuning = record.content.tuning
        assert tuning is not None
        assert (tuning["trials"], tuning["rounds"], len(tuning["history"])) == (2, 2, 2)
        assert record.content.config["algorithm"]["hyperparameters"]["lr"] == tuning["chosen"]["lr"]

    def test_a_best_at_an_edge_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        few = {**FEW, "progress": True}
        spaces = {"one_step": {"lr": [1e-7, 1e-6, 1.0]}}
        ml.compare([OneStep()], own(), seeds=1, tune=3, tune_rounds=20, spaces=spaces, **few)
        assert "at an edge of its space, which others beyond may beat: lr 1.0" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="unknown algorithm of spaces 'one_stp': did you mean 'one_step'"):
            ml.compare([OneStep()], own(), spaces={"one_stp": {}}, **FEW)

    def test_several_datasets(self) -> None:
        records = ml.compare(["fedavg"], {"one": own(), "two": own(seed=1)}, seeds=1, **FEW)
        assert records.runs["dataset"].tolist() == ["one", "two"]


class TestRead:
    def test_several_suites_come_side_by_side(self) -> None:
        ml.run("fedavg", own(), results="there", name="baselines", **FEW)
        mine = ml.run(OneStep(), own(), **FEW)
        both = ml.read("there/baselines", mine)
        assert both.runs["algorithm"].tolist() == ["fedavg", "one_step"]
        other = ml.run(OneStep(), own(seed=1), **FEW)
        with pytest.raises(DataError, match="have other clients or other data in their splits and cannot be compared"):
            ml.read("there/baselines", other)

    def test_nothing_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no records below nowhere"):
            ml.read("nowhere")
        with pytest.raises(ConfigError, match="give a folder of records"):
            ml.read()
        with pytest.raises(ConfigError, match="give folders of records or results, not a list"):
            ml.read(["results"])  # type: ignore[arg-type]

    def test_text_of_strangers_is_shown_as_text(self) -> None:
        result = ml.run("fedavg", own(), **FEW)
        content = result.record.content.model_copy(update={"title": "<b>\x1b[2J"})
        result.record = Record(result.path, content)
        assert "<b>" not in result._repr_html_()
        assert "\x1b" not in result._repr_html_()


def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (checkout() / "docs" / "python.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {"__name__": "documented"}
    for block in fenced(page, "python"):
        exec(block, scope)
    assert Path("clients.pdf").is_file()
    assert Path("paper/index.html").is_file()
    scope["table"].to_csv("hospitals.csv", index=False)
    [entry] = fenced(page, "toml")
    options = 'name = "mine"\ntitle = "Mine"\nseeds = [1]\n[protocol]\nrounds = 2\n[algorithms.fedavg]\n'
    Path("mine.toml").write_text(options + entry)
    assert main(["suite", "mine.toml", "--results", "suites"]) == 0


def test_the_tour_runs() -> None:
    notebook = nbformat.read(checkout() / "docs" / "tour.ipynb", 4)  # type: ignore[no-untyped-call]
    committed = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert committed
    assert not [output for output in committed if output.output_type == "error"]
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("MAML" in data.get("text/html", "") and "<b>" in data["text/html"] for data in shown)
    assert sum("image/png" in data for data in shown) == 2
    assert any(data.get("text/plain", "").startswith("[1/1] hospitals maml seed 1: test") for data in shown)
