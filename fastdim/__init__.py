"""Exact neighbour distances, cosine statistics and intrinsic dimension of representations."""

from fastdim.arrays import Rows, as_rows
from fastdim.errors import (
    BackendError,
    DependencyError,
    FastdimError,
    InputError,
    ModelError,
    StoreError,
)
from fastdim.estimate import Estimate

__all__ = [
    "BackendError",
    "DependencyError",
    "Estimate",
    "FastdimError",
    "InputError",
    "ModelError",
    "Rows",
    "StoreError",
    "as_rows",
]
