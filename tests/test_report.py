"""Records -> tables, figures and the page, on made-up records."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_records import write_record, write_suite

from metaleaf.errors import DataError
from metaleaf.records.records import Record, in_order, read_records, tidy
from metaleaf.report.figures import drawing
from metaleaf.report.figures.makers import MAKERS
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import FORMATS, encoded
from metaleaf.report.page import inline_svg
from metaleaf.report.report import write_report

EVIL = '<script>alert("1")</script> & $x_1^2\\frac{ | _b_ %'


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "small"
    return write_suite(folder, ["femnist"], ["fedavg", "local", "maml"], seeds=2, clients=20)


@pytest.fixture(scope="module")
def records(suite: Path) -> list[Record]:
    return read_records(suite)


@pytest.fixture
def only_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other formats, which take most of a report's time, as empty files."""
    empty = dict.fromkeys(FORMATS, b"")
    monkeypatch.setattr(drawing, "encoded", lambda figure, _: empty | encoded(figure, ["svg"]))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """One record on its own, to be damaged."""
    return write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DIVERGED: dict[str, Any] = {
    "status": "diverged",
    "reason": "loss is nan",
    "scores": {},
    "selected_round": None,
}


def places(svg: str) -> list[float]:
    """All numbers that say where something is drawn, in their order."""
    found = re.findall(r' [dxy]="([^"]*)"|translate\(([^)]*)', svg)
    return [float(number) for one in found for number in re.findall(r"-?[\d.]+", " ".join(one))]


def test_a_figure_on_a_page_is_the_same_picture_in_fewer_letters(records: list[Record]) -> None:
    original = drawing.drawn(Runs(records), {"ecdf": MAKERS["ecdf"]}, ("svg",))["ecdf"].files["svg"].decode()
    first, second = (str(inline_svg(original, name)) for name in ("one", "two"))
    drawn_from = original[original.index("</metadata>") if "</metadata>" in original else 0 :]
    assert places(first) == pytest.approx(places(re.sub(r"<!--.*?-->", "", drawn_from)), abs=0.0051)
    assert len(first) < 0.75 * len(original)
    ids = re.findall(r' id="([^"]*)"', first)
    assert set(ids) >= set(re.findall(r'(?:href="|url\()#([^")]+)', first))
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(re.findall(r' id="([^"]*)"', second))


class TestRecords:
    def test_tidy_has_a_row_per_record_model_and_support(self, records: list[Record]) -> None:
        frame = tidy(records)
        assert len(frame) == 3 * 2 * 2 * 3
        first = frame.iloc[0]
        scores = records[0].content.scores["final"]["0.2"]
        assert first["support"] == 0.2
        assert first["after_pooled"] == scores.after.pooled
        assert first["after_hurt"] == scores.after.hurt

    def test_an_empty_folder_has_no_records(self, tmp_path: Path) -> None:
        assert read_records(tmp_path) == []
        assert tidy([]).empty

    def test_cut_off_json(self, one: Path) -> None:
        one.write_text(one.read_text()[:100])
        with pytest.raises(DataError, match=re.escape(str(one))):
            read_records(one.parent)

    @pytest.mark.parametrize(
        "changes",
        [
            {"schema": 2},
            {"status": "running"},
            {"scores": {}},
            {"title": "a\x1bb"},
            {"title": ""},
            {"rounds": -1},
            {"config": []},
        ],
    )
    def test_not_a_record(self, one: Path, changes: dict[str, Any]) -> None:
        change(one, **changes)
        with pytest.raises(DataError, match=re.escape(str(one))):
            read_records(one.parent)

    def test_impossible_scores(self, one: Path) -> None:
        content = json.loads(one.read_text())
        content["scores"]["final"]["0.2"]["after"]["pooled"] = 1.5
        one.write_text(json.dumps(content))
        with pytest.raises(DataError, match="accuracy"):
            read_records(one.parent)

    def test_a_support_fraction_that_is_no_number(self, one: Path) -> None:
        content = json.loads(one.read_text())
        content["scores"]["final"]["half"] = content["scores"]["final"]["0.5"]
        one.write_text(json.dumps(content))
        with pytest.raises(DataError, match=re.escape(str(one))):
            read_records(one.parent)

    def test_a_copy_is_refused(self, one: Path) -> None:
        (one.parent / "seed-7.json").write_text(one.read_text())
        with pytest.raises(DataError, match="same run"):
            read_records(one.parent)

    @pytest.mark.parametrize("kind", ["clients", "rounds"])
    def test_damaged_tables(self, one: Path, kind: str) -> None:
        path = one.with_suffix(f".{kind}.csv")
        numeric = {"clients": "correct", "rounds": "validation_after"}[kind]
        damages = [None, "", "a,b\n1,2\n", path.read_text().replace("\n", "\nx", 2)]
        frame = pd.read_csv(path)
        damages.append(frame.assign(**{numeric: "many"}).to_csv(index=False))
        for text in damages:
            path.unlink() if text is None else path.write_text(text)
            record = read_records(one.parent)[0]
            with pytest.raises(DataError, match=re.escape(str(path))):
                getattr(record, kind)

    def test_configurations_of_one_title_stay_apart(self, one: Path) -> None:
        change(one, config_hash="f" * 12, seed=5)
        write_record(one.parents[3], "femnist", "maml", 1, clients=12)
        names = tidy(read_records(one.parents[3]))["name"].unique()
        assert len(names) == 2
        assert all(name.startswith("MAML [maml ") for name in names)

    def test_order_of_the_suite(self, records: list[Record]) -> None:
        labels = [record.content.algorithm for record in in_order(records, ["maml", "fedavg"])]
        assert labels == ["maml"] * 2 + ["fedavg"] * 2 + ["local"] * 2


