"""Runs with layers between clients and server: what arrives, what is counted and recorded, resumed to the bit."""

from pathlib import Path
from typing import Any

import coins
import numpy as np
import pytest
import torch
from interrupted import interrupted

from metaleaf import trees
from metaleaf.algorithm import Replies
from metaleaf.config.config import RunConfig
from metaleaf.config.protection import pipeline_of, resolve_protection
from metaleaf.config.suite import suite_of
from metaleaf.data.client_store import ClientStore
from metaleaf.errors import ConfigError
from metaleaf.jobs.execute import runner
from metaleaf.jobs.from_record import config_of
from metaleaf.records.records import read_records
from metaleaf.runs.protected import ProtectedRun
from metaleaf.runs.run import Run
from metaleaf.runs.store import Cell

STORE = coins.store()
BOUNDED = {"clip": {"norm": 0.05}}


def config(algorithm: str = "fedavg_meta", layers: dict[str, Any] | None = None, **protocol: Any) -> RunConfig:
    plain = coins.config(algorithm, weighting="uniform", **protocol)
    return plain.model_copy(update={"protection": resolve_protection(layers or {})})


def executed(folder: Path, one: RunConfig) -> dict[str, Any]:
    return runner(one)(one, STORE).execute(Cell(folder, one))


def after(record: dict[str, Any]) -> float:
    found: float = record["scores"]["final"]["0.5"]["after"]["loss"]
    return found


def test_layers_that_do_nothing_change_nothing_but_rounding(tmp_path: Path) -> None:
    plain, layered = executed(tmp_path, config()), executed(tmp_path, config(layers={"clip": {"norm": 1e9}}))
    assert after(layered) == pytest.approx(after(plain), rel=1e-5)
    assert layered["cost"] == plain["cost"]
    assert layered["config_hash"] != plain["config_hash"]
    assert "protection" not in plain["config"]


@pytest.mark.parametrize("algorithm", ["fedavg", "maml", "meta_sgd", "scaffold", "ditto", "ifca", "fedrep", "pfedhn"])
def test_any_algorithm_passes_its_updates_on(tmp_path: Path, algorithm: str) -> None:
    """Bounds, then compression with what clients keep beside their own memory."""
    one = config(algorithm, {**BOUNDED, "compress": {"name": "top_k", "share": 0.5}})
    assert executed(tmp_path, one)["status"] == "finished"
    rows = (tmp_path / "coins" / "coins" / algorithm).rglob("*.rounds.csv")
    sends = algorithm != "fedrep"  # of logistic regression all is head, which stays at home
    assert ("clip_bound" in next(rows).read_text().splitlines()[0]) == sends


def test_messages_call_the_algorithm_by_its_name() -> None:
    assert type(ProtectedRun(config("fedavg", BOUNDED), STORE).algorithm).__name__ == "FedAvg"


def test_a_bound_bounds_what_a_round_moves(tmp_path: Path) -> None:
    one = config("fedavg", BOUNDED)
    progress = ProtectedRun(one, STORE).train()
    assert all(0 < row["update_norm"] <= 0.05 * (1 + 1e-6) for row in progress.rows[1:])
    assert all(0 < row["clipped"] <= 1 and row["clip_bound"] == 0.05 for row in progress.rows[1:])


def test_noise_is_in_the_record_with_what_it_is_worth(tmp_path: Path) -> None:
    record = executed(tmp_path, config(layers={**BOUNDED, "noise": {"multiplier": 4.0}}))
    found = record["privacy"]
    assert (found["rounds"], found["cohort"], found["clients"]) == (6, 5, 24)
    assert 0 < found["epsilon_poisson"] < found["epsilon"] < 100
    assert after(record) != pytest.approx(after(executed(tmp_path, config(layers=BOUNDED))), rel=1e-6)
    local = executed(tmp_path, config(layers={**BOUNDED, "noise": {"multiplier": 4.0, "place": "clients"}}))
    assert local["privacy"]["epsilon"] > found["epsilon"]


