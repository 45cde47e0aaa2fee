"""Learned start: a network reads the updates of an environment's participants and writes its initial parameters.

This project's own method. The nearest published are Few-Round Learning (Park et al. 2021), which learns one start for
all environments, PeFLL (Scott et al. 2024, arXiv 2306.05515), which reads data instead of updates, and learned
optimizers for federated learning (arXiv 2312.02204), which read updates coordinate by coordinate.

Participants train locally from shared parameters p and send the differences u_i. The environment starts from

    p + e^s * mean(u) + scale * (b + g(u_1 / scale, ..., u_k / scale))

with s a number per tensor of the model and b one per parameter (0 at first), scale the usual size of an update of the
same tensor, and g one of the networks of `metaleaf.algorithms.learned_start.writers`, which write zeros until they are
trained: knowing nothing, the start is the mean update's. s, b and g are trained by the loss of other clients of the
environment on the start, or after some rounds of federated averaging from it, through all of it. p stays as it is, so
that a client's first update is asked for once and serves in every round; without `frozen` p is trained, too, and they
have to be asked again.

The ``basis`` writer starts from what the training environments teach before the first round (`prepare`): its directions
are the principal ones among the environments' mean first updates, or among their own solutions, which each finds by
federated averaging from p; then g is first fitted to predict a solution's coefficients from a few first updates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import About, Replies, Space, State
from metaleaf.algorithms.learned_start.distil import fit_coefficients, principal
from metaleaf.algorithms.learned_start.writers import Basis, Coordinate, Dense, Reader, Writer
from metaleaf.errors import ConfigError
from metaleaf.gradient import grad
from metaleaf.optimizers import Adam, Optimizer, annealed, clipped
from metaleaf.rounds import averaged, differences, loss, train
from metaleaf.seeds import derive
from metaleaf.shots import EnvironmentEpisode, Shots
from metaleaf.task import Params, Task
from metaleaf.trees import Tree


@dataclass(frozen=True)
class LearnedStart:
    """The meta-learner over participants' updates; what it reads and how it writes are choices.

    onward: what it does in the rounds of a new environment: "average" leaves it to federated averaging; "read" lets
    the rounds' participants train from p and writes the start anew from all updates so far; "learn" takes each
    round's mean update as a descent direction at the start, lets g follow it by one step of rate `onward_lr` (a
    vector-Jacobian product, which nobody has to send), and moves by the change of the start, too.
    """

    title: ClassVar[str] = "Learned start"
    about: ClassVar[About] = About(
        "meta-gradient", "a network writes an environment's start from its first updates", "this project", order=2
    )
    space: ClassVar[Space] = {"optimizer.lr": (0.001, 0.002, 0.005), "params_optimizer.lr": (0.0003, 0.001, 0.005)}
    unit: ClassVar[str] = "environment"

    writer: Literal["basis", "dense", "coordinate"] = "basis"
    reader: Reader = "set"
    residual: bool = True
    directions: PositiveInt = 32
    start_directions: Literal["updates", "solutions", "random"] = "updates"
    frozen: bool = True
    width: PositiveInt = 64
    horizon: tuple[int, ...] = (0,)
    first_order: bool = False
    solution_rounds: PositiveInt = 25
    solution_participants: PositiveInt = 10
    distil_steps: NonNegativeInt = 300
    optimizer: Optimizer = Adam(lr=0.002)
    params_optimizer: Optimizer = Adam(lr=0.0003)
    clip: PositiveFloat = 1.0
    onward: Literal["average", "read", "learn"] = "average"
    onward_lr: NonNegativeFloat = 0.1

    # ---- the start

    def _writer(self, params: Params) -> Writer:
        layers = tuple(leaf.numel() for leaf in trees.leaves(params))
        if self.writer == "basis":
            return Basis(layers, self.directions, 2 * self.directions, self.width, self.reader)
        if self.writer == "dense":
            return Dense(layers, self.width, self.reader)
        return Coordinate(layers, self.width)

    def _write(self, broadcast: Tree, updates: Tensor, shares: Tensor) -> Params:
        """The start, from flat scaled updates [k, P] and shares [k]."""
        params, scale, learned = broadcast["params"], broadcast["scale"], broadcast["learned"]
        flat = trees.flatten(params) / scale
        change = learned["offset"] + self._writer(params).change(learned["network"], flat, updates, shares)
        if self.residual:
            factors = torch.cat([s.exp().expand(p.numel()) for s, p in self._layers(learned["factors"], params)])
            change = change + factors * (shares.to(updates.dtype) @ updates)
        written: Params = trees.add(params, trees.unflatten(scale * change, params))
        return written

    def _layers(self, factors: Tree, params: Params) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(trees.leaves(factors), trees.leaves(params), strict=True)

    def _scaled(self, broadcast: Tree, updates: Tree) -> Tensor:
        """Updates with leaves [k, ...] as rows [k, P] in units of the scale."""
        rows: Tensor = torch.cat([leaf.flatten(1) for leaf in trees.leaves(updates)], dim=1) / broadcast["scale"]
        return rows

    # ---- training

    def client_updates(self, participants: int, queries: int) -> int:
        """Every participant trains in each round and, if p moves, at the first meeting; everyone else judges once."""
        return participants * (max(self.horizon) + (not self.frozen)) + queries

    @property
    def keeps_first(self) -> bool:
        """Whether first updates are asked for only once."""
        return self.frozen

    def init(self, task: Task, params: Params) -> State:
        """The shared parameters, scale 1, an untrained network; the optimizers' states and the round."""
        generator = torch.Generator().manual_seed(derive(task.seed, "writer"))
        network = trees.to(self._writer(params).init(generator), task.device)
        network = trees.tree_map(lambda leaf: leaf.to(trees.leaves(params)[0].dtype), network)
        flat = trees.flatten(params)
        factors = trees.tree_map(lambda leaf: torch.zeros_like(leaf.sum()), params)
        learned = {"network": network, "factors": factors, "offset": torch.zeros_like(flat)}
        broadcast = {"params": params, "learned": learned, "scale": torch.ones_like(flat)}
        zero = torch.zeros((), device=task.device)
        kept = {"round": zero, "rounds": zero + task.rounds}
        return State(broadcast, {**{k: o.init(broadcast[k]) for k, o in self._optimizers().items()}, **kept})

    def _optimizers(self) -> dict[str, Optimizer]:
        """By what of the broadcast they train."""
        learned = {"learned": self.optimizer}
        return learned if self.frozen else {**learned, "params": self.params_optimizer}

    def client(self, task: Task, broadcast: Tree, episode: EnvironmentEpisode) -> Tree:
        """The gradient of one environment's loss from its start onward, by shared parameters and network."""

        def objective(trained: Tree) -> Tensor:
            whole = {**broadcast, **trained}
            updates = episode.first if self.frozen else differences(task, whole["params"], episode.participants)
            if self.first_order:
                updates = trees.tree_map(torch.detach, updates)
            params, found = self._write(whole, self._scaled(broadcast, updates), episode.weights), []
            for number in range(max(self.horizon) + 1):
                if number:
                    params = averaged(task, params, episode.participants, episode.weights)
                if number in self.horizon:
                    found.append(loss(task, params, episode.queries, episode.query_weights))
            return torch.stack(found).mean()

        return grad(objective)({k: broadcast[k] for k in self._optimizers()})

    def server(self, state: State, update: Tree) -> State:
        """A step of the optimizers along the clipped gradient."""
        broadcast, kept, shorter = state.broadcast, state.kept, clipped(update, self.clip)
        rate = annealed(kept["round"], kept["rounds"])
        stepped = {k: o.step(broadcast[k], shorter[k], kept[k], rate) for k, o in self._optimizers().items()}
        moved = {**broadcast, **{k: values for k, (values, _) in stepped.items()}}
        return State(moved, {**kept, **{k: memory for k, (_, memory) in stepped.items()}, "round": kept["round"] + 1})

    # ---- before the first round

    def prepare_updates(self, members: list[int]) -> int:
        """The members' first updates, and where asked for the solutions."""
        rounds = self.solution_rounds if self._solves else 0
        return sum(size + rounds * min(self.solution_participants, size) for size in members)

    @property
    def _solves(self) -> bool:
        return self.writer == "basis" and self.start_directions == "solutions"

    def prepare(self, task: Task, state: State, ask: Any) -> State:
        """Set the scale and, for the basis, directions and sketch from the training environments; then fit g."""
        params = state.broadcast["params"]
        heard = ask(lambda episode: self._hear(task, params, episode))
        sizes = trees.tree_map(lambda square: square.mean().clamp(min=1e-20).sqrt(), heard["squares"])
        scale = torch.cat([s.expand(p.numel()) for s, p in self._layers(sizes, params)])
        broadcast = {**state.broadcast, "scale": scale}
        if self.writer == "basis" and self.start_directions != "random":
            broadcast = self._with_directions(task, broadcast, heard, ask)
        return State(broadcast, state.kept)

    def _hear(self, task: Task, params: Params, episode: EnvironmentEpisode) -> Tree:
        """One environment's mean first update [P], the mean squares of its updates, and its solution - p [P]."""
        shares = episode.weights
        updates = differences(task, params, episode.participants)
        real = (shares > 0).to(trees.leaves(updates)[0].dtype)
        squares = trees.tree_map(lambda u: (real @ u.square().flatten(1).mean(1)) / real.sum(), updates)
        found = {"squares": squares, "mean": trees.flatten(trees.weighted_sum(updates, shares))}
        if self._solves:
            solution = self._solution(task, params, episode)
            found["solution"] = trees.flatten(trees.subtract(solution, params))
        return found

    def _solution(self, task: Task, params: Params, episode: EnvironmentEpisode) -> Params:
        """Federated averaging within the environment, its members taking turns."""
        members = len(episode.weights)
        size = min(self.solution_participants, members)
        for number in range(self.solution_rounds):
            turn = (torch.arange(size, device=episode.weights.device) + number * size) % members
            chosen = trees.tree_map(lambda leaf, turn=turn: leaf[turn], episode.participants)
            weights = episode.weights[turn]
            params = averaged(task, params, chosen, weights / weights.sum().clamp(min=1e-12))
        return params

    def _with_directions(self, task: Task, broadcast: Tree, heard: Tree, ask: Any) -> Tree:
        """The broadcast with directions and sketch from the training environments."""
        means = heard["mean"] / broadcast["scale"]
        rows = heard["solution"] / broadcast["scale"] if self._solves else means
        if self.directions >= len(rows):
            raise ConfigError(
                f"learned_start: {self.directions} directions from {len(rows)} training environments: lower directions "
                "below their number, or set start_directions to random."
            )
        directions, targets, unit = principal(rows, self.directions)
        # Along the directions, and along those in which environments' mean updates differ most; in units of their sd.
        sketch = torch.cat([unit, principal(means - means.mean(0), self.directions)[2]])
        centre, spread = (means @ sketch.T).mean(0), (means @ sketch.T).std(0).clamp(min=1e-6)
        moments = {"sketch": sketch / spread[:, None], "centre": centre / spread, "directions": directions}
        learned = {**broadcast["learned"], "network": {**broadcast["learned"]["network"], **moments}}
        found = {**broadcast, "learned": learned}
        return self._distilled(task, found, targets, ask) if self._solves else found

    def _distilled(self, task: Task, broadcast: Tree, targets: Tensor, ask: Any) -> Tree:
        """The broadcast with a network fitted to predict the solutions' coefficients, targets [environments, K]."""
        weights = broadcast["learned"]["network"]
        size = weights["directions"].norm(dim=1)

        def sketches(episode: EnvironmentEpisode) -> Tree:
            updates = self._scaled(broadcast, differences(task, broadcast["params"], episode.participants))
            along = (episode.weights.to(updates.dtype) @ updates) @ weights["directions"].T / size**2
            found = updates @ weights["sketch"].T - weights["centre"]
            return {"sketches": found, "shares": episode.weights, "along": along}

        heard = ask(sketches)
        # What the mean update does already, the network need not do.
        left = targets - heard["along"] if self.residual else targets
        basis = self._writer(broadcast["params"])
        assert isinstance(basis, Basis)
        fitted = fit_coefficients(
            basis.network,
            weights["network"],
            heard["sketches"],
            heard["shares"],
            left,
            importance=size,
            steps=self.distil_steps,
            seed=derive(task.seed, "distil"),
        )
        return {**broadcast, "learned": {**broadcast["learned"], "network": {**weights, "network": fitted}}}

    # ---- in a new environment (metaleaf.environments.newcomers)

    def params(self, broadcast: Tree) -> Params:
        """What participants get first; the network stays with the server."""
        params: Params = broadcast["params"]
        return params

    def start(self, task: Task, broadcast: Tree, replies: Replies) -> dict[str, Tree]:
        """The written start; and for the choices of `onward` what they go on from."""
        updates, shares = self._scaled(broadcast, replies.updates), replies.weights
        session: dict[str, Tree] = {"params": self._write(broadcast, updates, shares)}
        if self.onward != "average":
            session |= {"updates": updates, "shares": shares}
        if self.onward == "learn":
            session["learned"] = broadcast["learned"]
        return session

    def visit(self, task: Task, broadcast: Tree, session: dict[str, Tree], shots: Shots) -> Tree:
        """Local training from the current parameters; with "read" from the shared ones."""
        params = broadcast["params"] if self.onward == "read" else session["params"]
        *_, trained = train(task, params, shots)
        return trees.subtract(trained, params)

    def proceed(self, task: Task, broadcast: Tree, session: dict[str, Tree], replies: Replies) -> dict[str, Tree]:
        """See `onward`."""
        if self.onward == "read":
            updates = torch.cat([session["updates"], self._scaled(broadcast, replies.updates)])
            shares = torch.cat([session["shares"], replies.weights.to(session["shares"].dtype)])
            # Kept as they came, so that the cohorts of all rounds count alike.
            params = self._write(broadcast, updates, shares / shares.sum())
            return {"params": params, "updates": updates, "shares": shares}
        mean = replies.mean()
        moved = trees.add(session["params"], mean)
        if self.onward == "average":
            return {"params": moved}
        return {**session, **self._learnt(broadcast, session, moved, mean)}

    def _learnt(self, broadcast: Tree, session: dict[str, Tree], moved: Params, mean: Params) -> dict[str, Tree]:
        def written(learned: Tree) -> Params:
            return self._write({**broadcast, "learned": learned}, session["updates"], session["shares"])

        def agreement(learned: Tree) -> Tensor:
            return (trees.flatten(written(learned)) * trees.flatten(mean)).sum()

        learned = trees.add(session["learned"], grad(agreement)(session["learned"]), self.onward_lr)
        change = trees.subtract(written(learned), written(session["learned"]))
        return {"learned": learned, "params": trees.add(moved, change)}

    def adapt(self, task: Task, broadcast: Tree, support: Shots) -> Iterator[Params]:
        """The environments' local training, from the shared parameters."""
        return train(task, broadcast["params"], support)
