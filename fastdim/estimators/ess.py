"""ESS: expected simplex skewness, dimension from the angles within a neighbourhood."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import Sharing, average_of, rows_and_neighbors
from fastdim.estimators.tle import of_neighborhoods
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

VERSIONS = ("a", "b")


def ess(
    x: Any,
    k: int = 100,
    *,
    version: str = "a",
    average: str = "mean",
    neighbors: Neighbors | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by expected simplex skewness (Johnsson et al., IEEE TPAMI 37:196, 2015).

    The k neighbours of a row, less their mean, are vectors u. Version "a": the area of the triangle
    of two of them, sum sqrt(|u|^2 |v|^2 - (u.v)^2) / sum |u| |v| over all pairs, against its
    expectation for directions uniform in n dimensions; version "b": sum |u.v| / sum |u| |v|. The
    local dimension interpolates linearly between whole n.

    x: rows (n, d), reduced to distinct rows. neighbors: of the same x with at least k columns,
        where known. k >= number of distinct rows is refused. average: as in `levina_bickel`.

    Assumes directions uniform over a flat neighbourhood; nothing is asked of the radii, so it keeps
    up at dimensions where distances fall short. Bias: it reads curvature and noise as dimension; at
    small k it is low: k centered vectors span k - 1 dimensions. Interval: influence of the query
    rows; with every row of hidden states a query, 95 % held their target in 0.85 of subsets: sample
    queries there. Cost: one search, then O(m k^2 d).
    """
    k = whole_number("k", k, 3)
    if not isinstance(version, str) or version not in VERSIONS:
        raise InputError(f"version must be 'a' or 'b', got {version!r}")
    rows, found = rows_and_neighbors(x, k, "ess", neighbors, queries, seed, threads)
    local, sharing = ess_shared(rows, found, version, cpu.resolve_threads(threads))
    method = f"ESS{version}, k = {k}"
    return average_of(local, average, found, method, confidence, sharing)


def ess_local(rows: Rows, found: Neighbors, version: str, threads: int = 1) -> Array:
    """Local dimensions (m,) of the query rows."""
    return _dimension(_skewness_of(rows, found, version, threads)[:, 0], version)


def ess_shared(
    rows: Rows, found: Neighbors, version: str, threads: int = 1
) -> tuple[Array, Sharing]:
    """`ess_local`, and how much neighbourhoods share, whatever the average."""
    found_at = _skewness_of(rows, found, version, threads)
    local = _dimension(found_at[:, 0], version)
    factor = _sharing(found_at, local, found, rows.n, version)
    return local, Sharing(harmonic=factor, mean=factor, signs=factor)


def _skewness_of(rows: Rows, found: Neighbors, version: str, threads: int) -> Array:
    return of_neighborhoods(rows, found, partial(_skewness, version=version), threads)


def _sharing(found_at: Array, local: Array, found: Neighbors, n: int, version: str) -> float:
    """Variance of the mean over that of independent neighbourhoods (`dependent_stderr`).

    Neighbourhoods share most of their rows, so the factor is measured: a row moves the mean as a
    query and as a neighbour of others. Squares of that count each pair of rows from both ends, as a
    jackknife does, so about half of them is the variance: on flat tori of 2, 5, 10 dimensions, at
    k = 30, errors are then 0.97 to 1.01 times those of repetition.
    """
    step = 1e-4
    skewness = found_at[:, 0]
    with np.errstate(invalid="ignore"):
        rise = _dimension(skewness + step, version) - _dimension(skewness - step, version)
        moved = found_at[:, 1:] * (rise / (2.0 * step))[:, None]
    own = local - local.mean()
    total = np.bincount(found.indices.ravel(), moved.ravel(), minlength=n)
    total[found.queries] += own
    plain = float(np.square(own).sum())
    factor = 0.55 * float(np.square(total).sum()) / plain if plain > 0.0 else 1.0
    return max(1.0, factor) if math.isfinite(factor) else 1.0


def _skewness(near: NDArray[Any], version: str) -> Array:
    """Statistic and what each neighbour adds to it, (b, 1 + k), of rows (b, k, d) overwritten."""
    near -= near.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("bkd,bkd->bk", near, near))
    near /= np.where(length > 0.0, length, 1.0)[:, :, None]
    sine = near @ near.transpose(0, 2, 1)
    if version == "b":
        np.abs(sine, out=sine)
    else:
        # sqrt(|u|^2 |v|^2 - (u.v)^2) is |u| |v| times the sine between them.
        np.square(sine, out=sine)
        np.subtract(1.0, sine, out=sine)
        np.maximum(sine, 0.0, out=sine)
        np.sqrt(sine, out=sine)
    # A row with itself is no pair: of weights and of the sum it is left out.
    np.einsum("bii->bi", sine)[...] = 0.0
    total = (sine @ length[:, :, None])[:, :, 0].astype(np.float64)
    length = length.astype(np.float64)
    others = length.sum(axis=1, keepdims=True) - length
    weight = np.einsum("bk,bk->b", length, others)
    skewness = np.einsum("bk,bk->b", total, length) / weight
    added = 2.0 * length * (total - skewness[:, None] * others) / weight[:, None]
    return np.column_stack([skewness, added])


@cache
def reference(version: str, largest: int) -> Array:
    """Expected statistic in n = 1..largest dimensions: ascending for "a", descending for "b".

    a: Gamma(n/2)^2 / (Gamma((n+1)/2) Gamma((n-1)/2)); b: Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)).
    """
    n = np.arange(1.0, largest + 1.0)
    grow = n**2 / (n**2 - 1.0 + (n == 1.0)) if version == "a" else n / (n + 1.0)
    values = np.empty(largest)
    starts = {1: 2.0 / math.pi, 2: math.pi / 4.0} if version == "a" else {0: 1.0, 1: 2.0 / math.pi}
    if version == "a":
        values[0] = 0.0
    for start, first in starts.items():
        # Two dimensions more multiply by a rational number.
        steps = grow[start:largest:2]
        values[start::2] = first * np.concatenate([[1.0], np.cumprod(steps)[:-1]])
    return values


def _dimension(skewness: Array, version: str) -> Array:
    sign = 1.0 if version == "a" else -1.0
    largest = 32
    while largest < 1 << 20 and (sign * skewness > sign * reference(version, largest)[-1]).any():
        largest *= 2
    table = sign * reference(version, largest)
    found = np.interp(sign * skewness, table, np.arange(1.0, largest + 1.0))
    return np.where(sign * skewness > table[-1], np.inf, found)
