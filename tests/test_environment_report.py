"""Records of new environments -> tables, figures and the page, on made-up records with known means."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_environments import ROUNDS, level, write_record
from fake_records import write_record as write_ordinary
from latex import compile_within_a_page, needs_tex
from test_report import DIVERGED, EVIL, _outside_figures, change, tags

from metaleaf.cli import main
from metaleaf.errors import ConfigError, DataError
from metaleaf.records.environments import EnvironmentRecord, runs, visited
from metaleaf.records.records import read_all, read_records
from metaleaf.report.figures import environments as figures
from metaleaf.report.figures.style import looks
from metaleaf.report.markup import to_csv, to_latex, to_markdown
from metaleaf.report.report import write_report
from metaleaf.report.tables import environments as tables
from metaleaf.statistics.environments import bootstrap_means, differences, mean_and_two_errors, paired

FILES = {"table.md", "table.csv", "table.tex", "index.html"} | {
    f"{name}.{kind}" for name in figures.CAPTIONS if name != "variants" for kind in ("png", "svg", "pdf")
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A method that gains 2 points over few_round in every environment, and loses 1 after local adaptation."""
    folder = tmp_path / "suite"
    for seed in (1, 2, 3):
        write_record(folder, "few_round", seed, lambda e, r: (0.3 + 0.1 * e + 0.01 * r, 0.75))
        write_record(folder, "learned_start", seed, lambda e, r: (0.32 + 0.1 * e + 0.01 * r, 0.74), entry=(9000, 2000))
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_record(tmp_path / "suite", "maml", 1, level(0.4, 0.6))


def records(folder: Path) -> list[EnvironmentRecord]:
    return read_all(EnvironmentRecord, folder)


def compared(folder: Path, baseline: str | None = None) -> pd.DataFrame:
    return tables.comparison(records(folder), baseline)


def normal(rng: np.random.Generator, seeds: int, environments: int) -> list[np.ndarray]:
    """Values whose mean is 0: a part that a seed's environments share, and one of their own."""
    return [rng.normal(rng.normal(), 1, (environments, 1)) for _ in range(seeds)]


def table_of(values: list[np.ndarray]) -> pd.DataFrame:
    names = ["seed", "environment"]
    pairs = [(seed, f"e{i}") for seed, those in enumerate(values) for i in range(len(those))]
    return pd.DataFrame(np.concatenate(values), index=pd.MultiIndex.from_tuples(pairs, names=names))


class TestStatistics:
    def test_two_errors_by_hand(self) -> None:
        mean, errors = mean_and_two_errors(np.array([1.0, 2.0, 3.0, 6.0]))
        assert mean == 3
        assert errors == pytest.approx(2 * np.sqrt((4 + 1 + 0 + 9) / 3) / 2)
        assert np.isnan(mean_and_two_errors(np.array([1.0]))[1])
        assert np.isnan(mean_and_two_errors(np.array([]))[0])

    def test_a_constant_difference_is_certain(self) -> None:
        found = paired(table_of([np.full((5, 2), 0.25), np.full((3, 2), 0.25)]))
        assert found["pairs"].tolist() == [8, 8]
        assert found["gains"].tolist() == [8, 8]
        for column in ("difference", "low", "high"):
            assert found[column].to_numpy() == pytest.approx(0.25, abs=1e-12)
        assert found["errors"].to_numpy() == pytest.approx(0, abs=1e-12)

    def test_gains_are_above_zero(self) -> None:
        found = paired(table_of([np.array([[0.1], [0.0], [1e-17]]), np.array([[-0.1], [0.2]])]))
        assert found["gains"].tolist() == [2]

    def test_variance_of_the_bootstrap(self) -> None:
        """Of seeds of equal size: that of their means, and of what is around them, by the number drawn."""
        values = normal(np.random.default_rng(1), 6, 10)
        means = np.array([those.mean() for those in values])
        within = np.mean([those.var() for those in values])
        drawn = bootstrap_means(values, 40_000)
        assert drawn.mean() == pytest.approx(means.mean(), abs=0.01)
        assert drawn.var() == pytest.approx(means.var() / 6 + within / 60, rel=0.03)

    def test_one_seed_leaves_its_environments(self) -> None:
        values = np.random.default_rng(2).normal(size=(30, 1))
        assert bootstrap_means([values], 40_000).var() == pytest.approx(values.var() / 30, rel=0.03)

    def test_columns_are_drawn_together_and_the_draw_is_seeded(self) -> None:
        values = normal(np.random.default_rng(3), 3, 5)
        drawn = bootstrap_means([np.hstack([those, 2 * those]) for those in values])
        assert drawn[:, 1] == pytest.approx(2 * drawn[:, 0])
        assert drawn[:, :1] == pytest.approx(bootstrap_means(values), abs=1e-12)

    def test_coverage_is_about_95_percent(self) -> None:
        rng = np.random.default_rng(4)
        held = []
        for _ in range(300):
            found = paired(table_of(normal(rng, 25, 8)), draws=500).iloc[0]
            held.append(found["low"] <= 0 <= found["high"])
        assert 0.92 <= np.mean(held) <= 0.98

    def test_an_environment_that_one_method_lacks(self) -> None:
        whole = table_of([np.zeros((3, 1)), np.zeros((3, 1))])
        part = whole.drop((1, "e2"))
        with pytest.raises(DataError, match=r"^A lacks environment e2 of seed 1 and cannot be paired; run it again$"):
            differences(part, whole, ("A", "B"))
        with pytest.raises(DataError, match="B lacks environment e2 of seed 1"):
            differences(whole, part, ("A", "B"))


