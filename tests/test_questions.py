"""What docs/protection.md and docs/systems.md have in tables is what the committed records say."""

import pytest
from scripts_as_modules import ROOT, script

from metaleaf.config.suite import load_suite
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import Record, read_all

SUITES = sorted(
    path.stem for kind in ("protection", "systems") for path in (ROOT / "benchmarks").glob(f"{kind}_*.toml")
)


QUESTIONS = script("questions")


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
