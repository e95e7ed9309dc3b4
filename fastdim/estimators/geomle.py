"""GeoMLE: Levina-Bickel estimates extrapolated to a neighbourhood of no size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import estimate_of, neighbors_of, sample_of
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

# A bootstrap sample keeps 63 % of the rows: of so many times k2 neighbours, k2 are left.
SPARE = 2.5


def geomle(
    x_or_neighbors: Any,
    k1: int = 10,
    k2: int = 40,
    *,
    degree: int = 2,
    ridge: float = 5e-3,
    bootstraps: int = 40,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension corrected for curvature and density (Gomtsyan et al., arXiv 1904.06151).

    For k = k1..k2, the mean over the rows of the Levina-Bickel m_k (k - 2) and of the radius R_k,
    over bootstrap samples of the references; then ridge regression of m_k on R_k, ..., R_k^degree
    with weights 1 / s.d. of m_k; the value is the intercept, at radius 0.

    x_or_neighbors: rows (n, d), reduced to distinct rows, or `Neighbors` of every distinct row with
        at least 2.5 k2 columns (or all rows but one) and no zero distance. k2 + 2 >= number of
        distinct rows is refused.
    ridge: on radii over their mean, so that the unit of x does not matter; as published the penalty
        meets R_k itself. Repeated rows of a bootstrap sample count once, as published.

    Assumes that bias grows smoothly with the radius. Bias: less than `levina_bickel` under
    curvature, more variance. Interval: spread over the bootstrap samples, normal on the log scale.
    Cost: one search with 2.5 k2 neighbours, then O(bootstraps n k2 (k2 - k1)).
    """
    k1 = whole_number("k1", k1, 3)
    k2 = whole_number("k2", k2, k1 + 1)
    degree = whole_number("degree", degree, 1)
    if k2 - k1 + 1 <= degree:
        raise InputError(f"degree {degree} needs more than {degree} sizes k: widen k1..k2")
    if not ridge >= 0.0:
        raise InputError(f"ridge must be at least 0, got {ridge!r}")
    bootstraps = whole_number("bootstraps", bootstraps, 2)
    found = _with_spare(x_or_neighbors, k2, threads)
    rng = np.random.default_rng(seed)
    drawn = [_sample(found, k1, k2, rng) for _ in range(bootstraps)]
    dims, radii = (np.stack(part) for part in zip(*drawn, strict=True))
    weight = 1.0 / np.maximum(dims.std(axis=0, ddof=1), 1e-12 * dims.mean())
    unit = float(radii.mean())
    value = _intercept(radii.mean(axis=0) / unit, dims.mean(axis=0), weight, degree, ridge)
    each = [
        _intercept(r / unit, d, weight, degree, ridge) for r, d in zip(radii, dims, strict=True)
    ]
    method = f"GeoMLE, k = {k1}..{k2}"
    return estimate_of(
        value, float(np.std(each, ddof=1)), sample_of(found), method, "bootstrap", confidence
    )


def _with_spare(x_or_neighbors: Any, k2: int, threads: int | None) -> Neighbors:
    least = neighbors_of(x_or_neighbors, k2 + 2, "geomle", threads=threads)
    count = least.n_distinct or least.n_points
    return neighbors_of(
        x_or_neighbors, min(count - 1, math.ceil(SPARE * k2)), "geomle", threads=threads
    )


def _sample(found: Neighbors, k1: int, k2: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Mean dimension and radius for each k, the references a bootstrap sample."""
    count = found.n_points
    drawn = np.zeros(count, dtype=bool)
    # Only distinct rows are references; the first of equal rows stands for them.
    rows = found.queries
    drawn[rows[rng.integers(0, len(rows), len(rows))]] = True
    kept = drawn[found.indices]
    full = kept.sum(axis=1) >= k2
    if not full.any():
        raise InputError(
            f"a bootstrap sample leaves fewer than k2 = {k2} neighbours: pass more rows or a "
            "smaller k2"
        )
    # The kept neighbours first, in their order.
    order = np.argsort(~kept[full], axis=1, kind="stable")[:, :k2]
    near = np.take_along_axis(found.distances[full], order, axis=1)
    logs = np.log(near)
    sums = np.cumsum(logs, axis=1)
    sizes = np.arange(k1, k2 + 1)
    total = (sizes - 1) * logs[:, sizes - 1] - sums[:, sizes - 2]
    if not (total > 0.0).all():
        raise InputError(
            "the k1 nearest neighbours of a row are equally far, as on a grid: pass a larger k1"
        )
    return ((sizes - 2) / total).mean(axis=0), near[:, sizes - 1].mean(axis=0)


def _intercept(x: Array, y: Array, weight: Array, degree: int, ridge: float) -> float:
    """Weighted ridge regression of y on x, ..., x^degree; the intercept is not penalized."""
    powers = np.stack([x**p for p in range(1, degree + 1)], axis=1)
    center = weight @ powers / weight.sum()
    middle = float(weight @ y / weight.sum())
    left = powers - center
    gram = left.T @ (weight[:, None] * left) + ridge * np.eye(degree)
    slopes = np.linalg.solve(gram, left.T @ (weight * (y - middle)))
    return middle - float(center @ slopes)