def test_noise_is_on_the_sum_of_those_who_stay() -> None:
    """Else the mean of fewer clients would have less noise than one client can move it by."""
    zero = Replies({"a": torch.zeros(10, 40_000)}, torch.full((10,), 0.1, dtype=torch.float64))
    nobody, seed = torch.zeros(10, dtype=torch.bool), torch.tensor(5)
    for drop_outs, stay in ((0.0, 10), (0.3, 7)):
        layers = {"clip": {"norm": 2.0}, "noise": {"multiplier": 1.5}, "secure": {"drop_outs": drop_outs}}
        pipeline = pipeline_of(layers)
        passed = pipeline(zero, torch.arange(10), nobody, pipeline.start({"a": torch.zeros(40_000)}), (), seed)
        assert float(passed.update["a"].std()) == pytest.approx(1.5 * 2.0 / stay, rel=0.02)


def test_masks_change_nothing_but_the_last_digits_and_the_bytes(tmp_path: Path) -> None:
    bounded = executed(tmp_path, config(layers={"clip": {"norm": 5.0}}))
    masked = executed(tmp_path, config(layers={"clip": {"norm": 5.0}, "secure": {}}))
    assert after(masked) == pytest.approx(after(bounded), rel=1e-4)
    assert masked["cost"]["bytes_up"] > bounded["cost"]["bytes_up"]
    assert masked["cost"]["bytes_down"] > bounded["cost"]["bytes_down"]


def test_a_median_bears_liars_that_a_mean_does_not(tmp_path: Path) -> None:
    liars = {"attack": {"name": "sign_flip", "share": 0.2, "scale": 50.0}}
    protocol: dict[str, Any] = {"rounds": 30, "clients_per_round": 10, "evaluate_every": 30}
    honest = executed(tmp_path, config("fedavg", **protocol))
    mean = executed(tmp_path, config("fedavg", liars, **protocol))
    median = executed(tmp_path, config("fedavg", {**liars, "aggregate": "median"}, **protocol))
    assert after(mean) > 2 * after(honest)
    assert after(median) < 1.3 * after(honest)


@pytest.mark.parametrize("algorithm", ["fedavg", "maml", "ditto"])
def test_wrong_labels_teach_something_else(tmp_path: Path, algorithm: str) -> None:
    honest = executed(tmp_path, config(algorithm))
    lied_to = executed(tmp_path, config(algorithm, {"attack": {"name": "label_flip", "share": 1.0, "to": "next"}}))
    assert abs(after(lied_to) - after(honest)) > 1e-4 * after(honest)


def test_a_server_that_trusts_some_follows_their_update(tmp_path: Path) -> None:
    """All others send the opposite: what is left of the cohort is as long as the trusted clients' own mean update."""
    layers = {"attack": {"name": "sign_flip", "share": 0.7}, "aggregate": {"name": "fltrust", "trusted": 3}}
    run = ProtectedRun(config("fedavg", layers, clients_per_round=10), STORE)
    progress = run._start()
    assert len(set(run.trusted)) == 3
    numbers = np.searchsorted(run.federation.clients["train"], run.trusted).tolist()
    assert run.malicious.isdisjoint(numbers)
    honest = Run(config("fedavg", clients_per_round=10), STORE)
    episodes = honest.federation.episodes(run.trusted, 1)
    expected, _ = honest.engine.gather(honest._start().state.broadcast, episodes, [1 / 3] * 3)
    found = run._with_trusted(progress, 1)["rule"]
    for name, leaf in trees.named_leaves(expected).items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-5, atol=1e-6)
    trained = run.train()
    assert trained.rows[1]["update_norm"] <= trees.length(expected) * (1 + 1e-5)
    broadcast = trees.named_leaves(trained.state.broadcast)
    again = ProtectedRun(config("fedavg", layers, clients_per_round=10), STORE).train()
    torch.testing.assert_close(broadcast, trees.named_leaves(again.state.broadcast), rtol=0, atol=0)


def test_more_trust_than_honest_clients_is_refused() -> None:
    layers = {"attack": {"name": "sign_flip", "share": 0.9}, "aggregate": {"name": "fltrust", "trusted": 3}}
    with pytest.raises(ConfigError, match="trusts 3 clients, and only 2 that train are honest"):
        ProtectedRun(config("fedavg", layers), STORE)


