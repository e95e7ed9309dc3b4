"""Tiles: the buffer that the kernels read, filled from a matrix on disk, and what is read ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import BLOCK_BYTES, Rows, is_usable
from fastdim.disk.rows import DiskRows

Int64 = NDArray[np.int64]
PAGE = 4096


@dataclass(frozen=True, eq=False)
class Matrix:
    """The rows of a matrix on disk that take part, numbered 0..count-1.

    ids: their row numbers, ascending; None for all rows.
    """

    source: DiskRows
    ids: Int64 | None = None

    @property
    def count(self) -> int:
        """Rows that take part."""
        return self.source.n if self.ids is None else len(self.ids)

    def copy(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Rows start..stop of those that take part."""
        if self.ids is None:
            self.source.copy(start, stop, out)
        else:
            self.source.gather(self.ids[start:stop], out)

    def take(self, places: Int64) -> Rows:
        """A copy of the rows at these ascending places."""
        return self.source.take(places if self.ids is None else self.ids[places])

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Row numbers from..to that hold rows start..stop."""
        if self.ids is None or start >= stop:
            return start, stop
        return int(self.ids[start]), int(self.ids[stop - 1]) + 1


class Tiles:
    """One buffer of rows, filled by several threads; the rows of the next tile are read ahead.

    Reading ahead touches a byte of every page, so the rows come into the system's page cache, which
    it may drop, and cost no memory of the process.
    """

    def __init__(self, matrix: Matrix, rows: int, threads: int) -> None:
        self.matrix = matrix
        self.buffer = matrix.source.empty(rows)
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "fastdim-fill")
        self._reader = ThreadPoolExecutor(1, "fastdim-ahead")
        self._stop = threading.Event()
        self._reading: Future[int] | None = None
        self._held: list[tuple[int, int]] = []

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)

    def load(self, ranges: Sequence[tuple[int, int]]) -> Rows:
        """The rows of these ranges of the matrix, one after the other. What the buffer holds
        already at its place is not read again.

        Raises InputError on NaN, Inf, or values whose squares overflow.
        """
        start = 0
        for number, (begin, end) in enumerate(ranges):
            if number >= len(self._held) or self._held[number] != (begin, end):
                self._held = []
                self.fill(start, begin, end)
            start += end - begin
        self._held = list(ranges)
        return self.rows(start)

    def fill(self, place: int, begin: int, end: int) -> None:
        """Rows begin..end of the matrix into the buffer, from `place` on. Raises as `load`."""
        self._stop.set()
        if self._reading is not None:
            self._reading.result()  # ends within a block, with its error if it had one
            self._reading = None
        source = self.matrix.source
        step = max(1, BLOCK_BYTES // source.row_bytes)

        def one(start: int) -> bool:
            stop = min(start + step, end)
            out = self.buffer[place + start - begin : place + stop - begin]
            self.matrix.copy(start, stop, out)
            return is_usable(out, source.dtype)

        # Every result is waited for: an error of a thread comes out here.
        if not all(list(self._pool.map(one, range(begin, end, step)))):
            source.check_finite()
            raise RuntimeError("the rows on disk changed while they were read")

    def put(self, place: int, rows: NDArray[Any]) -> None:
        """Rows in memory into the buffer, from `place` on."""
        self.buffer[place : place + len(rows)] = rows

    def rows(self, count: int) -> Rows:
        """The first rows of the buffer."""
        return Rows(self.buffer[:count], self.matrix.source.dtype)

    def ahead(self, begin: int, end: int) -> None:
        """Begin to read rows begin..end of the matrix into the page cache."""
        self._stop = threading.Event()
        self._reading = self._reader.submit(touch, self.matrix, begin, end, self._stop)


def touch(matrix: Matrix, begin: int, end: int, stop: threading.Event) -> int:
    """Read a byte of every page of rows begin..end, until `stop`; how many rows were touched."""
    source = matrix.source
    first, last = matrix.span(begin, end)
    step = max(1, BLOCK_BYTES // source.row_bytes)
    row_step = max(1, PAGE // source.row_bytes)
    done = 0
    for start in range(first, last, step):
        if stop.is_set():
            break
        for data, _ in source.pieces(start, min(start + step, last)):
            data[::row_step, :: max(1, PAGE // data.itemsize)].copy()
            done += len(data)
    return done


@contextmanager
def opened(matrix: Matrix, rows: int, threads: int) -> Iterator[Tiles]:
    """A buffer of so many rows; its threads end with the block."""
    tiles = Tiles(matrix, rows, threads)
    try:
        yield tiles
    finally:
        tiles.close()
