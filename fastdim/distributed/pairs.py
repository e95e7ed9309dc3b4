"""Cosines of pairs of rows that lie on different ranks: each pair of shards meets once.

Shards go half way round the ring. Where the number of ranks is even, two ranks meet each other in
the last step: each takes half of the lower one's rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, generator
from fastdim.backends import cpu
from fastdim.cosine import (
    CosineStats,
    add_pairs,
    draw_pairs,
    sampled_pairs,
    with_all_pairs,
    with_sample,
)
from fastdim.distributed.shard import Shard

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def add_pairs_together(
    found: CosineStats,
    shard: Shard,
    inverse: Float64,
    bins: int,
    pairs: int | str | None,
    seed: int,
    threads: int,
    sample: Float64 | None = None,
) -> CosineStats:
    """`fastdim.cosine.add_pairs` of the whole matrix with precision "exact", on every rank.

    inverse: 1/|row| of all rows, 0 for one that takes no part.
    """
    used = np.flatnonzero(inverse)
    count = sampled_pairs(pairs, len(used))
    if count is None:
        histogram, low, high, arithmetic = _every_pair(found, shard, inverse, bins, seed, threads)
        found = with_all_pairs(found, histogram, low, high)
    else:
        cosines = sample
        if cosines is None:
            first, second = draw_pairs(generator(seed), len(used), count)
            cosines = pair_cosines(shard, inverse, used[first], used[second], threads)
        found, arithmetic = with_sample(found, cosines, bins), "float64"
    backend = f"cpu-{cpu.active_isa()}"
    return replace(found, backend=backend, precision="exact", arithmetic=arithmetic)


def meetings(size: int) -> int:
    """Steps of a ring after which each rank has met, or been met by, every other."""
    return size // 2


def pair_cosines(
    shard: Shard, inverse: Float64, first: Int64, second: Int64, threads: int
) -> Float64:
    """Cosines (count,) of pairs of row numbers, in their order, on every rank.

    inverse: 1/|row| (n,). The bits are those of `fastdim.cosine.pair_cosines`.
    """
    ranks = shard.ranks
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    owners = np.searchsorted(shard.ends, (lower, upper), side="right") - 1
    which: list[Int64] = []
    found: list[Float64] = []

    def meet(other: int, data: NDArray[Any]) -> None:
        mine = ranks.rank
        if 2 * ((mine - other) % ranks.size) == ranks.size and mine > other:
            return  # they meet there as well
        low, high = min(mine, other), max(mine, other)
        taken = np.flatnonzero((owners[0] == low) & (owners[1] == high))
        if not len(taken):
            return
        joined, numbers = _joined(shard, other, data)
        # Both runs of numbers ascend; which of them comes first does not matter to a pair.
        order = np.argsort(numbers)
        places = order[np.searchsorted(numbers, (lower[taken], upper[taken]), sorter=order)]
        turn = np.argsort(places[0], kind="stable")
        cosines = np.empty(len(taken))
        cosines[turn] = cpu.cosine_pairs(
            joined, inverse[numbers], places[0][turn], places[1][turn], threads
        )
        which.append(taken)
        found.append(cosines)

    ranks.each(lambda: meet(ranks.rank, shard.rows.data[:0]))
    ranks.ring(shard.rows.data, meetings(ranks.size), meet)
    out = np.full(len(first), np.nan)
    taken = ranks.concatenate(np.concatenate([np.zeros(0, dtype=np.int64), *which]))
    out[taken] = ranks.concatenate(np.concatenate([np.zeros(0), *found]))
    return out


def _joined(shard: Shard, other: int, data: NDArray[Any]) -> tuple[Rows, Int64]:
    """The own rows with those of another rank (none of its own), and the numbers of all."""
    numbers = np.arange(shard.start, shard.stop)
    if other == shard.ranks.rank:
        return shard.rows, numbers
    start = int(shard.ends[other])
    rows = Rows(np.concatenate([shard.rows.data, data]), shard.rows.dtype)
    return rows, np.append(numbers, np.arange(start, start + len(data)))


def _every_pair(
    found: CosineStats, shard: Shard, inverse: Float64, bins: int, seed: int, threads: int
) -> tuple[Int64, float, float, str]:
    """Histogram (bins,), minimum and maximum over all pairs, and the arithmetic of the tiles.

    The kernel counts the pairs inside one matrix; those between A and B are the pairs inside both
    together, less those inside A and those inside B: whole numbers, so nothing is lost.
    """
    ranks = shard.ranks
    total = np.zeros(bins, dtype=np.int64)
    ends: list[float] = []
    names: list[str] = []

    def inside(rows: Rows, scale: Float64) -> Int64:
        """Counts of the pairs inside a matrix; every extreme seen is one of the whole."""
        if int((scale > 0).sum()) < 2:
            return np.zeros(bins, dtype=np.int64)
        one = add_pairs(found, rows, scale, bins, "all", seed, threads)
        ends.extend((one.min, one.max))
        names.append(one.arithmetic)
        return one.histogram

    own_scale = np.ascontiguousarray(shard.own(inverse))
    own = ranks.each(lambda: inside(shard.rows, own_scale))
    alone = ranks.gather(own)
    total += own

    def meet(other: int, data: NDArray[Any]) -> None:
        mine, rows, scale, count = ranks.rank, shard.rows, own_scale, own
        start = int(shard.ends[other])
        theirs = np.ascontiguousarray(inverse[start : start + len(data)])
        there = alone[other]
        if 2 * ((mine - other) % ranks.size) == ranks.size:
            # Both meet: the lower rank's rows are halved, the first half is its own work.
            if mine < other:
                half = rows.n // 2
                rows, scale = Rows(rows.data[:half], rows.dtype), scale[:half]
                count = inside(rows, scale)
            else:
                data, theirs = data[len(data) // 2 :], theirs[len(theirs) // 2 :]
                there = inside(Rows(data, rows.dtype), theirs)
        joined = Rows(np.concatenate([rows.data, data]), rows.dtype)
        total[...] += inside(joined, np.append(scale, theirs)) - count - there

    ranks.ring(shard.rows.data, meetings(ranks.size), meet)
    told = ranks.gather((total, ends, names))
    extremes = np.array([end for _, some, _ in told for end in some])
    histogram = np.sum([counts for counts, _, _ in told], axis=0)
    arithmetic = "+".join(sorted({name for _, _, some in told for name in some}))
    return histogram, float(np.fmin.reduce(extremes)), float(np.fmax.reduce(extremes)), arithmetic
