"""Exact neighbours of a matrix on disk, tile by tile, under a limit of memory.

A tile is searched together with the queries that lie elsewhere, all in the order of their row
numbers, by the engine of `fastdim.backends.cpu`. A distance depends on its two rows alone and ties
go to the smaller number, so the k best of all tiles are those of one search, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim import neighbors
from fastdim.arrays import is_usable, whole_number
from fastdim.backends import cpu
from fastdim.disk import budget, groups, state
from fastdim.disk.rows import DiskRows, open_rows
from fastdim.disk.tiles import Matrix, Tiles, opened
from fastdim.errors import InputError
from fastdim.query_far import far_among
from fastdim.query_plan import plan_queries, stated

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Queries merged at a time.
MERGED = 1 << 16
COUNTED = ("pairs_filtered", "pairs_rough", "pairs_second", "pairs_refined")


@dataclass(frozen=True, eq=False)
class Best:
    """The k nearest of every query so far: infinity and -1 where there is none yet."""

    distances: Float64
    indices: Int64

    def merge(self, places: Int64 | None, distances: Float64, indices: Int64) -> None:
        """Take the neighbours (m, k') of the queries at these places (None: all) into account."""
        m, k = len(distances), self.distances.shape[1]
        for start in range(0, m, MERGED):
            part = slice(start, min(start + MERGED, m))
            at: Any = part if places is None else places[part]
            both = np.concatenate([self.distances[at], distances[part]], axis=1)
            numbers = np.concatenate([self.indices[at], indices[part]], axis=1)
            # A pair may be found in two tiles: the same number twice.
            order = np.lexsort((both, numbers), axis=1)
            both = np.take_along_axis(both, order, axis=1)
            numbers = np.take_along_axis(numbers, order, axis=1)
            both[:, 1:][numbers[:, 1:] == numbers[:, :-1]] = np.inf
            order = np.lexsort((numbers, both), axis=1)[:, :k]
            self.distances[at] = np.take_along_axis(both, order, axis=1)
            self.indices[at] = np.take_along_axis(numbers, order, axis=1)


@dataclass(frozen=True, eq=False)
class Task:
    """One search: the ranges of rows and of queries in the buffer, in order, and who asks.

    segments: (of queries, start, stop). numbers: number of each row of the buffer. asked: places in
    the buffer, None for all. places: of the asked among the queries, None for all in order.
    """

    segments: tuple[tuple[bool, int, int], ...]
    numbers: Int64
    asked: Int64 | None
    places: Int64 | None


@dataclass(frozen=True, eq=False)
class Wanted:
    """The arguments of `fastdim.knn`, as it takes them."""

    k: int
    queries: Any
    duplicates: str
    strategy: str
    threads: int | None
    seed: int


def knn(x: Any, wanted: Wanted, memory: Any, resume: str | Path | None) -> neighbors.Neighbors:
    """`fastdim.knn` of what `open_rows` reads, in at most about `memory` bytes."""
    start = time.perf_counter()
    limit = budget.parse_memory(memory)
    source = open_rows(x)
    if source.n < 2:
        raise InputError(f"x needs at least 2 rows, got {source.n}")
    workers = cpu.resolve_threads(wanted.threads)
    queries, duplicates = wanted.queries, wanted.duplicates
    definition = {
        "operation": "knn",
        "x": source.identity() if resume is not None else None,
        "k": whole_number("k", wanted.k, 1),
        "queries": state.plain(queries),
        "duplicates": duplicates,
        "seed": state.plain(wanted.seed),
        "memory": limit,
        "isa": cpu.active_isa(),
    }
    with state.opened(resume, definition) as kept:
        found = None if duplicates == "keep" else _groups(source, limit, workers, kept)
        neighbors.check_duplicates(duplicates, found, source.n)
        find_far = partial(_far, source, kept, workers)
        k, count, chosen, far = plan_queries(
            source.n, wanted.k, queries, found, wanted.seed, find_far
        )
        ids = found.first if found is not None and count < source.n else None
        asked, inverse = None, None
        if chosen is not None:
            asked, inverse = np.unique(chosen, return_inverse=True)
        matrix, grouped = Matrix(source, ids), found is not None
        tiling = _tiling(matrix, asked, k, limit, grouped)
        # Not before the limit is known to do: a call that is refused leaves nothing behind.
        if far is not None and kept.load("far") is None:
            kept.save("far", {"far": far})
        plan, result = _search(matrix, asked, k, limit, tiling, wanted.strategy, workers, kept)
    distances, indices = result.distances, result.indices
    if inverse is not None and not np.array_equal(inverse, np.arange(len(inverse))):
        distances, indices = distances[inverse], indices[inverse]
    plan.update(stated(queries, count, chosen))
    return neighbors.found_in(
        source,
        found,
        chosen,
        (distances, indices, plan),
        duplicates,
        f"cpu-{plan['isa']}",
        start,
        far=far,
    )


def _far(source: DiskRows, kept: state.State, threads: int, first: Int64 | None) -> Int64:
    """`far_rows`, in one reading of the files."""
    saved = kept.load("far")
    if saved is not None:
        return saved["far"]

    def distances(center: NDArray[Any]) -> Float64:
        return np.concatenate([part.distances_from(center, threads) for part in source.parts])

    return far_among(first, source.n, source.take, distances)


def _groups(source: DiskRows, limit: int, threads: int, kept: state.State) -> neighbors.Distinct:
    saved = kept.load("groups")
    if saved is not None:
        return neighbors.Distinct(saved["first"], saved["inverse"])
    need = budget.FIXED + groups.ROW * source.n
    if need > limit:
        raise InputError(
            f"memory={limit:,} bytes is less than grouping the equal ones of {source.n:,} rows "
            f"takes: {need:,} bytes; pass memory={budget.spelled(need)!r} or more, or "
            "duplicates='keep'"
        )
    first, inverse = groups.find(source, threads)
    kept.save("groups", {"first": first, "inverse": inverse})
    return neighbors.Distinct(first, inverse)


def _tiling(matrix: Matrix, asked: Int64 | None, k: int, limit: int, grouped: bool) -> budget.Plan:
    """The tiles that fit. Raises InputError where none does."""
    source, count = matrix.source, matrix.count
    m = count if asked is None else len(asked)
    held = m * (16 * k + 16) + (16 * source.n + 8 * count if grouped else 0)
    return budget.plan_search(limit, count, m, source.row_bytes, source.d, k, held)


def _search(
    matrix: Matrix,
    asked: Int64 | None,
    k: int,
    limit: int,
    plan: budget.Plan,
    strategy: str,
    threads: int,
    kept: state.State,
) -> tuple[dict[str, Any], Best]:
    """Plan and result over the tiles that are not finished yet. asked: ascending, None for all."""
    count = matrix.count
    m = count if asked is None else len(asked)
    tasks = list(_ranges(plan, count))
    done, counts = 0, dict.fromkeys(COUNTED, 0)
    best = Best(np.full((m, k), np.inf), np.full((m, k), -1))
    saved = kept.load("search")
    if saved is not None:
        done, best = int(saved["done"][0]), Best(saved["distances"], saved["indices"])
        counts = dict(zip(COUNTED, (int(value) for value in saved["counts"]), strict=True))
    stated: dict[str, Any] = {
        "strategy": "",
        "isa": cpu.active_isa(),
        "memory": limit,
        "tile_rows": plan.tile,
        "tiles": len(tasks),
        "tiles_resumed": done,
    }
    if done < len(tasks):
        with opened(matrix, plan.rows, threads) as tiles:
            beside = matrix.take(asked).data if plan.queries and asked is not None else None
            if beside is not None:
                _check_queries(matrix, beside)
            for number in range(done, len(tasks)):
                task = _task(tasks[number], plan, asked)
                rows = _load(tiles, task, beside)
                if number + 1 < len(tasks):
                    tiles.ahead(*tasks[number + 1][-1])
                size = min(k, rows.n - 1)
                searched = None if task.asked is None else len(task.asked)
                if searched != 0 and size > 0:  # a row alone has no neighbour here
                    index = cpu.Index(rows, size, threads, strategy, queries=searched)
                    distances, indices, found = index.knn(task.asked, size, threads)
                    del index
                    best.merge(task.places, distances, task.numbers[indices])
                    for name in COUNTED:
                        counts[name] += int(found.get(name, 0))
                    stated["strategy"] = found["strategy"]
                kept.save(
                    "search",
                    {
                        "done": np.array([number + 1]),
                        "counts": np.array([counts[name] for name in COUNTED]),
                        "distances": best.distances,
                        "indices": best.indices,
                    },
                )
    return {**stated, **counts}, best


def _check_queries(matrix: Matrix, rows: NDArray[Any]) -> None:
    """Raise the error of all rows if those of the queries are bad."""
    if not is_usable(rows, matrix.source.dtype):
        matrix.source.check_finite()


def _ranges(plan: budget.Plan, count: int) -> Iterator[list[tuple[int, int]]]:
    """The blocks of each task: one, or every pair of two."""
    blocks = plan.blocks(count)
    if plan.queries or len(blocks) == 1:
        yield from ([block] for block in blocks)
        return
    for number, first in enumerate(blocks):
        for second in blocks[number + 1 :]:
            yield [first, second]


def _task(ranges: list[tuple[int, int]], plan: budget.Plan, asked: Int64 | None) -> Task:
    if plan.queries and asked is not None:
        begin, end = ranges[0]
        low, high = (int(place) for place in np.searchsorted(asked, [begin, end]))
        m, tile = len(asked), end - begin
        places = np.concatenate(
            [np.arange(low), asked[low:high] - begin + low, low + tile + np.arange(m - high)]
        )
        numbers = np.concatenate([asked[:low], np.arange(begin, end), asked[high:]])
        return Task(((True, 0, low), (False, begin, end), (True, high, m)), numbers, places, None)
    numbers = np.concatenate([np.arange(begin, end) for begin, end in ranges])
    segments = tuple((False, begin, end) for begin, end in ranges)
    if asked is None:
        return Task(segments, numbers, None, None if len(numbers) == numbers[-1] + 1 else numbers)
    here, start = [], 0
    for begin, end in ranges:
        inside = np.flatnonzero((asked >= begin) & (asked < end))
        here.append((inside, asked[inside] - begin + start))
        start += end - begin
    places = np.concatenate([inside for inside, _ in here])
    return Task(segments, numbers, np.concatenate([at for _, at in here]), places)


def _load(tiles: Tiles, task: Task, beside: NDArray[Any] | None) -> Any:
    """The buffer filled for a task."""
    if beside is None:
        return tiles.load([(begin, end) for _, begin, end in task.segments])
    place = 0
    for of_queries, begin, end in task.segments:
        if of_queries:
            tiles.put(place, beside[begin:end])
        else:
            tiles.fill(place, begin, end)
        place += end - begin
    return tiles.rows(place)
