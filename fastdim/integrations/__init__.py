"""Measuring while a model trains: one core (`Tracker`), and thin faces for training frameworks.

`fastdim.integrations.Tracker`: plain PyTorch loops; `fastdim.integrations.transformers`: a callback
of transformers' Trainer; `fastdim.integrations.lightning`: one of Lightning. Nothing here is
imported by `import fastdim`, and each face imports its framework alone.
"""

from fastdim.integrations.schedule import LogSteps
from fastdim.integrations.tracker import Tracker

__all__ = ["LogSteps", "Tracker"]
