"""``metaleaf new algorithm``: what it writes works, in a package of one's own and in the repository; refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import metaleaf
from metaleaf import registry
from metaleaf.catalogue import starter
from metaleaf.cli import main
from metaleaf.errors import ConfigError

SMALL = [
    "--options",
    "tasks=40",
    "--options",
    "dimension=5",
    "--protocol",
    "rounds=2",
    "--protocol",
    "clients_per_round=4",
]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "METALEAF_DATA": str(folder / "data"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_package_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert main(["new", "algorithm", "near_by", "--to", str(package)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [str(package / "near_by.py"), str(package / "test_near_by.py")]
    assert 'near_by = "my_package.near_by:NearBy"' in out

    tested = run(["pytest", "-q", "-p", "no:cacheprovider", "my_package"], tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "3 passed" in tested.stdout

    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[metaleaf.algorithms]\n" + out.splitlines()[-2].strip().replace('"', "") + "\n"
    )
    done = run(["metaleaf.cli", "run", "--algorithm", "near_by", *SMALL], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "after adaptation" in done.stderr
    listed = run(["metaleaf.cli", "algorithms"], tmp_path)
    assert "Near by" in listed.stdout, listed.stderr


@pytest.mark.parametrize("name", ["f_1", "a", "near_by", "a_method_whose_name_is_rather_long_for_a_method"])
def test_in_the_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the others, in the style that the repository's own checks ask for."""
    (tmp_path / "algorithms").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(starter, "checkout", lambda: tmp_path)
    assert main(["new", "algorithm", name]) == 0
    assert "metaleaf algorithms --write" in capsys.readouterr().out
    plugin, test = tmp_path / "algorithms" / f"{name}.py", tmp_path / "tests" / f"test_{name}.py"
    assert f"from metaleaf.algorithms.{name} import {starter.class_name(name)}\n" in test.read_text()
    for text in (plugin.read_text(), test.read_text()):
        assert "$" not in text
        compile(text, name, "exec")
    root = Path(metaleaf.__file__).resolve().parents[2]
    for check in (["check"], ["format", "--check"]):
        words = ["ruff", *check, "--no-cache", "--config", str(root / "pyproject.toml"), "."]
        done = run([*words, "--config", 'lint.isort.known-first-party = ["metaleaf"]'], tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fedavg"], "there is an algorithm 'fedavg' already: choose another name."),
        (["FedNew"], "'FedNew' is no name for a plugin: use an identifier in snake_case, like my_method."),
        (["1st"], "'1st' is no name"),
        (["two__lines"], "'two__lines' is no name"),
        (["_mine"], "'_mine' is no name"),
        (["../mine"], "'../mine' is no name"),
        (["class"], "'class' is no name"),
        (["state"], "the class of 'state' would hide another State: choose another name."),
        (["f"], "the class of 'f' would hide another F"),
        (["mine", "--to", "nowhere"], "nowhere is not a folder: make it first."),
        (["taken", "--to", "."], "taken.py exists already: choose another name."),
        (["tested", "--to", "."], "test_tested.py exists already: choose another name."),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("algorithms", "tests"):
        (tmp_path / folder).mkdir()
    for name in ("taken.py", "test_tested.py"):
        (tmp_path / name).touch()
    monkeypatch.setattr(starter, "checkout", lambda: tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["new", "algorithm", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert sentence in error
    assert sorted(tmp_path.rglob("*")) == before


def test_an_installed_package_has_no_folder_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "metaleaf"
    (package / "algorithms").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(metaleaf, "__file__", str(package / "__init__.py"))
    with pytest.raises(ConfigError, match="is an installed package and not a checkout"):
        starter.new_algorithm("mine")


def test_templates_do_not_collide_with_a_plugin() -> None:
    assert "my_method" not in registry.names("algorithms")  # the name that a refusal suggests
    assert {path.name for path in starter.TEMPLATES.iterdir()} == {
        "algorithm.py.template",
        "test_algorithm.py.template",
    }
