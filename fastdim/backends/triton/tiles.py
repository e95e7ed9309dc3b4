"""Tiles and options of every launch, by architecture; what the report compiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What `python -m benchmarks.gpu --tune` found best on each chip; empty until one has run it.
TUNED = Path(__file__).with_name("tuned.json")
OPTIONS = ("num_warps", "num_stages")

FILTER = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
PLAIN = {"num_warps": 4, "enable_fp_fusion": True}
# Eight warps hold the float64 sums of 64 x 64 pairs without spilling, four do not.
COSINE = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
# Candidates that a program of the filter takes out at its end. A query keeps at least SPARE beyond
# itself and its k, for a gap behind the k-th neighbour.
LISTS = (8, 16, 32)
SPARE = 5
# h of the rows of the padding: below any real p, and finite, for marking -inf would make it NaN.
BEYOND = -(2.0**126)
# Tiles of rows that one program of the filter takes at most: their numbers stand in the last bits
# of p, at the cost of a wider margin.
MOST_TILES = 1 << 10
# Neighbours up to which a place of a tile keeps one row: of more, two would often meet in one place
# and send their query to the second pass.
PLACES_K = 4
# What a program of the filter costs beyond its tiles, in tiles: its end, or filling its list.
END = 2
FILLING = 12
# Rows that the second pass holds a query, at least.
ROOM = 256
# Rows are padded to a multiple of this.
PADDING = 128

# Tiles of the other kernels: on a device, and what differs in the interpreter, which takes about as
# long for a program whatever its tile.
TILES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "column_parts": ({"BLOCK_ROWS": 8, "BLOCK_COLUMNS": 64}, {"BLOCK_ROWS": 256}),
    "pack_rows": ({"BLOCK_ROWS": 8, "BLOCK_COLUMNS": 64}, {"BLOCK_ROWS": 128}),
    "row_statistics": ({"BLOCK_ROWS": 8, "BLOCK_COLUMNS": 64}, {"BLOCK_ROWS": 128}),
    "equal_rows": ({"BLOCK_ROWS": 8, "BLOCK_COLUMNS": 64}, {"BLOCK_ROWS": 128}),
    "scaled_rows": ({"BLOCK_ROWS": 4, "BLOCK_COLUMNS": 64}, {"BLOCK_ROWS": 128}),
    "pair_distances": ({"BLOCK_PAIRS": 32, "BLOCK_COLUMNS": 64}, {"BLOCK_PAIRS": 2048}),
    "pair_cosines": ({"BLOCK_PAIRS": 32, "BLOCK_COLUMNS": 64}, {"BLOCK_PAIRS": 2048}),
    "all_distances": (
        {"BLOCK_QUERIES": 4, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 16},
        {"BLOCK_QUERIES": 32, "BLOCK_ROWS": 128},
    ),
    "cosine_tiles": ({"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 16}, {"BLOCK_COLUMNS": 64}),
}


def needed_triton(architecture: str) -> tuple[int, int]:
    """The lowest version of triton that compiles every kernel for this architecture.

    3.4 stops at the cosines; 3.7 at the filter for sm_100 and at the cosines for sm_100 and gfx942.
    """
    return (3, 9) if architecture.startswith(("sm_10", "gfx")) else (3, 5)


def filter_tile(architecture: str, places: bool = False) -> dict[str, int]:
    """Tile of the filter on "sm_90", "gfx942" and so on; of the one by places, or of the others.

    On sm_100 and 103 the sums come out of tensor memory into registers, which lists beside a tile
    of 128 rows would spill.
    """
    rows = 64 if architecture.startswith("sm_10") and not places else 128
    return {"BLOCK_QUERIES": 128, "BLOCK_ROWS": rows, "BLOCK_COLUMNS": 64}


def filter_launch(
    architecture: str, chip: str, tuned: dict[str, int] | None = None, places: bool = False
) -> tuple[dict[str, int], dict[str, Any]]:
    """Tile and options of the filter on a chip of this name, as tuned there if it was.

    tuned: sizes of the tile, "num_warps" and "num_stages" that take precedence.
    """
    if tuned is None:
        tuned = json.loads(TUNED.read_text(encoding="utf-8")).get(chip, {})
    sizes = {name: value for name, value in tuned.items() if name not in OPTIONS}
    options = {name: value for name, value in tuned.items() if name in OPTIONS}
    return filter_tile(architecture, places) | sizes, FILTER | options


def splits_of(query_tiles: int, tiles: int, processors: int, lists: int = 1, end: int = END) -> int:
    """Parts of the rows that programs take: at least `lists`, and as many as finish soonest.

    Programs run one a multiprocessor, in waves; each has its tiles of rows, and what costs as much
    as `end` of them.
    """
    least = min(tiles, max(lists, -(-tiles // MOST_TILES)))
    most = min(tiles, max(least + 16, -(-2 * processors // query_tiles)))

    def duration(splits: int) -> int:
        return -(-query_tiles * splits // processors) * (-(-tiles // splits) + end)

    return min(range(least, most + 1), key=duration)


def tile_of(kernel: str, interpreted: bool) -> dict[str, int]:
    """The tile of a kernel that is not the filter."""
    usual, other = TILES[kernel]
    return usual | other if interpreted else dict(usual)
