"""Cosine statistics of a matrix on disk, under a limit of memory.

Norms, sums and forms of rows are added tile by tile. Pairs are visited in pairs of tiles: with H(A)
the histogram of all pairs within A, and p tiles,

    H(all) = sum over i < j of H(tile i and tile j) - (p - 2) sum over i of H(tile i).

A count is that of the float64 cosines, which depend on two rows alone and not on which comes first,
so the difference is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim import cosine, quadratic
from fastdim.arrays import Rows, as_groups, generator
from fastdim.backends import cpu
from fastdim.covariance import Covariance, covariance_of
from fastdim.disk import budget, state
from fastdim.disk.rows import DiskRows, open_rows
from fastdim.disk.tiles import Matrix, Tiles, opened
from fastdim.errors import InputError
from fastdim.estimate import check_confidence
from fastdim.moments import Sums, inverse_norms, near_mean, shift_rows, sums

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# What is kept of a row: norm, forms, influences and labels, and copies of them while they are made.
ROW = 240
# Of a sampled pair: two row numbers, their order, a cosine, twice.
PAIR = 96


@dataclass(frozen=True, eq=False)
class Visit:
    """What goes over the tiles."""

    source: DiskRows
    tiles: Tiles
    plan: budget.Plan
    threads: int
    kept: state.State

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The tiles (start, stop)."""
        return self.plan.blocks(self.source.n)

    def each(self, done: int = 0) -> Iterator[tuple[int, int, int, Rows]]:
        """Number, start, stop and rows of each tile from number `done` on."""
        blocks = self.blocks
        for number in range(done, len(blocks)):
            start, stop = blocks[number]
            rows = self.tiles.load([(start, stop)])
            if number + 1 < len(blocks):
                self.tiles.ahead(*blocks[number + 1])
            yield number, start, stop, rows

    def pairs(self, tasks: list[tuple[int, int]], done: int) -> Iterator[tuple[int, Int64, Rows]]:
        """Number, row numbers and rows of the tasks (i, j), i <= j, from number `done` on."""
        blocks = self.blocks
        for number in range(done, len(tasks)):
            ranges = [blocks[tile] for tile in dict.fromkeys(tasks[number])]
            rows = self.tiles.load(ranges)
            if number + 1 < len(tasks):
                self.tiles.ahead(*blocks[tasks[number + 1][1]])
            yield number, np.concatenate([np.arange(*one) for one in ranges]), rows


def cosine_stats(
    x: Any,
    bins: int,
    pairs: int | str | None,
    groups: Any,
    seed: int,
    confidence: float,
    threads: int | None,
    memory: Any,
    resume: str | Path | None,
) -> cosine.CosineStats:
    """`fastdim.cosine_stats` of what `open_rows` reads, in at most about `memory` bytes."""
    limit = budget.parse_memory(memory)
    source = open_rows(x)
    if source.n < 2 or source.d < 2:
        raise InputError(f"x needs at least 2 rows and 2 columns, got {source.n} x {source.d}")
    workers = cpu.resolve_threads(threads)
    labels = as_groups(groups, source.n)
    check_confidence(confidence)
    drawn = cosine.sampled_pairs(pairs, source.n) or 0
    held = ROW * source.n + PAIR * drawn + 16 * bins
    plan = budget.plan_cosines(limit, source.n, source.row_bytes, source.d, held)
    definition = {
        "operation": "cosine_stats",
        "x": source.identity() if resume is not None else None,
        "bins": bins,
        "pairs": state.plain(pairs),
        "seed": state.plain(seed),
        "memory": limit,
        "isa": cpu.active_isa(),
    }
    with (
        state.opened(resume, definition) as kept,
        opened(Matrix(source), plan.rows, workers) as tiles,
    ):
        visit = Visit(source, tiles, plan, workers, kept)
        inverse = _inverse_norms(visit)
        found = _moments(visit, inverse, labels, confidence)
        return _with_pairs(visit, found, inverse, bins, pairs, seed)


def _inverse_norms(visit: Visit) -> Float64:
    saved = visit.kept.load("norms")
    if saved is not None:
        return saved["inverse"]
    inverse = np.empty(visit.source.n)
    for _, start, stop, rows in visit.each():
        inverse[start:stop] = inverse_norms(rows, rows.norms(), start)
    visit.kept.save("norms", {"inverse": inverse})
    return inverse


def _moments(
    visit: Visit, inverse: Float64, labels: Int64 | None, confidence: float
) -> cosine.CosineStats:
    """Mean and spread over all pairs."""
    source = visit.source
    used = inverse > 0
    count = int(used.sum())
    if count < 2:
        raise InputError(
            f"cosines need at least two rows that are not zero, got {count} of {source.n}"
        )
    if count <= max(cosine.DIRECT_ROWS, source.d):
        found = cosine.sums_of_pairs(source.take(np.flatnonzero(used)), inverse[used], count)
    else:
        ids = None if used.all() else np.flatnonzero(used)
        known = covariance_of(_sums(visit, inverse), ids, inverse)
        found = quadratic.pair_sums(known, _added(visit, known, inverse))
    some = None if labels is None else labels[used]
    group_count = 0 if labels is None else int(labels.max()) + 1
    return cosine.moments_of(source.n, count, found, some, group_count, confidence)


