"""The leaderboard page without a browser: what is on it, what is left out, its commands, its safety."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_environments import level
from fake_environments import write_record as write_environment
from fake_records import write_record, write_suite
from site_cases import HIDDEN, IN_A_NAME, change, honest, malicious, move

from metaleaf import cli
from metaleaf.cli import run, suite
from metaleaf.config.config import RunConfig, digest
from metaleaf.config.suite import load_suite
from metaleaf.errors import DataError
from metaleaf.records.client_scores import Setting, client_scores
from metaleaf.records.records import Content, Record, read_record, read_records
from metaleaf.report.site import new_clients, new_environments, target
from metaleaf.report.site.collect import collect
from metaleaf.report.site.commands import command
from metaleaf.report.site.page import write_site
from metaleaf.report.site.table import Cell, Row, Track
from metaleaf.statistics.intervals import estimate

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr", "path", "use", "line", "circle", "rect"}


class Page(HTMLParser):
    """All tags with their attributes, and every script's text; tags have to be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return honest(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def html(results: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path, refused = write_site(results, tmp_path_factory.mktemp("site"))
    assert refused == []
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, refused = write_site(malicious(tmp_path_factory.mktemp("malicious")), tmp_path_factory.mktemp("site"))
    assert refused == []
    return path.read_text(encoding="utf-8")


def cell(track: Track, row: Row, key: str) -> Cell:
    return row.cells[[column.key for column in track.columns].index(key)]


def texts(track: Track, rows: Sequence[Row], *keys: str) -> list[tuple[str, ...]]:
    return [tuple(cell(track, row, key).text for key in keys) for row in rows]


class TestRows:
    def test_new_clients(self, results: Path) -> None:
        records = read_records(results / "small")
        rows = new_clients.rows(records)
        named = texts(new_clients.TRACK, rows, "dataset", "support", "algorithm")
        assert named[:4] == [("femnist", "20 %", name) for name in ("Majority class", "FedAvg", "Local", "MAML")]
        assert len(named) == 2 * 3 * 4
        expected = estimate(client_scores(records)[Setting("femnist", 0.2)]["MAML"], "after_pooled")
        after = cell(new_clients.TRACK, rows[3], "after")
        assert (after.value, after.low, after.high) == pytest.approx(tuple(100 * number for number in expected))
        assert after.interval == f"[{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
        assert rows[3].filters["family"] == "meta-gradient"
        assert rows[0].run is None

    def test_a_run_that_diverged_has_a_row_without_numbers(self, tmp_path: Path) -> None:
        write_record(tmp_path / "s", "femnist", "maml", 0, clients=12)
        gone: dict[str, Any] = {"status": "diverged", "reason": "loss is nan", "scores": {}}
        write_record(tmp_path / "s", "femnist", "fedavg", 0, clients=12, **gone)
        rows = new_clients.rows(read_records(tmp_path / "s"))
        diverged = next(row for row in rows if row.cells[0].text == "FedAvg")
        assert texts(new_clients.TRACK, [diverged], "before", "after", "seeds") == [("–", "diverged", "0 (1 diverged)")]

    def test_participants_are_a_track_of_their_own(self, tmp_path: Path) -> None:
        records = read_records(write_suite(tmp_path / "s", ["femnist"], ["fedavg", "maml"], seeds=2, held_out=0.2))
        assert {row.filters["support"] for row in new_clients.rows(records)} == {"0.2", "0.5", "0.9"}
        rows = new_clients.participants(records)
        assert [row.cells[0].text for row in rows] == ["Majority class", "FedAvg", "MAML"]
        expected = estimate(client_scores(records)[Setting("femnist", 0.8, "participants")]["MAML"], "after_pooled")
        after = cell(new_clients.PARTICIPANTS, rows[2], "after")
        assert (after.value, after.low, after.high) == pytest.approx(tuple(100 * number for number in expected))
        assert texts(new_clients.PARTICIPANTS, rows[2:], "support") == [("80 %",)]

    def test_a_suite_without_participants_has_no_rows_of_them(self, tmp_path: Path) -> None:
        records = read_records(write_suite(tmp_path / "s", ["femnist"], ["maml"], seeds=1, clients=12))
        assert new_clients.rows(records)
        assert new_clients.participants(records) == []

    def test_cost_to_target(self, results: Path) -> None:
        """Only FEMNIST declares a target, 70 %; Local stays below it."""
        rows = target.rows(read_records(results / "small"))
        found = texts(target.TRACK, rows, "dataset", "algorithm", "target", "reached")
        assert [row[:3] for row in found] == [("femnist", name, "70 %") for name in ("FedAvg", "Local", "MAML")]
        assert found[1][3] == "0 of 2"
        assert cell(target.TRACK, rows[1], "rounds").text == "not reached"
        maml = cell(target.TRACK, rows[2], "rounds")
        firsts = [
            frame.loc[frame["validation_after"] >= 0.7, "round"].iloc[0]
            for record in read_records(results / "small")
            if (record.content.dataset, record.content.title) == ("femnist", "MAML")
            for frame in [record.rounds]
        ]
        assert (maml.value, maml.low, maml.high) == (sum(firsts) / 2, min(firsts), max(firsts))

    def test_new_environments(self, results: Path) -> None:
        rows = new_environments.rows(collect(results).environments["entered"])
        assert len(rows) == 3 * 5
        learned = next(row for row in rows if row.cells[0].text == "learned_start" and row.filters["R"] == "1")
        found = texts(new_environments.TRACK, [learned], "before", "after", "gain", "pairs", "sent")
        assert found == [("70.0", "75.0", "+10.0", "8", "6 kB")]


