"""New environments in which participants' updates pass through layers: what arrives, who lies, what is counted."""

from pathlib import Path
from typing import Any

import pytest
import small_environments
import torch

from metaleaf import trees
from metaleaf.algorithm import Replies
from metaleaf.config.config import RunConfig
from metaleaf.config.protection import resolve_protection
from metaleaf.environments.newcomers import Newcomer, Session
from metaleaf.environments.protected import ProtectedEnvironmentRun
from metaleaf.environments.run import EnvironmentRun
from metaleaf.errors import ConfigError
from metaleaf.gradient import over
from metaleaf.jobs.execute import runner
from metaleaf.protection.attacks import LabelFlip
from metaleaf.records.environments import EnvironmentRecord
from metaleaf.records.records import read_all
from metaleaf.runs.store import Cell

STORE = small_environments.store()
FEDAVG = {"client_optimizer": {"name": "sgd", "lr": 0.5}, "epochs": 2, "batch_size": 1000}
LEARNED = {"directions": 3, "width": 4, "start_directions": "random"}
EVERYONE = {"name": "sign_flip", "share": 1.0, "scale": 2.0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def config(layers: dict[str, Any], method: str = "fedavg", **options: Any) -> RunConfig:
    given = {"fedavg": FEDAVG, "learned_start": LEARNED}.get(method, {})
    plain = small_environments.config(
        method, hyperparameters=given, protocol={"weighting": "uniform"}, **{"budget": 100, **options}
    )
    return plain.model_copy(update={"protection": resolve_protection(layers)})


def protected(layers: dict[str, Any], method: str = "fedavg") -> ProtectedEnvironmentRun:
    return ProtectedEnvironmentRun(config(layers, method), STORE)


def met(run: EnvironmentRun, rounds: int = 0) -> tuple[Newcomer, list[tuple[str, int]], Session]:
    """A newcomer with untrained parameters, the visits to the test environments, and the sessions some rounds later."""
    newcomer = Newcomer(run.task, run.algorithm, run._start().state.broadcast)
    visits = [(name, 0) for name in run.federation.environments["test"]]
    session = run._entered(newcomer, visits)
    for number in range(1, rounds + 1):
        session = run._advanced(newcomer, visits, number, session)
    return newcomer, visits, session


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def updates(run: EnvironmentRun, newcomer: Newcomer, visits: list[tuple[str, int]]) -> tuple[Any, torch.Tensor]:
    """The first updates of all participants as they are made, and weights."""
    shots, weights = EnvironmentRun._cohorts(run, visits, 0)
    return over(over(newcomer.first))(shots), weights


@pytest.mark.parametrize("method", ["fedavg", "learned_start", "pefll"])
def test_layers_that_do_nothing_change_nothing_but_rounding(method: str) -> None:
    layered = protected({"clip": {"norm": 1e9}}, method)
    plain = EnvironmentRun(config({}, method), STORE)
    close(met(layered, 2)[2], met(plain, 2)[2])


def test_the_runner_is_that_of_track_and_layers() -> None:
    assert runner(config({"clip": {}})) is ProtectedEnvironmentRun
    assert runner(config({})) is EnvironmentRun


def test_liars_turn_the_first_step_round_and_the_later_ones() -> None:
    """All send -2 u: the start is p - 2 mean(u); a round's update likewise, of the parameters then."""
    run = protected({"attack": EVERYONE})
    newcomer, visits, session = met(run)
    sent, weights = updates(run, newcomer, visits)
    mean = over(lambda u, w: Replies(u, w).mean())(sent, weights)
    expected = trees.tree_map(lambda p, m: p - 2 * m, newcomer.params, mean)
    close(session["params"], expected)
    following = run._advanced(newcomer, visits, 1, session)
    shots, weights = run._cohorts(visits, 1)
    honest = over(lambda one, cohort: over(lambda each: newcomer.visit(one, each))(cohort))(session, shots)
    mean = over(lambda u, w: Replies(u, w).mean())(honest, weights)
    close(following["params"], trees.tree_map(lambda p, m: p - 2 * m, session["params"], mean))


def test_a_rule_stands_in_the_place_of_the_mean() -> None:
    run = protected({"attack": {**EVERYONE, "share": 0.4, "scale": 50.0}, "aggregate": "median"})
    newcomer, visits, session = met(run)
    sent, _ = updates(run, newcomer, visits)
    liars = torch.stack([run._are_malicious(visit, 0) for visit in visits])
    assert 0 < liars.sum() < liars.numel()

    def with_median(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        bad = liars.view(*liars.shape, *[1] * (u.dim() - 2))
        return p + torch.where(bad, -50 * u, u).median(1).values

    close(session["params"], trees.tree_map(with_median, newcomer.params, sent))


def test_a_method_that_reads_updates_reads_what_liars_send() -> None:
    run = protected({"attack": EVERYONE}, "learned_start")
    newcomer, visits, session = met(run)
    sent, weights = updates(run, newcomer, visits)
    turned = trees.tree_map(lambda u: -2 * u, sent)
    close(session, over(lambda u, w: newcomer.start(Replies(u, w)))(turned, weights))


def test_the_malicious_are_the_same_clients_in_all_meetings_and_more_with_a_greater_share() -> None:
    few, many = protected({"attack": {**EVERYONE, "share": 0.4}}), protected({"attack": {**EVERYONE, "share": 0.8}})
    name = few.federation.environments["test"][0]
    known: dict[int, bool] = {}
    for draw in range(2):
        for number in range(6):
            cohort = few.federation.new_cohort(name, draw, number).tolist()
            bad, worse = (run._are_malicious((name, draw), number).tolist() for run in (few, many))
            assert all(w for b, w in zip(bad, worse, strict=True) if b)
            for client, is_bad in zip(cohort, bad, strict=True):
                assert known.setdefault(client, is_bad) == is_bad
    assert len(known) == 5
    assert sum(known.values()) == 2


def test_only_malicious_clients_learn_from_wrong_labels() -> None:
    run = protected({"attack": {"name": "label_flip", "share": 0.4}})
    visits = [(name, 0) for name in run.federation.environments["test"]]
    (honest, _), (found, _) = EnvironmentRun._cohorts(run, visits, 0), run._cohorts(visits, 0)
    for i, visit in enumerate(visits):
        for k, bad in enumerate(run._are_malicious(visit, 0).tolist()):
            one, now = (trees.tree_map(lambda leaf, i=i, k=k: leaf[i, k], shots) for shots in (honest, found))
            expected = LabelFlip().poisoned(one, run.spec) if bad else one
            torch.testing.assert_close(tuple(now), tuple(expected), rtol=0, atol=0)


def test_wrong_labels_reach_the_start() -> None:
    run = protected({"attack": {"name": "label_flip", "share": 1.0}})
    newcomer, visits, session = met(run)
    honest, _ = updates(run, newcomer, visits)
    start = trees.tree_map(lambda p, u: p + u.mean(1), newcomer.params, honest)
    assert trees.length(trees.subtract(session["params"], start)) > 0.1 * trees.length(start)


def test_bytes_are_those_of_compressed_updates(tmp_path: Path) -> None:
    """Of 9 parameters the largest third: 3 values of 4 bytes and 3 places."""
    plain, layered = config({}), config({"compress": {"name": "top_k", "share": 1 / 3}})
    found = [runner(one)(one, STORE).execute(Cell(tmp_path, one))["scores"]["entry"] for one in (plain, layered)]
    assert found[0] == {"first": 3 * 2 * 36, "round": 3 * 2 * 36}
    assert found[1]["first"] == found[1]["round"] < found[0]["first"]
    run = ProtectedEnvironmentRun(layered, STORE)
    one = trees.zeros_like(run.task.params())
    assert found[1]["first"] == 3 * (36 + run.pipeline.sent_bytes(one, 3)[1])


def test_a_record_says_what_the_meetings_tell(tmp_path: Path) -> None:
    """Everybody who may take part (5 of 8 clients) may be at the first meeting and three rounds."""
    one = config({"clip": {"norm": 0.5}, "noise": {"multiplier": 4.0, "place": "clients"}}, "learned_start")
    ProtectedEnvironmentRun(one, STORE).execute(Cell(tmp_path, one))
    (record,) = read_all(EnvironmentRecord, tmp_path / "turned")
    assert record.content.config["protection"]["noise"]["place"] == "clients"
    privacy = record.content.privacy
    assert privacy is not None
    assert 0 < privacy.epsilon < 20
    found = ProtectedEnvironmentRun(one, STORE)._privacy()
    assert (found["rounds"], found["most_rounds"], found["clients"]) == (4, 4, 5)
    assert privacy.epsilon == pytest.approx(found["epsilon"])


def test_the_same_configuration_gives_the_same_bits() -> None:
    layers = {"attack": {"name": "gaussian", "share": 0.4}, "clip": {"norm": 0.1, "quantile": 0.5}}
    a, b = (met(protected(layers), 3)[2] for _ in range(2))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_start_is_without_layers_and_computed_once(home: Path) -> None:
    start = {"name": "fedavg", "share": 0.4, "hyperparameters": FEDAVG}
    layers: list[dict[str, Any]] = [{}, {"clip": {"norm": 0.1}}, {"attack": EVERYONE}]
    runs = [runner(one)(one, STORE) for one in (config(one, "few_round", start=start) for one in layers)]
    found = [run.start_params() for run in runs if isinstance(run, EnvironmentRun)]
    assert len(found) == 3
    assert len(list((home / "starts").glob("*.safetensors"))) == 1
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "layers", "message"),
    [
        ("learned_start", {"aggregate": "median"}, "this algorithm's server reads every update itself"),
        ("pefll", {"clip": {}, "secure": {}}, "secure aggregation hides what this algorithm's server reads"),
        ("learned_start", {"clip": {}, "noise": {}}, "a server that reads every update sees it without noise"),
        ("fedavg", {"aggregate": {"name": "multi_krum", "attackers": 2}}, "multi_krum"),
        ("fedavg", {"attack": "backdoor"}, "it needs images"),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, layers: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        protected(layers, method)