def images() -> ClientStore:
    """The coins as pictures of 5 x 5 pixels, of which only the upper left ones tell the class."""
    x = np.zeros((len(STORE.x), 5, 5), np.uint8)
    x[:, 0, :4] = np.clip(128 + 40 * np.array(STORE.x), 0, 255)
    spec = {**coins.SPEC, "x_shape": [5, 5], "x_dtype": "uint8"}
    return ClientStore(x, STORE.y, STORE.offsets, STORE.ids, STORE.environments, {**STORE.about, "spec": spec})


def test_how_often_a_trigger_works_is_in_the_record(tmp_path: Path) -> None:
    shares = []
    for share in (0.0, 0.6):
        attack = {"name": "backdoor", "share": share, "target": 1, "size": 2, "value": 255, "poisoned_share": 0.8}
        one = config("fedavg", {"attack": attack}, rounds=30, evaluate_every=30, clients_per_round=15)
        record = runner(one)(one, images()).execute(Cell(tmp_path, one))
        assert record["backdoor"].keys() == {"final", "selected"}
        shares.append(record["backdoor"]["final"]["0.5"])
    assert shares[0]["before"] < 0.7 < 0.95 < shares[1]["before"]
    assert len(read_records(tmp_path / "coins")) == 2


def test_a_trigger_is_scored_on_query_examples_of_other_classes(tmp_path: Path) -> None:
    """As if they were all there is to score, by hand from the model's answers."""
    attack = {"name": "backdoor", "share": 0.5, "target": 1, "size": 2, "value": 255, "poisoned_share": 0.5}
    run = ProtectedRun(config("fedavg_meta", {"attack": attack}), images())
    rng = torch.Generator().manual_seed(3)
    broadcast = {name: torch.randn(leaf.shape, generator=rng) / 100 for name, leaf in run.task.params().items()}
    pixels = broadcast["out.weight"].view(3, 5, 5)
    pixels[:, -2:, -2:] = 0  # the trigger alone decides nothing, nor does the others' brightness
    pixels[:, 0, :4] -= pixels[:, 0, :4].mean(1, keepdim=True)
    asked = taken = 0
    for _, query in run.federation.support_queries([int(i) for i in run.federation.clients["test"]], 0.2):
        triggered = run.pipeline.attack.triggered(query)
        asked += len(triggered.y)
        taken += int((run.task.logits(broadcast, triggered.x).argmax(1) == 1).sum())
    assert 0 < taken < asked
    assert run._deceived(broadcast)["0.2"]["before"] == pytest.approx(taken / asked)


EVERYTHING = {
    "attack": {"name": "sign_flip", "share": 0.2},
    "compress": {"name": "top_k", "share": 0.4},
    "clip": {"norm": 0.05, "quantile": 0.5},
    "aggregate": {"name": "centred_clipping", "radius": 0.1},
}


@pytest.mark.parametrize("algorithm", ["fedavg_meta", "ditto"])
def test_an_interrupted_run_resumes_to_the_bit(tmp_path: Path, algorithm: str) -> None:
    """The bound, the rule's last aggregate and everyone's residuals come out of the checkpoint."""
    one = config(algorithm, EVERYTHING)
    executed(tmp_path / "whole", one)
    cell = Cell(tmp_path / "broken", one)
    assert interrupted(lambda: ProtectedRun(one, STORE), cell, [1, 4]) == [5, 6]
    clients = "*.clients.csv"
    broken, whole = (next((tmp_path / name).rglob(clients)).read_bytes() for name in ("broken", "whole"))
    assert broken == whole