class TestWhatIsLeftOut:
    def test_a_damaged_record_is_named_and_not_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The page has the others; the command says which it lacks, and fails."""
        suite = tmp_path / "results" / "s"
        for algorithm in ("maml", "fedavg", "local"):
            write_record(suite, "femnist", algorithm, 0, clients=12)
        damaged = next(suite.rglob("local/*/seed-0.json"))
        damaged.write_text(damaged.read_text()[:200])
        cut = next(suite.rglob("fedavg/*/seed-0.rounds.csv"))
        cut.write_text("round\n1\n")
        arguments = ["site", str(tmp_path / "results"), "--output", str(tmp_path / "site")]
        assert cli.main(arguments) == 2
        errors = capsys.readouterr().err.splitlines()
        assert [str(damaged) in errors[1], str(cut) in errors[0], "written without these 2" in errors[2]] == [True] * 3
        html = (tmp_path / "site" / "index.html").read_text()
        assert ">MAML</a>" in html
        assert "FedAvg" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)

    def test_tuning_and_folders_without_records_are_passed_over(self, results: Path) -> None:
        for folder in ("searched/tuning/femnist/maml", "overall"):
            (results / folder).mkdir(parents=True)
            (results / folder / "abc-seed-1.json").write_text("{}")
        found = collect(results)
        assert (list(found.clients), list(found.environments), found.refused) == (["small"], ["entered"], [])

    def test_suites_may_be_left_out_by_pattern(self, results: Path) -> None:
        found = collect(results, ["sm*"])
        assert (list(found.clients), list(found.environments)) == ([], ["entered"])
        with pytest.raises(DataError, match=r"no suite below .* fits 'clame_.', which is to be left out"):
            collect(results, ["sm*", "clame_*"])

    def test_nothing_to_show(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no records"):
            write_site(tmp_path, tmp_path / "site")
        assert not (tmp_path / "site").exists()

    def test_a_record_that_lies_elsewhere_than_it_says(self, tmp_path: Path) -> None:
        path = write_record(tmp_path / "s", "femnist", "maml", 0, clients=12)
        copy = move(write_record(tmp_path / "s", "femnist", "maml", 1, clients=12), tmp_path / "s" / "a" / "b" / "c")
        found = collect(tmp_path)
        assert [record.path for record in found.clients["s"]] == [path]
        assert [str(copy) in sentence for sentence in found.refused] == [True]

    def test_one_record_on_another_split_does_not_oust_the_others(self, tmp_path: Path) -> None:
        paths = [write_record(tmp_path / "s", "femnist", name, 0, clients=12) for name in ("fedavg", "local", "maml")]
        data = json.loads(paths[0].read_text())["data"]
        change(paths[0], data=data | {"split_hash": "6" * 16})
        found = collect(tmp_path)
        assert [record.path for record in found.clients["s"]] == paths[1:]
        assert [str(paths[0]) in sentence for sentence in found.refused] == [True]

    def test_seeds_that_scored_other_clients_cost_only_their_suite(self, tmp_path: Path) -> None:
        write_record(tmp_path / "good", "femnist", "maml", 0, clients=12)
        for seed in (0, 1):
            write_record(tmp_path / "bad", "femnist", "maml", seed, clients=12 + seed)
        path, refused = write_site(tmp_path, tmp_path / "site")
        assert [sentence.startswith("suite bad is left out: ") for sentence in refused] == [True]
        assert 'data-suite="good"' in path.read_text()


def content_of(config: RunConfig, folder: Path, **changes: Any) -> Content:
    named = {"suite": config.suite, "dataset": config.dataset_label, "algorithm": config.algorithm_label}
    made = {"config": config.resolved(), "config_hash": config.config_hash(), "tuning": config.tuning}
    path = write_record(folder, "femnist", "maml", config.seed, clients=12)
    return read_record(Record, change(path, **(named | made | changes))).content


PHONE = {"name": "phone", "share": 1.0, "flops": 1e7, "down": 1e5, "up": 1e4, "watts": 3.0, "radio_watts": 1.0}


class TestCommands:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
        """The runs that the command line is asked for; none takes place."""
        runs: list[RunConfig] = []
        for module in suite, run:
            monkeypatch.setattr(module, "run_all", lambda configs, compute, save: runs.extend(configs))
        monkeypatch.setattr(suite, "report_suite", lambda *arguments: None)
        return runs

    def test_of_a_suite_that_comes_with_metaleaf(self, tmp_path: Path, asked: list[RunConfig]) -> None:
        content = content_of(load_suite("synthetic").config("synthetic", "maml", 1), tmp_path)
        [line] = command(content, [1, 2]).lines
        assert cli.main(shlex.split(line)[1:]) == 0
        assert [(config.config_hash(), config.seed) for config in asked] == [(content.config_hash, n) for n in (1, 2)]

    def test_of_a_tuned_suite_starts_with_the_search(self, tmp_path: Path) -> None:
        chosen = {"inner_lr": 0.003, "server_optimizer.lr": 0.0005}
        config = load_suite("femnist").config("femnist", "maml", 1, changes=chosen, tuning={"chosen": chosen})
        assert command(content_of(config, tmp_path), [1]).lines == (
            "metaleaf tune femnist",
            "metaleaf suite femnist --algorithms maml --seeds 1",
        )

    @pytest.mark.parametrize(
        ("label", "layers"),
        [
            ("fedavg", {}),
            ("maml", {}),
            ("reptile", {}),
            ("local", {}),
            ("fedavg", {"attack": "alie", "clip": {"norm": 0.5, "quantile": 0.5}, "aggregate": "median"}),
            ("fedavg", {"systems": {"deadline": 9.5, "devices": [PHONE]}}),
        ],
    )
    def test_of_any_other_run_is_complete(
        self, tmp_path: Path, asked: list[RunConfig], label: str, layers: dict[str, Any]
    ) -> None:
        suite = load_suite("synthetic")
        apart = {"protection": {key: value for key, value in layers.items() if key != "systems"}}
        other = {
            "name": "own",
            "protocol": {**suite.protocol, "rounds": 7},
            **apart,
            "systems": layers.get("systems", {}),
        }
        suite = suite.model_copy(update=other)
        content = content_of(suite.config("synthetic", label, 3), tmp_path)
        [line] = command(content, [3, 4]).lines
        assert "--seed 4" in command(content, [3, 4]).note
        assert cli.main(shlex.split(line)[1:]) == 0
        assert [(config.config_hash(), config.seed) for config in asked] == [(content.config_hash, 3)]

    def test_a_configuration_that_is_not_its_hash_has_none(self, tmp_path: Path) -> None:
        config = load_suite("synthetic").config("synthetic", "maml", 1)
        found = command(content_of(config, tmp_path, config_hash="0" * 12), [1])
        assert found.lines == ()
        assert "has the hash" in found.note

    @pytest.mark.parametrize("text", ["a‮b", "a'; rm -rf ~; '", "$(reboot)", "a\nb"])
    def test_what_is_not_installed_here_is_never_in_a_command(self, tmp_path: Path, text: str) -> None:
        config = load_suite("synthetic").config("synthetic", "maml", 1).resolved()
        for changed in (
            config | {"model": text},
            config | {"dataset": {"name": text, "options": {}}},
            config | {"dataset": {"name": "femnist", "options": {"source": text}}},
        ):
            told = {"config": changed, "config_hash": digest(changed)[:12]}
            path = write_record(tmp_path, "femnist", "maml", 1, clients=12)
            content = read_record(Record, change(path, **told)).content
            found = command(content, [1])
            assert all(shlex.split(line)[0] == "metaleaf" and line.isprintable() for line in found.lines)
            assert found.lines == () or text in " ".join(shlex.split(found.lines[0]))

    def test_a_start_needs_a_suite_file(self, tmp_path: Path) -> None:
        suite = load_suite("environments_femnist")
        config = suite.model_copy(update={"name": "other"}).config("femnist_shifts", "fedavg", 1)
        path = write_environment(
            tmp_path / "other", "fedavg", 1, level(0.5, 0.6), config=config.resolved(), config_hash=config.config_hash()
        )
        move(path, tmp_path / "other" / "shifts" / "fedavg" / config.config_hash())
        [record] = collect(tmp_path).environments["other"]
        assert "only a suite file can say" in command(record.content, [1]).note


class TestPage:
    def test_structure(self, html: str) -> None:
        page = Page(html)
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        links = [attrs["href"] or "" for attrs in page.all("a")]
        assert all(link.startswith("#") and link[1:] in ids for link in links)
        headings = page.all("th")
        assert all(attrs["scope"] in ("row", "col") for attrs in headings)
        assert len(page.all("caption")) == 3  # tracks
        assert page.all("html")[0]["lang"] == "en"
        labels, fields = page.all("label"), page.all("select") + page.all("input")
        assert len(labels) == len(fields)

    def test_everything_is_there_without_a_script(self, html: str) -> None:
        rows = [attrs for attrs in Page(html).all("tr") if "data-dataset" in attrs]
        assert len(rows) == 24 + 3 + 15
        assert not any("hidden" in attrs for attrs in rows)
        assert "metaleaf submit check" in html
        assert "NIST SD19" in html

    @pytest.mark.parametrize("page_of", ["html", "evil"])
    def test_one_script_that_the_policy_knows(self, page_of: str, request: pytest.FixtureRequest) -> None:
        page = Page(request.getfixturevalue(page_of))
        [script] = page.scripts
        [policy] = [
            attrs["content"] or "" for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{known}'" in policy
        assert "default-src 'none'" in policy
        assert len(page.all("script")) == 1

    def test_no_text_of_a_record_becomes_markup(self, evil: str) -> None:
        page = Page(evil)
        for tag, attrs in page.tags:
            assert tag not in ("img", "iframe", "object", "embed", "link", "base")
            assert not any(name.startswith("on") or name in ("src", "srcdoc", "action") for name in attrs)
            for name in ("href", "xlink:href"):
                assert (attrs.get(name) or "#").startswith("#")
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch(r"[\w.-]+", str(name)) for name in ids)
        assert "‮" not in evil
        assert "<!--" not in evil

    def test_the_same_records_make_the_same_page(self, results: Path, html: str, tmp_path: Path) -> None:
        assert write_site(results, tmp_path)[0].read_text(encoding="utf-8") == html

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, html: str, scheme: str) -> None:
        """WCAG: 4.5 for text, 3 for bars and the edges of fields."""
        blocks = re.findall(r"(@media \(prefers-color-scheme: dark\) \{\s*)?:root \{([^}]*)\}", html)
        colours: dict[str, str] = {}
        for dark, block in blocks:
            if not dark or scheme == "dark":
                colours |= dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for background in ("paper", "tint"):
            for text in ("ink", "muted", "link"):
                assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
            for shape in ("dot", "edge"):
                assert contrast(colours[shape], colours[background]) >= 3, (shape, background)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_attacks_are_in_the_malicious_records(tmp_path: Path) -> None:
    """So that the tests of the page and of the browser have something to fail on."""
    malicious(tmp_path)
    [record] = [record for record in collect(tmp_path).clients[IN_A_NAME] if record.content.status == "diverged"]
    assert record.content.reason == HIDDEN
    assert pd.read_csv(record.path.with_suffix(".clients.csv"))["client"].str.contains("<script>").all()
