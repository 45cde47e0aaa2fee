"""Every figure: that it shows the numbers of the records, can be read when printed, and says why it cannot be made."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import fake_environments
import fake_records
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from drawn_texts import drawn_texts, outside, overlapping
from fake_records import write_record, write_suite
from matplotlib.colors import to_rgb

from metaleaf.cli import main
from metaleaf.data.client_store import ClientStore
from metaleaf.errors import DataError
from metaleaf.records.records import Record, read_records
from metaleaf.report.figures import adaptation, distribution, fairness, levels, participants, portrait
from metaleaf.report.figures.convergence import _apart, convergence, convergence_bytes, convergence_hours
from metaleaf.report.figures.cost import cost
from metaleaf.report.figures.critical_difference import critical_difference
from metaleaf.report.figures.drawing import Drawing, NotDrawnError, drawings, drawn
from metaleaf.report.figures.makers import MAKERS, WITH_DATA, draw
from metaleaf.report.figures.runs import Runs
from metaleaf.report.figures.style import COLOURS, WIDTHS, looks, styled

NAMES = (
    *("FedAvg", "MAML", "Reptile", "Meta-SGD", "FOMAML", "FedAvg(Meta)", "Local", "Ditto", "SCAFFOLD", "Learned start"),
    *("Few-Round", "PeFLL", "FedRep", "A name that is much longer than any name should be", '<b>$x_1^2\\frac{ & "_" %'),
)


ORDINARY = {name: make for name, make in MAKERS.items() if name not in ("protection", "convergence_hours")}
"""What suites without levels of protection and without systems have."""


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here does not depend on how fine the bootstrap is."""
    for module in (adaptation, distribution, fairness, participants):
        monkeypatch.setattr(module, "DRAWS", 20)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("results") / "small"
    return read_records(write_suite(folder, ["femnist"], ["fedavg", "local", "maml"], seeds=2, clients=20))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """One record on its own, to be damaged."""
    return write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)


def change_clients(path: Path, rows: Any) -> list[Record]:
    """The records of a suite of one, with the table of clients that `rows` makes of the old one."""
    table = path.with_suffix(".clients.csv")
    rows(pd.read_csv(table)).to_csv(table, index=False)
    return read_records(path.parent)


class TestLooks:
    def test_an_algorithm_looks_the_same_in_every_company(self) -> None:
        alone = looks(["maml"])["maml"]
        assert looks(["FedAvg(Meta)", "MAML", "Reptile", "Something new"])["MAML"] == alone
        names = [f"algorithm {i}" for i in range(40)]
        assert looks(names) == looks(names[::-1])
        assert len({(look.colour, look.marker) for look in looks(names).values()}) == 40

    def test_lines_of_one_colour_differ_in_dashes(self) -> None:
        lines = [(look.colour, look.dash) for look in looks(NAMES).values()]
        assert len(set(lines)) == len(lines)

    def test_configurations_of_one_plugin_look_different(self, tmp_path: Path) -> None:
        write_record(tmp_path, "femnist", "maml", 0, clients=12)
        path = write_record(tmp_path, "femnist", "maml", 1, clients=12)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config_hash": "f" * 12}))
        look = Runs(read_records(tmp_path)).look
        assert len(set(look.values())) == 2
        assert looks(["maml"])["maml"] in look.values()

    @pytest.mark.parametrize("kind", ["normal", "protanopia", "deuteranopia"])
    def test_colours_are_told_apart_by_colour_blind_readers(self, kind: str) -> None:
        for one, other in itertools.combinations([_lab(colour, kind) for colour in COLOURS], 2):
            assert np.linalg.norm(one - other) > 15  # 2.3 is a just noticeable difference


# severity 1.0, from Machado, Oliveira and Fernandes (2009), IEEE Transactions on Visualization 15(6)
_SEEN = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)


