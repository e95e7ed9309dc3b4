"""Query rows drawn evenly over all distances from the mean, so that no far group is missed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, generator, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.neighbors import find_distinct

Int64 = NDArray[np.int64]


def stratified_queries(x: Any, queries: int, *, seed: int = 0, threads: int | None = None) -> Int64:
    """Row numbers (m,) to pass as `queries`: a sample stratified by distance from the mean row.

    The distinct rows are put in the order of their distance from the mean of all rows, shuffled
    within layers of ceil(n/m), and every (n/m)-th is taken from a random start (systematic
    sampling of a list with implicit strata; Cochran, Sampling Techniques, 1977, ch. 5 and 8). Each
    row is drawn with probability m/n, as by a count, so no estimator needs weights. Of the g
    farthest rows at least floor(g / ceil(n/m)) are drawn. A plain sample of 500 of 8,000 rows
    misses 29 massive rows altogether in 15 % of the cases, and no interval made of those 500 can
    know of them.

    x: rows (n, d). queries: m, at most the number of distinct rows, else refused; equal rows count
    once, and the first of them is drawn, as by `knn(duplicates="collapse")`. Sorted, int64.
    Intervals of the estimators take the queries for a plain sample, whose variance is larger where
    the distance from the mean tells of the value: they are then too wide (`gride` at n1 = 16 on a
    layer with 31 massive rows: held in 1.000 of 200 seeds for 0.835, errors 1.9 times the true
    ones). Cost: two passes over the rows beside finding equal ones. The same for any number of
    threads.

    Raises InputError where there are fewer distinct rows, or on bad values.
    """
    wanted = whole_number("queries", queries, 1)
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, min_rows=2, threads=workers)
    first = find_distinct(rows, workers).first
    if wanted > len(first):
        raise InputError(
            f"queries must be at most the number of distinct rows, {len(first)} of {rows.n}; got "
            f"{wanted}: pass fewer, or queries=None for all rows"
        )
    count = len(first)
    farthest = first[np.argsort(-_from_mean(rows)[first], kind="stable")]
    rng = generator(seed)
    # In random order within layers of ceil(n/m) rows, or neighbours in the list would always come
    # together, or never.
    layer = np.arange(count) // -(-count // wanted)
    farthest = farthest[np.lexsort((rng.random(count), layer))]
    # In whole numbers each row has probability m/n to the last bit, and none comes twice.
    places = (int(rng.integers(count)) + np.arange(wanted) * count) // wanted
    return np.sort(farthest[places])


def _from_mean(rows: Rows) -> NDArray[np.float64]:
    """Distance of each row (n,) from the mean of all."""
    total = np.zeros(rows.d)
    for start, stop in rows.spans():
        total += rows.float64(start, stop).sum(axis=0)
    mean = total / rows.n
    found = np.empty(rows.n)
    for start, stop in rows.spans():
        centered = rows.float64(start, stop) - mean
        largest = np.abs(centered).max(axis=1)  # squares of tiny values vanish
        centered /= np.where(largest > 0.0, largest, 1.0)[:, None]
        found[start:stop] = largest * np.sqrt(np.einsum("ij,ij->i", centered, centered))
    return found
