"""What a memory limit leaves for tiles.

Counted are the buffer of rows, what the kernels keep beside it, and everything that grows with the
rows or queries. Python, the libraries and the pages of the mapped files are not: they are what
`memory` may be exceeded by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdim import _core
from fastdim.backends.cpu import active_isa
from fastdim.errors import InputError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip

# Rows of a tile at least: below, more is read again and again than is searched.
LEAST_ROWS = 1024

# A packed chunk of the tiled scan or of the cosines, samples of rows for axes, scratch of threads.
FIXED = 128 << 20
# What a search keeps of a row beside its elements (groups, bounds, order, places along axes), and
# while it prepares: measured on 576 and 4,096 columns, see tests/test_disk_memory.py.
ROW = 1400
# Columns are filled up to whole vectors.
VECTOR = 64
# Bytes of an element in the rounded form that the filters read, best arithmetic first.
ROUNDED = {"int8": 1, "bfloat16": 2, "float32": 4}
# int16 rows of the cosines, and what they keep of a row.
COSINE_ELEMENT, COSINE_ROW = 2, 128


def parse_memory(memory: Any) -> int:
    """Bytes of a limit: a whole number, or text such as "4GB" (10^9) or "4GiB" (2^30).

    Raises InputError on anything else.
    """
    if isinstance(memory, (int, np.integer)) and not isinstance(memory, bool) and memory > 0:
        return int(memory)
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", memory.upper())
        if found is not None and found[2] in UNITS and float(found[1]) > 0:
            return int(float(found[1]) * UNITS[found[2]])
    raise InputError(
        f"memory must be a number of bytes or text such as '4GB' or '500MiB', got {memory!r}"
    )


def spelled(count: int) -> str:
    """Bytes as a limit that is at least as large."""
    return f"{-(-count // 10**6)}MB"


def search_bytes(d: int) -> int:
    """What an index keeps of a row of d columns, beside the row."""
    available = _core.filter_arithmetics(active_isa())
    element = min(ROUNDED[name] for name in available)
    padded = -(-d // VECTOR) * VECTOR
    return element * padded + ROW


@dataclass(frozen=True)
class Plan:
    """Which tiles are visited.

    rows: of the buffer. tile: of a block of the matrix. queries: rows of queries that are kept
    beside every tile; 0 where tiles are visited in pairs instead.
    """

    rows: int
    tile: int
    queries: int

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """The blocks (start, stop) of so many rows."""
        return [(start, min(start + self.tile, count)) for start in range(0, count, self.tile)]


def plan_search(
    memory: int, count: int, queries: int, row_bytes: int, d: int, k: int, held: int
) -> Plan:
    """Tiles of a neighbour search for `queries` of `count` rows.

    held: bytes that are kept beside. Raises InputError where not even the least tile fits.
    """
    kept = search_bytes(d)
    each = row_bytes + kept
    room = memory - FIXED - held
    # Results of a tile and of the merge: distances and numbers, a few times.
    result = 16 * k * 5 + 32
    if count * each + queries * result <= room:
        return Plan(count, count, 0)
    side = queries * (row_bytes + each + result)
    fewest = min(LEAST_ROWS, -(-count // 2))
    beside = max(2 * side, side + fewest * each)
    if queries < count and beside <= room:
        tile = (room - side) // each
        return Plan(tile + queries, tile, queries)
    tile = room // (2 * (each + result))
    if tile < fewest:
        in_pairs = 2 * fewest * (each + result)
        least = min(beside, in_pairs) if queries < count else in_pairs
        _refuse(memory, FIXED + held + least, fewest)
    return Plan(2 * tile, tile, 0)


def plan_cosines(memory: int, count: int, row_bytes: int, d: int, held: int) -> Plan:
    """Tiles, visited in pairs, of the cosines of `count` rows. Raises as `plan_search`."""
    padded = -(-d // VECTOR) * VECTOR
    each = row_bytes + COSINE_ELEMENT * padded + COSINE_ROW
    # Covariance, its axes, and the workspace of the decomposition; rows packed for the sums.
    fixed = FIXED + held + 8 * (8 * d * d + 4096 * d)
    room = memory - fixed
    if count * each <= room:
        return Plan(count, count, 0)
    least = min(LEAST_ROWS, -(-count // 2))
    tile = room // (2 * each)
    if tile < least:
        _refuse(memory, fixed + 2 * least * each, least)
    return Plan(2 * tile, tile, 0)


def _refuse(memory: int, least: int, rows: int) -> None:
    raise InputError(
        f"memory={memory:,} bytes is less than one tile needs: blocks of {rows:,} rows and what "
        f"is kept beside them take {least:,} bytes; pass memory={spelled(least)!r} or more"
    )
