"""Which tokens a client's texts have: those whose vectors its update moves.

A step of training moves the rows of an embedding matrix that its examples look up, and no others (Melis, Song, De
Cristofaro, Shmatikov 2019, arXiv 1805.04049, section 4.1). Nothing has to be searched for that, and it is exact.
"""

import torch
from torch import Tensor, nn

from metaleaf import trees
from metaleaf.errors import ConfigError
from metaleaf.task import Task
from metaleaf.trees import Tree


def embedding_of(task: Task, x: Tensor) -> str:
    """The path in the model of the embedding that looks up the tokens x [n, length]; ConfigError if none does."""
    wanted, found = x.long().flatten().sort().values, []

    def watch(name: str, module: nn.Module) -> "torch.utils.hooks.RemovableHandle":
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if torch.equal(given[0].long().flatten().sort().values, wanted):
                found.append(name)

        return module.register_forward_pre_hook(hook)

    embeddings = [(name, one) for name, one in task.model.named_modules() if isinstance(one, nn.Embedding)]
    handles = [watch(*each) for each in embeddings]
    try:
        with torch.no_grad():
            task.logits(task.params(), x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ConfigError(
            f"{type(task.model).__name__} has no nn.Embedding that looks up tokens, whose rows would give them away: "
            "choose a model with one."
        )
    return found[0]


def moved(update: Tree, embedding: str) -> Tensor:
    """How far an update moves the vector of each token, float64 [tokens]; over all leaves that belong to the embedding.

    ConfigError if there is none: the embedding stays at the client.
    """
    path = f"{embedding}.weight"
    named = trees.named_leaves(update)
    rows = [leaf for name, leaf in named.items() if name == path or name.endswith(f".{path}")]
    if not rows:
        raise ConfigError(f"the update has no {path!r}: this algorithm's clients do not send their embedding.")
    return torch.stack([leaf.double().flatten(1).square().sum(1) for leaf in rows]).sum(0).sqrt()


def largest(lengths: Tensor, count: int) -> set[int]:
    """The tokens whose vectors have moved the farthest, so many at most, and none that has not moved."""
    order = lengths.topk(min(count, len(lengths))).indices
    return set(order[lengths[order] > 0].tolist())
