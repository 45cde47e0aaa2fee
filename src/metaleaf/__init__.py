"""metaleaf: a benchmark suite for federated meta-learning on the LEAF datasets."""

__version__ = "0.1.0"
