"""Query rows drawn evenly over all distances from the center, so that no far group is missed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_rows, generator, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.neighbors import find_distinct
from fastdim.query_far import center_of, references

Int64 = NDArray[np.int64]


def stratified_queries(x: Any, queries: int, *, seed: int = 0, threads: int | None = None) -> Int64:
    """Row numbers (m,) to pass as `queries`: a sample stratified by distance from the center.

    A count, `queries=m`, has far rows in proportion (docs/estimators.md); this goes further. The
    distinct rows are put in the order of their distance from the median of 65 rows, shuffled
    within layers of ceil(n/m), and every (n/m)-th is taken from a random start (systematic
    sampling of a list with implicit strata; Cochran, Sampling Techniques, 1977, ch. 5 and 8). Each
    row is drawn with probability m/n, as by a count, so no estimator needs weights. Of the g
    farthest rows at least floor(g / ceil(n/m)) are drawn.

    x: rows (n, d). queries: m, at most the number of distinct rows, else refused; equal rows count
    once, and the first of them is drawn, as by `knn(duplicates="collapse")`. Sorted, int64.
    Intervals of the estimators take the queries for a plain sample, whose variance is larger where
    the distance from the center tells of the value: they are then too wide (`gride` at n1 = 16 on a
    layer with 29 massive rows: errors 1.9 times the true ones). Cost: one pass over the rows beside
    finding equal ones. The same for any number of threads.

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
    center = center_of(rows.take(first[references(count)]))
    farthest = first[np.argsort(-rows.distances_from(center, workers)[first], kind="stable")]
    rng = generator(seed)
    # In random order within layers of ceil(n/m) rows, or neighbours in the list would always come
    # together, or never.
    layer = np.arange(count) // -(-count // wanted)
    farthest = farthest[np.lexsort((rng.random(count), layer))]
    # In whole numbers each row has probability m/n to the last bit, and none comes twice.
    places = (int(rng.integers(count)) + np.arange(wanted) * count) // wanted
    return np.sort(farthest[places])
