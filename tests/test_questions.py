"""What docs/protection.md and docs/systems.md have in tables is what the committed records say."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from metaleaf.config.suite import load_suite
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, read_all

ROOT = Path(__file__).resolve().parent.parent
SUITES = sorted(
    path.stem for kind in ("protection", "systems") for path in (ROOT / "benchmarks").glob(f"{kind}_*.toml")
)


def script() -> Any:
    """scripts/questions.py as a module."""
    spec = importlib.util.spec_from_file_location("questions_script", ROOT / "scripts" / "questions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["questions_script"] = module
    spec.loader.exec_module(module)
    return module


QUESTIONS = script()


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_run(name: str) -> None:
    suite = load_suite(str(ROOT / "benchmarks" / f"{name}.toml"))
    dataset = next(iter(suite.datasets))
    kind = EnvironmentRecord if suite.protocol_for(dataset).environments else Record
    found = {
        (one.content.dataset, one.content.algorithm, one.content.seed)
        for one in read_all(kind, ROOT / "results" / name)
    }
    assert found == {(*pair, seed) for pair in suite.grid() for seed in suite.seeds}


@pytest.mark.parametrize("page", QUESTIONS.PAGES)
def test_the_pages_have_the_tables_of_the_records(page: str) -> None:
    text = (QUESTIONS.DOCS / page).read_text(encoding="utf-8")
    assert QUESTIONS.written(page) == text, "python scripts/questions.py"