def _lab(colour: str, kind: str) -> npt.NDArray[np.float64]:
    """CIELAB of an sRGB colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = _XYZ @ np.clip(_SEEN[kind] @ linear, 0, 1) / _XYZ.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    """Few and many algorithms, one and several datasets; participants are scored."""
    folder = tmp_path_factory.mktemp("suites")
    several = write_suite(folder / "several", ["femnist", "shakespeare", "sent140"], seeds=1, clients=12, held_out=0.2)
    with pytest.MonkeyPatch.context() as patch:
        algorithms = {
            f"a{i:02}": (name, 0.3 + 0.02 * i, 0.55 + 0.02 * (7 * i % 15), 10.0 + i, 1 + i / 10)
            for i, name in enumerate(NAMES)
        }
        patch.setattr(fake_records, "ALGORITHMS", algorithms)
        many = write_suite(folder / "many", ["femnist"], tuple(algorithms), seeds=2, clients=12, held_out=0.2)
    single = write_suite(folder / "one", ["femnist"], ["maml", "fedavg"], seeds=5, clients=12, held_out=0.2)
    return {path.name: read_records(path) for path in (several, many, single)}


class TestLegibility:
    """Texts are big enough in print, do not touch one another and stay on the canvas."""

    @pytest.mark.parametrize(
        ("suite", "width"),
        [("one", None), ("several", "neurips"), ("many", None), ("many", "single")],
    )
    def test_texts(self, suites: dict[str, list[Record]], suite: str, width: str | None) -> None:
        runs = Runs(suites[suite], width=WIDTHS[width] if width else None)
        with styled():
            for name, make in ORDINARY.items():
                figure = make(runs).figure
                texts = drawn_texts(figure)
                assert len(texts) > 5, name
                assert figure.get_figheight() < 10.5, name
                assert min(float(text.get_fontsize()) for text, _ in texts) >= 6.5, name
                assert not overlapping(texts), name
                assert not outside(figure, texts), name
                if width:
                    assert figure.get_figwidth() == WIDTHS[width], name


class TestFiles:
    def test_determinism_and_formats(self, suites: dict[str, list[Record]]) -> None:
        first, second = (dict(drawings(Runs(suites["one"]), ORDINARY, ["svg"])) for _ in range(2))
        assert first == second
        for made in first.values():
            assert isinstance(made, Drawing)
            assert made.caption.endswith(".")
            root = ElementTree.fromstring(made.files["svg"])  # drawn above, not from outside
            assert root.attrib["width"] in ("234pt", "486pt")  # 3.25 and 6.75 inches

    def test_formats(self, records: list[Record]) -> None:
        first, second = (drawn(Runs(records), {"support": adaptation.support})["support"].files for _ in range(2))
        assert first == second
        assert first["png"].startswith(b"\x89PNG")
        assert first["pdf"].startswith(b"%PDF")
        assert b"Date" not in first["pdf"]

    def test_reasons(self, one: Path) -> None:
        content = json.loads(one.read_text())
        for model in content["scores"]:
            content["scores"][model] = {"0.2": content["scores"][model]["0.2"]}
        content["data"]["name"] = "shakespeare"
        one.write_text(json.dumps(content))
        records = change_clients(one, lambda rows: rows[(rows["support"] == 0.2) & (rows["step"] == 0)])
        made = dict(drawings(Runs(records), WITH_DATA, ["svg"]))
        reasons = {name: str(made) for name, made in made.items() if isinstance(made, NotDrawnError)}
        assert set(reasons) == {
            *(
                "cost_to_target",
                "adaptation_steps",
                "support",
                "participants",
                "critical_difference",
                "convergence_hours",
                "portrait",
                "protection",
            ),
        }
        assert reasons["adaptation_steps"] == "no algorithm adapts"
        assert reasons["cost_to_target"] == "no target is declared for femnist"

    def test_nothing_to_draw(self, one: Path) -> None:
        diverged: dict[str, Any] = {"status": "diverged", "reason": "loss is nan", "scores": {}, "selected_round": None}
        one.write_text(json.dumps(json.loads(one.read_text()) | diverged))
        assert draw(read_records(one.parent)) == {}

    @pytest.mark.parametrize(
        "damage",
        [
            lambda rows: rows.head(0).astype(float),
            lambda rows: rows[(rows["client"] != "f0003") | (rows["step"] != 2)],
            lambda rows: rows[(rows["client"] != "f0003") | (rows["step"] != 0)],
            lambda rows: pd.concat([rows, rows[(rows["client"] == "f0003") & (rows["step"] == 0)]]),
        ],
    )
    def test_damaged_tables_of_clients(self, one: Path, damage: Any) -> None:
        with pytest.raises(DataError, match=re.escape(str(one))):
            adaptation.adaptation_steps(Runs(change_clients(one, damage)))


class TestNumbers:
    def test_convergence(self, records: list[Record]) -> None:
        picture = convergence(Runs(records))
        line = next(line for line in picture.figure.axes[0].lines if line.get_color() == looks(["maml"])["maml"].colour)
        curves = [r.rounds.dropna(subset="validation_after") for r in records if r.content.algorithm == "maml"]
        np.testing.assert_allclose(np.asarray(line.get_xdata()), curves[0]["round"].to_numpy())
        mean = 50 * (curves[0]["validation_after"] + curves[1]["validation_after"])
        np.testing.assert_allclose(np.asarray(line.get_ydata()), mean)
        assert "lowest to the highest seed" in picture.caption

    def test_five_seeds_have_an_interval(self, tmp_path: Path) -> None:
        runs = Runs(read_records(write_suite(tmp_path, ["femnist"], ["maml"], seeds=5, clients=12)))
        picture = convergence(runs)
        assert "95 % t interval" in picture.caption
        last = [100 * r.rounds["validation_after"].iloc[-1] for r in runs.records]
        band = picture.figure.axes[0].collections[0].get_paths()[0].vertices
        assert isinstance(band, np.ndarray)
        half = 2.776 * np.std(last, ddof=1) / np.sqrt(5)  # Student's t with 4 degrees of freedom
        assert band[:, 1][band[:, 0] == 100].max() == pytest.approx(np.mean(last) + half, rel=1e-3)

    def test_a_run_without_training_is_a_level_line(self, one: Path) -> None:
        path = one.with_suffix(".rounds.csv")
        pd.read_csv(path).head(1).to_csv(path, index=False)
        picture = convergence(Runs(read_records(one.parent)))
        assert np.ptp(np.asarray(picture.figure.axes[0].lines[0].get_ydata())) == 0
        assert "level line" in picture.caption

    def test_bytes(self, records: list[Record]) -> None:
        axes = convergence_bytes(Runs(records)).figure.axes[0]
        assert axes.get_xlabel() == "Sent, down and up (GB)"
        assert max(np.max(np.asarray(line.get_xdata())) for line in axes.lines[:3]) == pytest.approx(
            52
        )  # 2 x 26 MB x 1000

    def test_steps_end_at_the_accuracy_after_adaptation(self, records: list[Record]) -> None:
        runs = Runs(records)
        for axes, support in zip(adaptation.adaptation_steps(runs).figure.axes, (0.2, 0.5, 0.9), strict=True):
            rows = runs.frame[runs.frame["support"] == support].groupby("name", sort=False)
            lines = [np.asarray(line.get_ydata()) for line in axes.lines]
            np.testing.assert_allclose([y[0] for y in lines], 100 * rows["before_pooled"].mean())
            np.testing.assert_allclose([y[-1] for y in lines], 100 * rows["after_pooled"].mean())
            assert {len(y) for y in lines} == {6}

    def test_convergence_hours(self, tmp_path: Path) -> None:
        """Against the clock of the runs that have one: of half an hour a round it shows fifty hours."""
        for dataset, algorithm, seed in itertools.product(("femnist", "shakespeare"), ("fedavg", "maml"), (0, 1)):
            path = write_record(tmp_path / "suite", dataset, algorithm, seed, clients=12)
            if dataset == "femnist":
                content = json.loads(path.read_text())
                content["config"]["systems"] = {"deadline": 1800.0}
                path.write_text(json.dumps(content))
                rounds = pd.read_csv(path.with_suffix(".rounds.csv"))
                rounds.assign(simulated_seconds=1800.0 * rounds["round"]).to_csv(
                    path.with_suffix(".rounds.csv"), index=False
                )
        runs = Runs(read_records(tmp_path / "suite"))
        [axes] = convergence_hours(runs).figure.axes
        assert axes.get_xlabel() == "Simulated hours"
        ends = [float(np.asarray(line.get_xdata())[-1]) for line in axes.lines if len(np.asarray(line.get_xdata())) > 2]
        assert ends == [50.0, 50.0]
        with pytest.raises(NotDrawnError, match="no systems were simulated"):
            convergence_hours(Runs([one for one in runs.records if one.content.dataset == "shakespeare"]))

    def test_runs_without_a_clock_may_stand_beside_those_that_have_one(self, tmp_path: Path) -> None:
        write_record(tmp_path / "suite", "femnist", "fedavg", 0, clients=12)
        path = write_record(tmp_path / "suite", "femnist", "maml", 0, clients=12)
        content = json.loads(path.read_text())
        content["config"]["systems"] = {"deadline": 1800.0}
        path.write_text(json.dumps(content))
        rounds = pd.read_csv(path.with_suffix(".rounds.csv"))
        rounds.assign(simulated_seconds=3600.0 * rounds["round"]).to_csv(path.with_suffix(".rounds.csv"), index=False)
        [axes] = convergence_hours(Runs(read_records(tmp_path / "suite"))).figure.axes
        ends = [float(np.asarray(line.get_xdata())[-1]) for line in axes.lines if len(np.asarray(line.get_xdata())) > 2]
        assert ends == [100.0]

    def test_support(self, records: list[Record]) -> None:
        runs = Runs(records)
        *lines, majority = adaptation.support(runs).figure.axes[0].lines

        def means(name: str, column: str) -> list[float]:
            rows = runs.frame[runs.frame["name"] == name]
            return [100 * rows.loc[rows["support"] == support, column].mean() for support in (0.2, 0.5, 0.9)]

        for line, name in zip(lines, runs.names, strict=True):
            np.testing.assert_allclose(np.asarray(line.get_ydata()), means(name, "after_pooled"))
        np.testing.assert_allclose(np.asarray(majority.get_ydata()), means("MAML", "majority_pooled"))

    def test_protection(self, tmp_path: Path) -> None:
        """Levels in the order of the records; epsilon where there is noise; a suite that differs otherwise has none."""
        for level, layers, epsilon in (("femnist", {}, None), ("shakespeare", {"noise": {}}, 3.25)):
            for seed, algorithm in itertools.product((0, 1), ("fedavg", "maml")):
                path = write_record(tmp_path / "suite", level, algorithm, seed, clients=12)
                content = json.loads(path.read_text())
                content["config"]["protection"] = layers
                if epsilon:
                    content["privacy"] = {"epsilon": epsilon, "delta": 1e-3, "of": "all broadcasts"}
                path.write_text(json.dumps(content))
        runs = Runs(read_records(tmp_path / "suite"))
        before, after = levels.protection(runs).figure.axes
        assert [tick.get_text() for tick in after.get_xticklabels()] == ["femnist", "shakespeare, ε = 3.25"]
        rows = runs.frame[(runs.frame["name"] == "MAML") & (runs.frame["support"] == 0.2)]
        expected = [100 * rows.loc[rows["dataset"] == level, "after_pooled"].mean() for level in runs.datasets]
        assert any(np.asarray(line.get_ydata()).tolist() == pytest.approx(expected) for line in after.lines)
        assert before.get_title() == "Before adaptation"
        with pytest.raises(NotDrawnError, match="no two datasets of the suite differ in their protection"):
            levels.protection(Runs([one for one in runs.records if one.content.dataset == "femnist"]))

    def test_fairness(self, records: list[Record]) -> None:
        runs = Runs(records)
        axes = fairness.fairness(runs).figure.axes[0]
        points = [line for line in axes.lines if line.get_marker() not in ("None", "+")]
        rows = runs.frame[runs.frame["support"] == 0.2].groupby("name", sort=False)
        np.testing.assert_allclose(
            [np.asarray(p.get_xdata())[0] for p in points], 100 * rows["after_client_mean"].mean()
        )
        np.testing.assert_allclose([np.asarray(p.get_ydata())[0] for p in points], 100 * rows["after_bottom10"].mean())

    def test_profile_and_ecdf_are_complements(self, records: list[Record]) -> None:
        runs = Runs(records)
        above = {
            line.get_color(): np.asarray(line.get_ydata()) for line in distribution.profile(runs).figure.axes[0].lines
        }
        small = distribution.ecdf(runs).figure.axes
        for axes, name in zip(small, runs.names, strict=True):
            colour = runs.look[name].colour
            after = next(line for line in axes.lines if line.get_color() == colour)
            np.testing.assert_allclose(np.asarray(after.get_ydata()), 100 - above[colour])
        maml = next(iter(runs.scores.values()))["MAML"].scores()
        assert above[runs.look["MAML"].colour][50] == pytest.approx(100 * (maml > 0.5).mean())

    def test_cost(self, records: list[Record]) -> None:
        axes = cost(Runs(records)).figure.axes
        assert [one.get_xlabel() for one in axes] == ["Rounds", "GB sent", "TFLOPs"]
        assert "target 70 %" in axes[0].get_title()
        reached = [
            r.rounds.loc[r.rounds["validation_after"] >= 0.7, "round"].min()
            for r in records
            if r.content.algorithm == "maml"
        ]
        bars = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes[0].patches}  # type: ignore[attr-defined]
        assert bars[2] == pytest.approx(np.mean(reached))
        assert "not reached" in [text.get_text() for text in axes[0].texts]  # Local

    def test_ranks_over_clients_or_datasets(self, records: list[Record], tmp_path: Path) -> None:
        picture = critical_difference(Runs(records))
        assert "over the test clients" in picture.caption
        texts = [text.get_text() for text in picture.figure.axes[0].texts]
        assert "3.00  Local" in texts
        several = write_suite(tmp_path, list(fake_records.DATASETS), ["maml", "local"], seeds=1, clients=12)
        picture = critical_difference(Runs(read_records(several)))
        assert "over 3 datasets" in picture.caption
        assert {"MAML  1.00", "2.00  Local"} < {text.get_text() for text in picture.figure.axes[0].texts}

    def test_labels_move_apart_and_stay_in_place(self) -> None:
        wanted = [0.1, 0.11, 0.5, 0.97, 0.98, 0.99]
        placed = _apart(wanted, 0.1, 0.0, 1.0)
        assert np.diff(placed).min() >= 0.1 - 1e-9
        assert placed[2] == 0.5
        assert min(placed) >= 0
        assert max(placed) <= 1


class TestPortrait:
    @pytest.mark.parametrize(("dtype", "panels"), [(np.uint8, 3), (np.float32, 1)])
    def test_of_a_store(self, dtype: Any, panels: int) -> None:
        offsets = np.array([0, 2, 5, 105])
        y = np.arange(105).astype(dtype) % 3
        ids, about = np.array(["a", "b", "c"]), {"spec": {"classes": 3}}
        store = ClientStore(np.zeros((105, 1)), y, offsets, ids, np.array(["e"] * 3), about)
        with styled():
            figure = portrait.draw({"small": store})
            assert not overlapping(drawn_texts(figure))
        assert len(figure.axes) == panels  # with labels: counts, heat-map, colour bar
        assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3  # type: ignore[attr-defined]
        if panels == 3:
            shares = np.asarray(figure.axes[1].images[0].get_array())
            np.testing.assert_allclose(shares.sum(1), 100)

    def test_only_of_the_very_data(self, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
        with pytest.raises(NotDrawnError, match="femnist: its data are not prepared here"):
            portrait.portrait(Runs(read_records(one.parent)))
        assert main(["data", "prepare", "synthetic", "--options", "tasks=20"]) == 0
        content = json.loads(one.read_text())
        content["config"]["dataset"] = {"name": "synthetic", "options": {"tasks": 20}}
        one.write_text(json.dumps(content))
        with pytest.raises(NotDrawnError, match="not the data of the records"):
            portrait.portrait(Runs(read_records(one.parent)))
        about = next((tmp_path / "data").rglob("about.json"))
        content["data"]["data_hash"] = json.loads(about.read_text())["data_hash"]
        one.write_text(json.dumps(content))
        picture = portrait.portrait(Runs(read_records(one.parent)))
        assert "20 clients" in picture.figure.axes[0].get_title()
        write_record(one.parents[3], "sent140", "maml", 0, clients=12)
        picture = portrait.portrait(Runs(read_records(one.parents[3])))
        assert "Left out is sent140: " in picture.caption


class TestCommand:
    def test_lines_and_files(self, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        chosen = ["--only", "overview", "critical_difference", "--formats", "svg", "--width", "neurips"]
        assert main(["figures", str(one.parents[3]), "--output", str(tmp_path / "out"), *chosen]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"overview: {tmp_path / 'out' / 'overview.svg'} {tmp_path / 'out' / 'overview.txt'}"
        assert lines[1].startswith("critical_difference: not made, ranks need two algorithms")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"overview.svg", "overview.txt"}
        assert 'width="396pt"' in (tmp_path / "out" / "overview.svg").read_text()  # 5.5 inches

    def test_by_the_name_of_a_suite(self, tmp_path: Path) -> None:
        write_suite(tmp_path / "synthetic", ["femnist"], ["maml"], seeds=1, clients=12)
        results = ["--results", str(tmp_path), "--only", "clients", "--formats", "png"]
        assert main(["figures", "synthetic", *results]) == 0
        assert (tmp_path / "synthetic" / "figures" / "clients.png").is_file()

    def test_several_suites(self, one: Path, tmp_path: Path) -> None:
        also = write_suite(tmp_path / "other", ["shakespeare"], ["maml"], seeds=1, clients=12)
        words = [str(one.parents[3]), "--also", str(also), "--only", "overview", "--formats", "svg"]
        assert main(["figures", *words]) == 2
        assert main(["figures", *words, "--output", str(tmp_path / "both")]) == 0
        assert 'width="486pt"' in (tmp_path / "both" / "overview.svg").read_text()  # two panels

    def test_new_environments(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "suite"
        fake_environments.write_record(folder, "maml", 1, fake_environments.level(0.4, 0.6))
        assert main(["figures", str(folder), "--formats", "svg", "--width", "double"]) == 0
        assert "variants: not made, no method has variants" in capsys.readouterr().out
        assert 'width="486pt"' in (folder / "figures" / "bytes.svg").read_text()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["nonsense"], "unknown suite 'nonsense'"),
            (["synthetic", "--results", "nowhere"], "no records below nowhere/synthetic"),
            (["{suite}", "--only", "overvew"], "did you mean 'overview'"),
        ],
    )
    def test_mistakes(self, words: list[str], said: str, one: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["figures", *(word.format(suite=one.parents[3]) for word in words)]) == 2
        assert said in capsys.readouterr().err
