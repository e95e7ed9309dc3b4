"""Dimension from how the length of a graph grows with the number of points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import Sample, distinct_of, estimate_of, rows_of
from fastdim.neighbors import search

Array = NDArray[np.float64]

LARGEST = 2000
STEPS = 10
DRAWS = 5


def knn_graph(
    x: Any,
    k: int = 2,
    *,
    gamma: float = 1.0,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by the length of the k-neighbour graph (Costa & Hero, IEEE TSP 2004).

    L(p) = sum over p points of the sum of |edge|^gamma to the k nearest grows as p^((d - gamma)/d)
    (Carter, Raich & Hero, IEEE TSP 58:650, 2010): d = gamma / (1 - slope of log L on log p) over
    random subsets, each without replacement.

    x: rows (n, d), reduced to distinct rows. sizes: points of a subset, above k; None for 10 from a
    quarter of the rows to all. draws: subsets a size. k >= the smallest size is refused.

    Bias: low at high dimension, where the slope is near 1 and small errors of it are large; borders
    add. Interval: spread of the slope over the draws; subsets share rows, so it does not tell how
    another sample of rows would differ. Cost: sizes x draws searches.
    """
    rows, first, count = _distinct(x, "knn_graph", threads)
    k = whole_number("k", k, 1)
    chosen = _sizes(sizes, count, max(k + 1, count // 4), count)
    if chosen.min() <= k:
        raise InputError(f"knn_graph with k = {k} needs sizes above k, got {chosen.tolist()}")
    workers = cpu.resolve_threads(threads)

    def length(part: NDArray[np.int64]) -> float:
        near = search(rows.take(part), k, None, None, workers, 0).distances
        return float((near.astype(np.float64) ** gamma).sum())

    method = f"k-neighbour graph, k = {k}"
    return _grown(rows, first, chosen, draws, gamma, length, method, confidence, seed)


def ph_dimension(
    x: Any,
    *,
    alpha: float = 1.0,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Persistent-homology dimension of degree 0 (Schweinhart, Adv. Math. 372:107291, 2020).

    E(p) = sum of |edge|^alpha over the minimum spanning tree of p points, which are the lifetimes
    of components; d = alpha / (1 - slope of log E on log p) over random subsets without
    replacement.

    x: rows (n, d), reduced to distinct rows; k plays no part. sizes: points of a subset; None for
    10 from half to all of the rows, at most 2,000. draws: subsets a size. alpha: below the
    dimension.

    Bias and interval as `knn_graph`; the tree is steadier than the graph of nearest neighbours.
    Cost: sizes x draws x p^2 d.
    """
    rows, first, count = _distinct(x, "ph_dimension", threads)
    largest = min(count, LARGEST)
    chosen = _sizes(sizes, count, max(2, largest // 2), largest)
    if chosen.min() < 2:
        raise InputError(f"ph_dimension needs sizes of at least 2, got {chosen.tolist()}")

    def length(part: NDArray[np.int64]) -> float:
        return float((tree_edges(rows.take(part).float64(0, len(part))) ** alpha).sum())

    return _grown(rows, first, chosen, draws, alpha, length, "PH0 dimension", confidence, seed)


def tree_edges(points: Array) -> Array:
    """Lengths (n - 1,) of the Euclidean minimum spanning tree (Prim, 1957), from differences."""
    count = len(points)
    centered = points - points.mean(axis=0)
    own = np.einsum("ij,ij->i", centered, centered)
    # These squares choose the edges; their lengths are taken from differences below.
    gaps = own[:, None] + own - 2.0 * (centered @ centered.T)
    nearest = gaps[0].copy()
    parent = np.zeros(count, dtype=np.int64)
    nearest[0] = math.inf
    edges = np.empty((count - 1, 2), dtype=np.int64)
    inside = np.zeros(count, dtype=bool)
    inside[0] = True
    for step in range(count - 1):
        new = int(nearest.argmin())
        edges[step] = parent[new], new
        inside[new] = True
        closer = (gaps[new] < nearest) & ~inside
        nearest[closer] = gaps[new, closer]
        parent[closer] = new
        nearest[new] = math.inf
    return np.asarray(np.sqrt(np.square(points[edges[:, 0]] - points[edges[:, 1]]).sum(axis=1)))


def _distinct(x: Any, name: str, threads: int | None) -> tuple[Rows, NDArray[np.int64], int]:
    rows = rows_of(x, name)
    first = distinct_of(rows, 8, name, cpu.resolve_threads(threads)).first
    return rows, first, len(first)


def _sizes(sizes: Sequence[int] | None, count: int, least: int, most: int) -> NDArray[np.int64]:
    if sizes is None:
        return np.unique(np.geomspace(least, most, STEPS).round().astype(np.int64))
    chosen = np.unique(np.array([whole_number("each of sizes", size, 1) for size in sizes]))
    if len(chosen) < 2 or chosen.max() > count:
        raise InputError(
            f"sizes must be at least two numbers of points, none above the {count} distinct rows; "
            f"got {chosen.tolist()}"
        )
    return chosen


def _grown(
    rows: Rows,
    first: NDArray[np.int64],
    sizes: NDArray[np.int64],
    draws: int,
    power: float,
    length: Callable[[NDArray[np.int64]], float],
    method: str,
    confidence: float,
    seed: int,
) -> Estimate:
    """power / (1 - slope) of log length on log size, with the error of the slope over the draws."""
    if not power > 0.0:
        raise InputError(f"the power of edge lengths must be above 0, got {power!r}")
    draws = whole_number("draws", draws, 2)
    rng = np.random.default_rng(seed)
    logs = np.empty((draws, len(sizes)))
    for draw in range(draws):
        for place, size in enumerate(sizes):
            part = np.sort(rng.choice(first, size=size, replace=False))
            logs[draw, place] = math.log(length(part))
    x = np.log(sizes) - np.log(sizes).mean()
    slopes = logs @ x / (x @ x)
    slope = float(slopes.mean())
    if not slope < 1.0:
        raise InputError(
            f"{method} grows as fast as the number of points (slope {slope:.3f}): the dimension is "
            "too high for so few rows, or the power is above it; pass more rows or a smaller power"
        )
    value = power / (1.0 - slope)
    stderr = value**2 / power * float(slopes.std(ddof=1)) / math.sqrt(draws)
    sample = Sample(rows.n, len(first), int(sizes.max()))
    return estimate_of(value, stderr, sample, method, "subsets", confidence)
