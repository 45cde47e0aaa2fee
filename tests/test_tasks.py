"""Kinds of tasks: their metrics beside those of scikit-learn and torchmetrics, and runs end to end."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_cases
import torch
import torchmetrics.functional as tm
from sklearn import metrics as sk
from small_tasks import others_slow
from torch import Tensor
from torch.testing import assert_close

from metaleaf import registry, tasks
from metaleaf.algorithms.maml import MAML
from metaleaf.config.config import resolve
from metaleaf.engine.engine import Mode, engine
from metaleaf.errors import ConfigError, DataError
from metaleaf.gate.measures import better, found
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.records.client_scores import Setting, client_scores
from metaleaf.records.records import Record, read_records
from metaleaf.report.figures import portrait
from metaleaf.report.report import write_report
from metaleaf.report.shown import Shown
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell
from metaleaf.shots import Shots
from metaleaf.statistics.comparison import CONSTANT, comparison
from metaleaf.statistics.cost_to_target import cost_to_target
from metaleaf.statistics.statistics import summarise
from metaleaf.submission.entry import entry
from metaleaf.submission.single import metrics as metrics_rule

KINDS = sorted(task_cases.SPECS)


def measured(kind: str, outputs: Tensor, y: Tensor, real: Tensor | None = None, **options: Any) -> dict[str, float]:
    """Every metric of the kind on these rows, by its name in suites."""
    own = tasks.build({"name": kind, **options})
    real = torch.ones(len(y), dtype=torch.bool) if real is None else real
    sums: dict[str, float] = {"n": float(real.sum())}
    for column, total in zip(own.columns, own.summed(outputs, y, real), strict=True):
        sums[column] = float(total)
    return {
        name: float(metric.score(sums[metric.total], sums[metric.weight]))
        for name, metric in zip(own.metrics, own.measured, strict=True)
    }


class TestMetrics:
    """On rows that pad a client, too, which must not count."""

    @pytest.mark.parametrize("seed", range(5))
    def test_binary(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scores, y = rng.normal(size=40).round(1), rng.integers(0, 2, 40)  # rounded: some tie
        outputs, real = torch.from_numpy(np.r_[scores, 9, -9]).unsqueeze(-1), torch.tensor([True] * 40 + [False] * 2)
        ours = measured("binary", outputs, torch.from_numpy(np.r_[y, 0, 1]), real)
        # Equal scores in one place each: a vector unit and what is left over round the same exponential differently.
        values, place = np.unique(scores, return_inverse=True)
        probability = torch.from_numpy(values).sigmoid()[torch.from_numpy(place)]
        expected = {
            "accuracy": (sk.accuracy_score(y, scores > 0), tm.accuracy(probability, torch.from_numpy(y), "binary")),
            "auc": (sk.roc_auc_score(y, scores), tm.auroc(probability, torch.from_numpy(y), "binary")),
            "f1": (sk.f1_score(y, scores > 0), tm.f1_score(probability, torch.from_numpy(y), "binary")),
            "average_precision": (
                sk.average_precision_score(y, scores),
                tm.average_precision(probability, torch.from_numpy(y), "binary"),
            ),
        }
        assert ours.keys() == expected.keys()
        for name, (of_sklearn, of_torchmetrics) in expected.items():
            assert of_torchmetrics is not None
            assert ours[name] == pytest.approx(of_sklearn, abs=1e-12), name
            assert ours[name] == pytest.approx(float(of_torchmetrics), abs=1e-6), name

    def test_brier(self) -> None:
        rng = np.random.default_rng(0)
        scores, y = rng.normal(size=40), rng.integers(0, 2, 40)
        outputs, real = torch.from_numpy(np.r_[scores, 9]).unsqueeze(-1), torch.tensor([True] * 40 + [False])
        ours = measured("binary", outputs, torch.from_numpy(np.r_[y, 0]), real, metrics=["brier"])
        assert ours["brier"] == pytest.approx(sk.brier_score_loss(y, 1 / (1 + np.exp(-scores))))
        broken = torch.tensor([[math.nan], [0.0]])
        assert measured("binary", broken, torch.tensor([1, 1]), metrics=["brier"]) == {"brier": (1 + 0.25) / 2}

    def test_multilabel(self) -> None:
        rng = np.random.default_rng(0)
        scores, y = rng.normal(size=(50, 4)).round(1), (rng.random((50, 4)) < 0.3).astype(int)
        y[:, 3] = 0  # a label that never occurs has no precision
        ours = measured("multilabel", torch.from_numpy(scores), torch.from_numpy(y))
        assert ours["accuracy"] == pytest.approx(1 - sk.hamming_loss(y, scores > 0))
        assert ours["f1"] == pytest.approx(sk.f1_score(y, scores > 0, average="micro"))
        assert ours["average_precision"] == pytest.approx(
            sk.average_precision_score(y[:, :3], scores[:, :3], average="macro")
        )
        pairs = [y[:, i].sum() * (1 - y[:, i]).sum() for i in range(3)]
        each = [sk.roc_auc_score(y[:, i], scores[:, i]) for i in range(3)]
        assert ours["auc"] == pytest.approx(np.average(each, weights=pairs))

    def test_regression(self) -> None:
        rng = np.random.default_rng(0)
        for shape in ((30,), (30, 3)):
            y = rng.normal(2, 3, shape)
            predicted = y + rng.normal(0, 1, shape)
            ours = measured(
                "regression",
                torch.from_numpy(predicted.reshape(30, -1)),
                torch.from_numpy(y),
                metrics=["rmse", "mae", "r2", "nasa"],
            )
            assert ours["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(y, predicted)))
            assert ours["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted))
            weighting = "variance_weighted" if len(shape) > 1 else "uniform_average"
            assert ours["r2"] == pytest.approx(sk.r2_score(y, predicted, multioutput=weighting))
            off = predicted - y
            by_hand = np.where(off < 0, np.exp(-off / 13) - 1, np.exp(off / 10) - 1).mean()
            assert ours["nasa"] == pytest.approx(by_hand)

    def test_sequence_counts_judged_positions_only(self) -> None:
        logits = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 2, 2]])]
        y = torch.tensor([[0, 2, -1], [2, -1, -1]])
        assert measured("sequence", logits, y) == {"accuracy": 2 / 3}
        losses = tasks.build("sequence").losses(logits, y)
        ignored = torch.nn.functional.cross_entropy(logits.transpose(1, 2), y, ignore_index=-1, reduction="none")
        assert_close(losses, ignored.sum(1) / torch.tensor([2.0, 1.0]))

    def test_no_answer_is_right_for_an_unanswerable_class(self) -> None:
        logits = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 2, 2]])]
        y = torch.tensor([[0, 1, -1], [2, 0, 1]])
        assert measured("sequence", logits, y) == {"accuracy": 3 / 5}
        assert measured("sequence", logits, y, unanswerable=[2]) == {"accuracy": 2 / 5}
        assert measured("sequence", logits, y, unanswerable=[0, 2]) == {"accuracy": 1 / 5}
        own = tasks.build({"name": "sequence", "unanswerable": [2]})
        assert_close(own.losses(logits, y), tasks.build("sequence").losses(logits, y))
        with pytest.raises(ConfigError, match=r"task sequence: unanswerable\.0 = -1"):
            tasks.build({"name": "sequence", "unanswerable": [-1]})

    def test_a_model_that_has_become_nan_answers_nothing(self) -> None:
        y = torch.tensor([1, 0, 1])
        broken = torch.full((3, 1), math.nan)
        assert set(measured("binary", broken, y).values()) == {0.0}
        assert measured("multiclass", torch.full((3, 2), math.nan), y) == {"accuracy": 0.0}

    def test_one_class_has_no_auc_and_nobody_at_all_no_f1(self) -> None:
        ours = measured("binary", torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 0]))
        assert math.isnan(ours["auc"])
        assert math.isnan(ours["average_precision"])
        assert ours["f1"] == 0.0 == sk.f1_score([0, 0], [1, 0], zero_division=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["sequential", "vectorised"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_engines_agree_with_one_client_at_a_time(kind: str, mode: Mode, dtype: torch.dtype) -> None:
    work, episodes = task_cases.task(kind, dtype), task_cases.cohort(kind)
    algorithm = MAML(inner_lr=0.1, inner_steps=2)
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    params = work.params()
    runner = engine(work, algorithm, mode)
    update = runner.gather(params, episodes, [0.25] * 4).update
    alone = [algorithm.client(work, params, one) for one in episodes]
    for name, leaf in update.items():
        assert_close(leaf, sum(one[name] for one in alone) / 4, **close)
    scored = runner.score(params, [(one.support, one.query) for one in episodes], True)
    for rows, one in zip(scored, episodes, strict=True):
        expected = [work.score(model, one.query) for model in algorithm.adapt(work, params, one.support)]
        assert_close(rows, torch.stack(expected), **close)
    # Second order: the gradient after two steps, by functorch alone.
    support, query = episodes[0].support, episodes[0].query

    def after(start: dict[str, Tensor]) -> Tensor:
        for _ in range(2):
            slope = torch.func.grad(work.loss)(start, support)
            start = {name: p - 0.1 * slope[name] for name, p in start.items()}
        return work.loss(start, query)

    if dtype == torch.float64:
        for name, leaf in torch.func.grad(after)(params).items():
            assert_close(alone[0][name], leaf, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_the_shape_that_they_say(kind: str) -> None:
    work, shots = task_cases.task(kind), task_cases.shots(kind, 5, 0)
    answers = work.kind.answers(work.logits(work.params(), shots.x))
    shape = work.kind.answer_shape(task_cases.spec(kind))
    assert answers.reshape(5, *shape).numel() == answers.numel()
    assert shape == (() if kind == "survival" else tuple(task_cases.SPECS[kind].get("y_shape", ())))


class TestConstants:
    """What any method has to beat."""

    def test_of_numbers_the_mean_of_the_support(self) -> None:
        support, query = task_cases.shots("regression", 5, 1), task_cases.shots("regression", 7, 2)
        own = tasks.build("regression")
        assert_close(own.constant(support, query), support.y.double().mean().expand(7, 1))

    def test_of_a_series_its_last_value(self) -> None:
        query = task_cases.shots("forecast", 7, 2)
        last = query.x[:, -1].double()
        assert_close(tasks.build("forecast").constant(query, query), torch.stack([last, last], 1))
        two = query._replace(x=torch.stack([query.x, -query.x], -1))
        by_channel = tasks.build({"name": "forecast", "channel": 1}).constant(two, two)
        assert_close(by_channel, -torch.stack([last, last], 1))

    def test_of_labels_how_often_each_occurs(self) -> None:
        support = Shots(torch.zeros(4, 1), torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]]), torch.tensor(0))
        own = tasks.build("multilabel")
        answers = own.constant(support, support)
        assert ((answers > 0).int() == torch.tensor([1, 0])).all()
        sums = dict(zip(own.columns, own.summed(answers, support.y, torch.ones(4).bool()).tolist(), strict=True))
        assert sums["auc_total"] / sums["auc_weight"] == 0.5, "the same answer for all orders nothing"

    def test_of_yes_or_no_its_frequency(self) -> None:
        support = Shots(torch.zeros(4, 1), torch.tensor([1, 0, 0, 0]), torch.tensor(0))
        assert_close(tasks.build("binary").constant(support, support).sigmoid(), torch.full((4, 1), 0.25).double())

    def test_of_classes_the_most_frequent(self) -> None:
        support = Shots(torch.zeros(3, 1), torch.tensor([2, 1, 2]), torch.tensor(0))
        assert tasks.build("multiclass").constant(support, support).argmax(-1).tolist() == [2, 2, 2]
        several = Shots(torch.zeros(1, 3), torch.tensor([[1, 1, -1]]), torch.tensor(0))
        assert tasks.build("sequence").constant(several, several).argmax(-1).tolist() == [[1, 1, 1]]
        other = Shots(torch.zeros(1, 3), torch.tensor([[1, 1, 2]]), torch.tensor(0))
        own = tasks.build({"name": "sequence", "unanswerable": [1]})
        assert own.constant(other, other).argmax(-1).tolist() == [[2, 2, 2]]


def run_of(folder: Path, kind: str, **changes: Any) -> Record:
    config = task_cases.config(kind, **{"rounds": 30, "evaluate_every": 5, "held_out": 0.2, **changes})
    cell = Cell(folder, config)
    Run(config, task_cases.store(kind)).execute(cell)
    return next(record for record in read_records(folder) if record.path == cell.record_path)


@pytest.fixture
def with_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.plugin
    brought = {("models", "positions"): task_cases.Positions}
    monkeypatch.setattr(registry, "plugin", lambda kind, name: brought.get((kind, name)) or plugin(kind, name))


@pytest.mark.usefixtures("with_positions")
class TestRuns:
    """A record, what it says, and what is made of it."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_clients_adapt_and_beat_the_constant(self, tmp_path: Path, kind: str) -> None:
        record = run_of(tmp_path, kind)
        content, metric = record.content, record.content.metric
        assert content.metrics == tasks.build(kind).measured
        assert content.participants
        for scores in (*content.scores["final"].values(), content.participants["final"]):
            assert metric.better(scores.after.pooled, scores.before.pooled)
            assert metric.better(scores.after.pooled, scores.majority.pooled)
        evaluated = record.rounds.dropna(subset="validation_after").set_index("round")["validation_after"]
        assert content.selected_round == (evaluated.idxmax() if metric.higher_is_better else evaluated.idxmin())

    def test_the_gru_learns_a_class_at_every_position(self, tmp_path: Path) -> None:
        config = task_cases.config("sequence", rounds=30, evaluate_every=15).model_copy(update={"model": "gru"})
        record = Run(config, task_cases.store("sequence")).execute(Cell(tmp_path, config))
        scores = record["scores"]["final"]["0.5"]
        assert scores["after"]["pooled"] > scores["majority"]["pooled"] + 0.1

    def test_scores_are_those_of_the_clients_predictions(self, tmp_path: Path) -> None:
        """RMSE of everybody and of each, from predictions made by hand."""
        config = task_cases.config("regression", "fedavg", rounds=3, evaluate_every=3)
        run = Run(config, task_cases.store("regression"))
        progress = run.train()
        run.execute(Cell(tmp_path, config))
        [record] = read_records(tmp_path)
        squares = []
        for client in run.federation.clients["test"]:
            _, query = run.federation.support_query(int(client), 0.2)
            predicted = run.task.logits(progress.state.broadcast, query.x).detach()
            squares.append(((predicted[:, 0] - query.y) ** 2).double().numpy())
        before = record.content.scores["final"]["0.2"].before
        assert before.pooled == pytest.approx(math.sqrt(np.concatenate(squares).mean()), rel=1e-5)
        each = np.array([math.sqrt(one.mean()) for one in squares])
        assert before.client_mean == pytest.approx(each.mean(), rel=1e-5)
        assert before.bottom10 == pytest.approx(each.max(), rel=1e-5), "of six clients the worst, which is largest"

    def test_hurt_is_whom_adapting_made_worse(self, tmp_path: Path) -> None:
        record = run_of(tmp_path, "regression")
        scores = client_scores([record])[Setting("regression", 0.2)]["fedavg_meta"]
        worse = scores.scores("after") > scores.scores("before")
        assert record.content.scores["selected"]["0.2"].after.hurt == worse.mean()

    @pytest.mark.parametrize("kind", ["regression", "multilabel"])
    def test_reports_name_metric_unit_and_direction(self, tmp_path: Path, kind: str) -> None:
        task = {"name": kind, "unit": "kW"} if kind == "regression" else None
        folder = tmp_path / "coins"
        for algorithm in ("fedavg_meta", "fedavg", "local"):
            run_of(folder, kind, algorithm=algorithm, task=task)
        write_report(folder, folder / "report")
        text = (folder / "report" / "table.md").read_text(encoding="utf-8")
        name, unit = (
            ("RMSE", "RMSE in kW on the query")
            if kind == "regression"
            else (
                "Average precision",
                "Average precision in % on the query",
            )
        )
        assert unit in text
        assert CONSTANT in text
        assert "ccuracy" not in text
        page = (folder / "report" / "index.html").read_text(encoding="utf-8")
        assert name in page
        numbers = comparison(read_records(folder), client_scores(read_records(folder)))
        at = numbers[(numbers["support"] == 0.2) & (numbers["who"] == "new")].set_index("algorithm")
        after = at["after_pooled_mean"].to_dict()
        best = str((min if kind == "regression" else max)(after, key=lambda name: after[name]))
        shown = float(after[best])
        metric = read_records(folder)[0].content.metric
        name_of_best = best.replace("_", "\\_")
        row = next(line for line in text.splitlines() if line.startswith(f"| {name_of_best} "))
        assert f"**{metric.number(shown)}" in row, row
        others = Shown(metric="MAE" if kind == "regression" else "AUC").of(read_records(folder))
        assert {record.content.metric.name for record in others} == {"MAE" if kind == "regression" else "AUC"}
        again = comparison(others, client_scores(others))
        assert (again["after_pooled_mean"].dropna() != numbers["after_pooled_mean"].dropna()).all()

    def test_another_task_on_the_same_data(self, tmp_path: Path) -> None:
        """A suite may ask for other metrics, and for another kind; the record says so and hashes it."""
        usual = task_cases.config("binary")
        auc = task_cases.config("binary", task={"name": "binary", "metrics": ["auc"]})
        assert usual.config_hash() != auc.config_hash()
        assert "task" not in usual.resolved()
        record = run_of(tmp_path / "auc", "binary", task={"name": "binary", "metrics": ["auc"]})
        assert [metric.name for metric in record.content.metrics] == ["AUC"]
        assert run_of(tmp_path / "classes", "binary", task="multiclass").content.metric == ACCURACY

    def test_clients_of_one_class_have_no_auc_and_are_left_out(self, tmp_path: Path) -> None:
        store = task_cases.store("binary")
        y = store.y.copy()
        config = task_cases.config("binary", task={"name": "binary", "metrics": ["auc"]})
        run = Run(config, store)
        alone = int(run.federation.clients["test"][0])
        y[store.offsets[alone] : store.offsets[alone + 1]] = 1
        Run(config, type(store)(store.x, y, *(getattr(store, n) for n in ("offsets", "ids", "environments", "about")))
            ).execute(Cell(tmp_path, config))  # fmt: skip
        [record] = read_records(tmp_path)
        assert record.content.scores["final"]["0.2"].after.clients == 5
        scores = client_scores([record])[Setting("binary", 0.2)]["fedavg_meta"]
        assert str(store.ids[alone]) not in scores.clients

    def test_a_run_whose_scores_are_not_finite_has_diverged(self, tmp_path: Path) -> None:
        config = task_cases.config("regression", rounds=4)
        changed = {**config.hyperparameters, "adapt_lr": 1e30}
        record = Run(config.model_copy(update={"hyperparameters": changed}), task_cases.store("regression")).execute(
            Cell(tmp_path, config)
        )
        assert record["status"] == "diverged"
        assert "RMSE is not finite" in record["reason"]

    def test_a_target_of_errors_is_reached_from_above(self, tmp_path: Path) -> None:
        record = run_of(tmp_path, "regression")
        evaluated = record.rounds.dropna(subset="validation_after").set_index("round")["validation_after"]
        target = float(evaluated.iloc[2])
        [row] = cost_to_target([record], target).to_dict("records")
        assert row["reached"]
        assert row["rounds"] == evaluated.index[evaluated <= target][0]
        [never] = cost_to_target([record], float(evaluated.min()) - 0.01).to_dict("records")
        assert not never["reached"]

    def test_the_gate_knows_the_direction(self, tmp_path: Path) -> None:
        of_errors = found(run_of(tmp_path / "a", "regression").content).measures
        [measure] = [name for name in of_errors if name.startswith("RMSE after (less is better)@0.2")]
        assert better(measure, -0.1)
        assert not better(measure, 0.1)
        of_shares = found(run_of(tmp_path / "b", "multilabel").content).measures
        assert better("average precision after (more is better)@0.2", 0.1)
        assert "average precision after (more is better)@0.2" in of_shares

    def test_older_records_are_of_accuracy(self, tmp_path: Path) -> None:
        record = run_of(tmp_path, "multiclass")
        content = json.loads(record.path.read_text(encoding="utf-8"))
        del content["metrics"]
        text = json.dumps(content).replace('"pooled"', '"accuracy"')
        record.path.write_text(text, encoding="utf-8")
        [older] = read_records(tmp_path)
        assert older.content.metric == ACCURACY
        assert older.content.scores == record.content.scores

    def test_metrics_that_are_not_the_tasks_are_found_by_submit_check(self, tmp_path: Path) -> None:
        """A record that turned the direction would be the best of its table."""
        options = resolve("datasets", "synthetic", {})
        config = task_cases.config("multiclass", rounds=2).model_copy(update={"dataset_options": options})
        Run(config, task_cases.store("multiclass")).execute(Cell(tmp_path, config))
        [path] = tmp_path.rglob("seed-1.json")
        assert not list(metrics_rule(entry(path, "it")))
        content = json.loads(path.read_text(encoding="utf-8"))
        content["metrics"][0]["higher_is_better"] = False
        path.write_text(json.dumps(content), encoding="utf-8")
        assert list(metrics_rule(entry(path, "it"))) == ["its metrics are not those of its task: accuracy"]

    @pytest.mark.parametrize(("kind", "labels"), [("multilabel", 3), ("sequence", 5), ("multiclass", 3)])
    def test_portraits_count_labels(self, kind: str, labels: int) -> None:
        store = task_cases.store(kind)
        figure = portrait.draw({kind: store})
        [image] = figure.axes[1].get_images()
        shares = np.asarray(image.get_array())
        assert shares.shape == (portrait.SAMPLED, labels)
        assert_close(torch.from_numpy(shares.sum(1)), torch.full((portrait.SAMPLED,), 100.0, dtype=torch.float64))

    def test_a_record_beyond_its_metrics_bounds_is_refused(self, tmp_path: Path) -> None:
        record = run_of(tmp_path, "regression")
        content = json.loads(record.path.read_text(encoding="utf-8"))
        content["scores"]["final"]["0.2"]["after"]["pooled"] = -1.0
        record.path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(DataError, match=r"has RMSE -1\.0 \(pooled\), which is not from 0\.0 to None"):
            read_records(tmp_path)


