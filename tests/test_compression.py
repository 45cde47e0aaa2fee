"""Compression: messages written out bit by bit, what is decoded of them, bias, contraction and error feedback."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.testing import assert_close

from metaleaf import trees
from metaleaf.protection import compression
from metaleaf.protection.compression import (
    COMPRESSORS,
    Compressor,
    LowRank,
    Qsgd,
    RandomK,
    Sign,
    Sparse,
    TopK,
    with_feedback,
)
from metaleaf.seeds import mix, order_keys
from metaleaf.trees import Tree

SEED = torch.tensor(11)
BIASED: list[Compressor] = [TopK(share=0.1), RandomK(share=0.2, feedback=True), Sign(), LowRank(rank=1)]
UNBIASED: list[Compressor] = [RandomK(share=0.2), Qsgd(levels=2, bucket=0), Qsgd(levels=7, bucket=4)]
ALL = [*BIASED, *UNBIASED, TopK(share=1), RandomK(share=1), LowRank(rank=3), Qsgd()]
DTYPES = [torch.float32, torch.float64]


def drawn(seed: int, k: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """53 numbers a client: a scalar, a matrix, a kernel and a vector."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(k,), (k, 6, 4), (k, 4, 2, 3), (k, 4)]
    a, b, c, d = (torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes)
    return {"scale": a, "deep": (b, {"kernel": c}, ()), "bias": d, "nothing": torch.zeros(k, 0, dtype=dtype)}


def decoded(compressor: Compressor, updates: Tree, seed: Tensor = SEED) -> Any:
    return compressor(updates, torch.arange(len(trees.leaves(updates)[0])), seed)


def one(update: Tree) -> Tree:
    """A cohort of one client."""
    return trees.stack([update])


def vector(*values: float) -> dict[str, Tensor]:
    return {"a": torch.tensor([values], dtype=torch.float64)}


