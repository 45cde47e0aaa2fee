"""The toy algorithm in the contract's docstring, and every fragment for it: they run and do what they say."""

from functools import cache
from typing import Any

import torch
from documented import WEIGHTS, Outcome, both_ways, executed, fragments_of_docstring, mixed
from small_tasks import RAGGED, episode, task
from torch import Tensor
from torch.testing import assert_close

from metaleaf import algorithm as contract
from metaleaf import trees
from metaleaf.algorithm import About
from metaleaf.learning import descend, last
from metaleaf.task import Params

FRAGMENTS = fragments_of_docstring(contract.__doc__ or "")
NUMBERS = 3 * 4 + 3
"""Parameters of the small softmax regression, in float64."""


@cache
def toy() -> type[Any]:
    return executed(FRAGMENTS[""])


def outcome(name: str) -> Outcome:
    return both_ways(mixed(toy(), FRAGMENTS[name])())


def gradients(params: Params, number: int) -> list[Params]:
    """The clients' gradients in a round, by functorch instead of metaleaf's own."""
    episodes = [episode("logistic", *sizes, seed=i, round_number=number) for i, sizes in enumerate(RAGGED)]
    return [torch.func.grad(task("logistic").loss)(params, one.data) for one in episodes]


def test_every_fragment_is_tested_here() -> None:
    ours = {"memory", "personal", "server", "weighting", "each", "predict", "send", "serves", "traffic"}
    assert set(FRAGMENTS) == {"", "report", "report_client", *ours}


def test_what_it_serves_is_named() -> None:
    assert mixed(toy(), FRAGMENTS["serves"])().serves == ("multiclass",)


def test_the_toy_is_complete() -> None:
    assert isinstance(toy().about, About)
    assert toy().title
    assert toy().space["lr"]
    found = both_ways(toy()())
    params = task("logistic").params()
    for number in (1, 2):
        mean = trees.weighted_sum(trees.stack(gradients(params, number)), torch.tensor(WEIGHTS))
        params = {key: params[key] - 0.1 * mean[key] for key in params}
    assert_close(found.state.broadcast, params, rtol=1e-6, atol=1e-7)
    assert len(found.scores[0]) == 1, "nobody adapts"
    assert found.bytes_down == found.bytes_up == NUMBERS * 8


def test_visits_are_counted() -> None:
    found = outcome("memory")
    assert [int(kept["visits"]) for kept in found.memories[0]] == [1] * 4
    assert [int(kept["visits"]) for kept in found.memories[1]] == [2] * 4
    assert found.memories[1][0]["visits"].dtype == torch.int64
    assert_close(found.state, both_ways(toy()()).state)
    assert found.bytes_up == NUMBERS * 8, "what is kept does not travel"


def test_participants_use_what_they_kept() -> None:
    found, plain, work = outcome("personal"), both_ways(toy()()), task("logistic")
    assert_close(found.state, plain.state)
    assert_close(found.scores, plain.scores), "new clients keep nothing"
    for i, sizes in enumerate(RAGGED):
        one = episode("logistic", *sizes, seed=i, round_number=2)
        start = work.params()
        own = last(descend(work, last(descend(work, start, one.data, 0.1, 5)), one.data, 0.1, 5))
        assert_close(found.memories[-1][i], own, rtol=1e-9, atol=1e-12)
        expected = [work.score(model, one.query) for model in (found.state.broadcast, own)]
        assert_close(found.participants[i], torch.stack(expected), rtol=1e-9, atol=1e-12)
        assert_close(plain.participants[i], plain.scores[i]), "without the method, what a new client does"


def test_a_server_that_asks_knows_the_round() -> None:
    found, params = outcome("server"), task("logistic").params()
    for number in (1, 2):
        mean = trees.weighted_sum(trees.stack(gradients(params, number)), torch.tensor(WEIGHTS))
        rounds = episode("logistic", *RAGGED[0], seed=0, round_number=number).round
        params = {key: params[key] - 0.1 / (1 + float(rounds)) * mean[key] for key in params}
    assert_close(found.state.broadcast, params, rtol=1e-6, atol=1e-7)


def test_the_server_takes_the_median_of_each() -> None:
    found = outcome("each")
    params = task("logistic").params()
    for number in (1, 2):
        stacked = trees.stack(gradients(params, number))
        params = {key: params[key] - stacked[key].sort(0).values[1] for key in params}  # torch's median is the lower
    assert_close(found.state.broadcast, params, rtol=1e-9, atol=1e-12)
    assert found.updates[0].updates["out.bias"].shape == (4, 3)
    assert found.bytes_up == NUMBERS * 8, "one client's update, not the cohort's"


def test_two_models_vote() -> None:
    found, work = outcome("predict"), task("logistic")
    shared = found.state.broadcast
    plain = both_ways(toy()())
    assert_close(plain.state, found.state)
    for i, sizes in enumerate(RAGGED):
        one = episode("logistic", *sizes, seed=i, round_number=2)
        assert found.scores[i].shape == (6, 3), "before, and after each of five steps"
        assert_close(found.scores[i][0, :2], plain.scores[i][0, :2])  # before, both models are the shared one
        own = last(descend(work, shared, one.support, 0.1, 5))
        assert_close(found.scores[i][5], work.score(own, one.query, _voting(work, own, shared)), rtol=1e-9, atol=1e-12)


def _voting(work: Any, own: Params, shared: Params) -> Any:
    def scores(x: Tensor, mask: Tensor | None) -> Tensor:
        both: Tensor = work.logits(own, x, mask).log_softmax(-1) + work.logits(shared, x, mask).log_softmax(-1)
        return both

    return scores


def test_signs_travel_as_bytes() -> None:
    found = outcome("traffic")
    assert found.bytes_down == NUMBERS * 8
    assert found.bytes_up == NUMBERS
    params = task("logistic").params()
    signs = trees.stack([trees.tree_map(torch.sign, one) for one in gradients(params, 1)])
    assert_close(found.updates[0], trees.weighted_sum(signs, torch.tensor(WEIGHTS).double()), rtol=1e-6, atol=1e-7)


def test_the_server_and_clients_report() -> None:
    work, state = task("logistic"), outcome("report").state
    found = mixed(toy(), FRAGMENTS["report"])().report(work, state)
    assert_close(found, {"length": trees.flatten(state.broadcast).norm()})
    says, one = mixed(toy(), FRAGMENTS["report_client"])(), episode("logistic", 3, 2, seed=0)
    for client, data in ((one, one.data), (one.support, one.support)):
        found = says.report_client(work, state.broadcast, client)
        assert_close(found, {"loss": work.loss(state.broadcast, data)})


def test_half_of_the_clients_get_the_opposite() -> None:
    found, work = outcome("send"), task("logistic")
    params = work.params()
    for number in (1, 2):
        each = []
        for i, sizes in enumerate(RAGGED):
            own = {name: p if i % 2 == 0 else -p for name, p in params.items()}
            one = episode("logistic", *sizes, seed=i, round_number=number)
            each.append(torch.func.grad(work.loss)(own, one.data))
        mean = trees.weighted_sum(trees.stack(each), torch.tensor(WEIGHTS, dtype=torch.float64))
        params = {name: p - 0.1 * mean[name] for name, p in params.items()}
    assert_close(found.state.broadcast, params, rtol=1e-9, atol=1e-12)
    assert found.bytes_down == NUMBERS * 8
