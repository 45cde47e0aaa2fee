"""Parts of byzfl, another library of attacks and robust rules, to compare ours with: only where it is installed."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest


def byzfl(part: str) -> ModuleType:
    """A module of byzfl such as "attacks.attacks"; the test is skipped without it.

    Its own ``__init__`` is not run: that draws figures and loads data sets, with libraries that nobody else needs.
    """
    spec = importlib.util.find_spec("byzfl")
    if spec is None:
        pytest.skip("byzfl is not installed: pip install --no-deps byzfl")
    if "byzfl" not in sys.modules:
        package = ModuleType("byzfl")
        package.__path__ = list(spec.submodule_search_locations or ())
        package.__spec__ = spec
        sys.modules["byzfl"] = package
    return importlib.import_module(f"byzfl.{part}")
