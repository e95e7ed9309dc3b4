"""The CPU kernels, as functions of `Rows`. Input was validated by `fastdim.arrays.as_rows`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim import _core
from fastdim.arrays import Empty, Rows, check_threads
from fastdim.backends.addresses import address, matrix, moment_addresses, moment_arrays
from fastdim.backends.basis import DIRECT_COLUMNS, lacks_structure, middle, principal_axes
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import BackendError, InputError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Axes = Callable[[], Float64 | None]

# Fewer distinct rows than MIN_PREPARED (MIN_ROUNDED where the filter has low precision) are
# searched faster than they are prepared, and so are fewer queries than MIN_QUERIES. Rows are only
# rounded, without axes and order, for less than one query to QUERIES_SHARE rows, and where there is
# low precision for up to DIRECT_PAIRS pairs: those of all 12,000 rows, or of 4,000 and 36,000.
MIN_PREPARED = 4096
MIN_ROUNDED = 1024
MIN_QUERIES = 128
QUERIES_SHARE = 8
DIRECT_PAIRS = 144_000_000

# What prepared rows may take beyond the rows' own size: more, and the second level of a pruned
# search reads further axes in float32 in place of all columns in bfloat16. With the 64 MB of
# csrc/gathered.cpp a search stays within 256 MB.
SPARE_BYTES = 192 << 20

# Axes of the first level of a pruned search; 0: chosen from a sample of the rows.
FIRST_AXES = 0

# Arithmetic of its second level: all columns in "int8" or "bfloat16", further axes in "float32";
# "": chosen likewise. What cannot run or finds no memory is replaced by further axes.
SECOND_LEVEL = ""

# Of axes that are known before a search so many are tried: with the tail whole vectors in int8.
KNOWN_AXES = 127

# How rows are prepared for a search by rows that was asked for: "full", or "pruned", whose first
# level it reads then.
ROWS_PREPARED = "full"

# What the filters of a search need for their arithmetic.
NEEDS = {"bfloat16": "AVX512-BF16", "int8": "AVX512-VNNI"}


class RowForms(NamedTuple):
    """Forms of every row y, with z_k = y.v_k its places along the axes.

    first: z_0. rest: |y - z_0 v_0|^2. linear: y.lines (count, m). forms: sum over k of
    weights[s, k] z_k^2 (count, 2), the terms k > 0 in `arithmetic` ("float32" or "int16").
    """

    first: Float64
    rest: Float64
    linear: Float64
    forms: Float64
    arithmetic: str


def active_isa() -> str:
    """The instruction set level that runs now: FASTDIM_ISA if set, else the highest supported.

    Raises BackendError if FASTDIM_ISA names no level or one that cannot run here, or FASTDIM_AMX
    asks for what is not there.
    """
    try:
        return _core.active_level()
    except ValueError as error:
        raise BackendError(str(error)) from None


def resolve_threads(threads: int | None = None) -> int:
    """Number of threads: `threads`, else FASTDIM_NUM_THREADS, else the CPUs this process may use.

    Raises InputError unless that is a whole number of at least 1.
    """
    origin, value = "threads", threads
    if value is None:
        text = os.environ.get("FASTDIM_NUM_THREADS", "")
        if not text:
            if hasattr(os, "sched_getaffinity"):
                return len(os.sched_getaffinity(0))
            return os.cpu_count() or 1
        origin = "FASTDIM_NUM_THREADS"
        if not text.strip().isdigit():
            raise InputError(f"{origin}={text!r} must be a whole number >= 1")
        value = int(text)
    return check_threads(origin, value)


class Index:
    """Rows ready to be searched: equal rows grouped, and the form the filters read.

    strategy: "pruned" filters on leading principal axes first, "full" on all columns at once,
    "direct" likewise, on rows as they come, "rows" as "full", query by query, "tiled" scans as it
    is; "auto" chooses by size and from a sample, and whether by rows at each search. k:
    neighbours that the choice is made for. arithmetic: of the filter, "float32", "bfloat16",
    "int8", or "" for the likely fastest. groups: what `distinct` found, if it is known. queries:
    about how many rows a search will ask about, None for all. axes: gives orthonormal axes (p, d)
    along which the rows are long, longest first, or None; asked for, and tried, where "auto" is
    "direct" and there is int8. Holds the rows, which must not change. Raises BackendError if
    bfloat16 or int8 is asked for and cannot run here.
    """

    def __init__(
        self,
        rows: Rows,
        k: int,
        threads: int,
        strategy: str = "auto",
        arithmetic: str = "",
        groups: tuple[Int64, Int64] | None = None,
        queries: int | None = None,
        axes: Axes | None = None,
    ) -> None:
        self.rows = rows
        asked = strategy if strategy != "direct" else "auto"
        isa = active_isa()
        if arithmetic in NEEDS and arithmetic not in _core.filter_arithmetics(isa):
            raise BackendError(
                f"arithmetic={arithmetic!r} needs a processor with {NEEDS[arithmetic]}, and level "
                f"{isa!r} here has none: pass 'float32', or '' to let fastdim choose"
            )
        first, inverse = groups or (np.zeros(0, np.int64), np.zeros(0, np.int64))
        grouped = (address(first), len(first), address(inverse)) if groups else (0, 0, 0)
        self._index = _core.Index(*matrix(rows), *grouped, threads, isa)
        known = None
        if strategy == "auto":
            low_precision = len(_core.filter_arithmetics(isa)) > 1
            strategy = self._by_size(queries, low_precision)
            if strategy == "auto" and low_precision:
                with one_blas_thread():
                    strategy = "direct" if lacks_structure(rows, threads) else "auto"
            elif strategy == "direct" and axes is not None and arithmetic in ("", "int8"):
                known = axes() if "int8" in _core.filter_arithmetics(isa) else None
        if strategy == "tiled" or self._index.groups() < 2:
            return
        if strategy == "rows":
            strategy = ROWS_PREPARED
        if strategy == "direct":
            strategy, basis = "full", middle(rows)
            if known is not None:
                basis = basis._replace(axes=np.ascontiguousarray(known[:KNOWN_AXES], np.float32))
        else:
            with one_blas_thread():
                basis = principal_axes(rows, strategy == "full", threads)
        self._index.prepare(
            address(basis.center),
            address(basis.axes),
            len(basis.axes),
            strategy,
            asked,
            arithmetic,
            k,
            FIRST_AXES,
            SECOND_LEVEL,
            SPARE_BYTES,
            0 if known is None else self._asked(queries),
            threads,
        )

    def _asked(self, queries: int | None) -> int:
        """Rows that a search asks about."""
        groups = self._index.groups()
        return groups if queries is None else min(queries, groups)

    def _by_size(self, queries: int | None, low_precision: bool) -> str:
        """What the sizes alone decide, else "auto"."""
        groups, asked = self._index.groups(), self._asked(queries)
        if groups < (MIN_ROUNDED if low_precision else MIN_PREPARED) or asked < MIN_QUERIES:
            return "tiled"
        few = low_precision and asked * groups <= DIRECT_PAIRS
        if few or asked * QUERIES_SHARE < groups:
            return "direct"
        return "full" if self.rows.d <= DIRECT_COLUMNS else "auto"

    @property
    def strategy(self) -> str:
        """How searches leave pairs out: "pruned", "full", "rows" or "tiled"."""
        return self._index.strategy()

    def distinct(self) -> tuple[Int64, Int64]:
        """First row of each group of equal rows (-0 equals 0), in order, and each row's group."""
        first = np.empty(self._index.groups(), dtype=np.int64)
        inverse = np.empty(self.rows.n, dtype=np.int64)
        self._index.distinct(address(first), address(inverse))
        return first, inverse

    def knn(
        self,
        queries: Int64 | None,
        k: int,
        threads: int,
        chunk_rows: int = 0,
        by_group: bool = False,
    ) -> tuple[Float64, Int64, dict[str, int | str]]:
        """Distances (m, k) float64 ascending, row numbers (m, k) and the counts of the search.

        queries: row numbers (m,), None for every row. The row itself is excluded by its number;
        ties go to the smaller number. by_group: queries and results are numbers of groups of equal
        rows, in the order of `distinct`. Exact and independent of threads, chunk_rows and strategy:
        see csrc/knn.h. Needs 1 <= k < the number of rows or groups. Raises InputError where rows
        changed so that neighbours were passed over.
        """
        if queries is not None:
            queries = np.ascontiguousarray(queries, dtype=np.int64)
        every = self._index.groups() if by_group else self.rows.n
        m = every if queries is None else len(queries)
        # NaN and -1 would show at once if the kernel left a place unwritten.
        distances = np.full((m, k), np.nan)
        indices = np.full((m, k), -1, dtype=np.int64)
        with _unchanged(k):
            counts = self._index.knn(
                0 if queries is None else address(queries),
                m,
                k,
                by_group,
                threads,
                chunk_rows,
                address(distances),
                address(indices),
            )
        return distances, indices, counts

    def lookup(
        self, others: Rows, k: int, threads: int, chunk_rows: int = 0, by_group: bool = False
    ) -> tuple[Float64, Int64, dict[str, int | str]]:
        """As `knn`, of every row of another matrix of the same d and dtype; nothing is excluded.

        Always by the tiled scan. Needs 1 <= k <= the number of rows or groups.
        """
        distances = np.full((others.n, k), np.nan)
        indices = np.full((others.n, k), -1, dtype=np.int64)
        with _unchanged(k):
            counts = self._index.lookup(
                *matrix(others),
                k,
                by_group,
                threads,
                chunk_rows,
                address(distances),
                address(indices),
            )
        return distances, indices, counts


