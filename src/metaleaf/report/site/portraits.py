"""What the data are: a dataset's own description, its terms, and the counts and hashes that the records hold."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from metaleaf import registry
from metaleaf.config.config import THE_RUNS
from metaleaf.dataset import Spec
from metaleaf.errors import ConfigError
from metaleaf.records.records import Counts, Head, Stored
from metaleaf.statistics.cost_to_target import target_of


@dataclass(frozen=True)
class Portrait:
    """One prepared dataset. `spec` is None where its plugin is not installed here."""

    name: str
    description: str
    spec: Spec | None
    target: str
    data_hash: str
    splits: tuple[tuple[str, Counts, Counts | None], ...]
    """Clients and examples in the parts of each suite's split."""


def portraits(records: Sequence[Stored[Head]]) -> list[Portrait]:
    """One for each dataset plugin and hash of the data; of data drawn anew for every seed, the first."""
    together: dict[tuple[str, str], list[Head]] = {}
    for record in records:
        content = record.content
        shared = "drawn anew for every seed" if _redrawn(content) else content.data.data_hash
        together.setdefault((content.data.name, shared), []).append(content)
    return [_portrait(name, shared, contents) for (name, shared), contents in together.items()]


def _redrawn(content: Head) -> bool:
    asked = content.config.get("dataset")
    options = asked.get("options") if isinstance(asked, dict) else None
    return isinstance(options, dict) and options.get("seed") == THE_RUNS


def _target(name: str, contents: Sequence[Head]) -> str:
    """The target of the track "cost to target" in words; empty where there is none."""
    target, metric = target_of(name), contents[0].metric
    return "" if target is None else f"validation {metric.name} of {metric.exact(target)} after adaptation"


def _portrait(name: str, shared: str, contents: Sequence[Head]) -> Portrait:
    try:
        plugin = registry.plugin("datasets", name)
    except ConfigError:
        plugin = None
    splits = {content.suite: (content.suite, content.data.clients, content.data.examples) for content in contents}
    about = sys.modules[plugin.__module__].__doc__ if plugin else None
    return Portrait(
        name,
        (about or "").strip().split("\n\n")[0],
        plugin.spec if plugin and isinstance(plugin.spec, Spec) else None,  # others have it by their options
        _target(name, contents),
        shared,
        tuple(splits.values()),
    )
