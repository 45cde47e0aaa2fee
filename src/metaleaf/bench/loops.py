"""The baseline: each algorithm as PyTorch users write it, client by client on a module and torch.optim.

They share the clients' shots with metaleaf, nothing of its models or engines, and give the same numbers as the plugins
(tests compare them in float64). Training on minibatches takes the function that orders a pass over the examples.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metaleaf.shots import Episode, Shots

Round = Callable[[Sequence[Episode]], list[Tensor]]
"""One round with these clients, which changes the model; evaluation returns a client's scores, training nothing."""

Order = Callable[[Shots], Tensor]

Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
"""Makes a client's optimizer, anew in every round."""


def shuffled(shots: Shots) -> Tensor:
    """A random order of the rows, int64 [n]."""
    return torch.randperm(len(shots.y), device=shots.y.device)


def sgd(lr: float) -> Optimizer:
    """Plain gradient descent."""
    return lambda params: torch.optim.SGD(params, lr=lr)


def adam(lr: float) -> Optimizer:
    """Adam with its usual constants."""
    return lambda params: torch.optim.Adam(params, lr=lr)


def fedavg(
    model: nn.Module, local_optimizer: Optimizer, batch_size: int, server_lr: float = 1.0, order: Order = shuffled
) -> Round:
    """FedAvg with one local epoch; a server rate below 1 makes it Reptile."""
    local = copy.deepcopy(model)
    device = next(model.parameters()).device

    @torch.no_grad()
    def average(into: list[Tensor], weight: float) -> None:
        for total, p in zip(into, local.parameters(), strict=True):
            total.add_(p, alpha=weight)

    def one_round(clients: Sequence[Episode]) -> list[Tensor]:
        samples = sum(len(client.data.y) for client in clients)
        mean = [torch.zeros_like(p) for p in model.parameters()]
        for client in clients:
            local.load_state_dict(model.state_dict())
            optimizer = local_optimizer(p for p in local.parameters() if p.requires_grad)
            shots = to(client.data, device)
            for batch in batches(shots, batch_size, order(shots)):
                optimizer.zero_grad()
                F.cross_entropy(local(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            average(mean, len(shots.y) / samples)
        with torch.no_grad():
            for p, trained in zip(model.parameters(), mean, strict=True):
                p.lerp_(trained, server_lr)
        return []

    return one_round


def ditto(
    model: nn.Module,
    own: dict[int, nn.Module],
    local_optimizer: Optimizer,
    batch_size: int,
    strength: float,
    server_lr: float = 1.0,
    order: Order = shuffled,
) -> Round:
    """FedAvg beside models of the clients' own, which are pulled to the global one; `own`, by client, is changed."""
    average = fedavg(model, local_optimizer, batch_size, server_lr, order)
    device = next(model.parameters()).device

    def one_round(clients: Sequence[Episode]) -> list[Tensor]:
        centre = [p.detach().clone() for p in model.parameters()]
        for client in clients:
            mine = own.setdefault(int(client.client), copy.deepcopy(model))
            optimizer = local_optimizer(mine.parameters())
            shots = to(client.data, device)
            for batch in batches(shots, batch_size, order(shots)):
                optimizer.zero_grad()
                F.cross_entropy(mine(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
                for p, w in zip(mine.parameters(), centre, strict=True):
                    assert p.grad is not None
                    p.grad.add_(p.detach() - w, alpha=strength)
                optimizer.step()
        return average(clients)

    return one_round


def maml(model: nn.Module, inner_lr: float, steps: int, server_lr: float, first_order: bool = False) -> Round:
    """MAML through functional_call and create_graph, with Adam on the server; `first_order` makes it FOMAML."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return _meta(model, params, dict.fromkeys(params, inner_lr), list(params.values()), steps, server_lr, first_order)


def meta_sgd(model: nn.Module, rates: dict[str, Tensor], steps: int, server_lr: float) -> Round:
    """MAML that learns a rate per parameter as well; `rates` are changed."""
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return _meta(model, params, rates, [*params.values(), *rates.values()], steps, server_lr, first_order=False)


def _meta(
    model: nn.Module,
    params: dict[str, nn.Parameter],
    rates: dict[str, float] | dict[str, Tensor],
    learned: list[Tensor],
    steps: int,
    server_lr: float,
    first_order: bool,
) -> Round:
    optimizer = torch.optim.Adam(learned, lr=server_lr)
    device = next(model.parameters()).device

    def loss(fast: dict[str, Tensor], shots: Shots) -> Tensor:
        return F.cross_entropy(functional_call(model, fast, (shots.x,)), shots.y)

    def one_round(clients: Sequence[Episode]) -> list[Tensor]:
        samples = sum(len(client.data.y) for client in clients)
        optimizer.zero_grad()
        for client in clients:
            support, query = to(client.support, device), to(client.query, device)
            fast: dict[str, Tensor] = dict(params)
            for _ in range(steps):
                inner = loss(fast, support)
                gradients = torch.autograd.grad(inner, list(fast.values()), create_graph=not first_order)
                fast = {name: p - rates[name] * g for (name, p), g in zip(fast.items(), gradients, strict=True)}
            (loss(fast, query) * (len(client.data.y) / samples)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return []

    return one_round


def evaluation(model: nn.Module, lr: float, steps: int) -> Round:
    """Score each client's query, descend on its support, score again: rows of (examples, correct, summed loss)."""
    local = copy.deepcopy(model)
    device = next(model.parameters()).device

    @torch.no_grad()
    def score(shots: Shots) -> Tensor:
        logits = local(shots.x)
        correct = (logits.argmax(-1) == shots.y).sum()
        loss = F.cross_entropy(logits, shots.y, reduction="sum")
        return torch.stack([torch.full_like(loss, len(shots.y)), correct.to(loss.dtype), loss])

    def one_round(clients: Sequence[Episode]) -> list[Tensor]:
        scores = []
        for client in clients:
            support, query = to(client.support, device), to(client.query, device)
            local.load_state_dict(model.state_dict())
            optimizer = torch.optim.SGD((p for p in local.parameters() if p.requires_grad), lr=lr)
            before = score(query)
            for _ in range(steps):
                optimizer.zero_grad()
                F.cross_entropy(local(support.x), support.y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            scores.append(torch.stack([before, score(query)]).cpu())
        return scores

    return one_round


def to(shots: Shots, device: torch.device) -> Shots:
    """The examples on the device."""
    return Shots(shots.x.to(device), shots.y.to(device), shots.seed.to(device))


def batches(shots: Shots, size: int, rows: Tensor) -> Iterator[Shots]:
    """Minibatches in that order of rows."""
    for start in range(0, len(rows), size):
        yield shots.take(rows[start : start + size])
