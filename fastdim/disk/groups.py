"""Equal rows of a matrix on disk."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fastdim.disk.rows import DiskRows
from fastdim.disk.tiles import Matrix, Tiles

Int64 = NDArray[np.int64]

# Bytes a row while rows are grouped: two words of the digest twice, the order, numbers of groups.
ROW = 88
TILE_BYTES = 32 << 20


def find(source: DiskRows, threads: int) -> tuple[Int64, Int64]:
    """First row of each group of equal rows (-0 equals 0), in order, and the group of each row.

    Rows are equal where their BLAKE2b digests of 128 bits are: of 10^9 rows two different ones
    agree with a probability of 10^-21. Raises InputError on NaN and Inf.
    """
    words = np.empty((source.n, 2), dtype=np.uint64)
    tile = min(source.n, max(1, TILE_BYTES // source.row_bytes))
    tiles = Tiles(Matrix(source), tile, threads)
    try:
        for start in range(0, source.n, tile):
            stop = min(start + tile, source.n)
            rows = tiles.load([(start, stop)])
            if stop < source.n:
                tiles.ahead(stop, min(stop + tile, source.n))
            digests(rows.data, words[start:stop])
    finally:
        tiles.close()
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    begins = np.ones(source.n, dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # The sort is stable: the first of a run is the smallest row number.
    first = order[begins]
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    inverse = np.empty(source.n, dtype=np.int64)
    inverse[order] = place[np.cumsum(begins) - 1]
    return np.sort(first).astype(np.int64), inverse


def digests(data: NDArray[np.generic], out: NDArray[np.uint64]) -> None:
    """The digest of each row of a buffer; -0 becomes 0 in it."""
    bits = data.view(np.dtype(f"u{data.itemsize}"))
    minus_zero = 1 << (8 * data.itemsize - 1)
    for number, row in enumerate(bits):
        row[row == minus_zero] = 0
        out[number] = np.frombuffer(hashlib.blake2b(row.data, digest_size=16).digest(), np.uint64)
