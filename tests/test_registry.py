"""Plugins by name: built in, from other packages, and names that do not exist."""

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


def test_another_package_adds_an_algorithm_by_entry_point(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metaleaf.algorithms]\nmine = mine:Mine\n")
    script = (
        "import sys; sys.path.append(sys.argv[1]); from metaleaf import registry; "
        "print('mine' in registry.names('algorithms'), registry.plugin('algorithms', 'mine').title)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "Mine"], done.stderr


def test_loading_a_plugin_list_imports_no_plugin() -> None:
    script = "import sys; from metaleaf import registry; registry.names('algorithms'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