@contextmanager
def _unchanged(k: int) -> Iterator[None]:
    """InputError where the search inside passed over neighbours."""
    try:
        yield
    except IndexError as error:
        raise InputError(
            f"some rows have fewer than {k} neighbours: their values were changed after they were "
            "prepared, or during the search; prepare them again"
        ) from error


def knn(
    rows: Rows,
    queries: Int64 | None,
    k: int,
    threads: int,
    chunk_rows: int = 0,
    strategy: str = "auto",
    arithmetic: str = "",
) -> tuple[Float64, Int64, dict[str, int | str]]:
    """`Index.knn` on an index made for this search alone."""
    return index_for(rows, queries, k, threads, strategy, arithmetic).knn(
        queries, k, threads, chunk_rows
    )


def lookup(
    rows: Rows, others: Rows, k: int, threads: int, chunk_rows: int = 0
) -> tuple[Float64, Int64, dict[str, int | str]]:
    """`Index.lookup` on an index made for this search alone."""
    return Index(rows, k, threads, "tiled").lookup(others, k, threads, chunk_rows)


def index_for(
    rows: Rows,
    queries: Int64 | None,
    k: int,
    threads: int,
    strategy: str = "auto",
    arithmetic: str = "",
    groups: tuple[Int64, Int64] | None = None,
) -> Index:
    """The index for one search."""
    count = None if queries is None else len(queries)
    return Index(rows, k, threads, strategy, arithmetic, groups, count)


