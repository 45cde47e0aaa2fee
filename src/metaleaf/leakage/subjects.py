"""Clients under attack: what they learn from, and the update they make of it, as a function of their inputs."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metaleaf import trees
from metaleaf.algorithm import State, respond, sent
from metaleaf.errors import ConfigError
from metaleaf.protection.pipeline import numbers
from metaleaf.runs.run import Run
from metaleaf.shots import Episode
from metaleaf.trees import Tree


class Subject(NamedTuple):
    """A client: its episode, and which rows of the episode's data (int64) are support and query."""

    episode: Episode
    support: Tensor
    query: Tensor

    @property
    def x(self) -> Tensor:
        """All its inputs, [n, *x_shape]."""
        return self.episode.data.x

    def holding(self, x: Tensor) -> Episode:
        """Its episode with other inputs, and the same labels, order and seeds."""
        data = self.episode.data._replace(x=x)
        return self.episode._replace(data=data, support=data.take(self.support), query=data.take(self.query))


def subject_of(run: Run, state: State, client: int, examples: int) -> Subject:
    """The client in round 1, with so many of its examples, or all if it has fewer; memory as of one never sampled.

    As many as the protocol's support says are support, and one at least; the others are query.
    """
    federation, share = run.federation, run.federation.protocol.support
    held, query = federation.split_rows(client, share)
    known = np.arange(federation.size(client)) if federation.window else np.sort(np.concatenate([held, query]))
    cut = min(max(round(share * examples), 1), max(examples - 1, 1))
    held, query = held[:cut], query[: examples - cut]
    rows = np.sort(np.concatenate([held, query]))
    episode = federation.episode(client, 1)
    data = episode.data.take(torch.from_numpy(np.searchsorted(known, rows)))
    parts = (torch.from_numpy(np.searchsorted(rows, part)) for part in (held, query))
    whole: Subject = trees.to(Subject(episode._replace(data=data), *parts), run.task.device)
    if hasattr(run.algorithm, "memory"):
        whole = whole._replace(episode=whole.episode._replace(memory=run.algorithm.memory(run.task, state.broadcast)))
    received = sent(run.algorithm, run.task, state, whole.episode.client)
    whole = whole._replace(episode=whole.episode._replace(received=received))
    return whole._replace(episode=whole.holding(whole.x))


def update_of(run: Run, state: State, episode: Episode) -> Tree:
    """What a client with that episode sends, before any layer; ConfigError if that is nothing."""
    reply = respond(run.algorithm, run.task, state.broadcast, episode)
    found = reply.update if hasattr(run.algorithm, "memory") else reply
    if not numbers(found):
        raise ConfigError(f"{run.config.algorithm} on {run.config.dataset_label}: its clients send nothing to attack.")
    return found
