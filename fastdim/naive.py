"""Plain float64 references of every operation: slow, readable, the truth in the tests.

Nothing here is blocked, threaded or clever, and nothing falls back to it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_rows

Array = NDArray[np.float64]


def matrix(x: Any) -> Array:
    """The values of x (n, d) in float64."""
    rows = as_rows(x)
    return rows.float64(0, rows.n)


def knn(
    x: Any, k: int = 2, queries: NDArray[np.int64] | None = None, others: Any = None
) -> tuple[Array, NDArray[np.int64]]:
    """Distances (m, k) ascending and indices (m, k) of the k nearest other rows of each query.

    Sums of squared differences; the query itself is excluded by its index; of equal distances the
    smaller index comes first. others: rows (m, d) to look up in place of rows of x; none excluded.
    """
    rows = matrix(x)
    points = rows if others is None else matrix(others)
    chosen = np.arange(len(points)) if queries is None else np.asarray(queries)
    distances = np.empty((len(chosen), k))
    indices = np.empty((len(chosen), k), dtype=np.int64)
    for place, query in enumerate(chosen):
        distance = _lengths(rows - points[query])
        if others is None:
            distance[query] = math.inf
        indices[place] = np.argsort(distance, kind="stable")[:k]
        distances[place] = distance[indices[place]]
    return distances, indices


def _lengths(x: Array) -> Array:
    """Euclidean norms of rows; each scaled by a power of two, so that no square over- or underflows
    and no bit of a result moves."""
    exponents = np.frexp(np.abs(x).max(axis=1))[1]
    scaled = np.ldexp(x, -exponents[:, None])
    lengths: Array = np.ldexp(np.sqrt(np.square(scaled).sum(axis=1)), exponents)
    return lengths


def distinct(x: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First occurrences of the distinct rows, ascending, and for each row its place among them."""
    seen: dict[tuple[float, ...], int] = {}
    first: list[int] = []
    inverse: list[int] = []
    for number, row in enumerate(matrix(x)):
        key = tuple(row.tolist())  # -0.0 and 0.0 are equal keys
        if key not in seen:
            seen[key] = len(first)
            first.append(number)
        inverse.append(seen[key])
    return np.array(first, dtype=np.int64), np.array(inverse, dtype=np.int64)


def twonn(x: Any, discard_fraction: float = 0.1) -> float:
    """Intrinsic dimension by TwoNN, maximum likelihood under type-II censoring, distinct rows."""
    rows = matrix(x)
    distances, _ = knn(rows[distinct(rows)[0]], k=2)
    log_mu = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    count = len(log_mu)
    kept = int(count * (1 - discard_fraction))
    total = log_mu[:kept].sum() + (count - kept) * log_mu[kept - 1]
    return float((kept - 1) / total)


class Spectrum(NamedTuple):
    """Eigenvalues of the centered covariance (divisor n), and what is formed from them."""

    eigenvalues: Array
    anisotropy: float
    participation_ratio: float
    effective_rank: float
    stable_rank: float
    row_share: Array


def spectrum(x: Any) -> Spectrum:
    """Covariance spectrum by a singular value decomposition of the centered rows."""
    rows = matrix(x)
    centered = rows - rows.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    power = singular**2
    share = power[power > 0] / power.sum()
    return Spectrum(
        eigenvalues=power / len(rows),
        anisotropy=float(power[0] / power.sum()),
        participation_ratio=float(power.sum() ** 2 / np.square(power).sum()),
        effective_rank=float(np.exp(-(share * np.log(share)).sum())),
        stable_rank=float(power.sum() / power[0]),
        row_share=left[:, 0] ** 2,
    )


class CosineStats(NamedTuple):
    """Statistics of the cosines of all pairs of rows that are not zero."""

    mean: float
    std: float
    second_moment: float
    min: float
    max: float
    histogram: NDArray[np.int64]
    edges: Array
    n_zero_rows: int


def cosine_stats(x: Any, bins: int = 200) -> CosineStats:
    """Cosine statistics from the full matrix; bins over [-1, 1], clipped, last bin closed."""
    rows = matrix(x)
    norms = np.sqrt(np.square(rows).sum(axis=1))
    unit = rows[norms > 0] / norms[norms > 0, None]
    cosines = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    histogram, edges = np.histogram(np.clip(cosines, -1.0, 1.0), bins=bins, range=(-1.0, 1.0))
    return CosineStats(
        mean=float(cosines.mean()),
        std=float(cosines.std()),
        second_moment=float(np.square(cosines).mean()),
        min=float(cosines.min()),
        max=float(cosines.max()),
        histogram=histogram.astype(np.int64),
        edges=edges,
        n_zero_rows=int((norms == 0).sum()),
    )