def _local(inverse: Float64, start: int, stop: int) -> tuple[Int64 | None, Float64]:
    """Of a tile the places of the rows that are not zero (None: all), and the scales."""
    scale = inverse[start:stop]
    return (None if (scale > 0).all() else np.flatnonzero(scale)), scale


def _sums(visit: Visit, inverse: Float64) -> Sums:
    """Moments of the unit rows, about the point that a search in memory takes."""
    saved = visit.kept.load("sums")
    if saved is None:
        chosen = shift_rows(np.arange(visit.source.n) if inverse.all() else np.flatnonzero(inverse))
        shift, done, total = near_mean(visit.source.take(chosen), inverse[chosen]), 0, None
    else:
        shift, done = saved["shift"], int(saved["done"][0])
        total = Sums(shift, int(saved["done"][1]), saved["total"], saved["outer"])
    for number, start, stop, rows in visit.each(done):
        ids, scale = _local(inverse, start, stop)
        if ids is None or len(ids):
            part = sums(rows, shift, visit.threads, ids, scale)
            total = part if total is None else total + part
        if total is not None:
            visit.kept.save(
                "sums",
                {
                    "shift": shift,
                    "done": np.array([number + 1, total.count]),
                    "total": total.total,
                    "outer": total.outer,
                },
            )
    assert total is not None  # at least two rows are not zero
    return total


def _added(visit: Visit, known: Covariance, inverse: Float64) -> quadratic.Added:
    """`quadratic.added` of all rows that are not zero, tile by tile."""
    axes = quadratic.axes_of(known, quadratic.judged(known, visit.source.take))
    found = []
    for _, start, stop, rows in visit.each():
        ids, scale = _local(inverse, start, stop)
        if ids is None or len(ids):
            own = replace(known, ids=ids, scale=scale)
            found.append(quadratic.added_by(rows, own, axes, visit.threads))
    return quadratic.joined(found)


def _with_pairs(
    visit: Visit,
    found: cosine.CosineStats,
    inverse: Float64,
    bins: int,
    pairs: int | str | None,
    seed: int,
) -> cosine.CosineStats:
    """`cosine.add_pairs` over pairs of tiles."""
    used = np.flatnonzero(inverse)
    count = cosine.sampled_pairs(pairs, len(used))
    if count is None:
        histogram, low, high, arithmetic = _all_pairs(visit, inverse, bins)
        found = cosine.with_all_pairs(found, histogram, low, high)
    else:
        arithmetic = "float64"
        first, second = cosine.draw_pairs(generator(seed), len(used), count)
        cosines = _sampled(visit, inverse, used[first], used[second])
        found = cosine.with_sample(found, cosines, bins)
    backend = f"cpu-{cpu.active_isa()}"
    return replace(found, backend=backend, precision="exact", arithmetic=arithmetic)


def _all_pairs(visit: Visit, inverse: Float64, bins: int) -> tuple[Int64, float, float, str]:
    """Histogram, minimum and maximum over all pairs, and the arithmetic of the last tiles ("" where
    all were finished before).
    """
    tiles = len(visit.blocks)
    tasks = [(i, j) for i in range(tiles) for j in range(i, tiles)]
    if tiles == 2:
        tasks = [(0, 1)]
    done, total, low, high = 0, np.zeros(bins, dtype=np.int64), np.inf, -np.inf
    saved = visit.kept.load("pairs")
    if saved is not None:
        done, total = int(saved["done"][0]), saved["histogram"]
        low, high = (float(value) for value in saved["range"])
    arithmetic = ""
    for number, numbers, rows in visit.pairs(tasks, done):
        local = inverse[numbers]
        i, j = tasks[number]
        if np.count_nonzero(local) > 1:
            part, least, most, arithmetic = cosine.visit_pairs(
                rows, local, bins, visit.threads, "exact"
            )
            total += part * (1 if i != j or tiles == 1 else 2 - tiles)
            low, high = min(low, least), max(high, most)
        visit.kept.save(
            "pairs",
            {
                "done": np.array([number + 1]),
                "histogram": total,
                "range": np.array([low, high]),
            },
        )
    return total, low, high, arithmetic


def _sampled(visit: Visit, inverse: Float64, first: Int64, second: Int64) -> Float64:
    """Cosines of the pairs of rows, in their order."""
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    tile = visit.plan.tile
    key = (lower // tile) * len(visit.blocks) + upper // tile
    order = np.lexsort((lower, key))
    wanted, begins = np.unique(key[order], return_index=True)
    ends = np.append(begins[1:], len(order))
    tasks = [(int(one) // len(visit.blocks), int(one) % len(visit.blocks)) for one in wanted]
    done, cosines = 0, np.full(len(first), np.nan)
    saved = visit.kept.load("sampled")
    if saved is not None:
        done, cosines = int(saved["done"][0]), saved["cosines"]
    for number, numbers, rows in visit.pairs(tasks, done):
        at = order[begins[number] : ends[number]]
        one, other = np.searchsorted(numbers, lower[at]), np.searchsorted(numbers, upper[at])
        cosines[at] = cpu.cosine_pairs(rows, inverse[numbers], one, other, visit.threads)
        visit.kept.save("sampled", {"done": np.array([number + 1]), "cosines": cosines})
    return cosines