ALL = sorted(name for name in registry.names("algorithms"))


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
@pytest.mark.parametrize("name", others_slow(ALL))
def test_every_algorithm_serves_the_task_or_says_that_it_does_not(kind: str, name: str) -> None:
    cls = registry.plugin("algorithms", name)
    if getattr(cls, "unit", "client") == "environment":
        pytest.skip("learns from whole environments")
    config = task_cases.config(kind, name, rounds=2).model_copy(update={"model": "mlp"})
    if name == "fedbn":
        with pytest.raises(ConfigError, match="no parameters in a part 'norm'"):
            Run(config, task_cases.store(kind)).train()
        return
    if kind not in getattr(cls, "serves", (kind,)):
        with pytest.raises(ConfigError, match=f"{name} serves the task multiclass, and synthetic asks for {kind}"):
            Run(config, task_cases.store(kind))
        return
    progress = Run(config, task_cases.store(kind)).train()
    assert progress.diverged is None
    assert math.isfinite(progress.rows[-1]["validation_after"])


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    for kind, other in (("regression", "multiclass"), ("multiclass", "binary"), ("binary", "multilabel")):
        with pytest.raises(ConfigError, match=f"task '{other}' needs .*; the data have y of"):
            tasks.of(task_cases.spec(kind), other)
    for given, sentence in (
        ("regresion", "unknown task 'regresion'.*regression"),
        ({"name": "binary", "metrics": ["acc"]}, "unknown metric of binary 'acc'"),
        ({"name": "binary", "metrics": []}, r"metrics = \[\] of binary: name one or more"),
        ({"name": "regression", "lss": "huber"}, "unknown option of regression 'lss'"),
        ({"name": "regression", "loss": "cubic"}, "task regression: loss = 'cubic'"),
        ({"metrics": ["auc"]}, "task = .*: give its name"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            tasks.build(given)


def test_losses_of_regression() -> None:
    outputs, y = torch.tensor([[0.0], [3.0]]), torch.tensor([0.5, 0.0])
    for loss, expected in (("squared", [0.25, 9.0]), ("absolute", [0.5, 3.0]), ("huber", [0.125, 2.5])):
        assert tasks.build({"name": "regression", "loss": loss}).losses(outputs, y).tolist() == expected


def test_a_resolved_task_has_only_what_is_not_as_by_default() -> None:
    assert tasks.resolve({"name": "regression", "loss": "squared"}) == "regression"
    assert tasks.resolve({"name": "binary", "metrics": ("auc",)}) == {"name": "binary", "metrics": ["auc"]}


def test_summaries_of_a_metric_that_is_better_when_lower() -> None:
    metric = Metric("MAE", "off", higher_is_better=False, high=None, unit="")
    table = {"n": [2, 4, 0], "off": [2.0, 12.0, 0.0]}
    summary = summarise(table, metric, before=np.array([0.5, 4.0, math.nan]))
    assert summary["pooled"] == pytest.approx(14 / 6)
    assert summary["bottom10"] == 3.0
    assert summary["hurt"] == 0.5
    with pytest.raises(DataError, match="no client's query examples give a value of AUC"):
        summarise({"n": [2], "auc_total": [0.0], "auc_weight": [0.0]}, Metric("AUC", "auc_total", "auc_weight"))
