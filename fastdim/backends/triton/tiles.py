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
# Lists of the filter, in registers. A query keeps at least SPARE candidates beyond its k, for a gap
# behind the k-th neighbour.
LISTS = (8, 16, 32)
SPARE = 6
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

    3.7 stops at the filter for sm_100 and at the cosines for sm_100 and gfx942.
    """
    return (3, 9) if architecture.startswith(("sm_10", "gfx")) else (3, 7)


def filter_tile(architecture: str) -> dict[str, int]:
    """Tile of the filter on "sm_90", "gfx942" and so on.

    On sm_100 and 103 the sums come out of tensor memory into registers that a tile of 128 rows
    would spill.
    """
    rows = 64 if architecture.startswith("sm_10") else 128
    return {"BLOCK_QUERIES": 128, "BLOCK_ROWS": rows, "BLOCK_COLUMNS": 64}


def filter_launch(
    architecture: str, chip: str, tuned: dict[str, int] | None = None
) -> tuple[dict[str, int], dict[str, Any]]:
    """Tile and options of the filter on a chip of this name, as tuned there if it was.

    tuned: sizes of the tile, "num_warps" and "num_stages" that take precedence.
    """
    if tuned is None:
        tuned = json.loads(TUNED.read_text(encoding="utf-8")).get(chip, {})
    sizes = {name: value for name, value in tuned.items() if name not in OPTIONS}
    options = {name: value for name, value in tuned.items() if name in OPTIONS}
    return filter_tile(architecture) | sizes, FILTER | options


def splits_of(query_tiles: int, tiles: int, processors: int, lists: int = 1) -> int:
    """Parts of the rows that programs take: at least `lists`, and two programs a multiprocessor.

    More parts would finish closer together, but each fills its lists anew (`cost.py`).
    """
    fill = -(-2 * processors // query_tiles)
    return min(tiles, max(lists, fill))


def tile_of(kernel: str, interpreted: bool) -> dict[str, int]:
    """The tile of a kernel that is not the filter."""
    usual, other = TILES[kernel]
    return usual | other if interpreted else dict(usual)
