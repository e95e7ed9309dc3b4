"""ESS: expected simplex skewness, dimension from the angles within a neighbourhood."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, whole_number
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import average_of, rows_and_neighbors
from fastdim.estimators.tle import BLOCK_VALUES, neighborhood_grams
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
    up at dimensions where distances fall short, and reads curvature and noise as dimension. At
    small k it is low: k centered vectors span k - 1 dimensions. Interval: influence of the query
    rows. Cost: one search, then O(m k^2 d).
    """
    k = whole_number("k", k, 3)
    if version not in VERSIONS:
        raise InputError(f"version must be 'a' or 'b', got {version!r}")
    rows, found = rows_and_neighbors(x, k, "ess", neighbors, queries, seed, threads)
    local = ess_local(rows, found, version)
    return average_of(local, average, found, f"ESS{version}, k = {k}", confidence)


def ess_local(rows: Rows, found: Neighbors, version: str) -> Array:
    """Local dimensions (m,) of the query rows."""
    size = max(1, BLOCK_VALUES // (found.k * max(rows.d, found.k)))
    starts = range(0, len(found.queries), size)
    skewness = np.concatenate(
        [_skewness(neighborhood_grams(rows, found, s, s + size), version) for s in starts]
    )
    return _dimension(skewness, version)


def _skewness(gram: Array, version: str) -> Array:
    """The statistic of each neighbourhood (b,) from inner products (b, k, k)."""
    line = gram.mean(axis=1, keepdims=True)
    gram = gram - line - line.transpose(0, 2, 1) + line.mean(axis=2, keepdims=True)
    own = np.maximum(np.einsum("bii->bi", gram), 0.0)
    length = np.sqrt(own)
    # The diagonal has no area; of |u| |v| and |u.v| it is taken off again.
    weight = length.sum(axis=1) ** 2 - own.sum(axis=1)
    if version == "b":
        return np.asarray((np.abs(gram).sum(axis=(1, 2)) - own.sum(axis=1)) / weight)
    area = own[:, :, None] * own[:, None, :]
    area -= np.square(gram)
    np.maximum(area, 0.0, out=area)
    np.sqrt(area, out=area)
    diagonal = np.einsum("bii->bi", area).sum(axis=1)
    return np.asarray((area.sum(axis=(1, 2)) - diagonal) / weight)


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
