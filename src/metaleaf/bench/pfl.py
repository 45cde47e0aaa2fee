"""Apple's pfl-research on a workload, in processes of its own Python: one process a core, as it runs best."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np

from metaleaf.bench.workloads import Workload
from metaleaf.errors import ConfigError, UserError


def require(python: Path) -> None:
    """ConfigError if that Python is none, or cannot import pfl."""
    try:
        done = subprocess.run(
            [python, "-c", "import pfl, torch"], capture_output=True, text=True, check=False, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"--pfl {python}: {error.strerror}; give the Python of an environment with pfl.") from error
    if done.returncode != 0:
        raise ConfigError(f"--pfl {python}: it cannot import pfl; install it with `{python} -m pip install pfl`.")


class Pfl:
    """pfl's FedAvg on the workload's clients. A call is a round, and returns its seconds as its processes see them."""

    def __init__(self, python: Path, work: Workload, processes: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        _write(work, folder)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self._errors = open(folder / "errors", "w+", encoding="utf-8")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [python, *words, folder / "pfl_rounds.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            encoding="utf-8",
        )
        self._input, self._output = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def __call__(self) -> float:
        """A round."""
        with suppress(BrokenPipeError):  # it has stopped: the answer says why
            self._input.write("round\n")
            self._input.flush()
        return self._answer("ROUND")

    def peak(self) -> float:
        """The peak memory in MiB, after which there are no more rounds."""
        self._input.close()
        return self._answer("MEMORY")

    def _answer(self, word: str) -> float:
        for line in self._output:
            if line.startswith(word + " "):
                return float(line.split()[1])
        self._errors.seek(0)
        *_, last = ["nothing", *filter(None, map(str.strip, self._errors))]
        raise UserError(f"pfl stopped, and said last: {last}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # At the end of its input pfl ends, and so do the helpers that it forks; terminated, it would leave them.
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.read()
        self._process.wait()
        self._output.close()
        self._errors.close()
        self._folder.cleanup()


def _write(work: Workload, folder: Path) -> None:
    """What pfl_rounds.py reads, and itself, beside the models."""
    cohort, algorithm = work.cohort(), cast(Any, work.build_algorithm())
    sizes = [len(episode.data.y) for episode in cohort]
    arrays: Mapping[str, Any] = {
        "x": np.concatenate([episode.data.x.numpy() for episode in cohort]),
        "y": np.concatenate([episode.data.y.numpy() for episode in cohort]),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    facts = {
        "model": work.model,
        "spec": dict(work.spec),
        "clients": work.clients,
        "lr": algorithm.client_optimizer.lr,
        "batch_size": algorithm.batch_size,
    }
    (folder / "work.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in ("pfl_rounds.py", "textbook.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