def distinct(rows: Rows, threads: int) -> tuple[Int64, Int64]:
    """First row of each group of equal rows (-0 equals 0), in order, and the group of each row."""
    first = np.empty(rows.n, dtype=np.int64)
    inverse = np.empty(rows.n, dtype=np.int64)
    groups = _core.distinct(*matrix(rows), threads, address(first), address(inverse))
    return first[:groups].copy(), inverse


def divided(
    rows: Rows, ids: Int64, divisors: Float64, threads: int, empty: Empty = np.empty
) -> Rows:
    """Rows `ids` (m,) over their divisors (n,), one a row of `rows`: float64 quotients, in float32.

    No divisor that is used may be 0. empty: makes the array of the result.
    """
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    divisors = np.ascontiguousarray(divisors, dtype=np.float64)
    out = empty((len(ids), rows.d), dtype=np.float32)  # large: pages are cleared by all threads
    _core.divide_rows(
        *matrix(rows),
        address(ids),
        len(ids),
        address(divisors),
        threads,
        active_isa(),
        address(out),
    )
    return Rows(out, "float32")


def has_int16() -> bool:
    """Whether the level that runs now multiplies int16 rows (avx512 on a CPU with VNNI)."""
    return _core.has_int16(active_isa())


def cosine_histogram(
    rows: Rows,
    inv_norms: Float64,
    bins: int,
    threads: int,
    precision: str = "exact",
    axes: Float64 | None = None,
    arithmetic: str = "",
) -> tuple[Int64, float, float, dict[str, int | float | str]]:
    """Histogram over [-1, 1], minimum, maximum of the cosines of all pairs, and the counts.

    inv_norms: 1 / |row| (n,), 0 for a row that takes part in no pair. precision: "exact" for the
    counts of the float64 cosines, "fast" for pairs near an edge left at most one bin off. axes: up
    to 48 orthonormal rows (k, d), along which the rows are long, longest first: they tighten
    products of integers. arithmetic: "float32", "int16", "int8" ("fast" alone), or "" for the
    likely fastest: see csrc/cosine.h. Minimum and maximum are exact, NaN if there is no pair.
    """
    isa = active_isa()
    inv_norms = np.ascontiguousarray(inv_norms, dtype=np.float64)
    axes = np.zeros((0, rows.d)) if axes is None else np.ascontiguousarray(axes, dtype=np.float64)
    histogram = np.empty(bins, dtype=np.int64)
    counts = _core.cosine_hist(
        *matrix(rows),
        address(inv_norms),
        bins,
        precision == "exact",
        arithmetic,
        address(axes),
        len(axes),
        threads,
        isa,
        address(histogram),
    )
    return histogram, float(counts["min"]), float(counts["max"]), counts


