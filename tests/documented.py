"""Algorithms that are written down in documentation: their code taken out of it, and two rounds of each, both ways."""

import re
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Any, NamedTuple, cast

import torch
from small_tasks import RAGGED, SPECS, episode, handed, task
from torch.testing import assert_close

from metaleaf import algorithm as contract
from metaleaf import learning, seeds, trees
from metaleaf.algorithm import Algorithm, Context, State, received, step
from metaleaf.catalogue import catalogue
from metaleaf.engine.cost import exchanged
from metaleaf.engine.engine import Mode, engine
from metaleaf.gradient import grad
from metaleaf.shots import examples
from metaleaf.task import Task
from metaleaf.trees import Tree

WEIGHTS = [0.1, 0.2, 0.3, 0.4]


class Outcome(NamedTuple):
    """What two rounds of a cohort come to; scores are of the state after them, bytes of the last round.

    participants: the cohort's scores on their queries, as if these had been held out.
    """

    state: State
    updates: list[Tree]
    memories: list[list[Tree]]
    scores: list[torch.Tensor]
    participants: list[torch.Tensor]
    bytes_down: int
    bytes_up: int


def fragments_of_docstring(text: str) -> dict[str, str]:
    """The literal blocks after ``::`` by the term (````name...````) that they stand under, the first under ""."""
    found: dict[str, str] = {}
    term, lines = "", text.splitlines()
    for i, line in enumerate(lines):
        if heading := re.match(r"``(\w+)", line):
            term = heading[1]
        if line.endswith("::"):
            margin = len(line) - len(line.lstrip())
            block: list[str] = []
            for later in lines[i + 1 :]:
                if later.strip() and len(later) - len(later.lstrip()) <= margin:
                    break
                block.append(later)
            assert term not in found, f"two blocks under {term!r}"
            found[term] = dedent("\n".join(block)).strip() + "\n"
    return found


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of a Markdown page in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def executed(code: str) -> type[Any]:
    """The one class that the code defines; nothing is in scope but builtins."""
    scope: dict[str, Any] = {"__name__": "documented"}
    exec(code, scope)
    (found,) = (value for value in scope.values() if isinstance(value, type) and value.__module__ == "documented")
    return cast(type[Any], found)


def mixed(base: type[Any], fragment: str) -> type[Any]:
    """The class with a fragment in it; in scope is what the documentation says where to find."""
    scope: dict[str, Any] = {
        "Base": base,
        "dataclass": dataclass,
        "torch": torch,
        "grad": grad,
        "examples": examples,
        "__name__": "documented",
    }
    for module in (contract, learning, seeds, trees):
        scope.update({name: value for name, value in vars(module).items() if not name.startswith("_")})
    exec("@dataclass(frozen=True)\nclass Mixed(Base):\n" + indent(fragment, "    "), scope)
    return cast(type[Any], scope["Mixed"])


def two_rounds(algorithm: Algorithm, work: Task, model: str, mode: Mode) -> Outcome:
    """Two rounds of the same four clients."""
    runner, state = engine(work, algorithm, mode), algorithm.init(work, work.params())
    updates: list[Tree] = []
    memories: list[list[Tree]] = []
    for number in (1, 2):
        episodes = [episode(model, *sizes, seed=i, round_number=number) for i, sizes in enumerate(RAGGED)]
        episodes = handed(algorithm, work, state, episodes)
        if memories and memories[0]:
            episodes = [e._replace(memory=kept) for e, kept in zip(episodes, memories[0], strict=True)]
        update, kept = runner.gather(state.broadcast, episodes, WEIGHTS)
        traffic = exchanged(algorithm, received(algorithm, state.broadcast, episodes[0]), update)
        weights = torch.tensor(WEIGHTS, dtype=torch.float64)
        context = Context(work, episodes[0].round, torch.arange(4), weights, torch.tensor(number))
        state = step(algorithm, state, update, context)
        updates.append(update)
        memories.append(kept)
    clients = [(e.support, e.query) for e in episodes]
    scores = runner.score(state.broadcast, clients, every_step=True)
    if memories[-1]:
        episodes = [e._replace(memory=kept) for e, kept in zip(episodes, memories[-1], strict=True)]
    participants = runner.score(state.broadcast, [(e, e.query) for e in episodes], every_step=True)
    return Outcome(state, updates, memories, scores, participants, trees.nbytes(traffic.down), trees.nbytes(traffic.up))


def both_ways(algorithm: Any, model: str = "logistic") -> Outcome:
    """Two rounds, which come to the same with either engine; the algorithm also runs on a device no code names."""
    work = task(model)
    one, all_at_once = (two_rounds(algorithm, work, model, mode) for mode in ("sequential", "vectorised"))
    assert_close(tuple(all_at_once), tuple(one), rtol=1e-9, atol=1e-12)
    assert catalogue.cost(algorithm, Task(task(model).model.to("meta")), SPECS[model])
    fresh, after = algorithm.init(work, work.params()), one.state
    assert [leaf.shape for leaf in trees.leaves(tuple(after))] == [leaf.shape for leaf in trees.leaves(tuple(fresh))]
    assert {leaf.dtype for leaf in trees.leaves(tuple(after))} == {torch.float64}
    return one
