"""The work of a run, in operations and in seconds of its cores: the one definition for every plan.

Rates are relative to the float32 matrix product of numpy on the same cores, and were found on two
cores of a Zen 5 EPYC (AVX-512 with VNNI), where that is 250 GFLOP/s. `benchmarks/plan.py` holds the
model against measured runs; tests/test_plan.py asks for 30 %.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from fastdim.covariance import decomposed_at_once
from fastdim.distributed.search import ROWS_PER_QUERY
from fastdim.quadratic import FEWEST_AXES

# Norms, activations and small products beside the large ones (1.1 times on SmolLM2-135M, 1.5 on
# MiniLM-L6 with its 384 columns).
FORWARD_SHARE = 1.25
# torch's product on a CPU beside numpy's: 208 and 250 GFLOP/s.
TORCH_SHARE = 0.83

# A search in which few take part looks at each pair on all columns, in int8: an instruction has
# four times as many products as in float32, and numpy's BLAS uses half of the width of AVX-512.
INT8_GAIN = 8.0
PAIR_OPERATIONS = 40.0  # beside the products of a pair: its bound, and its part of the other lists
# Such rows are rounded after a Hadamard transform: core seconds of an element and level of it.
LEVEL_SECONDS = 7e-10
MOST_LEVELS = 12

# A pruned search looks at each pair once, on the leading axes alone: 95 to 191 of them, whatever
# the columns are. Rows without structure take about 1.6 times as long.
PRUNED_PAIR = 41.0
# For each of its rows: projections, order, rounding, and the pairs that the first look leaves.
PRUNED_ROW, PRUNED_COLUMN = 1.5e6, 1900.0
# Up to so many pairs, or with so few queries, a search is not pruned: backends/cpu.py.
DIRECT_PAIRS, QUERIES_SHARE = 144_000_000, 8

# Forms of every row along axes, int16, and what each of its elements takes beside the products.
FORMS_GAIN, FORMS_ELEMENT = 4.6, 760.0
SUMS_GAIN = 1.2  # sums of outer products, float64, one triangle
EIGEN_GAIN = 0.5  # an eigendecomposition, 9 d^3 operations by one core
PAIR_SHARE = 40.0  # sampled pairs: rows far apart in memory, so slower than a product
TILE_SHARE = 0.7  # every pair, in tiles of int16
CHECKED_BYTES = 1.5e9  # bytes/s of one core: a stored layer is read and held against its checksum
# How often ranks wait for each other for a filter of a site (sums, rows, decompositions by rank 0),
# and for how long each time: gloo, two ranks on two cores, the one run that was taken apart.
MEETINGS, MEETING_SECONDS = 60, 1.4e-3
ROW_SECONDS = 1.2e-6  # of each row and filter on one core: norms, counts, intervals


@dataclass(frozen=True)
class Cores:
    """CPU cores that share an analysis, and their float32 matrix product together, operations/s."""

    count: int
    flops: float


@dataclass(frozen=True)
class Analysis:
    """Seconds of one site. shared: divided among all cores; alone: by one core, on every rank."""

    search: float
    sums: float
    forms: float
    pairs: float
    eigen: float
    rows: float
    check: float
    meetings: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return math.fsum(astuple(self))


def forward_operations(
    parameters: int, tokens: float, blocks: int = 0, width: int = 0, context: int = 0
) -> float:
    """Operations of the forward pass: 2 a multiplied parameter and token, 4 a pair that attends.

    parameters: those that are multiplied: no embedding table. Attention over whole documents of
    `context` tokens, masked or not.
    """
    return tokens * (2.0 * parameters + 4.0 * blocks * width * context)


def forward_seconds(cores: Cores, operations: float) -> float:
    """Seconds of a forward pass on these cores."""
    return FORWARD_SHARE * operations / (TORCH_SHARE * cores.flops)


def few_queries(n: float, m: float) -> bool:
    """Whether m queries among n rows go to all ranks, so that no row travels."""
    return ROWS_PER_QUERY * m <= n


def search_seconds(cores: Cores, n: float, d: int, m: float) -> float:
    """Seconds of an exact search of m of n rows of d columns for their neighbours, all counted.

    Of rows that have structure, as hidden states do; a search of all has m = n.
    """
    # Of two queries each is in the other's list: their pair is looked at once.
    looked = m * n - m * m / 2
    if m * n <= DIRECT_PAIRS or m * QUERIES_SHARE < n:
        # The transform mixes blocks of a power of two that divides the columns.
        levels = min(MOST_LEVELS, (d & -d).bit_length() - 1)
        rounding = n * d * levels * LEVEL_SECONDS / cores.count
        return looked * (2.0 * d / INT8_GAIN + PAIR_OPERATIONS) / cores.flops + rounding
    return (looked * PRUNED_PAIR + n * (PRUNED_ROW + PRUNED_COLUMN * d)) / cores.flops


def spread_search_seconds(cores: Cores, n: float, d: int, m: float, ranks: int) -> float:
    """Seconds of a search of rows spread over ranks, each with `cores`; transfers apart.

    Few queries go to all ranks. Else a rank takes its own rows along with each visitor: rows are
    prepared anew each time, and own pairs looked at again.
    """
    if ranks == 1 or few_queries(n, m):
        return search_seconds(cores, n / ranks, d, m)
    return (ranks - 1) * search_seconds(cores, 2.0 * n / ranks, d, m / ranks)


def tiled_search_seconds(cores: Cores, n: float, d: int, m: float, tiles: int) -> float:
    """Seconds of a search on disk whose queries fit in memory: they go along with every tile."""
    return tiles * search_seconds(cores, n / tiles + m, d, m)


def site_analysis(
    cores: Cores,
    n: float,
    d: int,
    m: float,
    pairs: float,
    filters: int,
    normalized: int,
    ranks: int = 1,
    item: int = 4,
) -> Analysis:
    """Seconds of one site of n rows and d columns, m of them queries.

    filters: token filters, `normalized` of them of directions: these are searched once more.
    pairs: cosines sampled. ranks: processes the rows are spread over, each with `cores`.
    item: bytes of a stored number.
    """
    searches = (filters > normalized) + normalized
    plain = max(1, filters - normalized)
    one = cores.flops / cores.count
    # Of rows under each filter that keeps other rows, and of directions where they are asked for.
    decompositions = plain + normalized
    # Cosines of each filter that keeps other rows do with the longest axes of the directions.
    axes = decompositions * d + plain * min(d, FEWEST_AXES)
    forms = n * d * (2.0 * axes + FORMS_ELEMENT * (decompositions + plain))
    # Ranks take them in turn, and a rank as many at a time as it has cores and memory for; those
    # that are held one at a time are not taken ahead.
    held = decomposed_at_once(d)
    turns = decompositions
    if held > 1:
        turns = math.ceil(math.ceil(decompositions / ranks) / min(cores.count, held))
    share = cores.flops * ranks
    # Every pair is counted in tiles.
    pair_share = PAIR_SHARE if pairs < n * n / 4 else TILE_SHARE
    return Analysis(
        search=searches * spread_search_seconds(cores, n, d, m, ranks),
        sums=2 * 2.0 * n * d * d / (SUMS_GAIN * share),
        forms=forms / (FORMS_GAIN * share),
        pairs=pair_share * 2.0 * pairs * d / share,
        eigen=turns * 9.0 * float(d) ** 3 / (EIGEN_GAIN * one),
        rows=ROW_SECONDS * n * filters,
        check=item * n * d / (CHECKED_BYTES * ranks),
        # Trees of collectives are as deep as the logarithm of the ranks.
        meetings=MEETINGS * filters * MEETING_SECONDS * math.log2(ranks),
    )
