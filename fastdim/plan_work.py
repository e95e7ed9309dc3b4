"""The work of a run, in operations and in seconds of one core: the one definition for every plan.

Rates are relative to the float32 matrix product of the same cores. The gains below were fitted to
runs of `make demo` and of single layers on two cores of a Zen 5 EPYC; tests/test_plan.py holds them
to within 30 % of what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastdim.distributed.search import ROWS_PER_QUERY

# Norms, activations and small products beside the large ones (measured 1.1 on SmolLM2-135M, 1.5 on
# MiniLM-L6 with its 384 columns).
FORWARD_SHARE = 1.25

# A pair of rows that a search looks at counts 2 d operations; filters leave most of them out.
# Few queries are searched in int8 on all columns.
SEARCH_GAIN = 6.0
# All rows as queries: measured 6 at 12,500 rows of SmolLM2-135M, 20 at 50,000, 45 at 200,000. More
# rows may gain more; that was not measured and is not counted.
PRUNED_GAIN, PRUNED_ROWS, PRUNED_GROWTH, PRUNED_MOST = 20.0, 50_000, 0.65, 45.0
DIRECT_PAIRS, QUERIES_SHARE = 144_000_000, 8  # beyond these a search is pruned, backends/cpu.py

FORMS_GAIN = 3.0  # forms of every row in the eigenbasis, int16
SUMS_GAIN = 1.6  # sums of outer products, float64, one triangle
EIGEN_GAIN = 0.5  # an eigendecomposition, 9 d^3 operations by one core
PAIR_SHARE = 8.0  # sampled pairs: rows far apart in memory, so slower than a product
ROW_SECONDS = 1.5e-6  # of each row and filter on one core: norms, counts, intervals


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

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.search + self.sums + self.forms + self.pairs + self.eigen + self.rows


def forward_operations(
    parameters: int, tokens: float, blocks: int = 0, width: int = 0, context: int = 0
) -> float:
    """Operations of the forward pass: 2 a multiplied parameter and token, 4 a pair that attends.

    parameters: those that are multiplied: no embedding table. Attention over whole documents of
    `context` tokens, masked or not.
    """
    return tokens * (2.0 * parameters + 4.0 * blocks * width * context)


def few_queries(n: float, m: float) -> bool:
    """Whether m queries among n rows go to all ranks, so that no row travels."""
    return ROWS_PER_QUERY * m <= n


def search_gain(n: float, m: float) -> float:
    """How many times faster than the product of all m x n pairs a search is."""
    if m * n <= DIRECT_PAIRS or m * QUERIES_SHARE < n:
        return SEARCH_GAIN
    grown: float = PRUNED_GAIN * (n / PRUNED_ROWS) ** PRUNED_GROWTH
    return max(SEARCH_GAIN, min(PRUNED_MOST, grown))


def site_analysis(
    cores: Cores,
    n: float,
    d: int,
    m: float,
    pairs: float,
    filters: int,
    normalized: int,
    ranks: int = 1,
) -> Analysis:
    """Seconds of one site of n rows and d columns, m of them queries.

    filters: token filters, `normalized` of them of directions: these are searched once more.
    pairs: cosines sampled. ranks: processes the rows are spread over, each with `cores`. Many
    queries are searched among a rank's rows and one visitor, so that half of the pairs are seen
    again; few go to all ranks.
    """
    searches = (filters > normalized) + normalized
    plain = max(1, filters - normalized)
    ring = ranks > 1 and not few_queries(n, m)
    local = 2.0 * n / ranks if ring else n / ranks
    looked = 2.0 * m * n * d * (2.0 * (ranks - 1) / ranks if ring else 1.0)
    one = cores.flops / cores.count
    # Of rows and of their directions, under each filter that keeps other rows.
    covariances = 2 * plain
    share = cores.flops * ranks
    # Every pair is counted in tiles.
    pair_share = PAIR_SHARE if pairs < n * n / 4 else 1.0
    return Analysis(
        search=searches * looked / (search_gain(local, m / ranks if ring else m) * share),
        sums=2 * 2.0 * n * d * d / (SUMS_GAIN * share),
        forms=covariances * 2.0 * n * d * d / (FORMS_GAIN * share),
        pairs=pair_share * 2.0 * pairs * d / share,
        eigen=covariances * 9.0 * float(d) ** 3 / (EIGEN_GAIN * one),
        rows=ROW_SECONDS * n * filters,
    )
