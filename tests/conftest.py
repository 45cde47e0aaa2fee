"""Tests run on one thread: their models are tiny, and threads that wait for work slow down everything else."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

torch.set_num_threads(1)
