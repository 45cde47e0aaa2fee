"""Cards of datasets: their figures are those of the plugin and of what is prepared."""

import dataclasses
import os
from pathlib import Path

import pytest

from metaleaf import registry
from metaleaf.catalogue import cards
from metaleaf.cli import main
from metaleaf.cli.options import assignments
from metaleaf.config.config import build
from metaleaf.errors import ConfigError, DataError

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "datasets"
CARDS = sorted(FOLDER.glob("*.md"))
OWN = {"table", "arrays", "leaf_json", "tff", "huggingface"}
"""Datasets that are whatever their file is."""


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_says_what_its_plugin_declares(path: Path) -> None:
    card = cards.read(path, assignments)
    spec = dataclasses.asdict(build("datasets", card.dataset, card.options).spec)
    assert cards.declared(spec) in card.text, f"renew it: metaleaf data card {path.relative_to(FOLDER.parent.parent)}"


def test_every_dataset_has_a_card() -> None:
    assert {path.stem for path in CARDS} == set(registry.names("datasets")) - OWN


@pytest.mark.parametrize("name", ["synthetic_shared", "heart_disease", "landmine"])
def test_a_card_says_what_is_prepared(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "synthetic_shared" and not os.environ.get("METALEAF_RAW"):
        pytest.skip("METALEAF_RAW is not set: no real data")
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path))
    committed = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    copy = tmp_path / f"{name}.md"
    copy.write_text(committed, encoding="utf-8")
    main(["data", "card", str(copy)])
    assert copy.read_text(encoding="utf-8") == committed
    assert copy.with_suffix(".png").stat().st_size > 10_000


def test_without_raw_files_a_card_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    card = tmp_path / "femnist.md"
    card.write_text("# Letters\n\n<!-- generated: source=writers -->\n\nMore.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no femnist_writers\.npz"):
        cards.renew(cards.read(card, assignments))
    assert not card.with_suffix(".png").exists()
    assert card.read_text(encoding="utf-8").endswith("-->\n\nMore.\n")


def test_a_card_without_a_place_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "femnist.md"
    card.write_text("# Letters\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no line <!-- generated -->"):
        cards.read(card, assignments)