class _Tags(HTMLParser):
    """Collects the tags of a page and the addresses that it would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]
        assert not any(key.startswith("on") for key, _ in attrs)


def tags(html: str) -> _Tags:
    parser = _Tags()
    parser.feed(html)
    return parser


def _outside_figures(path: Path) -> list[str]:
    """The tags of a page; figures are left out, for their shapes depend on the letters of names."""
    return tags(re.sub(r"<svg.*?</svg>", "", path.read_text(), flags=re.DOTALL)).tags


@pytest.mark.usefixtures("only_svg")
class TestReport:
    def test_writes_everything(self, suite: Path, tmp_path: Path) -> None:
        written = write_report(suite, tmp_path / "site")
        names = {path.name for path in written}
        assert names == {"table.md", "table.csv", "pairs.csv", "table.tex", "index.html"} | {
            f"{name}.{kind}"
            for name in MAKERS
            if name not in ("participants", "protection", "convergence_hours")
            for kind in ("png", "svg", "pdf")
        }
        assert names == {path.name for path in (tmp_path / "site").iterdir()}
        parsed = tags((tmp_path / "site" / "index.html").read_text())
        assert parsed.tags.count("table") == 6  # at each support fraction the comparison and the pairs
        assert parsed.tags.count("svg") == len(MAKERS) - 3
        assert all(link.startswith("#") or link in names for link in parsed.links)  # nothing from the network

    def test_ids_are_unique(self, suite: Path, tmp_path: Path) -> None:
        write_report(suite, tmp_path)
        ids = re.findall(r'\bid="([^"]+)"', (tmp_path / "index.html").read_text())
        assert len(ids) == len(set(ids))

    def test_no_records(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no records"):
            write_report(tmp_path, tmp_path / "site")
        assert not (tmp_path / "site").exists()

    def test_every_run_diverged(self, one: Path, tmp_path: Path) -> None:
        change(one, **DIVERGED)
        written = write_report(one.parents[3], tmp_path / "site")
        assert {path.suffix for path in written} == {".md", ".csv", ".tex", ".html"}
        assert "loss is nan" in (tmp_path / "site" / "index.html").read_text()

    def test_nothing_of_a_record_gets_unescaped_into_the_page(self, one: Path, tmp_path: Path) -> None:
        write_report(one.parents[3], tmp_path / "clean")
        content = json.loads(one.read_text())
        for key in ("suite", "dataset", "algorithm", "config_hash", "title", "reason"):
            content[key] = EVIL
        content["config"]["note"] = f"</pre>{EVIL}"
        content["tuning"]["chosen"] = {EVIL: EVIL}
        one.write_text(json.dumps(content))
        evil = write_report(one.parents[3], tmp_path / "evil")
        before, after = (_outside_figures(tmp_path / name / "index.html") for name in ("clean", "evil"))
        assert before == after
        for path in evil:
            if path.suffix in (".svg", ".html"):
                assert "<script>alert" not in path.read_text()