class Message:
    """Bits and bytes of a message, and reading them again."""

    def __init__(self) -> None:
        self.bits = ""
        self.raw = b""

    def write(self, number: int, bits: int) -> None:
        self.bits += format(number, f"0{bits}b") if bits else ""

    def write_floats(self, values: Tensor) -> None:
        self.raw += values.numpy().tobytes()

    def packed(self) -> bytes:
        padded = self.bits + "0" * (-len(self.bits) % 8)
        return self.raw + int("1" + padded, 2).to_bytes(len(padded) // 8 + 1, "big")[1:]

    def read(self, bits: int) -> int:
        found, self.bits = self.bits[:bits], self.bits[bits:]
        return int(found or "0", 2)

    def read_floats(self, count: int, dtype: torch.dtype) -> Tensor:
        size = count * dtype.itemsize
        found, self.raw = self.raw[:size], self.raw[size:]
        return torch.frombuffer(bytearray(found), dtype=dtype) if count else torch.zeros(0, dtype=dtype)


def reread(message: Message) -> Message:
    """What comes out of the packed bytes again, floats first."""
    packed, found = message.packed(), Message()
    found.raw = packed[: len(message.raw)]
    found.bits = "".join(format(byte, "08b") for byte in packed[len(message.raw) :])
    return found


def test_compressors_by_name() -> None:
    assert [compressor.name for compressor in COMPRESSORS.values()] == list(COMPRESSORS)
    assert {type(compressor) for compressor in ALL} == set(COMPRESSORS.values())
    assert {name: compressor().feedback for name, compressor in COMPRESSORS.items()} == {
        "top_k": True,
        "random_k": False,
        "qsgd": False,
        "sign": True,
        "low_rank": True,
    }


def test_top_k_by_hand() -> None:
    updates = {"a": torch.tensor([[1.0, -5.0]]), "b": torch.tensor([[[0.5], [3.0], [-2.0]]])}
    found = decoded(TopK(share=0.4), updates)
    assert found["a"].tolist() == [[0, -5]]
    assert found["b"].tolist() == [[[0], [3], [0]]]
    assert decoded(TopK(share=0.41), updates)["b"].flatten().tolist() == [0, 3, -2]
    assert decoded(TopK(share=1e-9), updates)["a"].tolist() == [[0, -5]]


def test_random_k_by_hand() -> None:
    found = decoded(RandomK(share=0.5), vector(1, 2, 3, 4))["a"][0]
    assert sorted((found / torch.tensor([1, 2, 3, 4])).tolist()) == [0, 0, 2, 2]
    found = decoded(RandomK(share=0.5, feedback=True), vector(1, 2, 3, 4))["a"][0]
    assert sorted((found / torch.tensor([1, 2, 3, 4])).tolist()) == [0, 0, 1, 1]


def test_qsgd_by_hand() -> None:
    # The length is 5, so that with 5 levels nothing has to be rounded, and with one level all is 0 or 5.
    assert decoded(Qsgd(levels=5), vector(3, -4))["a"].flatten().tolist() == [3, -4]
    seen = {tuple(decoded(Qsgd(levels=1), vector(3, -4), torch.tensor(i))["a"][0].tolist()) for i in range(40)}
    assert seen == {(0, 0), (5, 0), (0, -5), (5, -5)}
    assert decoded(Qsgd(levels=1), vector(0, 0))["a"].flatten().tolist() == [0, 0]
    assert decoded(Qsgd(levels=1, bucket=1), vector(3, -4))["a"].flatten().tolist() == [3, -4]


def test_sign_by_hand() -> None:
    updates = {"a": torch.tensor([[1.0, -5, 0]]), "b": torch.tensor([[-3.0]])}
    found = decoded(Sign(), updates)
    assert found["a"].tolist() == [[2, -2, 2]]
    assert found["b"].tolist() == [[-3]]
    assert decoded(Sign(), {"a": torch.zeros(1, 3)})["a"].tolist() == [[0, 0, 0]]


def test_low_rank_keeps_matrices_of_that_rank() -> None:
    left, right = torch.randn(2, 8, 2, dtype=torch.float64), torch.randn(2, 2, 9, dtype=torch.float64)
    updates = {"matrix": left @ right, "kernel": (left @ right).view(2, 8, 3, 3), "bias": torch.randn(2, 5)}
    assert_close(decoded(LowRank(rank=2), updates), updates)
    rough = decoded(LowRank(rank=1), updates)
    assert torch.linalg.matrix_rank(rough["matrix"]).tolist() == [1, 1]
    assert torch.equal(rough["bias"], updates["bias"])
    assert decoded(LowRank(), {"a": torch.zeros(1, 9, 9)})["a"].abs().sum() == 0


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes_stay(compressor: Compressor, dtype: torch.dtype) -> None:
    updates = drawn(0, dtype=dtype)
    before = trees.tree_map(torch.clone, updates)
    found = decoded(compressor, updates)
    assert_close(updates, before, rtol=0, atol=0)
    shapes = [trees.tree_map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (found, updates)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_leaves_may_have_different_dtypes(compressor: Compressor) -> None:
    updates = {"a": torch.randn(2, 5), "b": torch.randn(2, 6, dtype=torch.float64)}
    found = decoded(compressor, updates)
    assert [leaf.dtype for leaf in trees.leaves(found)] == [torch.float32, torch.float64]


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_trees_may_be_empty(compressor: Compressor) -> None:
    clients = torch.arange(3)
    assert compressor({"a": ()}, clients, SEED) == {"a": ()}
    assert compressor({"a": torch.zeros(3, 0)}, clients, SEED)["a"].shape == (3, 0)
    assert compressor.nbytes({"a": ()}) == compressor.nbytes({"a": torch.zeros(0)}) == 0


@pytest.mark.parametrize("compressor", ALL, ids=repr)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)), size=st.integers(1, 4))
def test_a_clients_result_is_its_own(compressor: Compressor, seed: int, order: list[int], size: int) -> None:
    updates, clients = drawn(seed), torch.tensor([5, 17, 0, 40])
    whole = compressor(updates, clients, SEED)
    some = torch.tensor(order[:size])
    found = compressor(trees.tree_map(lambda leaf: leaf[some], updates), clients[some], SEED)
    assert_close(found, trees.tree_map(lambda leaf: leaf[some], whole), rtol=0, atol=0)


