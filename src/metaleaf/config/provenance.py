"""Facts that a record keeps about how its numbers came about: versions, source revision, machine."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import metaleaf
from metaleaf import registry
from metaleaf.config.config import RunConfig


def versions(config: RunConfig | None = None) -> dict[str, str]:
    """Versions of Python, metaleaf and the packages that the numbers pass through, a run's plugins' included."""
    if config is None:
        return _versions()
    plugins = [("datasets", config.dataset), ("models", config.model_name)]
    plugins += [("algorithms", name) for name in config.algorithms()]
    found = (registry.distribution(kind, name) for kind, name in plugins)
    return _versions() | {distribution.name: distribution.version for distribution in found if distribution}


@cache
def _versions() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "metaleaf": metaleaf.__version__,
        "torch": torch.__version__,
    }
    for name in ("numpy", "pandas", "pillow", "tensorflow-datasets"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_facts() -> dict[str, Any]:
    """Revision of the source checkout and whether files in it were changed; None for an installed package."""

    def git(*words: str) -> str | None:
        here = Path(metaleaf.__file__).resolve().parent
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False, encoding="utf-8"
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        revision, changes = (
            git("rev-parse", "HEAD"),
            git("status", "--porcelain", "--", ":(top)src", ":(top)algorithms", ":(top)datasets"),
        )
    except FileNotFoundError:
        revision = changes = None
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def device_facts(device: str) -> dict[str, Any]:
    """The device by name and, on a CPU, the number of threads (which decides the order of float sums)."""
    if device.startswith("cuda"):
        return {
            "type": "cuda",
            "name": torch.cuda.get_device_name(device),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return {"type": "cpu", "name": platform.machine(), "threads": torch.get_num_threads()}
