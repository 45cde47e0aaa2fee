"""The repository's shape: three linked folders, nothing shadowed, everything in the wheel and the sdist."""

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


def test_a_regular_package_named_datasets_wins_over_our_folder(tmp_path: Path) -> None:
    theirs = tmp_path / "site" / "datasets"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("name = 'theirs'\n")
    script = "import sys; sys.path.append(sys.argv[1]); import datasets; print(datasets.name)"
    words = [sys.executable, "-c", script, str(tmp_path / "site")]
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
            assert f"metaleaf/{kind}/{name}.py" in wheel
            assert f"src/metaleaf/{kind}/{name}.py" in sdist
    assert {"metaleaf/py.typed", "metaleaf/page.html", "metaleaf/metaleaf.mplstyle"} <= wheel
    assert {f"metaleaf/templates/{name}.py.template" for name in ("algorithm", "test_algorithm")} <= wheel
    assert {"metaleaf/suites/synthetic.toml", "metaleaf/datasets/checksums/femnist.tsv"} <= wheel
    top = {name.split("/")[0] for name in wheel}
    assert top == {"metaleaf", next(n for n in top if n.endswith(".dist-info"))}, "only metaleaf may be installed"
