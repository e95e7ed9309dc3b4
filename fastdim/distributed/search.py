"""Exact nearest neighbours among rows spread over ranks: shards go round a ring, or queries to all.

Many queries: each rank searches its own rows among themselves and one visiting shard, while the
next shard is on its way. Few: every rank gets them all and searches its own rows for them. The k
best by (distance, row number) are kept. Distances are sums over the two rows alone, so they have
the bits that one process gives.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.backends import cpu
from fastdim.distributed.shard import Shard
from fastdim.errors import InputError
from fastdim.neighbors import Distinct, Neighbors, in_precision
from fastdim.query_far import far_among
from fastdim.query_plan import plan_queries, stated

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Queries go to all ranks where there are so many rows for each.
ROWS_PER_QUERY = 4

FARTHEST = np.iinfo(np.int64).max


def search(
    shard: Shard,
    k: int,
    queries: Any,
    groups: Distinct | None,
    threads: int,
    seed: int,
    duplicates: str | None = None,
) -> Neighbors:
    """`fastdim.neighbors.search` of the whole matrix; every rank gets all of it.

    queries: as there, row numbers of the whole matrix. groups: its equal rows.
    """
    begun = time.perf_counter()
    find_far = partial(far_rows, shard, threads=threads)
    k, count, chosen, far = plan_queries(shard.n, k, queries, groups, seed, find_far)
    collapsed = groups is not None and count < shard.n
    searched = shard.take(groups.first) if groups is not None and collapsed else shard
    numbers = np.arange(count) if chosen is None else chosen
    ranks = shard.ranks
    few = ROWS_PER_QUERY * len(numbers) <= count and bool((np.diff(numbers) > 0).all())
    if few:
        distances, indices = few_queries(searched, numbers, k, threads)
    else:
        places = searched.places(numbers)
        distances, indices = ring_search(searched, places, k, threads)
        distances, indices = ranks.concatenate(distances), ranks.concatenate(indices)
    if groups is not None:
        numbers, indices = groups.first[numbers], groups.first[indices]
        far = None if far is None else groups.first[far]
    isa = cpu.active_isa()
    plan: dict[str, int | str] = {
        "isa": isa,
        "strategy": "few" if few else "ring",
        "ranks": ranks.size,
    }
    return Neighbors(
        distances=in_precision(distances, shard.rows.dtype),
        indices=indices,
        queries=numbers,
        n_points=shard.n,
        n_distinct=None if groups is None else count,
        duplicates=duplicates or ("keep" if groups is None else "collapse"),
        backend=f"cpu-{isa}",
        plan=plan | stated(queries, count, chosen),
        seconds=time.perf_counter() - begun,
        far=far,
    )


def far_rows(shard: Shard, first: Int64 | None, threads: int) -> Int64:
    """`fastdim.query_far.far_rows` of the whole matrix, on every rank."""
    ranks = shard.ranks

    def distances(center: NDArray[Any]) -> Float64:
        return ranks.concatenate(ranks.each(lambda: shard.rows.distances_from(center, threads)))

    return far_among(first, shard.n, shard.fetch, distances)


def own_part(found: Neighbors, shard: Shard) -> Neighbors:
    """The queries that are rows of this rank."""
    low, high = np.searchsorted(found.queries, (shard.start, shard.stop))
    return replace(
        found,
        distances=found.distances[low:high],
        indices=found.indices[low:high],
        queries=found.queries[low:high],
    )


def ring_search(shard: Shard, places: Int64, k: int, threads: int) -> tuple[Float64, Int64]:
    """Distances (m, k) float64 and row numbers (m, k) of the rows at `places` of this rank.

    1 <= k < shard.n. Memory: a copy of the own rows, three shards of others, 16 k bytes a query.
    """
    own, ranks = shard.rows, shard.ranks
    best = Best(len(places), k)
    before = max(shard.counts[: ranks.rank], default=0)
    after = max(shard.counts[ranks.rank + 1 :], default=0)
    both = np.empty((before + own.n + after, own.d), dtype=own.data.dtype)
    both[before : before + own.n] = own.data
    seen = [False]

    def visit(owner: int, data: NDArray[Any]) -> None:
        # The own rows come along with every visitor; the first time they are news.
        if not len(places) or (seen[0] and not len(data)):
            return
        # In the order of their numbers: ties go to the smaller place.
        start = before - len(data) if owner < ranks.rank else before + own.n
        both[start : start + len(data)] = data
        start = min(start, before)
        joined = Rows(both[start : start + own.n + len(data)], own.dtype)
        kept = min(k, joined.n - 1)
        if kept == 0:
            return
        asked = places + (before - start)
        distances, indices, _ = cpu.knn(joined, asked, kept, threads)
        numbers = np.append(
            np.arange(len(data)) + int(shard.ends[owner]), np.arange(own.n) + shard.start
        )
        numbers = numbers if owner < ranks.rank else np.roll(numbers, own.n)
        best.offer(distances, numbers[indices], seen[0], shard.start, shard.stop)
        seen[0] = True

    if ranks.size == 1:
        ranks.each(lambda: visit(0, own.data[:0]))
    else:
        ranks.ring(own.data, ranks.size - 1, visit)
    return best.distances, best.indices


def few_queries(shard: Shard, numbers: Int64, k: int, threads: int) -> tuple[Float64, Int64]:
    """Distances (m, k) and row numbers (m, k) of the ascending row numbers, on every rank.

    Each rank looks among its own rows and the queries of the others: whichever of those is near is
    told by its own rank, in whose list fewer than k rows can come before it.
    """
    own, ranks = shard.rows, shard.ranks
    asked = shard.fetch(numbers)
    before, after = np.searchsorted(numbers, (shard.start, shard.stop))

    def look() -> tuple[Float64, Int64]:
        # In the order of their numbers: ties go to the smaller place.
        parts = [asked.data[:before], own.data, asked.data[after:]]
        joined = Rows(np.concatenate(parts), own.dtype)
        known = np.concatenate(
            [numbers[:before], np.arange(shard.start, shard.stop), numbers[after:]]
        )
        kept = min(k, joined.n - 1)
        if own.n == 0 or kept == 0:
            return np.zeros((len(numbers), 0)), np.zeros((len(numbers), 0), dtype=np.int64)
        distances, places, _ = cpu.knn(joined, np.searchsorted(known, numbers), kept, threads)
        found = known[places]
        mine = (found >= shard.start) & (found < shard.stop)
        return np.where(mine, distances, np.inf), np.where(mine, found, FARTHEST)

    best = Best(len(numbers), k)
    for distances, indices in ranks.gather(ranks.each(look)):
        best.offer(distances, indices, False, 0, 0)
    return best.distances, best.indices


class Best:
    """The k best of each query so far by (distance, row number), ascending; inf where fewer."""

    def __init__(self, count: int, k: int) -> None:
        self.k = k
        self.distances = np.full((count, k), np.inf)
        self.indices = np.full((count, k), FARTHEST, dtype=np.int64)

    def offer(self, distances: Float64, indices: Int64, seen: bool, start: int, stop: int) -> None:
        """Take in more; rows from start to stop were offered before if `seen`."""
        if seen:
            again = (indices >= start) & (indices < stop)
            distances = np.where(again, np.inf, distances)
            indices = np.where(again, FARTHEST, indices)
        distances = np.concatenate([self.distances, distances], axis=1)
        indices = np.concatenate([self.indices, indices], axis=1)
        order = np.lexsort((indices, distances), axis=1)[:, : self.k]
        self.distances = np.take_along_axis(distances, order, axis=1)
        self.indices = np.take_along_axis(indices, order, axis=1)


def check_queries(queries: Any) -> None:
    """Raise InputError unless None, a number of rows, or an error such as "1%"."""
    if not (queries is None or isinstance(queries, (int, np.integer, str))):
        raise InputError(
            "queries over several ranks are None, a number of rows, or an error such as '1%'; got "
            f"{type(queries).__name__}"
        )
