"""The repository's shape: three linked folders, nothing shadowed, everything in the wheel and the sdist."""

import ast
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from metaleaf import registry

ROOT = Path(__file__).resolve().parent.parent
LINKS = {"algorithms": "algorithms", "datasets": "datasets", "suites": "benchmarks"}


@pytest.mark.parametrize(("link", "folder"), LINKS.items())
def test_links_lead_to_the_top_level_folders(link: str, folder: str) -> None:
    path = ROOT / "src" / "metaleaf" / link
    assert path.is_symlink()
    assert path.resolve() == ROOT / folder
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_text_file_is_opened_as_utf_8() -> None:
    """Whatever the locale: a suite is the same suite, and a record can be read, on every machine."""
    sources = [
        path for folder in ("src", "algorithms", "datasets", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 100
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in sources
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _is_text(call) and "encoding" not in {word.arg for word in call.keywords}
    ]
    assert found == []


_NOT_FILES = {"raw", "archive", "Image", "ClientStore", "os", "lzma", "gzip", "self", "self._archive"}
"""Whose `open` has no encoding, or is of bytes unless told otherwise."""


def _is_text(call: ast.Call) -> bool:
    """Whether the call reads or writes text, of a file or a process."""
    name, owner = ast.unparse(call.func).rpartition(".")[::-2]
    if name == "open" and owner not in _NOT_FILES:
        mode = call.args[0 if owner else 1 :][:1]
        return not (mode and isinstance(mode[0], ast.Constant) and "b" in str(mode[0].value))
    return name in ("read_text", "write_text") or (owner == "subprocess" and "text" in {w.arg for w in call.keywords})


def test_a_regular_package_named_datasets_wins_over_our_folder(tmp_path: Path) -> None:
    theirs = tmp_path / "site" / "datasets"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("name = 'theirs'\n")
    script = "import sys; sys.path.append(sys.argv[1]); import datasets; print(datasets.name)"
    # -S: without the installed packages, of which one may really have that name.
    words = [sys.executable, "-S", "-c", script, str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "theirs", done.stderr


def test_wheel_and_sdist_hold_the_plugins_as_real_files(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for kind in ("algorithms", "datasets"):
        for name in registry.names(kind):
            files = {f"metaleaf/{kind}/{name}.py", f"metaleaf/{kind}/{name}/__init__.py"}
            assert len(files & wheel) == 1
            assert len({f"src/{file}" for file in files} & sdist) == 1
    assert {"metaleaf/py.typed", "metaleaf/report/page.html", "metaleaf/report/figures/metaleaf.mplstyle"} <= wheel
    assert {f"metaleaf/catalogue/templates/{name}.py.template" for name in ("algorithm", "test_algorithm")} <= wheel
    assert {"metaleaf/suites/synthetic.toml", "metaleaf/datasets/checksums/femnist.tsv"} <= wheel
    top = {name.split("/")[0] for name in wheel}
    assert top == {"metaleaf", next(n for n in top if n.endswith(".dist-info"))}, "only metaleaf may be installed"