@pytest.mark.parametrize("compressor", ALL, ids=repr)
def test_pieces_do_not_change_the_result(compressor: Compressor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decoded(compressor, drawn(8, 7))
    monkeypatch.setattr(compression, "NUMBERS", 2 * 53)
    assert_close(decoded(compressor, drawn(8, 7)), whole, rtol=0, atol=0)


@pytest.mark.parametrize("compressor", UNBIASED, ids=repr)
def test_clients_and_rounds_draw_differently(compressor: Compressor) -> None:
    same = trees.tree_map(lambda leaf: leaf[:1].expand(4, *leaf.shape[1:]), drawn(0))
    found = [trees.flatten(tree) for tree in trees.unstack(decoded(compressor, same))]
    found += [trees.flatten(tree) for tree in trees.unstack(decoded(compressor, same, SEED + 1))]
    assert len({tuple(values.tolist()) for values in found}) == 8


@pytest.mark.parametrize("compressor", UNBIASED, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unbiased(compressor: Compressor, dtype: torch.dtype) -> None:
    draws = 3000
    update = trees.unstack(drawn(1, dtype=dtype))[0]
    cohort = trees.tree_map(lambda leaf: leaf.expand(draws, *leaf.shape), update)
    found = torch.cat([leaf.reshape(draws, -1) for leaf in trees.leaves(decoded(compressor, cohort))], 1).double()
    apart = (found.mean(0) - trees.flatten(update)).abs()
    assert (apart <= 4.5 * found.std(0) / math.sqrt(draws) + 1e-6).all()


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 20), bucket=st.sampled_from([0, 3, 512]))
def test_qsgd_rounds_to_one_of_the_two_next_steps(dtype: torch.dtype, seed: int, levels: int, bucket: int) -> None:
    updates = drawn(seed, dtype=dtype)
    found = decoded(Qsgd(levels=levels, bucket=bucket), updates)
    for leaf, rough in zip(trees.leaves(updates), trees.leaves(found), strict=True):
        for row, coarse in zip(leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None], rough, strict=True):
            step = row.norm() / levels
            assert ((coarse.flatten() - row).abs() <= 1.001 * step).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 1))
def test_top_k_contracts(seed: int, share: float) -> None:
    updates, compressor = drawn(seed), TopK(share=share)
    lost = trees.subtract(updates, decoded(compressor, updates))
    n = 53
    for left, update in zip(trees.unstack(lost), trees.unstack(updates), strict=True):
        bound = (1 - compressor.kept(n) / n) * trees.length(update) ** 2
        assert trees.length(left) ** 2 <= bound + 1e-12


@pytest.mark.parametrize("compressor", BIASED, ids=repr)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_lost_is_never_longer_than_the_update(compressor: Compressor, seed: int) -> None:
    updates = drawn(seed)
    lost = trees.subtract(updates, decoded(compressor, updates))
    for left, update in zip(trees.unstack(lost), trees.unstack(updates), strict=True):
        assert trees.length(left) <= trees.length(update) + 1e-12


@pytest.mark.parametrize("compressor", BIASED, ids=repr)
def test_error_feedback_brings_the_sum_over_the_rounds(compressor: Compressor) -> None:
    clients, rounds = torch.tensor([3, 8, 1, 9]), 200
    updates = drawn(2)
    lost = total = trees.zeros_like(updates)
    for number in range(rounds):
        found, lost = with_feedback(compressor, updates, lost, clients, torch.tensor(number))
        total = trees.add(total, found)
    assert_close(trees.add(total, lost), trees.tree_map(lambda leaf: rounds * leaf, updates))
    mean = trees.tree_map(lambda leaf: leaf / rounds, total)
    assert trees.length(trees.subtract(mean, updates)) < 0.15 * trees.length(updates)
    without = trees.subtract(decoded(compressor, updates), updates)
    assert trees.length(without) > 0.3 * trees.length(updates)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("compressor", [TopK(share=0.1), Qsgd(), Sign(), LowRank()], ids=repr)
