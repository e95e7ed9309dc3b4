"""ABIDE: the scale of every point by a test of constant density, the dimension by counting."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import real_number, whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate, normal_quantile
from fastdim.estimators.gride import solve
from fastdim.estimators.inputs import dependent_stderr, estimate_of, neighbors_of, sample_of
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# The inner share of the volume at which counting is most precise.
BEST_SHARE = 0.2032
LARGEST_RATIO = 0.975
FIRST = 3
# Of the test: 1 less half of it would be 1.
LEAST_LEVEL = float(np.finfo(np.float64).eps)
# Factor of `dependent_stderr`: 1.9, 2.1, 1.8 on flat tori of 2, 5, 10 dimensions.
SHARING = 2.0


def abide(
    x_or_neighbors: Any,
    k_max: int = 100,
    *,
    level: float = 1e-6,
    start: float | None = None,
    iterations: int = 20,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension at the scale each point allows (Di Noia et al., arXiv 2405.15132).

    In turn until nothing changes: k* of every point by `k_star` at the present d; then, with r the
    distance to the k*-th neighbour and t = min(0.975, 0.2032^(1/d)), d = log(sum n / sum (k* - 1))
    / log t, n the neighbours closer than t r. k* are whole numbers: where a few of them alternate,
    the last iteration stands.

    x_or_neighbors: rows (n, d), reduced to distinct rows, or `Neighbors` of every distinct row with
        at least k_max columns and no zero distance. k_max >= number of distinct rows is refused.
    level: of the test; start: first d, None for TwoNN's. iterations: at most so many.

    Assumes a density constant up to k*, which the test sees to: small scales where it varies, large
    where it does not. Bias: low at high dimension and finite n, less noise than TwoNN. Interval:
    influence of the rows with t and k* fixed; on hidden states 95 % held their target in 0.69 to
    0.82 of subsets. Cost: one search with k_max neighbours, then O(n k_max) an iteration.
    """
    found = _every_row(x_or_neighbors, k_max, "abide", threads)
    whole_number("iterations", iterations, 1)
    level = real_number("level", level)
    if start is not None:
        start = real_number("start", start)
    else:
        with np.errstate(divide="ignore"):  # infinite where all ratios are 1, as on a grid: refused
            start = float(solve(np.log(found.distances[:, 1] / found.distances[:, 0]), 1, 2))
    if not (math.isfinite(start) and start > 0.0):
        raise InputError(f"the first d must be finite and above 0, got {start!r}: pass start=")
    near = _at_neighbors(found)
    d, stars = start, np.zeros(0, dtype=np.int64)
    for _ in range(iterations):
        before, stars = stars, _stars(found.distances, near, d, level)
        inner, ratio = _inside(found.distances, stars, d)
        if not inner.any():
            raise InputError(
                "no point has a neighbour in its inner ball: pass more rows or another start="
            )
        d, old = math.log(inner.mean() / (stars - 1).mean()) / math.log(ratio), d
        if np.array_equal(before, stars) and abs(d - old) <= 1e-9 * d:
            break
    influence = (inner / inner.mean() - (stars - 1) / (stars - 1).mean()) / math.log(ratio)
    stderr = dependent_stderr(influence, found, SHARING)
    method = f"ABIDE, mean k* = {stars.mean():.1f}"
    return estimate_of(d, stderr, sample_of(found), method, "query rows", confidence)


def k_star(
    x_or_neighbors: Any,
    dimension: float,
    k_max: int = 100,
    *,
    level: float = 1e-6,
    threads: int | None = None,
) -> Int64:
    """Largest neighbourhood (m,) of each distinct row over which the density passes as constant.

    Compares, for k = 3, 4, ..., the volume of the k-th neighbour with that of the (k+1)-th
    neighbour's own k-th, -2 k (log v + log w - 2 log(v + w) + log 4) against the chi-squared
    quantile of `level` (Rodriguez et al., J. Chem. Theory Comput. 14:1206, 2018); the k that fails
    first, k_max - 1 if none. dimension: of the volumes. Arguments as `abide`: distinct rows, and
    k_max >= their number is refused. Assumes that dimension for every row. Bias: a high dimension
    makes it small. Whole numbers, no interval. Cost: one search, then O(n k_max).
    """
    level, dimension = real_number("level", level), real_number("dimension", dimension)
    if not 0.0 < dimension < math.inf:
        raise InputError(f"dimension must be finite and above 0, got {dimension!r}")
    found = _every_row(x_or_neighbors, k_max, "k_star", threads)
    return _stars(found.distances, _at_neighbors(found), dimension, level)


def _every_row(x_or_neighbors: Any, k_max: int, name: str, threads: int | None) -> Neighbors:
    k_max = whole_number("k_max", k_max, FIRST + 2)
    found = neighbors_of(x_or_neighbors, k_max, name, threads=threads)
    place = np.searchsorted(found.queries, found.indices)
    place = np.minimum(place, len(found.queries) - 1)
    if not np.array_equal(found.queries[place], found.indices):
        raise InputError(
            f"{name} compares every point with its neighbours: compute the Neighbors of every row"
        )
    return dataclasses.replace(found, indices=place)


def _at_neighbors(found: Neighbors) -> Array:
    """log r_k of the (k+1)-th neighbour of each row over log r_k of the row (m, k_max - 1)."""
    logs = np.log(found.distances)
    columns = np.arange(found.k - 1)
    return np.asarray(logs[found.indices[:, 1:], columns] - logs[:, :-1])


def _stars(distances: Array, near: Array, d: float, level: float) -> Int64:
    if not LEAST_LEVEL <= level < 1.0:
        raise InputError(f"level must lie in [{LEAST_LEVEL:.3g}, 1), got {level!r}")
    limit = normal_quantile(1.0 - level) ** 2
    ks = np.arange(FIRST, distances.shape[1] - 1)
    # -2 (log v + log w - 2 log(v + w) + log 4) is 4 log cosh(log(w / v) / 2).
    half = np.abs(0.5 * d * near[:, FIRST - 1 : -1])
    tested = 4.0 * ks * (half + np.log1p(np.exp(-2.0 * half)) - math.log(2.0))
    failed = tested > limit
    first = np.where(failed.any(axis=1), failed.argmax(axis=1), len(ks))
    return np.asarray(first + FIRST, dtype=np.int64)


def _inside(distances: Array, stars: Int64, d: float) -> tuple[Array, float]:
    """Neighbours of each row within the inner radius (m,), and the ratio of the radii."""
    ratio = min(LARGEST_RATIO, BEST_SHARE ** (1.0 / d))
    radius = distances[np.arange(len(stars)), stars - 1] * ratio
    return (distances < radius[:, None]).sum(axis=1).astype(np.float64), ratio
