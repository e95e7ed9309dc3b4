"""Approximate neighbours by FAISS: candidates recomputed in float64, then audited."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import BLOCK_BYTES, Rows, whole_number
from fastdim.backends import cpu, faiss_index
from fastdim.backends.faiss_audit import Audit, compare, recalls
from fastdim.backends.faiss_index import EFFORT, FaissIndex
from fastdim.errors import BackendError, InputError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

AUDIT_ROWS = 500
LEAST_RECALL = 0.95
# Candidates beyond the neighbours and the row itself: float32 may swap close ones.
SPARE = 8
# Shorter distances have squares that lose digits in float64; they are formed at a larger scale.
SHORT = 2.0**-420
LONGER = 2.0**600
# Effort is doubled at most up to here for a wanted recall, nprobe up to all lists.
MOST_EFFORT = 4096


@dataclass(frozen=True)
class Options:
    """What `knn` was asked for beside the neighbours; None is the default of each."""

    index: Any = None
    target_recall: float | None = None
    least_recall: float | None = None
    audit: int | None = None

    def check(self, backend: str) -> None:
        """Raise InputError on a value that means nothing, BackendError on a GPU for FAISS."""
        if backend not in faiss_index.BACKENDS:
            if self.given():
                raise InputError(
                    f"{', '.join(self.given())} belong to an approximate search: pass "
                    "backend='faiss', or leave them out"
                )
            return
        if backend == "faiss-gpu":
            faiss_index.check_gpu()
        if self.index is not None and not isinstance(self.index, (str, FaissIndex)):
            raise InputError(
                "index must be the name of a kind or a FaissIndex, got "
                f"{type(self.index).__name__}: FaissIndex.load(folder) reads a saved one"
            )
        for name, value in (
            ("target_recall", self.target_recall),
            ("least_recall", self.least_recall),
        ):
            number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
            if value is not None and not (number and 0.0 <= value <= 1.0):
                raise InputError(f"{name} must be a share between 0 and 1, got {value!r}")
        if self.audit is not None:
            whole_number("audit", self.audit, 0)
        if self.audit == 0 and (self.target_recall is not None or self.least_recall):
            raise InputError("a recall cannot be known without an audit: leave audit=0 out")

    def given(self) -> list[str]:
        """Names of the options that were asked for."""
        return [name for name, value in vars(self).items() if value is not None]


def knn(
    rows: Rows,
    queries: Int64 | None,
    k: int,
    options: Options,
    threads: int,
    seed: int,
    gpu: bool = False,
) -> tuple[Float64, Int64, dict[str, int | str], Audit | None]:
    """Distances (m, k) float64 ascending, row numbers (m, k), what was done, and the audit.

    gpu: search a copy of the index on every GPU; candidates are recomputed here all the same.

    Raises InputError on an index of other rows; BackendError below the least recall, or where the
    wanted recall is out of reach.
    """
    made = options.index
    if isinstance(made, FaissIndex):
        made.check_rows(rows)
    else:
        made = faiss_index.build(rows, made or "auto", {}, None, seed, threads)
    if gpu:
        check_gpu_width(k)
        made = made.on_gpus()
    asked = np.arange(rows.n) if queries is None else queries
    size = AUDIT_ROWS if options.audit is None else options.audit
    if options.target_recall is not None and made.kind != "flat":
        some = sample(asked, size, [seed, 1])
        most = made.most_effort if made.kind == "ivf" else min(made.n, MOST_EFFORT)
        truth = cpu.knn(rows, some, k, threads)[0]
        tune(
            made,
            most,
            options.target_recall,
            truth,
            lambda: search(rows, made, some, k, threads)[0],
        )
    distances, indices, completed = search(rows, made, asked, k, threads)
    plan: dict[str, int | str] = {"index": made.kind, **made.parameters}
    if made.kind in EFFORT:
        plan[EFFORT[made.kind]] = made.effort
    if gpu:
        plan["gpus"] = made.gpus
    plan.update({"candidates": k + 1 + SPARE, "completed_exactly": completed})
    if size == 0:
        return distances, indices, plan, None
    # Row numbers may come twice in `asked`; places are sampled.
    places = np.sort(sample(np.arange(len(asked)), size, [seed, 2]))
    exact, _, _ = cpu.knn(rows, asked[places], k, threads)
    audit = compare(distances[places], exact)
    check_recall(audit, options, made)
    return distances, indices, plan, audit


def check_gpu_width(k: int) -> None:
    """Raise InputError where k neighbours need more candidates than FAISS returns on a GPU."""
    if k + 1 + SPARE > faiss_index.GPU_NEIGHBORS:
        raise InputError(
            f"k = {k} neighbours are more than FAISS returns on a GPU: pass at most "
            f"{faiss_index.GPU_NEIGHBORS - 1 - SPARE}, or backend='faiss'"
        )


def check_recall(audit: Audit, options: Options, made: Any) -> None:
    """Raise BackendError below the least recall. made: an index with `kind` and `effort`."""
    least = LEAST_RECALL if options.least_recall is None else options.least_recall
    if audit.recall < least:
        raise BackendError(
            f"recall {audit.recall:.3f} of {audit.rows} rows searched exactly is below "
            f"{least:g} (index {made.kind!r}{_effort_of(made)}): pass target_recall={least:g} to "
            "tune it, another index, or least_recall=0 to take the result as it is"
        )


def search(
    rows: Rows, made: FaissIndex, asked: Int64, k: int, threads: int
) -> tuple[Float64, Int64, int]:
    """Distances and row numbers (m, k) by recomputed candidates, and rows completed exactly.

    A row for which the index proposes fewer than k others is searched exactly: an index has no
    other way to say that it found nothing.
    """
    width = min(rows.n, k + 1 + SPARE)
    distances = np.full((len(asked), k), np.nan)
    indices = np.full((len(asked), k), -1, dtype=np.int64)
    # The candidates that all threads hold together stay near the blocks of `Rows.spans`.
    step = max(1, BLOCK_BYTES // (8 * rows.d * width * threads))

    def settle(start: int, proposed: Int64) -> None:
        for at in range(0, len(proposed), step):
            part = slice(start + at, start + at + len(proposed[at : at + step]))
            distances[part], indices[part] = recompute(
                rows, asked[part], proposed[at : at + step], k
            )

    batch = 4096
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for start in range(0, len(asked), batch):
            numbers = asked[start : start + batch]
            block = made.as_float32(rows.take(numbers), 0, len(numbers))
            with faiss_index.limited(threads):
                _, proposed = made.index.search(block, width)
            parts = np.array_split(np.arange(len(numbers)), threads)
            waiting = [
                pool.submit(settle, start + int(part[0]), proposed[part])
                for part in parts
                if len(part)
            ]
            for one in waiting:
                one.result()
    short = np.flatnonzero(indices[:, k - 1] < 0)
    if len(short):
        distances[short], indices[short], _ = cpu.knn(rows, asked[short], k, threads)
    return distances, indices, len(short)


def recompute(rows: Rows, asked: Int64, proposed: Int64, k: int) -> tuple[Float64, Int64]:
    """The k nearest of the candidates (m, c) by float64 differences; -1 where there are fewer.

    The row itself, -1 and repeated candidates are left out; ties go to the smaller row number.
    """
    proposed = np.sort(proposed, axis=1)
    bad = (proposed < 0) | (proposed == asked[:, None])
    bad[:, 1:] |= proposed[:, 1:] == proposed[:, :-1]
    flat = rows.take(np.where(bad, 0, proposed).ravel())
    differences = flat.float64(0, flat.n).reshape(*proposed.shape, rows.d)
    own = rows.take(asked)
    differences -= own.float64(0, own.n)[:, None, :]
    found = np.sqrt(np.einsum("mcd,mcd->mc", differences, differences))
    short = found < SHORT
    if short.any():
        longer = differences[short] * LONGER
        found[short] = np.sqrt(np.einsum("pd,pd->p", longer, longer)) / LONGER
    found[bad] = np.inf
    order = np.argsort(found, axis=1, kind="stable")[:, :k]
    numbers = np.where(bad, -1, proposed)
    kept = np.take_along_axis(numbers, order, axis=1)
    distances = np.take_along_axis(found, order, axis=1)
    if order.shape[1] < k:
        room = ((0, 0), (0, k - order.shape[1]))
        return np.pad(distances, room, constant_values=np.inf), np.pad(
            kept, room, constant_values=-1
        )
    return distances, kept


def tune(made: Any, most: int, target: float, exact: Float64, find: Callable[[], Float64]) -> None:
    """Double the effort of an index from 1 on until what it finds has the recall; or raise.

    exact: distances (s, k) of a sample, not the audit's. find: those of the index as it stands.
    """
    effort = 1
    while True:
        made.set_effort(min(effort, most))
        first, both = recalls(find(), exact)
        reached = float(first.mean() if both is None else min(first.mean(), both.mean()))
        if reached >= target:
            return
        if effort >= most:
            raise BackendError(
                f"target_recall={target:g} is out of reach: {reached:.3f} of {len(exact)} rows "
                f"at the most (index {made.kind!r}{_effort_of(made)}); pass index='flat', or a "
                "lower target"
            )
        effort *= 2


def sample(numbers: Int64, size: int, seed: list[int]) -> Int64:
    """`size` of the numbers without replacement, or all."""
    size = min(size, len(numbers))
    return np.random.default_rng(seed).choice(numbers, size, replace=False)


def _effort_of(made: Any) -> str:
    return f", {EFFORT[made.kind]} {made.effort}" if made.kind in EFFORT else ""
