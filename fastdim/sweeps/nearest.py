"""Neighbours of one layer: an approximate search, and those that a filter keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.neighbors import Neighbors, knn
from fastdim.sweeps.definition import Definition

Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


def approximate(
    rows: Rows, k: int, queries: Any, definition: Definition, threads: int
) -> Neighbors:
    """Neighbours among the distinct rows by FAISS, as the definition says, audited as by `knn`.

    Raises BackendError below the least recall, or where the target is out of reach.
    """
    return knn(
        rows,
        k,
        queries=queries,
        duplicates="collapse",
        backend=str(definition.backend),
        index=definition.index,
        target_recall=definition.target_recall,
        threads=threads,
        seed=definition.seed,
    )


def two_nearest(
    found: Neighbors, chosen: Int64, present: Mask
) -> tuple[NDArray[np.floating[Any]], Int64]:
    """Of the chosen queries the two nearest rows that are present; -1 where there are fewer."""
    there = present[found.indices[chosen]]
    two = np.argsort(~there, axis=1, kind="stable")[:, :2]
    distances = np.take_along_axis(found.distances[chosen], two, axis=1)
    indices = np.take_along_axis(found.indices[chosen], two, axis=1)
    indices[there.sum(axis=1) < 2] = -1
    return distances, indices
