"""A roofline model of neighbour searches on GPUs: predicted seconds, by stated assumptions.

Nothing here was measured by fastdim but the instruction counts (docs/gpu-report.md). Rates are
those of the makers' data sheets, dense, with float32 sums. The model is first held against two
published figures, torchid's TwoNN at n = 20,000, d = 1,024: 28.4 ms on an H100, 64.9 ms on an A100
(`tests/test_triton_cost.py`); what it says of fastdim's kernels is a prediction.

Assumptions:
- Matrix products reach a share `GEMM` of the data sheet's rate, as large products do (816 of 989
  TFLOP/s were published for an H200 at 8192^3, 50 of 67 in float32).
- A matrix of distances is passed over at the rate of the memory. Both peers select by topk: by
  radix, two bits a pass of 32, and gather once. torchid 0.5.1 writes the products, doubles them,
  writes the sum of norms, subtracts and clamps; torch.cdist writes, clamps and roots. With the
  latter's passes the model says 26, 119 and 1,912 ms for the sizes of docs/cuda.md, where cdist and
  topk took 23.8, 102 and 1,605 ms on an H100.
- A block of the filter multiplies and then selects, one after the other. Where one block fits a
  multiprocessor (docs/gpu-report.md: registers), that is the time of a tile; where two fit, one
  multiplies while the other selects, and the longer of the two counts. Four schedulers issue one
  warp's instruction a cycle each, and `ISSUE` of the cycles are used.
- Operands reach the tensor cores through shared memory, which moves 128 bytes a cycle: a tile's
  are written once and read once by each group of warps that multiplies them: on sm_80 eight warps
  of 32 x 64 pairs, on gfx942 eight waves of 64 x 32, on sm_90 two of 64 x 128, on sm_100 one.
- A program's end takes out its candidates, a round each; the best of all programs of a query go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fastdim.backends.triton.tiles import splits_of

GEMM = 0.8
SELECT_PASSES = 16 + 1
TORCHID_PASSES = 1 + 2 + 1 + 3 + 2 + SELECT_PASSES
CDIST_PASSES = 1 + 2 + 2 + SELECT_PASSES
ISSUE = 0.5
WARPS = 8
SHARED = 128
TILE_QUERIES = 128


@dataclass(frozen=True)
class Chip:
    """Data sheet of a chip: TFLOP/s of float16, float32 and float64 (matrix units where it has
    them), GB/s of memory, multiprocessors, GHz under load.

    loops: instructions of the Triton filter's slice of 64 columns, of a round of its end, and of
    the rest of a tile; tile_rows: its rows; blocks: how many fit a multiprocessor
    (docs/gpu-report.md).
    """

    name: str
    float16: float
    float32: float
    float64: float
    memory: float
    multiprocessors: int
    clock: float
    tile_rows: int
    loops: tuple[int, int, int]
    blocks: int = 1
    # Rows of operands, of both sides, that a tile's warps read from shared memory.
    operands: int = 384
    # Cycles of a scheduler for an instruction of a warp: AMD's 16 lanes take a wave of 64 in four.
    issue_cycles: int = 1


SM_80 = (176, 729, 573)
SM_90 = (73, 424, 434)
SM_100 = (86, 456, 373)
GFX942 = (62, 299, 394)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("A100", 312, 19.5, 19.5, 2_039, 108, 1.41, 128, SM_80, 1, 768),
        Chip("H100", 989, 66.9, 66.9, 3_350, 132, 1.70, 128, SM_90),
        Chip("H200", 989, 66.9, 66.9, 4_800, 132, 1.70, 128, SM_90),
        Chip("B200", 2_250, 75, 37, 7_700, 148, 1.85, 128, SM_100, 1, 256),
        # The code of sm_80 runs there; float16 with float32 sums.
        Chip("RTX 4090", 165, 82.6, 1.3, 1_008, 128, 2.52, 128, SM_80, 1, 768),
        # Eight waves multiply 64 x 32 pairs each.
        Chip("MI300X", 1_307, 163, 163, 5_300, 304, 2.1, 128, GFX942, 1, 768, 4),
    )
}


@dataclass(frozen=True)
class Prediction:
    """Seconds of a search by part, and the share of the float16 rate that its filter reaches."""

    filter: float
    rows: float
    distances: float
    filter_share: float

    @property
    def total(self) -> float:
        """Seconds of the whole search; launches and waits of the host are not in it."""
        return self.filter + self.rows + self.distances


def matrix_search(chip: Chip, n: int, d: int, passes: int = TORCHID_PASSES) -> float:
    """Seconds of a search through a float32 matrix of distances, as torchid's."""
    products = 2.0 * n * n * d / (GEMM * chip.float32 * 1e12)
    return products + passes * 4.0 * n * n / (chip.memory * 1e9)


