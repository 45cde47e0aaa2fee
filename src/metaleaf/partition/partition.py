"""The stages of partitions by name: what the option ``partition`` of every dataset may be a list of (docs/data.md)."""

from collections.abc import Mapping

from metaleaf.dataset import Stage
from metaleaf.partition.changing import Inversion, LabelPermutation, Noise, Rotation, Scaling, Stroke
from metaleaf.partition.regrouping import Dirichlet, Iid, Quantity, Shards, TimeBlocks

_ALL: tuple[type[Stage], ...] = (
    Iid,
    Dirichlet,
    Shards,
    Quantity,
    TimeBlocks,
    Rotation,
    Inversion,
    Stroke,
    Noise,
    Scaling,
    LabelPermutation,
)

STAGES: Mapping[str, type[Stage]] = {stage.name: stage for stage in _ALL}
