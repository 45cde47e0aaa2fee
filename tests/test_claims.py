"""What each algorithm is for: the committed records show it, and so do runs of today's code."""

from pathlib import Path
from typing import Any

import pytest
from scripts_as_modules import ROOT, script

from metaleaf.config.suite import load_suite
from metaleaf.jobs.execute import Settings, compute
from metaleaf.records.records import read_records

SUITES = sorted((ROOT / "benchmarks").glob("claim_*.toml"))


CLAIMS = script("claims")
SHOWN = [claim for claim in CLAIMS.CLAIMS if claim.margin is not None]


def test_every_suite_is_run_and_claimed_of() -> None:
    assert {path.stem for path in SUITES} == {claim.suite for claim in CLAIMS.CLAIMS}
    for path in SUITES:
        suite = load_suite(str(path))
        contents = [one.content for one in read_records(ROOT / "results" / suite.name)]
        found = {(content.dataset, content.algorithm, content.seed) for content in contents}
        assert found == {(*cell, seed) for cell in suite.grid() for seed in suite.seeds}


def test_the_page_has_the_table_of_the_records() -> None:
    page = CLAIMS.PAGE.read_text(encoding="utf-8")
    assert CLAIMS.written(page) == page, "python scripts/claims.py"


@pytest.mark.parametrize("claim", CLAIMS.CLAIMS, ids=lambda claim: claim.key)
def test_what_is_shown_is_shown_with_every_seed(claim: Any) -> None:
    differences = CLAIMS.differences(claim)
    assert len(differences) == 3
    assert (min(differences) > 0.5) == (claim.margin is not None)


@pytest.mark.slow
@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_it_is_so_today(path: Path, tmp_path: Path) -> None:
    """With one seed, and half of the least difference that the three had."""
    suite = load_suite(str(path))
    for dataset, algorithm in suite.grid():
        compute(Settings(tmp_path, threads=1), suite.config(dataset, algorithm, suite.seeds[0]), lambda *_: None)
    for claim in SHOWN:
        if claim.suite == suite.name:
            [difference] = CLAIMS.differences(claim, tmp_path)
            assert difference > claim.margin, claim.key
