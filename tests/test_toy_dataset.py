"""The toy dataset in the docstring of `metaleaf.dataset`: it is complete, and clients learn their own coin."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documented import fragments_of_docstring

from metaleaf import dataset, registry
from metaleaf.cli import main


@pytest.fixture
def coins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The toy from a file of its own, as the plugin ``coins``."""
    code = fragments_of_docstring(dataset.__doc__ or "")[""]
    (tmp_path / "toy_coins.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "toy_coins", importlib.import_module("toy_coins"))
    toy: type[Any] = sys.modules["toy_coins"].Coins
    real = registry.plugin
    monkeypatch.setattr(registry, "plugin", lambda kind, name: toy if name == "coins" else real(kind, name))
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return toy


def test_the_toy_runs_and_clients_adapt_to_their_own_coin(coins: type[Any], capsys: pytest.CaptureFixture[str]) -> None:
    clients = list(coins().clients(None))
    assert len({client.id for client in clients}) == 100
    assert np.ptp([client.y.mean() for client in clients]) > 0.5, "the coins differ"
    words = ["run", "--dataset", "coins", "--algorithm", "fedavg_meta", "--protocol", "rounds=5"]
    assert main([*words, "--set", "adapt_lr=1.0"]) == 0
    record = json.loads(Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8"))
    scores = record["scores"]["final"]["0.5"]
    assert scores["after"]["pooled"] > scores["before"]["pooled"] + 0.1
