"""Local dimension: one number a row from its own neighbourhood; MOM and MADA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import one_of, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.ess import ess_local
from fastdim.estimators.inputs import (
    Sharing,
    average_of,
    falling,
    neighbors_of,
    rows_and_neighbors,
    sharing_at,
)
from fastdim.estimators.mle import inverse_mle
from fastdim.estimators.tle import tle_local
from fastdim.neighbors import Neighbors, find_distinct

Array = NDArray[np.float64]

METHODS = ("mle", "mom", "mada", "tle", "ess")
# Of MOM on flat tori of 2, 5, 10 dimensions: harmonic mean 1.7, 1.8, 1.9, mean 1.0, 1.4, 1.7, signs
# 1.4, 1.4, 1.6.
MOM_SHARING = Sharing(harmonic=1.8, mean=partial(sharing_at, loss=3.5), signs=1.45)
SMOOTH = ("none", "mean", "harmonic")


def mada_sharing(k: int) -> Sharing:
    """Factors of MADA. On flat tori of 2, 5, 10 dimensions at k = 20 the harmonic mean has 1.9,
    1.7, 1.6 and the signs 1.6, 1.4, 1.5; the mean, in which large values of few rows count, 1.1 to
    1.2 at k = 5, 1.3 to 1.5 at 20, 1.5 to 1.7 at 100."""
    mean = 1.0 + 0.4 * math.log(k) / math.log(20.0)
    return Sharing(harmonic=partial(falling, level=1.5, rise=0.9), mean=mean, signs=1.45)


def mom_local(distances: Array) -> Array:
    """m1 / (w - m1) of each row: m1 the mean and w the largest of its distances (m, k)."""
    mean = distances.mean(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(mean / np.maximum(distances[:, -1] - mean, 0.0))


def mada_local(distances: Array) -> Array:
    """log(k / h) / log(r_k / r_h) of each row, h = k // 2, of distances (m, k)."""
    k = distances.shape[1]
    with np.errstate(divide="ignore"):
        return np.asarray(
            np.log(k / (k // 2)) / np.log(distances[:, -1] / distances[:, k // 2 - 1])
        )


def mom(
    x_or_neighbors: Any,
    k: int = 100,
    *,
    average: str = "mean",
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by the method of moments (Amsaleg et al., DMKD 32:1768, 2018).

    For a density r^(d-1) within w, E r = w d / (d + 1): each row's d is m1 / (w - m1), with m1 the
    mean of its k distances and w the largest; one number by `average` ("mean", "harmonic",
    "median"). The largest distance is counted in the mean, as published, and the
    arithmetic mean adds to it: on uniform rows 11 % high at k = 20, 2 % at k = 100.

    Rows are reduced to distinct rows; Neighbors need at least k columns and no zero distance;
    k >= number of distinct rows is refused. Assumes a density that is constant up to the k-th
    neighbour. Further bias as `levina_bickel`. Interval: influence of the query rows. Cost: one
    search, then O(m k).
    """
    k = whole_number("k", k, 2)
    found = neighbors_of(x_or_neighbors, k, "mom", queries=queries, seed=seed, threads=threads)
    local = mom_local(found.distances)
    return average_of(local, average, found, f"MOM, k = {k}", confidence, MOM_SHARING)


def mada(
    x_or_neighbors: Any,
    k: int = 20,
    *,
    average: str = "mean",
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Manifold-adaptive dimension (Farahmand, Szepesvari & Audibert, ICML 2007).

    Each row's d is log(k / h) / log(r_k / r_h), h = k // 2: the growth of the count between two
    radii; log 2 on top where k is even, as published. One number by `average`.

    Rows are reduced to distinct rows; Neighbors need at least k columns and no zero distance;
    k >= number of distinct rows is refused, and so is a row with r_k = r_h under "mean". Bias, on
    uniform rows at k = 20: "mean" 8 % high, "harmonic" 3.5 % low. Assumes a density that is
    constant up to the k-th neighbour. Further bias as `levina_bickel`. Interval: influence of the
    query rows; with every row of hidden states a query, 95 % held their target in 0.77 to 0.96 of
    subsets: sample queries there. Cost: one search, then O(m).
    """
    k = whole_number("k", k, 2)
    found = neighbors_of(x_or_neighbors, k, "mada", queries=queries, seed=seed, threads=threads)
    local = mada_local(found.distances)
    return average_of(local, average, found, f"MADA, k = {k}", confidence, mada_sharing(k))


@dataclass(frozen=True, eq=False)
class LocalDimension:
    """Local dimensions of the query rows.

    values: (m,), infinite where all k neighbours are equally far. smoothed: (m,), or None where it
    was not asked for. queries: (m,) row numbers, the first of the rows equal to each. place: (n,)
    where each row given stands in `values`, -1 if it was no query; None for Neighbors.
    """

    values: Array
    smoothed: Array | None
    queries: NDArray[np.int64]
    place: NDArray[np.int64] | None
    method: str

    def of_rows(self) -> Array:
        """Value of every row given (n,), smoothed if that was asked for; nan if it was no query."""
        if self.place is None:
            raise InputError("Neighbors do not say which rows are equal: pass the rows to have it")
        known = self.values if self.smoothed is None else self.smoothed
        return np.asarray(np.append(known, np.nan)[self.place])


def local_dimension(
    x_or_neighbors: Any,
    k: int = 20,
    *,
    method: str = "mle",
    smooth: str = "none",
    neighbors: Neighbors | None = None,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> LocalDimension:
    """Dimension around every row, from its k nearest distinct rows.

    method: "mle" (`levina_bickel`, k - 1), "mom", "mada", "tle" or "ess"; the last two read rows.
    smooth: "mean": each value becomes the mean of its own and its k neighbours' (scikit-dimension);
        "harmonic": 1 / the mean of 1/d, unbiased for "mle". It needs every distinct row as a query.
    neighbors: of the same x, where they were computed before.

    "mle": 1/d = sum_{j<k} log(r_k / r_j) / (k - 1) (Levina & Bickel, NIPS 2004). "mom":
    m / (r_k - m), m the mean of the k distances (Amsaleg et al., DMKD 32:1768, 2018). "mada":
    log(k / h) / log(r_k / r_h), h = k // 2 (Farahmand et al., ICML 2007). "tle": Amsaleg et al.,
    SDM 2019, "ess": Johnsson et al., IEEE TPAMI 37:196, 2015, formulas in `tle` and `ess` ("a").

    Assumes k neighbours in one flat piece of uniform density ("ess": of uniform directions). Bias
    of "mle": 1/d, not d, is unbiased, d is a share 1/(k - 2) high; at k = 20 "mom" is 11 %, "mada"
    8 % high; all are low at high dimension, "ess" at small k. A local value rests on k distances:
    no interval; its relative error is about 1/sqrt(k - 1), and neighbours' values are not
    independent.
    Rows are reduced to distinct rows, zero distances and k >= their number are refused. Cost: one
    search, then O(m k), "tle" and "ess" O(m k^2 d).
    """
    k = whole_number("k", k, 2)
    one_of("method", method, METHODS)
    one_of("smooth", smooth, SMOOTH)
    name = f"local_dimension, {method}"
    place = None
    if isinstance(x_or_neighbors, Neighbors) and method in ("mle", "mom", "mada"):
        found = neighbors_of(x_or_neighbors, k, name, queries=queries)
    else:
        rows, found = rows_and_neighbors(x_or_neighbors, k, name, neighbors, queries, seed, threads)
        groups = find_distinct(rows, cpu.resolve_threads(threads))
        place = _places(found.queries, groups.first)[groups.inverse]
    if method == "tle":
        values = tle_local(rows, found, cpu.resolve_threads(threads))
    elif method == "ess":
        values = ess_local(rows, found, "a", cpu.resolve_threads(threads))
    elif method == "mle":
        with np.errstate(divide="ignore"):
            values = 1.0 / inverse_mle(found.distances, k)
    else:
        values = {"mom": mom_local, "mada": mada_local}[method](found.distances)
    smoothed = None if smooth == "none" else _smooth(values, found, smooth)
    return LocalDimension(values, smoothed, found.queries, place, f"{method}, k = {k}")


def _places(sorted_numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each wanted number among sorted ones, -1 where it is missing."""
    place = np.minimum(np.searchsorted(sorted_numbers, wanted), len(sorted_numbers) - 1)
    return np.where(sorted_numbers[place] == wanted, place, -1)


def _smooth(values: Array, found: Neighbors, smooth: str) -> Array:
    place = _places(found.queries, found.indices)
    if (place < 0).any():
        raise InputError(
            "smoothing needs the local dimension of every neighbour: leave queries out, or pass "
            "Neighbors of every row"
        )
    patch = np.column_stack([values, values[place]])
    with np.errstate(divide="ignore"):
        smoothed = patch.mean(axis=1) if smooth == "mean" else 1.0 / (1.0 / patch).mean(axis=1)
    return np.asarray(smoothed)
