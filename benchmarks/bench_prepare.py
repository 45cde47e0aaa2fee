"""Preparing and opening data of LEAF's sizes, from generated files: ``pytest benchmarks/bench_prepare.py``.

A hundredth of each by default; ``METALEAF_SHARE=1`` for all (about 8 GB of disk). Files are in the publishers' formats,
with as many users and examples as theirs and random content. Of Reddit only what grows with its users is made: ids and
lengths, with two bytes an example. Every step has a process of its own, whose peak memory is that of the step.
"""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from metaleaf import registry
from metaleaf.config.config import Protocol
from metaleaf.data.client_store import ClientStore
from metaleaf.data.federation import Federation
from metaleaf.data.prepare import prepare
from metaleaf.dataset import Client, Dataset, Spec

SHARE = float(os.environ.get("METALEAF_SHARE", "0.01"))


def lengths(users: int, examples: int, deviation: float) -> np.ndarray:
    """How many examples each user has: a gamma distribution of the published deviation, exactly so many in all."""
    mean, generator = examples / users, np.random.default_rng(0)
    drawn = 1 + generator.gamma((mean / deviation) ** 2, deviation**2 / mean, users)
    found: np.ndarray = np.maximum(1, np.floor(drawn * examples / drawn.sum()).astype(np.int64))
    while missing := examples - found.sum():
        some = generator.choice(users, min(abs(missing), users), replace=False)
        found[some] += np.sign(missing)
        found = np.maximum(found, 1)
    return found


def write_femnist(folder: Path, share: float) -> None:
    """LEAF's JSON in files of 100 writers: paper is 1.0, ink a 255th part, an image 784 of them."""
    counts = lengths(round(3_597 * share), round(817_851 * share), 88.94)
    generator = np.random.default_rng(0)
    grey = np.where(generator.random((2_000, 784)) < 0.85, 255, generator.integers(0, 255, (2_000, 784)))
    text = [repr(value / 255) for value in range(256)]
    images = ["[" + ", ".join(text[value] for value in image) + "]" for image in grey]
    for number, start in enumerate(range(0, len(counts), 100)):
        part = counts[start : start + 100]
        names = [f"f{start + i:04d}_00" for i in range(len(part))]
        users = []
        for name, count in zip(names, part, strict=True):
            x = ", ".join(images[i] for i in generator.integers(0, len(images), count))
            users.append(f'"{name}": {{"x": [{x}], "y": {json.dumps(generator.integers(0, 62, count).tolist())}}}')
        head = f'{{"users": {json.dumps(names)}, "num_samples": {json.dumps(part.tolist())}, "user_data": {{'
        (folder / f"all_data_{number}.json").write_text(head + ", ".join(users) + "}}", encoding="utf-8")


def write_sent140(folder: Path, share: float) -> None:
    """Sentiment140's CSV, everybody's tweets in the order of time."""
    rows = round(1_600_000 * share)
    owner = np.random.default_rng(0).permutation(np.repeat(*_numbered(lengths(round(660_120 * share), rows, 4.71))))
    words = [f"word{i}" for i in range(5_000)]
    with (folder / f"training.{rows}.processed.noemoticon.csv").open("w", newline="", encoding="latin-1") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for start in range(0, rows, 100_000):
            chosen = np.random.default_rng(start).integers(0, len(words), (100_000, 13))
            for number, (user, row) in enumerate(zip(owner[start:], chosen, strict=False), start=start):
                day = "Mon Apr 06 22:19:45 PDT 2009"
                tweet = " ".join(words[i] for i in row)
                writer.writerow([4 * (number % 2), 1_467_810_000 + number, day, "NO_QUERY", f"user{user}", tweet])


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(counts)), counts


@dataclass(frozen=True)
class ManyUsers:
    """As many users as LEAF's Reddit has, and as many examples, of a byte and a class each."""

    share: float = 1.0

    spec: ClassVar[Spec] = Spec("1.0.0", (1,), "uint8", 2, model="logistic", licence="", homepage="", citation="")

    def clients(self, raw: object) -> Iterator[Client]:
        """Yield them."""
        for number, count in enumerate(lengths(round(1_660_820 * self.share), round(56_587_343 * self.share), 62.9)):
            answers = np.full(count, number % 2, np.uint8)
            yield Client(f"user{number}", "reddit", answers[:, None], answers)


def nothing(folder: Path, share: float) -> None:
    """No file is read."""


Made = tuple[Callable[[Path, float], None], Callable[[], Dataset]]
SIZES: dict[str, Made] = {
    "femnist": (write_femnist, lambda: registry.plugin("datasets", "femnist")(source="leaf")),
    "sent140": (write_sent140, lambda: registry.plugin("datasets", "sent140")(source="csv")),
    "reddit": (nothing, lambda: ManyUsers(SHARE)),
}


def prepared(name: str, raw: Path) -> tuple[Path, float, float]:
    """Prepare it; where it lies, how many seconds of a processor that took, and this process's peak memory in MB."""
    start = time.process_time()
    where = prepare(name, SIZES[name][1](), raw=raw, progress=False)
    return where, time.process_time() - start, peak()


def opened(where: Path) -> tuple[float, float, float]:
    """Seconds to open it, and then to split its clients and draw the first cohort's examples; peak memory in MB."""
    start = time.perf_counter()
    store = ClientStore.open(where)
    middle = time.perf_counter()
    rules: dict[str, Any] = {"min_examples": 2}
    federation = Federation(store, Protocol(**rules), 0)
    federation.episodes(federation.cohort(0), 0)
    return middle - start, time.perf_counter() - middle, peak()


def peak() -> float:
    """From Linux's own count for this program: what `getrusage` has may be the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1.024e-3 * float(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def size(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", SIZES)
def test_prepare(benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "data"))
    raw = tmp_path / name
    raw.mkdir()
    SIZES[name][0](raw, SHARE)
    work = (prepared, name, tmp_path)
    where, processor, most = benchmark.pedantic(apart, args=work, rounds=1)  # type: ignore[no-untyped-call]
    seconds, first, opening = apart(opened, where)
    store = ClientStore.open(where)
    found = {
        "clients": len(store),
        "examples": len(store.y),
        "files, MB": size(raw) / 1e6,
        "processor, s": processor,
        "peak memory, MB": most,
        "arrays, MB": sum(path.stat().st_size for path in where.glob("*.npy")) / 1e6,
        "records, MB": size(where / "tfds") / 1e6,
        "opening, ms": 1000 * seconds,
        "split and first cohort, ms": 1000 * first,
        "peak memory of these, MB": opening,
    }
    benchmark.extra_info.update(found)
    print(f"\n{name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in found.items()))