def search(chip: Chip, n: int, d: int, keep: int = 8, value_bytes: int = 4) -> Prediction:
    """A search of all n rows by the Triton kernels, every row certain after the first pass.

    The rows are read twice and written in 16 bits; `keep` candidates a query are read again for
    their distances, from memory, and cost 4 float64 operations a column at a quarter of the rate.
    Before, `keep` of every program are written, and read and written once more to choose from them.
    """
    tiles = math.ceil(n / chip.tile_rows)
    query_tiles = math.ceil(n / TILE_QUERIES)
    splits = splits_of(query_tiles, tiles, chip.multiprocessors)
    waves = math.ceil(query_tiles * splits / chip.multiprocessors)
    tiles_each = math.ceil(tiles / splits)
    width = math.ceil(d / 64) * 64
    per_multiprocessor = chip.float16 * 1e12 / chip.multiprocessors
    products = 2.0 * TILE_QUERIES * chip.tile_rows * width / (GEMM * per_multiprocessor)
    moved = 2.0 * (TILE_QUERIES + chip.tile_rows + chip.operands) * width
    products = max(products, moved / (SHARED * chip.clock * 1e9))
    cycles = chip.clock * 1e9 * 4 * ISSUE / WARPS / chip.issue_cycles
    select, end = chip.loops[2] / cycles, chip.loops[1] * keep / cycles
    tile = products + select if chip.blocks == 1 else max(products, select)
    filtering = waves * (tiles_each * tile + end)
    memory = chip.memory * 1e9
    rows = n * d * (2.0 * value_bytes + 2.0) / memory
    lists = 3.0 * 8.0 * n * splits * keep / memory
    pairs = float(n) * keep
    sums = pairs * d * 4 / (0.25 * chip.float64 * 1e12)
    return Prediction(
        filter=filtering,
        rows=rows,
        distances=lists + max(pairs * d * value_bytes / memory, sums),
        filter_share=2.0 * n * n * d / filtering / (chip.float16 * 1e12),
    )


def cosines(chip: Chip, n: int, d: int) -> float:
    """Seconds of the cosines of all pairs in float64, the products alone."""
    return n * (n - 1.0) * d / (GEMM * chip.float64 * 1e12)


# The CUDA filter reached 0.52 to 0.55 of what mma.sync does on an H100 (docs/cuda.md), and that
# 0.65 of the chip's rate; where the filter takes sm_80's instructions, all of it is assumed.
CUDA_FILTER = 0.55
MMA_SYNC = 0.65
# What the symmetric filter adds: tiles of 128 x 128 were up to 16 % slower there than the large
# ones; instructions of the other side a thread and tile, two additions and a maximum for each of
# 128 pairs; atomic operations a second of a whole chip, an assumption.
SMALL_TILES = 1.16
OTHER_SIDE = 3 * 128
ATOMICS = 1e10
# The symmetric search is chosen where it is predicted to take at most this share of the other.
WORTH = 0.8


