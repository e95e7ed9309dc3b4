"""GeoMLE: Levina-Bickel estimates extrapolated to a neighbourhood of no size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import generator, real_number, whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import (
    check_every_row,
    dependent_stderr,
    estimate_of,
    first_drawn,
    neighbors_of,
    sample_of,
    sharing_at,
)
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

# A bootstrap sample keeps 63 % of the rows: of so many times k2 neighbours, k2 are left.
SPARE = 2.5
# Loss of `sharing_at`: the factor is 1.2, 1.5, 1.6 on flat tori of 2, 5, 10 dimensions.
LOSS = 1.7


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
    curvature, more variance. Interval: influence of the rows on the mean over the bootstrap
    samples, normal on the log scale; the spread over these samples is that of the references
    alone. A curve that meets radius 0 at or below 0 is refused. Cost: one search with 2.5 k2
    neighbours, then O(bootstraps n k2).
    """
    curve = curve_of(x_or_neighbors, k1, k2, degree, ridge, bootstraps, seed, threads)
    # A row that no bootstrap sample leaves k2 neighbours moves nothing.
    seen = np.maximum(curve.counts, 1.0)[:, None]
    moved = np.where(curve.counts[:, None] > 0.0, curve.sums / seen - curve.means[:, None], 0.0)
    slopes = _slopes(curve.intercept, curve.means)
    influence = np.asarray(np.einsum("pk,pnk->n", slopes, moved))
    value, found = curve.value(), curve.found
    stderr = dependent_stderr(influence - influence.mean(), found, sharing_at(value, LOSS))
    return estimate_of(value, stderr, sample_of(found), curve.method, "query rows", confidence)


@dataclass(frozen=True, eq=False)
class Curve:
    """Means of dimension and radius over the bootstrap samples (2, sizes), weights of the first.

    sums (2, n, sizes) and counts (n,): of the rows over the samples that leave them k2 neighbours.
    """

    found: Neighbors
    means: Array
    weight: Array
    sums: Array
    counts: Array
    degree: int
    ridge: float
    method: str

    def intercept(self, moved: Array) -> float:
        """At radius 0, of means as these."""
        return _intercept(moved[1], moved[0], self.weight, self.degree, self.ridge)

    def value(self) -> float:
        """The value of `geomle`, to the bit, without its interval, or one clear error."""
        value = self.intercept(self.means)
        if not value > 0.0:
            raise InputError(
                f"{self.method}: the curve through the radii meets radius 0 at {value:.3g}: the "
                "neighbourhoods are too large to extrapolate from; pass more rows or smaller k1 "
                "and k2"
            )
        return value


def curve_of(
    x_or_neighbors: Any,
    k1: int,
    k2: int,
    degree: int,
    ridge: float,
    bootstraps: int,
    seed: int,
    threads: int | None,
) -> Curve:
    """What `geomle` extrapolates, of its arguments; raises InputError on the same."""
    k1 = whole_number("k1", k1, 3)
    k2 = whole_number("k2", k2, k1 + 1)
    degree = whole_number("degree", degree, 1)
    if k2 - k1 + 1 <= degree:
        raise InputError(f"degree {degree} needs more than {degree} sizes k: widen k1..k2")
    ridge = real_number("ridge", ridge)
    if not 0.0 <= ridge < math.inf:
        raise InputError(f"ridge must be finite and at least 0, got {ridge!r}")
    bootstraps = whole_number("bootstraps", bootstraps, 2)
    found = _with_spare(x_or_neighbors, k2, threads)
    rng = generator(seed)
    logs = np.log(found.distances)
    shape = (len(logs), k2 - k1 + 1)
    sums, counts = np.zeros((2, *shape)), np.zeros(len(logs))
    drawn = []
    for _ in range(bootstraps):
        full, local = _sample(found, logs, k1, k2, rng)
        drawn.append(local.mean(axis=1))
        sums[:, full] += local
        counts[full] += 1.0
    dims, radii = np.stack(drawn, axis=1)
    weight = 1.0 / np.maximum(dims.std(axis=0, ddof=1), 1e-12 * dims.mean())
    means = np.stack([dims.mean(axis=0), radii.mean(axis=0) / radii.mean()])
    sums[1] /= radii.mean()
    method = f"GeoMLE, k = {k1}..{k2}"
    return Curve(found, means, weight, sums, counts, degree, ridge, method)


def _slopes(function: Callable[[Array], float], point: Array) -> Array:
    """Derivatives of a function by each element of its argument, by central differences."""
    found = np.empty_like(point)
    for place in np.ndindex(point.shape):
        step = np.zeros_like(point)
        step[place] = 1e-5 * point[place]
        found[place] = (function(point + step) - function(point - step)) / (2.0 * step[place])
    return found


def _with_spare(x_or_neighbors: Any, k2: int, threads: int | None) -> Neighbors:
    least = neighbors_of(x_or_neighbors, k2 + 2, "geomle", threads=threads)
    count = check_every_row(least, "geomle draws bootstrap samples from")
    return neighbors_of(
        x_or_neighbors, min(count - 1, math.ceil(SPARE * k2)), "geomle", threads=threads
    )


def _sample(
    found: Neighbors, logs: Array, k1: int, k2: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], Array]:
    """Rows with k2 neighbours in a bootstrap sample (n,), and dimension and radius of each of them
    for each k (2, m, k2 - k1 + 1)."""
    drawn = np.zeros(found.n_points, dtype=bool)
    # Only distinct rows are references; the first of equal rows stands for them.
    rows = found.queries
    drawn[rows[rng.integers(0, len(rows), len(rows))]] = True
    chosen, full = first_drawn(found.indices, drawn, k2)
    if not full.any():
        raise InputError(
            f"a bootstrap sample leaves fewer than k2 = {k2} neighbours: pass more rows or a "
            "smaller k2"
        )
    near = logs[chosen].reshape(-1, k2)
    sums = np.cumsum(near, axis=1)
    sizes = np.arange(k1, k2 + 1)
    total = (sizes - 1) * near[:, sizes - 1] - sums[:, sizes - 2]
    if not (total > 0.0).all():
        raise InputError(
            "the k1 nearest neighbours of a row are equally far, as on a grid: pass a larger k1"
        )
    radii = found.distances[chosen].reshape(-1, k2)[:, sizes - 1]
    return full, np.stack([(sizes - 2) / total, radii])


def _intercept(x: Array, y: Array, weight: Array, degree: int, ridge: float) -> float:
    """Weighted ridge regression of y on x, ..., x^degree; the intercept is not penalized."""
    powers = np.stack([x**p for p in range(1, degree + 1)], axis=1)
    center = weight @ powers / weight.sum()
    middle = float(weight @ y / weight.sum())
    left = powers - center
    gram = left.T @ (weight[:, None] * left) + ridge * np.eye(degree)
    slopes = np.linalg.solve(gram, left.T @ (weight * (y - middle)))
    return middle - float(center @ slopes)