def test_a_record_is_read_and_says_what_to_run(tmp_path: Path) -> None:
    one = config(layers={**BOUNDED, "noise": {"multiplier": 4.0}})
    executed(tmp_path, one)
    [record] = read_records(tmp_path / "coins")
    assert record.content.config["protection"]["noise"] == {"multiplier": 4.0, "place": "server", "delta": None}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"noise": {"multiplier": 1.0}}, "noise has no measure without clip"),
        (
            {"clip": {"quantile": 0.5}, "noise": {"place": "clients"}},
            "a bound that follows the clients' norms tells a server",
        ),
        ({"secure": {}}, "secure aggregation needs a range of numbers"),
        ({**BOUNDED, "aggregate": "fltrust"}, "this rule makes every update as long as the trusted clients' own"),
        ({**BOUNDED, "secure": {}, "aggregate": "median"}, "hides what the rule in aggregate compares"),
        ({**BOUNDED, "secure": {}, "compress": "sign"}, "a masked update is as long as any"),
        ({**BOUNDED, "noise": {}, "aggregate": "median"}, "noise on the server is for the mean"),
        ({**BOUNDED, "secure": {"drop_outs": 0.9}}, "needs 4 of 5 clients to stay, and 1 do"),
        ({"aggregate": {"name": "krum", "attackers": 2}}, "needs at least 7 clients a round, but 5 take part"),
    ],
)
def test_what_makes_no_sense_is_refused(layers: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ProtectedRun(config("fedavg", layers), STORE)


def test_a_server_that_reads_every_update_allows_no_masks() -> None:
    with pytest.raises(ConfigError, match="hides what this algorithm's server reads"):
        ProtectedRun(config("ifca", {**BOUNDED, "secure": {}}), STORE)


def test_whole_numbers_are_not_hidden_by_noise(tmp_path: Path) -> None:
    """IFCA's clients say which model they took."""
    layers = {**BOUNDED, "noise": {"place": "clients"}}
    with pytest.raises(ConfigError, match="sends whole numbers, which noise does not hide"):
        executed(tmp_path, config("ifca", layers))


def test_too_little_noise_on_the_count_is_said_before_training() -> None:
    layers = {"clip": {"quantile": 0.5, "count_noise": 0.1}, "noise": {"multiplier": 1.0}}
    with pytest.raises(ConfigError, match=r"count_noise = 0\.1 tells more"):
        ProtectedRun(config("fedavg", layers), STORE)


def test_noise_needs_clients_that_count_alike() -> None:
    one = config("fedavg", {**BOUNDED, "noise": {}})
    by_samples = one.model_copy(update={"protocol": one.protocol.model_copy(update={"weighting": "samples"})})
    with pytest.raises(ConfigError, match="set weighting = 'uniform'"):
        ProtectedRun(by_samples, STORE)


def test_an_algorithm_that_sends_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="local sends nothing"):
        ProtectedRun(config("local", BOUNDED), STORE)


SUITE: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "seeds": [1],
    "protocol": {"weighting": "uniform"},
    "datasets": {"synthetic": {}},
    "algorithms": {"fedavg": {}},
}


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"clipp": {}}, "unknown layer in .protection. 'clipp': did you mean 'clip'"),
        ({"clip": {"nrom": 1.0}}, "unknown option of protection.clip 'nrom'"),
        ({"clip": {"norm": -1.0}}, "protection.clip: norm = -1.0: Input should be greater than 0"),
        ({"clip": 1.0}, "clip = 1.0: give its options"),
        ({"compress": {"share": 0.1}}, "compress = .*: give its name and options"),
        ({"aggregate": "medien"}, "unknown protection.aggregate 'medien': did you mean 'median'"),
    ],
)
def test_a_suite_says_what_is_wrong_with_its_layers(layers: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        suite_of({**SUITE, "protection": layers}, "the suite").config("synthetic", "fedavg", 1)


def test_a_dataset_of_a_suite_has_layers_of_its_own() -> None:
    datasets = {"synthetic": {}, "bare": {"name": "synthetic", "protection": {}}}
    suite = suite_of({**SUITE, "datasets": datasets, "protection": BOUNDED}, "the suite")
    assert suite.config("synthetic", "fedavg", 1).protection["clip"]["norm"] == 0.05
    assert suite.config("bare", "fedavg", 1).protection == {}
    assert runner(suite.config("bare", "fedavg", 1)) is Run


def test_a_records_configuration_is_that_of_its_run() -> None:
    suite = suite_of({**SUITE, "protection": EVERYTHING}, "the suite")
    one = suite.config("synthetic", "fedavg", 1)

    class Head:
        suite, dataset, algorithm, title, seed, tuning = "small", "synthetic", "fedavg", one.title, 1, None
        config = one.resolved()

    assert config_of(Head()).config_hash() == one.config_hash()  # type: ignore[arg-type]