class TestRecords:
    def test_means_over_clients_then_draws(self, suite: Path) -> None:
        frame = visited(records(suite))
        assert len(frame) == 2 * 3 * 4 * len(ROUNDS)
        row = frame[(frame["algorithm"] == "few_round") & (frame["environment"] == "e2") & (frame["rounds"] == 5)]
        assert row["before"].to_numpy() == pytest.approx(0.55)
        assert row["after"].to_numpy() == pytest.approx(0.75)

    def test_every_draw_counts_once_whatever_its_clients(self, one: Path) -> None:
        path = one.with_suffix(".clients.csv")
        clients = pd.read_csv(path)
        clients.loc[(clients["draw"] == 0) & (clients["client"] == "1a"), "n"] = 0  # no query example, so no score
        clients.to_csv(path, index=False)
        assert visited(records(one.parent))["before"].to_numpy() == pytest.approx((0.38 + 0.4) / 2)

    def test_each_track_refuses_the_other(self, one: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is of the track of new environments"):
            read_records(one.parent)
        ordinary = write_ordinary(tmp_path / "other", "femnist", "maml", 0, clients=12)
        with pytest.raises(DataError, match="is of the track of new clients"):
            records(ordinary.parent)

    def test_a_folder_with_both_tracks(self, one: Path, tmp_path: Path) -> None:
        write_ordinary(one.parents[3], "femnist", "maml", 0, clients=12)
        with pytest.raises(DataError, match="a folder of its own"):
            write_report(one.parents[3], tmp_path / "site")

    def test_seeds_may_differ_in_their_data_but_methods_may_not(self, suite: Path) -> None:
        assert len({record.content.data.split_hash for record in records(suite)}) == 3
        path = records(suite)[0].path
        change(path, data=json.loads(path.read_text())["data"] | {"split_hash": "other"})
        with pytest.raises(DataError, match="cannot be compared"):
            records(suite)

    @pytest.mark.parametrize(
        "changes",
        [
            {"scores": {}},
            {"scores": {"selected": {}, "entry": {"first": 1, "round": 1}}},
            {"scores": {"selected": {"first": {}}, "entry": {"first": 1, "round": 1}}},
            {"cost": {"bytes_down": 1, "bytes_up": 1, "flops": 1}},
            {"config": {"protocol": {"environments": 3}}},
            {"title": "a\x1bb"},
        ],
    )
    def test_not_a_record(self, one: Path, changes: dict[str, Any]) -> None:
        change(one, **changes)
        with pytest.raises(DataError, match=re.escape(str(one))):
            records(one.parent)

    def test_clients_that_are_missing(self, one: Path) -> None:
        path = one.with_suffix(".clients.csv")
        clients = pd.read_csv(path)
        whole = (clients["rounds"] == 10) & (clients["environment"] == "e1")
        for damaged in (clients[~whole], clients[clients["rounds"] < 10], clients.drop(columns="draw")):
            damaged.to_csv(path, index=False)
            with pytest.raises(DataError, match=re.escape(str(path))):
                visited(records(one.parent))


class TestTables:
    def test_numbers(self, suite: Path) -> None:
        found = compared(suite)
        row = found[(found["label"] == "learned_start") & (found["rounds"] == 5)].iloc[0]
        assert row["before_mean"] == pytest.approx(0.32 + 0.15 + 0.05)
        assert row["before_errors"] == pytest.approx(2 * np.std([0, 0.1, 0.2, 0.3] * 3, ddof=1) / np.sqrt(12))
        assert row["after_mean"] == pytest.approx(0.74)
        assert row["bytes"] == 9000 + 5 * 2000
        assert row["client_updates"] == 59_980
        assert (row["seeds"], row["pairs"]) == (3, 12)

    def test_pairs(self, suite: Path) -> None:
        found = compared(suite)
        assert found.loc[found["label"] == "few_round", "baseline"].isna().all()
        row = found[(found["label"] == "learned_start") & (found["rounds"] == 0)].iloc[0]
        for column in ("difference", "low", "high"):
            assert row[f"before_{column}"] == pytest.approx(0.02)
            assert row[f"after_{column}"] == pytest.approx(-0.01)
        assert row["before_difference_errors"] == pytest.approx(0, abs=1e-9)
        assert (row["before_gains"], row["after_gains"], row["before_pairs"]) == (12, 0, 12)

    def test_another_baseline(self, suite: Path) -> None:
        found = compared(suite, "learned_start")
        assert found.loc[found["label"] == "few_round", "before_difference"].to_numpy() == pytest.approx(-0.02)
        with pytest.raises(ConfigError, match="unknown baseline 'few-round': did you mean 'few_round'"):
            compared(suite, "few-round")

    def test_without_the_usual_baseline_there_are_no_pairs(self, one: Path) -> None:
        made = tables.tables(records(one.parent), compared(one.parent))
        assert [table.title for table in made] == [
            "shifts, accuracy before local adaptation",
            "shifts, accuracy after local adaptation",
            "shifts, kB sent in the new environment",
        ]

    def test_pairs_are_of_the_seeds_that_both_have_finished(self, suite: Path) -> None:
        write_record(suite, "learned_start", 2, level(0.1, 0.1), **DIVERGED)
        write_record(suite, "learned_start", 4, level(0.1, 0.1))
        found = compared(suite)
        row = found[found["label"] == "learned_start"].iloc[0]
        assert (row["pairs"], row["before_pairs"], row["diverged"]) == (12, 8, 1)
        assert row["before_difference"] == pytest.approx(0.02)

    def test_an_environment_is_missing(self, suite: Path, tmp_path: Path) -> None:
        write_record(suite, "learned_start", 2, level(0.1, 0.1), environments=range(3))
        with pytest.raises(DataError, match=r"^learned_start lacks environment e3 of seed 2 and cannot be paired"):
            write_report(suite, tmp_path / "site")
        assert not (tmp_path / "site").exists()

    def test_two_configurations_are_no_baseline(self, suite: Path) -> None:
        change(write_record(suite, "few_round", 9, level(0.1, 0.1)), config_hash="f" * 12)
        with pytest.raises(DataError, match="baseline few_round has several configurations"):
            compared(suite)

    def test_text(self, suite: Path) -> None:
        before, _, costs, pairs = tables.tables(records(suite), compared(suite))
        rows = {row[0].text: row for row in before.rows}
        assert rows["learned_start"][1].text == "47.0 ± 6.7"
        assert [cell.mark for cell in rows["learned_start"]] == ["", *["best"] * 5, ""]
        assert [cell.mark for cell in rows["few_round"]] == ["", *["second"] * 5, ""]
        assert [cell.text for cell in costs.rows[1][1:6]] == ["9", "11", "13", "19", "29"]
        first = [cell.text for cell in pairs.rows[0]]
        assert first[:6] == ["learned_start", "0", "+2.0", "[+2.0, +2.0]", "0.0", "12 of 12"]
        assert first[6:] == ["−1.0", "[−1.0, −1.0]", "0.0", "0 of 12", "3"]
        for fact in ("4 new environments", "12 pairs", "5 participants", "60 environments", "60000 client updates"):
            assert fact in before.caption

    def test_diverged_runs(self, suite: Path) -> None:
        write_record(suite, "maml", 1, level(0.9, 0.9), **DIVERGED)
        write_record(suite, "learned_start", 2, level(0.9, 0.9), **DIVERGED)
        table = tables.tables(records(suite), compared(suite))[0]
        rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
        assert rows["maml"][1:] == ["diverged"] * 5 + ["0 (1 diverged)"]
        assert rows["learned_start"][-1] == "2 (1 diverged)"
        best = [row[0].text for row in table.rows if row[1].mark == "best"]
        assert best == ["few_round"], "the mean of the survivors wins nothing"

    def test_csv(self, suite: Path, tmp_path: Path) -> None:
        write_record(suite, "evil", 1, level(0.5, 0.5), title="=1+1")
        (tmp_path / "table.csv").write_text(to_csv(compared(suite)))
        frame = pd.read_csv(tmp_path / "table.csv")
        assert frame["before_mean"].between(0, 1).all()
        assert "'=1+1" in set(frame["algorithm"])

    def test_layouts_escape(self, suite: Path) -> None:
        write_record(suite, "evil", 1, level(0.5, 0.5), title=EVIL)
        made = tables.tables(records(suite), compared(suite))
        for row in (line for line in to_markdown(made).splitlines() if "script" in line):
            assert "<script>" not in row.replace("\\<", "")
        latex = to_latex(made)
        assert latex.isascii()
        assert r"{[}$-$1.0, $-$1.0{]}" in latex

    @needs_tex
    def test_latex_compiles_within_the_width_of_a_page(self, suite: Path, tmp_path: Path) -> None:
        write_record(suite, "evil", 1, level(0.5, 0.5), title=EVIL[:30])
        compile_within_a_page(to_latex(tables.tables(records(suite), compared(suite))), tmp_path)


class TestFigures:
    def test_labels_of_a_plugin_share_its_colour_and_stay_distinct(self, tmp_path: Path) -> None:
        folder = tmp_path / "suite"
        for i in range(12):
            write_record(folder, f"ablation{i}", 1, level(0.5, 0.5), plugin="learned_start")
        write_record(folder, "learned_start", 1, level(0.5, 0.5))
        write_record(folder, "fedavg", 1, level(0.5, 0.5))
        style = figures.styles(visited(records(folder)))
        look = looks(["learned_start"])["learned_start"]
        assert (style["learned_start"].colour, style["learned_start"].marker) == (look.colour, look.marker)
        assert style["learned_start"].variant == 0
        assert {one.colour for name, one in style.items() if name != "fedavg"} == {look.colour}
        lines = [(one.line(), one.variant % 4) for one in style.values()]
        assert len({(line.get_color(), line.get_marker(), dashes) for line, dashes in lines}) == 14

    def test_what_is_drawn(self, suite: Path) -> None:
        axes = figures.sent(visited(records(suite))).axes[0]
        ends = [np.asarray(line.get_xdata())[-1] for line in axes.lines if line.get_marker() != "None"]
        assert ends == pytest.approx([24_000 / 400, 29_000 / 400])
        axes = figures.rounds(visited(records(suite)), "after").axes[0]
        levels = [np.asarray(line.get_ydata())[0] for line in axes.lines if line.get_marker() != "None"]
        assert levels == pytest.approx([75, 74])

    def test_files_are_the_same_again(self, suite: Path) -> None:
        drawn = figures.draw(records(suite))
        assert [*drawn, "variants"] == list(figures.CAPTIONS)
        assert drawn == figures.draw(records(suite))

    def test_variants_have_a_figure_of_their_own(self, suite: Path) -> None:
        """The others keep one curve a plugin; the variants are compared over the seeds that all of them have."""
        write_record(suite, "learned_start_dense", 1, level(0.3, 0.4), plugin="learned_start")
        frame = visited(records(suite))
        assert list(figures.draw(records(suite))) == list(figures.CAPTIONS)
        shared = figures._shared_seeds(frame[frame["plugin"] == "learned_start"])
        assert set(shared["seed"]) == {1}
        assert set(shared["algorithm"]) == {"learned_start", "learned_start_dense"}

    def test_nothing_to_draw(self, one: Path) -> None:
        change(one, **DIVERGED)
        assert figures.draw(records(one.parent)) == {}

    def test_a_single_environment_of_a_single_seed(self, tmp_path: Path) -> None:
        write_record(tmp_path / "suite", "maml", 1, level(0.5, 0.5), environments=[0])
        assert figures.draw(records(tmp_path))


class TestReport:
    def test_writes_everything(self, suite: Path, tmp_path: Path) -> None:
        write_record(suite, "few_round", 1, level(0.3, 0.4), dataset="another")
        written = write_report(suite, tmp_path / "site", order=["learned_start", "few_round"])
        assert {path.name for path in written} == FILES == {path.name for path in (tmp_path / "site").iterdir()}
        html = (tmp_path / "site" / "index.html").read_text()
        parsed = tags(html)
        assert parsed.tags.count("table") == 4 + 3
        assert parsed.tags.count("svg") == 3
        assert all(link.startswith("#") or link in FILES for link in parsed.links)
        ids = re.findall(r'\bid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        assert 'class="baseline"' not in html

    def test_order_of_the_suite(self, suite: Path, tmp_path: Path) -> None:
        write_report(suite, tmp_path / "site", order=["learned_start", "few_round"])
        lines = (tmp_path / "site" / "table.md").read_text().splitlines()
        assert [line.split("|")[1].strip() for line in lines[4:6]] == [r"learned\_start", r"few\_round"]

    def test_every_run_diverged(self, one: Path, tmp_path: Path) -> None:
        change(one, **DIVERGED)
        written = write_report(one.parents[3], tmp_path / "site")
        assert {path.suffix for path in written} == {".md", ".csv", ".tex", ".html"}
        assert "loss is nan" in (tmp_path / "site" / "index.html").read_text()

    def test_nothing_of_a_record_gets_unescaped_into_the_page(self, suite: Path, tmp_path: Path) -> None:
        write_report(suite, tmp_path / "clean")
        for record in records(suite):
            content = json.loads(record.path.read_text())
            for key in ("suite", "dataset", "title", "reason"):
                content[key] = EVIL
            if content["algorithm"] != "few_round":
                content["algorithm"] = content["config_hash"] = EVIL
                content["title"] = f"other {EVIL}"
            content["config"]["algorithm"]["name"] += f"</pre>{EVIL}"
            content["tuning"] = {"chosen": {EVIL: EVIL}}
            record.path.write_text(json.dumps(content))
        evil = write_report(suite, tmp_path / "evil")
        before, after = (_outside_figures(tmp_path / name / "index.html") for name in ("clean", "evil"))
        assert before == after
        for path in evil:
            if path.suffix in (".svg", ".html"):
                assert "<script>alert" not in path.read_text()

    def test_an_environment_with_an_evil_name_is_only_named_in_an_error(self, suite: Path) -> None:
        path = next(suite.rglob("learned_start/*/seed-2.clients.csv"))
        frame = pd.read_csv(path)
        frame.assign(environment=frame["environment"].replace("e1", EVIL)).to_csv(path, index=False)
        with pytest.raises(DataError, match="environment"):
            compared(suite)

    def test_command(self, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(suite), "--baseline", "learned_start"]) == 0
        assert "difference from learned\\_start" in capsys.readouterr().out
        assert main(["report", str(suite), "--baseline", "none"]) == 2
        assert "unknown baseline 'none'" in capsys.readouterr().err

    def test_several_suites_make_a_panel_each(
        self, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other, output = tmp_path / "other", tmp_path / "both"
        write_record(other, "few_round", 1, level(0.4, 0.6), dataset="plays")
        assert main(["report", str(suite), "--also", str(other), "--output", str(output)]) == 0
        table = pd.read_csv(output / "table.csv")
        assert table.groupby("dataset", sort=False)["seeds"].max().to_dict() == {"shifts": 3, "plays": 1}
        assert "plays" in (output / "rounds_before.svg").read_text()
        assert main(["report", str(suite), "--also", str(other)]) == 2
        assert "add --output" in capsys.readouterr().err

    def test_suites_with_other_rules_are_reported_apart(self, suite: Path, tmp_path: Path) -> None:
        path = write_record(tmp_path / "other", "few_round", 1, level(0.4, 0.6))
        content = json.loads(path.read_text(encoding="utf-8"))
        rules = content["config"]["protocol"]["environments"]
        rules["budget"] += 1
        path.write_text(json.dumps(content), encoding="utf-8")
        assert len(read_all(EnvironmentRecord, suite, None, [tmp_path / "other"])) == 6, "a budget is of training"
        rules["local_steps"] = rules.get("local_steps", 5) + 1
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DataError, match="have other rules in new environments and cannot be compared; report them"):
            read_all(EnvironmentRecord, suite, None, [tmp_path / "other"])

    def test_the_tracks_are_not_reported_together(
        self, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_ordinary(tmp_path / "ordinary", "femnist", "maml", 0, clients=12)
        for one, other in ((suite, tmp_path / "ordinary"), (tmp_path / "ordinary", suite)):
            assert main(["report", str(one), "--also", str(other), "--output", str(tmp_path / "out")]) == 2
            assert "report each track from a folder of its own" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_runs_say_what_a_run_was(self, suite: Path) -> None:
        frame = runs(records(suite))
        assert frame["model_bytes"].tolist() == [400] * 6
        assert frame["plugin"].tolist() == ["few_round"] * 3 + ["learned_start"] * 3
