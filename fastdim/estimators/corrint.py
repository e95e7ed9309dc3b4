"""Correlation dimension between two radii."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate, clustered_stderr
from fastdim.estimators.inputs import estimate_of, neighbors_of, rows_of, sample_of
from fastdim.neighbors import Distinct, Prepared, find_distinct, prepare, search

Array = NDArray[np.float64]

BLOCK_VALUES = 1 << 22


def corrint(
    x: Any,
    k1: int = 10,
    k2: int = 20,
    *,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """Correlation dimension (Grassberger & Procaccia, 1983; radii as Hein & Audibert, ICML 2005).

    log(C(b) / C(a)) / log(b / a), C(r) the share of pairs of rows closer than r, with a and b the
    medians over the rows of the distance to the k1-th and k2-th neighbour.

    x: rows (n, d), reduced to distinct rows; k2 >= number of distinct rows is refused. Every pair
    is counted, by searches that ask for as many neighbours as a row has within b.

    Assumes one scale for all rows: dense regions weigh more, which other estimators avoid. Bias:
    low at high dimension and finite n, more than `levina_bickel`. Interval: influence of the rows
    (a pair belongs to both its rows), the radii taken as fixed. Cost: the searches;
    all pairs where most rows lie within b of each other.
    """
    rows = rows_of(x, "corrint")
    k1 = whole_number("k1", k1, 1)
    k2 = whole_number("k2", k2, k1 + 1)
    workers = cpu.resolve_threads(threads)
    if not isinstance(rows, Prepared):
        rows = prepare(rows, k=k2, threads=threads)  # several searches follow
    groups = find_distinct(rows, workers)
    found = neighbors_of(rows, k2, "corrint", threads=threads)
    radii = np.median(found.distances[:, [k1 - 1, k2 - 1]], axis=0)
    if not radii[1] > radii[0]:
        raise InputError(
            f"the medians of the distances to neighbours {k1} and {k2} are equal ({radii[0]:g}): "
            "choose k1 and k2 further apart"
        )
    counts = (found.distances[:, :, None] < radii).sum(axis=1)
    open_rows = np.flatnonzero(found.distances[:, -1] < radii[1])
    counts[open_rows] = _count(rows, groups, open_rows, radii, 4 * k2, workers)
    shares = counts.mean(axis=0)
    if not shares[0] > 0.0:
        raise InputError("no pair of rows is closer than the smaller radius: pass a larger k1")
    width = math.log(radii[1] / radii[0])
    return estimate_of(
        math.log(shares[1] / shares[0]) / width,
        _stderr(counts, shares, width),
        sample_of(found),
        f"correlation integral, k = {k1}, {k2}",
        "query rows",
        confidence,
    )


def _stderr(counts: NDArray[np.int64], shares: Array, width: float) -> float:
    """Standard error from the neighbours of each row within both radii (n, 2), and their means.

    Rows' influence counts each pair from both ends: squared, it holds 4/n^2 of the pairs' own
    variance, of which 2/n^2 is there (Hoeffding, Ann. Math. Stat. 19:293, 1948). Uniform rows have
    hardly any other.
    """
    rows = counts[:, 1] / shares[1] - counts[:, 0] / shares[0]
    pairs = shares[0] * (1.0 / shares[0] - 1.0 / shares[1]) ** 2
    pairs += (shares[1] - shares[0]) / shares[1] ** 2
    variance = 4.0 * float(clustered_stderr(rows, None)) ** 2 - 2.0 * pairs / len(rows)
    # Of independent pairs the difference is as large as what is taken off.
    return math.sqrt(max(variance, pairs / len(rows))) / width


def _count(
    rows: Rows,
    groups: Distinct,
    places: NDArray[np.int64],
    radii: Array,
    k: int,
    threads: int,
) -> NDArray[np.int64]:
    """Distinct rows within each radius of those at `places` (m,), as (m, 2)."""
    limit = len(groups.first) - 1
    counts = np.zeros((len(places), 2), dtype=np.int64)
    waiting = np.arange(len(places))
    while len(waiting):
        k = min(k, limit)
        size = max(1, BLOCK_VALUES // k)
        unfinished = []
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            near = search(rows, k, groups.first[places[part]], groups, threads, 0).distances
            near = near.astype(np.float64)
            counts[part] = (near[:, :, None] < radii).sum(axis=1)
            unfinished.append(part[(near[:, -1] < radii[1]) & (k < limit)])
        waiting = np.concatenate(unfinished)
        k *= 4
    return counts
