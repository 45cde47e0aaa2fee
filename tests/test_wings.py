"""The house's walls: imports follow the table in docs/design.md, and plugins stay on the top floor."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ROOT / "src" / "metaleaf"
TOP = "metaleaf"
PLUGINS = ("algorithms", "datasets")
PACKAGES = ("dataset", "models", "raw", "tasks")
"""Names of the top floor that are folders."""


def modules() -> dict[str, Path]:
    """All of the harness and its plugins, by dotted name."""
    folders = [HARNESS, *(HARNESS / kind for kind in PLUGINS)]  # rglob follows no links
    paths = {path for folder in folders for path in folder.rglob("*.py")}
    return {
        ".".join((TOP, *path.relative_to(HARNESS).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in paths
    }


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of metaleaf that this one imports anywhere, also for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module} & MODULES.keys()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found - {name}


IMPORTS = {name: imports(name) for name in MODULES}
IMPORTS[TOP] = set()  # the package's face: for type checkers only, see `test_the_package_imports_nothing_by_itself`


def wing(name: str) -> str:
    """Where a module stands: its folder, `metaleaf` for the top floor, `plugins`."""
    first, *rest = MODULES[name].relative_to(HARNESS).parent.parts or (TOP,)
    if first in PLUGINS:
        return "plugins"
    return TOP if first in PACKAGES else "/".join((first, *rest))


def arrows() -> dict[str, set[str]]:
    """The wings that each wing imports."""
    found: dict[str, set[str]] = {wing(name): set() for name in MODULES}
    for name, others in IMPORTS.items():
        found[wing(name)] |= {wing(other) for other in others} - {wing(name)}
    return found


def table() -> dict[str, set[str]]:
    """The wings that each wing may import, by docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z/]+) \| [^|]+ \| ([a-z/, ]*)\|$", text, re.MULTILINE)
    return {name: set(re.findall(r"[a-z/]+", allowed)) for name, allowed in rows if name != "wing"}


ARROWS = arrows()


@pytest.mark.parametrize("name", sorted(ARROWS.keys() - {"plugins"}))
def test_a_wing_imports_what_the_table_says(name: str) -> None:
    assert ARROWS[name] == table()[name]


def test_the_table_has_no_other_wings() -> None:
    assert table().keys() == ARROWS.keys() - {"plugins"}


def test_plugins_import_from_the_top_floor_only() -> None:
    assert ARROWS["plugins"] <= {TOP}


@pytest.mark.parametrize("graph", [ARROWS, IMPORTS], ids=["wings", "files"])
def test_nothing_imports_in_a_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_package_imports_nothing_by_itself() -> None:
    script = "import metaleaf, sys; print([name for name in sys.modules if name.startswith('metaleaf.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_top_floor_has_at_most_eighteen_names() -> None:
    names = {path.stem for path in HARNESS.glob("*.py")} | set(PACKAGES)
    assert len(names) <= 18, sorted(names)