def test_numbers_that_are_not_finite_stay_so(compressor: Compressor, value: float) -> None:
    updates = drawn(3)
    updates["deep"][0][1, 2, 2] = value
    found = trees.unstack(decoded(compressor, updates))
    assert not trees.flatten(found[1]).isfinite().all()
    assert all(trees.flatten(found[i]).isfinite().all() for i in (0, 2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("kind", [TopK, RandomK])
def test_sparse_messages_written_out(dtype: torch.dtype, share: float, kind: type[Sparse]) -> None:
    compressor = kind(share=share, feedback=True)
    update = trees.unstack(drawn(4, dtype=dtype))[0]
    found = trees.flatten(trees.unstack(decoded(compressor, one(update)))[0])
    places = found.nonzero().flatten()
    n, kept, message = len(found), len(places), Message()
    message.write_floats(found[places])
    bits = math.ceil(math.log2(n))
    as_list = kind is TopK and kept < n and kept * bits <= n
    if as_list:
        for place in places.tolist():
            message.write(place, bits)
    elif kind is TopK and kept < n:
        for sent in (found != 0).tolist():
            message.write(int(sent), 1)
    assert len(message.packed()) == compressor.nbytes(update)

    other = reread(message)
    values, again = other.read_floats(kept, dtype), torch.zeros(n, dtype=dtype)
    if as_list:
        places = torch.tensor([other.read(bits) for _ in range(kept)])
    elif kind is TopK and kept < n:
        places = torch.tensor([other.read(1) for _ in range(n)]).nonzero().flatten()
    elif kind is RandomK:  # from the seed alone
        places = order_keys(mix(mix(torch.tensor(0)) ^ SEED), n).argsort()[:kept].sort().values
    again[places] = values
    assert torch.equal(again, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 3, 4, 127])
@pytest.mark.parametrize("bucket", [0, 5, 512])
def test_qsgd_messages_written_out(dtype: torch.dtype, levels: int, bucket: int) -> None:
    compressor = Qsgd(levels=levels, bucket=bucket)
    update = trees.unstack(drawn(5, dtype=dtype))[0]
    found = trees.unstack(decoded(compressor, one(update)))[0]
    message, bits = Message(), math.ceil(math.log2(2 * levels + 1))
    again = []
    for leaf, rough in zip(trees.leaves(update), trees.leaves(found), strict=True):
        width = max(min(bucket or leaf.numel(), leaf.numel()), 1)
        for exact, coarse in zip(leaf.flatten().split(width), rough.flatten().split(width), strict=True):
            length = torch.linalg.vector_norm(exact, dtype=torch.float64).to(dtype)
            if len(exact):
                message.write_floats(length[None])
            codes = torch.round(coarse / length * levels).long().tolist()
            for code in codes:
                message.write(code + levels, bits)
            again += [code / levels * float(length) for code in codes]
    assert len(message.packed()) == compressor.nbytes(update)
    assert_close(torch.tensor(again, dtype=dtype), trees.flatten(found))
    other = reread(message)
    assert all(0 <= other.read(bits) <= 2 * levels for _ in range(53))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_messages_written_out(dtype: torch.dtype) -> None:
    update = trees.unstack(drawn(6, dtype=dtype))[0]
    found = trees.unstack(decoded(Sign(), one(update)))[0]
    message = Message()
    for leaf in filter(torch.Tensor.numel, trees.leaves(update)):
        message.write_floats(leaf.abs().mean(dtype=torch.float64).to(dtype)[None])
        for value in leaf.flatten().tolist():
            message.write(int(value >= 0), 1)
    assert len(message.packed()) == Sign().nbytes(update)
    other = reread(message)
    for leaf in filter(torch.Tensor.numel, trees.leaves(found)):
        size = float(other.read_floats(1, dtype))
        assert leaf.flatten().tolist() == [size if other.read(1) else -size for _ in range(leaf.numel())]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_rank_messages_written_out(rank: int) -> None:
    update = trees.unstack(drawn(7, dtype=torch.float32))[0]
    found = trees.unstack(decoded(LowRank(rank=rank), one(update)))[0]
    message = Message()
    for leaf, rough in zip(trees.leaves(update), trees.leaves(found), strict=True):
        n, m = (len(leaf), leaf.numel() // len(leaf)) if leaf.dim() > 1 else (0, 0)
        if rank * (n + m) < n * m:
            left, sizes, right = torch.linalg.svd(rough.view(n, m), full_matrices=False)
            assert (sizes[rank:] <= 1e-5 * sizes[0]).all()
            factors = (left[:, :rank] * sizes[:rank]).contiguous(), right[:rank].contiguous()
            assert_close(factors[0] @ factors[1], rough.view(n, m))
            for factor in factors:
                message.write_floats(factor)
        else:
            assert torch.equal(leaf, rough)
            message.write_floats(leaf)
    assert len(message.packed()) == LowRank(rank=rank).nbytes(update)


def test_sizes_by_hand() -> None:
    like = {"w": torch.zeros(100, 10, device="meta"), "b": torch.zeros(24, device="meta")}  # 1024 numbers
    assert TopK(share=0.01).nbytes(like) == 11 * 4 + 14  # 11 places of 10 bits
    assert TopK(share=0.5).nbytes(like) == 512 * 4 + 128  # a bit for each number
    assert TopK(share=1).nbytes(like) == trees.nbytes(like) == 4096
    assert RandomK(share=0.01).nbytes(like) == 44
    assert Qsgd(levels=127, bucket=512).nbytes(like) == 1024 + 3 * 4
    assert Qsgd(levels=1, bucket=0).nbytes(like) == 256 + 2 * 4
    assert Sign().nbytes(like) == 128 + 2 * 4
    assert LowRank(rank=2).nbytes(like) == 4 * (2 * 110 + 24)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("top_k", {"share": 0}),
        ("random_k", {"share": 1.5}),
        ("qsgd", {"levels": 0}),
        ("qsgd", {"bucket": -1}),
        ("low_rank", {"rank": 0}),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(COMPRESSORS[name]).validate_python(options)
