"""Exact nearest neighbours: computed once, passed to every estimator."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, one_of, shaped_rows, whole_number
from fastdim.backends import cpu, devices, faiss_device, faiss_index, faiss_search
from fastdim.backends.devices import check_backend
from fastdim.backends.faiss_audit import Audit
from fastdim.disk.calls import check_tiles, needs_tiles
from fastdim.errors import BackendError, InputError
from fastdim.query_far import far_of_tensor, far_rows
from fastdim.query_plan import plan_queries, stated

if TYPE_CHECKING:
    from torch import Tensor

    from fastdim.disk.rows import DiskRows

Int64 = NDArray[np.int64]
DUPLICATES = ("keep", "collapse", "raise")
STRATEGIES = ("auto", "pruned", "full", "rows", "tiled")


@dataclass(frozen=True, eq=False, repr=False)
class Neighbors:
    """The k nearest other rows of m query rows.

    distances: (m, k) ascending; float32, or float64 for float64 input.
    indices: (m, k) int64, row numbers of the input. Ties go to the smaller row number.
    queries: (m,) int64, row number of each query; with duplicates="collapse" the first of the rows
             equal to it.
    n_points: rows given. n_distinct: distinct rows, None if they were not counted ("keep").
    foreign: whether the queries were rows of another matrix, which `queries` then numbers.
        These three are torch tensors where x lay on a GPU, on that GPU: `numpy()` fetches them.
    far: of queries drawn by a count, row numbers of the rows searched that lie far from all, of
        which the queries have their share (`knn`); None where queries were not drawn so. In host
        memory.
    audit: of an approximate search, how it compares with the exact one on a sample.
    backend: what computed it, e.g. "cpu-avx512". seconds: wall time. plan: what the search did:
        strategy, arithmetic of its filter (amx: by AMX tiles), axes of the first level and of both,
        and the pairs that went through the first filter, the second, and the sum of differences.
    """

    distances: NDArray[Any]
    indices: Int64
    queries: Int64
    n_points: int
    n_distinct: int | None
    duplicates: str
    backend: str
    plan: dict[str, int | str]
    seconds: float
    foreign: bool = False
    audit: Audit | None = None
    far: Int64 | None = None

    @property
    def k(self) -> int:
        """Neighbours a query."""
        return int(self.distances.shape[1])

    def numpy(self) -> Neighbors:
        """The same neighbours in host memory, as estimators take them."""
        held: list[Any] = [self.distances, self.indices, self.queries]
        fetched = [part if isinstance(part, np.ndarray) else part.cpu().numpy() for part in held]
        return replace(self, distances=fetched[0], indices=fetched[1], queries=fetched[2])

    def __repr__(self) -> str:
        return (
            f"Neighbors(k={self.k}, {len(self.queries):,} queries among {self.n_points:,} rows, "
            f"duplicates={self.duplicates!r}, backend={self.backend!r})"
        )


@dataclass(frozen=True, eq=False)
class Distinct:
    """Groups of equal rows: first row of each group (g,), and the group of each row (n,)."""

    first: Int64
    inverse: Int64


def knn(
    x: Any,
    k: int = 2,
    *,
    queries: Any = None,
    duplicates: str = "keep",
    backend: str = "auto",
    strategy: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    index: Any = None,
    target_recall: float | None = None,
    least_recall: float | None = None,
    audit: int | None = None,
    memory: int | str | None = None,
    resume: str | Path | None = None,
) -> Neighbors:
    """The k nearest rows of each query among all rows of x (n, d), the row itself left out.

    Euclidean, exact: winners are sums of squared differences in float64, within 1e-6 relative of
    brute force whatever the offset or scale of x; the same bits for any number of threads.

    queries: None for every row; an int m for min(m, n) rows drawn by `seed` without replacement,
        each with the same probability, rows over 3 times the median distance from the center in
        proportion: intervals of estimators count on that (docs/estimators.md);
        "1%" for as many as keep the relative error that sampling adds to the dimension (standard
        error of TwoNN) at 1 %, stated in `plan` (docs/large-sets.md); an array of row numbers
        or a boolean mask. References are always all rows. Rows (m, d) of
        another matrix, of the dtype of x: looked up among all rows of x, none of which is left out
        (a row equal to the query is a neighbour at distance 0), so k may be the number of rows.
    duplicates: "keep" searches the rows as they are, so equal rows have distance 0. "collapse"
        searches the distinct rows only: None, int m and "1%" mean distinct rows, an indexed row
        stands for the rows equal to it. "raise" refuses equal rows.
    backend: "cpu"; "triton" for Triton's kernels and "cuda" for the extension `fastdim._cuda`, on a
        GPU (docs/triton.md, docs/cuda.md), without rows of another matrix and with k up to 128 on
        "triton"; "auto" for the CPU, and for what can run on its GPU where x is a torch tensor or
        DLPack array there: results are tensors there too; "faiss" for an approximate search
        whose winners are recomputed as above (docs/large-sets.md), "faiss-gpu" with the index on
        all GPUs that FAISS sees, or, of rows on a GPU, there ("flat" and "ivf").
    threads: None for FASTDIM_NUM_THREADS, else all CPUs.
    strategy: how pairs are left out; the result is the same bit for bit. "pruned" filters on the
        leading principal axes, "full" on all columns in low precision, "rows" likewise, query
        by query, "tiled" on all in float32, nothing prepared; "auto" chooses by size and a sample.
        On backend "cuda", of rows on its GPU, "auto" is "full", or each pair once where that is
        predicted to pay; "pruned" (all rows as queries) leaves out tiles that axes tell apart.
        Not for rows that `prepare` made ready, nor for rows of another matrix ("tiled").
    index, target_recall, least_recall, audit: of backend "faiss" alone. index: "flat", "ivf",
        "hnsw", "nn-descent", or a `FaissIndex` of the searched rows; None for "flat" below 10^6
        rows, else "ivf". audit: rows searched exactly to judge it (500), 0 for none;
        `Neighbors.audit` keeps recall and the shift of TwoNN. least_recall: below it the call
        raises (0.95; 0 accepts anything). target_recall: nprobe or efSearch is tuned to it.
    memory: a limit such as "4GB" (bytes, or text) for what the search holds: x may then also be the
        path of a .npy or .safetensors file, a folder of them, a list of paths or arrays, or what
        `open_rows` gives, larger than memory (docs/large-sets.md). The result is that of a search
        in memory, bit for bit. CPU only, queries as numbers or counts.
    resume: with memory, a folder for what is finished: the same call goes on from there.

    Raises InputError on bad values, k >= number of rows searched, bad queries, or a limit of memory
    below one tile; BackendError on a backend that cannot run, or a recall below the least;
    DependencyError without FAISS; StoreError on damaged files, or a folder of another call.
    """
    check_backend(backend)
    one_of("duplicates", duplicates, DUPLICATES)
    check_strategy(strategy)
    options = faiss_search.Options(index, target_recall, least_recall, audit)
    options.check(backend)
    if needs_tiles(x, memory, resume):
        check_tiles(backend, _is_matrix(queries))
        from fastdim.disk import search as disk

        wanted = disk.Wanted(k, queries, duplicates, strategy, threads, seed)
        return disk.knn(x, wanted, memory, resume)
    tensor = devices.device_tensor(x)
    on = devices.choose(backend, tensor)
    if on != "cpu":
        _check_for_device(on, x, queries, strategy, tensor is not None)
    if tensor is not None:
        return search_tensor(tensor, k, queries, seed, duplicates, on, strategy, options)
    workers = cpu.resolve_threads(threads)
    others = as_rows(queries, name="queries", threads=workers) if _is_matrix(queries) else None
    rows = shaped_rows(x, min_rows=2 if others is None else 1)
    if strategy != "auto" and isinstance(rows, Prepared):
        raise InputError(
            f"strategy={strategy!r} cannot be asked of prepared rows: pass it to prepare()"
        )
    groups = None if duplicates == "keep" else find_distinct(rows, workers)
    # Equal rows have equal values: one of each group is looked at.
    rows.check_finite("x", workers, None if groups is None else groups.first)
    check_duplicates(duplicates, groups, rows.n)
    if on != "cpu":
        return _search_on(on, rows, k, queries, groups, workers, seed, duplicates, options)
    if others is not None:
        return _lookup(rows, k, others, groups, workers, duplicates, strategy)
    return search(rows, k, queries, groups, workers, seed, duplicates, strategy)


def check_duplicates(duplicates: str, groups: Distinct | None, n: int) -> None:
    if duplicates == "raise" and groups is not None and len(groups.first) < n:
        raise InputError(
            f"{n - len(groups.first)} of {n} rows equal an earlier row: pass "
            "duplicates='collapse' to search distinct rows, or 'keep' to allow distance 0"
        )


def _check_for_device(backend: str, x: Any, queries: Any, strategy: str, on_device: bool) -> None:
    """Raise on what only the CPU does."""
    known = ("auto", "full", "pruned") if backend == "cuda" and on_device else ("auto",)
    if strategy not in known or isinstance(x, Prepared):
        raise InputError(
            f"strategy={strategy!r} and prepared rows are of the CPU: pass rows as they are to "
            f"backend {backend!r}, or backend='cpu'"
        )
    if _is_matrix(queries):
        raise BackendError(
            f"backend {backend!r} does not look up rows of another matrix: pass row numbers as "
            "queries, or backend='cpu'"
        )


@dataclass(frozen=True, eq=False)
class Prepared(Rows):
    """Rows with the form that searches read: made by `prepare`, taken wherever rows are taken.

    index: rows grouped, rotated, ordered, rounded. The data must not change (InputError if seen).
    """

    index: cpu.Index
    _far: dict[bool, Int64] = field(default_factory=dict, init=False, repr=False)

    def far(self, first: Int64 | None, threads: int = 1) -> Int64:
        """`far_rows`, found once for all rows (None) and once for the distinct ones."""
        if (first is None) not in self._far:
            self._far[first is None] = far_rows(self, first, threads)
        return self._far[first is None]

    @property
    def strategy(self) -> str:
        """How searches leave pairs out; unless it was asked for, long lists may be by "rows"."""
        return self.index.strategy


def prepare(
    x: Any,
    *,
    k: int = 2,
    queries: int | None = None,
    strategy: str = "auto",
    threads: int | None = None,
) -> Prepared:
    """Rows x (n, d) made ready for many searches: `knn`, `twonn` and others take the result as x.

    What a search of all rows spends on grouping equal rows, rotating and ordering is spent once
    here. k: neighbours, and queries: rows (None for all), that later searches will mostly ask for.
    strategy, threads: as in `knn`. Memory beyond x: a byte an element where the CPU has VNNI, 2
    where it has bfloat16 alone (else 4 for "full", and 4 a further axis for "pruned"), for "pruned"
    up to 600 bytes a row more, and about 80 a row.

    Raises InputError on bad values.
    """
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, min_rows=2, threads=workers)
    check_strategy(strategy)
    asked = None if queries is None else whole_number("queries", queries, 1)
    return prepare_rows(rows, whole_number("k", k, 1), asked, strategy, workers)


def prepare_rows(
    rows: Rows,
    k: int,
    queries: int | None,
    strategy: str,
    threads: int,
    groups: Distinct | None = None,
    axes: cpu.Axes | None = None,
) -> Prepared:
    """`prepare` of validated rows; groups of equal rows, and axes, where they are known."""
    index = cpu.Index(rows, k, threads, strategy, "", _as_pair(groups), queries, axes)
    prepared = Prepared(rows.data, rows.dtype, index)
    prepared._finite.extend(rows._finite)
    return prepared


def check_strategy(strategy: str) -> None:
    """Raise InputError unless this is the name of a strategy."""
    one_of("strategy", strategy, STRATEGIES)


def find_distinct(rows: Rows, threads: int) -> Distinct:
    """Groups of equal rows (-0 equals 0), in order of first occurrence."""
    if isinstance(rows, Prepared):
        return Distinct(*rows.index.distinct())
    return Distinct(*cpu.distinct(rows, threads))


def search(
    rows: Rows,
    k: int,
    queries: Any,
    groups: Distinct | None,
    threads: int,
    seed: int,
    duplicates: str | None = None,
    strategy: str = "auto",
) -> Neighbors:
    """`knn` on validated rows; over the first row of each group where groups are given."""
    start = time.perf_counter()
    find_far = partial(
        rows.far if isinstance(rows, Prepared) else partial(far_rows, rows), threads=threads
    )
    k, count, chosen, far = plan_queries(rows.n, k, queries, groups, seed, find_far)
    by_group = groups is not None and count < rows.n
    index = (
        rows.index
        if isinstance(rows, Prepared)
        else cpu.index_for(rows, chosen, int(k), threads, strategy, groups=_as_pair(groups))
    )
    results = index.knn(chosen, int(k), threads, by_group=by_group)
    results[2].update(stated(queries, count, chosen))
    duplicates = duplicates or ("keep" if groups is None else "collapse")
    backend = f"cpu-{results[2]['isa']}"
    return found_in(rows, groups, chosen, results, duplicates, backend, start, far=far)


def found_in(
    rows: Rows | DiskRows,
    groups: Distinct | None,
    chosen: Int64 | None,
    results: tuple[NDArray[np.float64], Int64, dict[str, Any]],
    duplicates: str,
    backend: str,
    start: float,
    audit: Audit | None = None,
    far: Int64 | None = None,
) -> Neighbors:
    """The result of a search begun at `start`: (distances, indices, plan) by row, or by group."""
    distances, indices, plan = results
    count = rows.n if groups is None else len(groups.first)
    numbers = np.arange(count) if chosen is None else chosen
    if groups is not None:
        numbers, indices = groups.first[numbers], groups.first[indices]
        far = None if far is None else groups.first[far]
    return Neighbors(
        distances=in_precision(distances, rows.dtype),
        indices=indices,
        queries=numbers,
        n_points=rows.n,
        n_distinct=None if groups is None else count,
        duplicates=duplicates,
        backend=backend,
        plan=plan,
        seconds=time.perf_counter() - start,
        audit=audit,
        far=far,
    )


def _search_on(
    backend: str,
    rows: Rows,
    k: int,
    queries: Any,
    groups: Distinct | None,
    threads: int,
    seed: int,
    duplicates: str,
    options: faiss_search.Options,
) -> Neighbors:
    """`search` on a device or by FAISS, of rows in host memory."""
    start = time.perf_counter()
    find_far = partial(far_rows, rows, threads=threads)
    k, count, chosen, far = plan_queries(rows.n, k, queries, groups, seed, find_far)
    searched = rows.take(groups.first) if groups is not None and count < rows.n else rows
    audit = None
    if backend in faiss_index.BACKENDS:
        distances, indices, plan, audit = faiss_search.knn(
            searched, chosen, k, options, threads, seed, gpu=backend == "faiss-gpu"
        )
        name = backend
    else:
        distances, indices, plan, name = devices.knn(backend, searched, chosen, k)
    plan.update(stated(queries, count, chosen))
    results = distances, indices, plan
    return found_in(rows, groups, chosen, results, duplicates, name, start, audit, far)


def search_tensor(
    x: Tensor,
    k: int,
    queries: Any,
    seed: int,
    duplicates: str,
    backend: str,
    strategy: str = "auto",
    options: faiss_search.Options | None = None,
) -> Neighbors:
    """`search` of a checked tensor, where it lies; the results are tensors there."""
    import torch

    start = time.perf_counter()
    if isinstance(queries, torch.Tensor):
        queries = queries.cpu().numpy()
    groups = None if duplicates == "keep" else Distinct(*devices.distinct(backend, x))
    check_duplicates(duplicates, groups, len(x))
    find_far = partial(far_of_tensor, x)
    k, count, chosen, far = plan_queries(len(x), k, queries, groups, seed, find_far)
    numbers = torch.from_numpy(np.arange(count) if chosen is None else chosen).to(x.device)
    asked = None if chosen is None else numbers
    first = None
    if groups is not None and count < len(x):
        first = torch.from_numpy(groups.first).to(x.device)
    searched, audit = x if first is None else x[first], None
    if backend == "faiss-gpu":
        distances, indices, plan, audit = faiss_device.knn(
            searched, asked, k, options or faiss_search.Options(), seed
        )
        name = backend
    else:
        distances, indices, plan, name = devices.knn_tensor(backend, searched, asked, k, strategy)
    if first is not None:
        numbers, indices = first[numbers], first[indices]
        far = None if far is None or groups is None else groups.first[far]
    plan.update(stated(queries, count, chosen))
    if x.dtype != torch.float64:
        distances = distances.float()
    if not bool(distances.isfinite().all()):
        raise InputError(_OVERFLOW)
    return Neighbors(
        distances=distances,  # type: ignore[arg-type]  # tensors on a GPU, as Neighbors says
        indices=indices,  # type: ignore[arg-type]
        queries=numbers,  # type: ignore[arg-type]
        n_points=len(x),
        n_distinct=None if groups is None else count,
        duplicates=duplicates,
        backend=name,
        plan=plan,
        seconds=time.perf_counter() - start,
        audit=audit,
        far=far,
    )


def _lookup(
    rows: Rows,
    k: int,
    others: Rows,
    groups: Distinct | None,
    threads: int,
    duplicates: str,
    strategy: str,
) -> Neighbors:
    """`knn` of rows of another matrix; among the first row of each group where groups are given."""
    start = time.perf_counter()
    if others.d != rows.d or others.dtype != rows.dtype:
        raise InputError(
            f"queries have {others.d} columns of {others.dtype}, and x has {rows.d} of "
            f"{rows.dtype}: pass as many columns, and convert one of the two"
        )
    if strategy not in ("auto", "tiled"):
        raise InputError(
            f"strategy={strategy!r} searches rows of x: rows of another matrix are looked up by "
            "'tiled' alone; leave it out"
        )
    count = rows.n if groups is None else len(groups.first)
    k = whole_number("k", k, 1)
    if k > count:
        kind = "rows" if groups is None else "distinct rows"
        raise InputError(f"k = {k} neighbours need at least {k} {kind} in x, got {count}")
    index = (
        rows.index
        if isinstance(rows, Prepared)
        else cpu.Index(rows, int(k), threads, "tiled", groups=_as_pair(groups))
    )
    by_group = groups is not None and count < rows.n
    distances, indices, plan = index.lookup(others, int(k), threads, by_group=by_group)
    return Neighbors(
        distances=in_precision(distances, rows.dtype),
        indices=groups.first[indices] if groups is not None and by_group else indices,
        queries=np.arange(others.n),
        n_points=rows.n,
        n_distinct=None if groups is None else count,
        duplicates=duplicates,
        backend=f"cpu-{plan['isa']}",
        plan=plan,
        seconds=time.perf_counter() - start,
        foreign=True,
    )


def _as_pair(groups: Distinct | None) -> tuple[Int64, Int64] | None:
    return None if groups is None else (groups.first, groups.inverse)


def in_precision(distances: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """float32 unless the rows are float64; InputError where that overflows."""
    found: NDArray[Any] = distances
    if dtype != "float64":
        with np.errstate(over="ignore"):
            found = distances.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(_OVERFLOW)
    return found


_OVERFLOW = "distances overflow float32: pass the rows as float64, or divide them by a constant"


def _is_matrix(queries: Any) -> bool:
    """Whether queries are rows of another matrix, not numbers of rows."""
    return isinstance(queries, Rows) or getattr(queries, "ndim", 1) == 2