def cosine_pairs(rows: Rows, inv_norms: Float64, i: Int64, j: Int64, threads: int) -> Float64:
    """Cosines (count,) float64 of the pairs of rows i[p], j[p], clipped to [-1, 1]."""
    isa = active_isa()
    inv_norms = np.ascontiguousarray(inv_norms, dtype=np.float64)
    i = np.ascontiguousarray(i, dtype=np.int64)
    j = np.ascontiguousarray(j, dtype=np.int64)
    out = np.full(len(i), np.nan)
    _core.cosine_pairs(
        *matrix(rows),
        address(inv_norms),
        address(i),
        address(j),
        len(i),
        threads,
        isa,
        address(out),
    )
    return out


def second_moments(
    rows: Rows,
    shift: Float64,
    ids: Int64 | None,
    scale: Float64 | None,
    threads: int,
    floats: bool = False,
) -> tuple[Float64, Float64]:
    """Sum (d,) and sum of outer products (d, d) of scale * x - shift over the rows, float64.

    ids: row numbers that take part, None for all. scale: one factor for every row of `rows` (n,),
    None for 1. floats: sums of 64 products in float32, added in float64, at twice the rate; an
    entry is off by at most 4.0e-6 of the sum of its products' sizes, and may be infinite. The same
    for any number of threads: see csrc/moments.h.
    """
    total, gram = np.full(rows.d, np.nan), np.full((rows.d, rows.d), np.nan)
    ids, scale, shift = moment_arrays(ids, scale, shift)
    _core.second_moments(
        *matrix(rows),
        *moment_addresses(rows, ids, scale, shift),
        threads,
        active_isa(),
        floats,
        address(total),
        address(gram),
    )
    return total, gram


def row_forms(
    rows: Rows,
    shift: Float64,
    ids: Int64 | None,
    scale: Float64 | None,
    vectors: Float64,
    weights: Float64,
    lines: Float64,
    threads: int,
) -> RowForms:
    """Linear and quadratic forms of y = scale * x - shift: see `RowForms` and csrc/moments.h.

    vectors: orthonormal axes (r, d). weights: (2, r). lines: (m, d).
    """
    count = rows.n if ids is None else len(ids)
    vectors = np.ascontiguousarray(vectors, dtype=np.float64)
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    lines = np.ascontiguousarray(lines, dtype=np.float64)
    first, rest = np.full(count, np.nan), np.full(count, np.nan)
    linear, forms = np.full((count, len(lines)), np.nan), np.full((count, 2), np.nan)
    ids, scale, shift = moment_arrays(ids, scale, shift)
    arithmetic = _core.row_forms(
        *matrix(rows),
        *moment_addresses(rows, ids, scale, shift),
        address(vectors),
        address(weights),
        len(vectors),
        address(lines),
        len(lines),
        threads,
        active_isa(),
        address(first),
        address(rest),
        address(linear),
        address(forms),
    )
    return RowForms(first, rest, linear, forms, arithmetic)


def group_forms(
    rows: Rows,
    shift: Float64,
    ids: Int64,
    scale: Float64 | None,
    ends: Int64,
    matrices: Float64,
    threads: int,
) -> tuple[Float64, Float64]:
    """Sums (groups, d) of y = scale * x - shift and (groups, m) of y' A y over the rows of groups.

    ids: rows, one group after the other; ends: one past each group's last place in ids. matrices:
    symmetric (m, d, d). Products in float32 or int16, to be used for errors: see
    csrc/moments.h.
    """
    totals = np.full((len(ends), rows.d), np.nan)
    forms = np.full((len(ends), len(matrices)), np.nan)
    ends = np.ascontiguousarray(ends, dtype=np.int64)
    matrices = np.ascontiguousarray(matrices, dtype=np.float64)
    places, scale, shift = moment_arrays(ids, scale, shift)
    moments = moment_addresses(rows, places, scale, shift)
    groups = (address(ends), len(ends), address(matrices), len(matrices))
    out = (address(totals), address(forms))
    _core.group_forms(*matrix(rows), *moments, *groups, threads, active_isa(), *out)
    return totals, forms