def symmetric_share(chip: Chip, n: int, d: int, keep: int) -> float:
    """Predicted time of the CUDA filter over half the pairs, both sides updated, as a share of that
    of the filter over all pairs.

    A row's keys take in a candidate keep (1 + log(n / keep)) times where rows come in no order, and
    each moves on through half the places.
    """
    mma = chip.float16 * 1e12 * CUDA_FILTER * (1.0 if chip.loops == SM_80 else MMA_SYNC)
    full = 2.0 * n * n * d / mma
    tiles = math.ceil(n / TILE_QUERIES)
    half = SMALL_TILES * full * (tiles + 1) / (2 * tiles)
    # A block's four warps of 128 pairs a thread, on four schedulers.
    cycles = tiles * (tiles + 1) / 2 * OTHER_SIDE / ISSUE / chip.multiprocessors
    offers = n * keep * (1 + math.log(max(1.0, n / keep)))
    return (half + cycles / (chip.clock * 1e9) + offers * keep / 2 / ATOMICS) / full


def symmetric_pays(name: str, n: int, d: int, keep: int) -> bool:
    """Whether the symmetric search of all n rows is chosen on a device of this name.

    Where the chip is not in `CHIPS`, it is not.
    """
    chip = chip_of(name)
    return chip is not None and symmetric_share(chip, n, d, keep) <= WORTH


def symmetric_table() -> str:
    """Predicted shares as a table in Markdown, 8 candidates kept."""
    head = " | ".join(f"{n:,} x {d:,}" for n, d in SIZES)
    lines = [f"| chip | {head} |", "|---|" + "---|" * len(SIZES)]
    for chip in CHIPS.values():
        if chip.loops is not GFX942:  # CUDA's
            shares = [symmetric_share(chip, n, d, 8) for n, d in SIZES]
            told = [f"{100 * s:.0f} %" + ("" if s <= WORTH else ", not chosen") for s in shares]
            lines.append(f"| {chip.name} | {' | '.join(told)} |")
    return "\n".join(lines)


def chip_of(name: str) -> Chip | None:
    """The chip of a device's name, e.g. "NVIDIA H100 80GB HBM3"; None for one that is not known."""
    known = [chip for key, chip in CHIPS.items() if key in name]
    return known[0] if known else None


# Seconds of the host for one launch, an assumption, and launches of a layer on the CUDA backend.
LAUNCH = 4e-6
LAUNCHES = {"knn": 16, "cosine_stats": 24}


def launches_dominate(name: str, n: int, d: int, operation: str) -> bool:
    """Whether queueing a layer (n, d) takes the host longer than the device needs for it.

    name: of the device, e.g. "NVIDIA H100 80GB HBM3". A chip that is not in `CHIPS` counts as an
    H100, the fastest of those whose filter was measured.
    """
    chip = chip_of(name) or CHIPS["H100"]
    device = search(chip, n, d).total if operation == "knn" else cosines(chip, n, d) / 2
    return LAUNCHES[operation] * LAUNCH > device


PUBLISHED = {"H100": 28.4e-3, "A100": 64.9e-3}  # torchid's TwoNN, n = 20,000, d = 1,024
SIZES = ((20_000, 1_024), (50_000, 576), (200_000, 576))


def table(measured: Mapping[tuple[str, int, int], float] | None = None) -> str:
    """Predictions as a table in Markdown, with what was measured beside them.

    measured: seconds of the Triton search by name of the chip as in `CHIPS`, n and d.
    """
    lines = [
        "| chip | n x d | torchid | Triton search | its filter | "
        "share of float16 rate | search against torchid | search, measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for chip in CHIPS.values():
        for n, d in SIZES:
            matrix, found = matrix_search(chip, n, d), search(chip, n, d)
            seen = (measured or {}).get((chip.name, n, d))
            cells = (
                chip.name,
                f"{n:,} x {d:,}",
                f"{1e3 * matrix:,.0f} ms",
                f"{1e3 * found.total:.1f} ms",
                f"{1e3 * found.filter:.1f} ms",
                f"{100 * found.filter_share:.0f} %",
                f"{matrix / found.total:.0f}x",
                "not measured" if seen is None else f"{1e3 * seen:.1f} ms",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
