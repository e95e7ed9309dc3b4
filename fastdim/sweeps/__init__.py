"""Layers x token filters -> one tidy table, resumable after a kill."""

from fastdim.sweeps.api import sweep
from fastdim.sweeps.result import Sweep

__all__ = ["Sweep", "sweep"]
