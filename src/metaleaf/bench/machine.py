"""What a measurement has to be read with: the machine, its load, the software."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from metaleaf.config.provenance import device_facts, git_facts, versions


def facts(device: str) -> dict[str, Any]:
    """Processor, threads, load, versions and revision."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": device_facts(device),
        "versions": versions(),
        "git": git_facts(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
