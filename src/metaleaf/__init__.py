"""metaleaf: a benchmark suite for federated meta-learning on the LEAF datasets.

From Python (docs/python.md)::

    import metaleaf as ml

    clients = ml.load("femnist", source="writers")
    result = ml.run("maml", clients, rounds=300)

`load`, `clients`, `run`, `compare` and `read` are imported when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaleaf.front.clients import Clients as Clients
    from metaleaf.front.clients import clients as clients
    from metaleaf.front.clients import load as load
    from metaleaf.front.records import Records as Records
    from metaleaf.front.records import read as read
    from metaleaf.front.result import Result as Result
    from metaleaf.front.run import compare as compare
    from metaleaf.front.run import run as run

__version__ = "0.1.0"

_FRONT = {
    "Clients": "clients",
    "Records": "records",
    "Result": "result",
    "clients": "clients",
    "compare": "run",
    "load": "clients",
    "read": "records",
    "run": "run",
}
"""What stands at the front, by the file that has it: whoever only wants a plugin's words imports nothing of it."""

__all__ = ["Clients", "Records", "Result", "clients", "compare", "load", "read", "run"]


def __getattr__(name: str) -> Any:
    if name not in _FRONT:
        raise AttributeError(f"module 'metaleaf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metaleaf.front.{_FRONT[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
