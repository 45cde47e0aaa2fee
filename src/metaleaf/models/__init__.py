"""Models: a file each, found by its name, and what any model has to be.

LEAF's own (its ``models/{femnist,shakespeare,synthetic,celeba}``) start as TensorFlow 1 starts its layers: Glorot
uniform, zero biases. How a model starts is its own affair, and any other stays as its constructor made it, pretrained
weights too.

Which parts a model has is its own affair as well, not an algorithm's: `Model.parts` names the head (what follows the
features) and the normalisation layers, and `metaleaf.task.Task.split` hands them out.
"""

from metaleaf.models._build import Given, Spec, build, redrawn, resolve
from metaleaf.models._model import BatchNorm, Model, TensorFlowModel, check, inside, side_of, window_of
from metaleaf.models._seeded import Seeded, Watched, drawing
from metaleaf.models._standardised import Standardised

__all__ = [
    "BatchNorm",
    "Given",
    "Model",
    "Seeded",
    "Spec",
    "Standardised",
    "TensorFlowModel",
    "Watched",
    "build",
    "check",
    "drawing",
    "inside",
    "redrawn",
    "resolve",
    "side_of",
    "window_of",
]
