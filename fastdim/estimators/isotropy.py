"""Isotropy that needs more than eigenvalues: IsoScore* and the partition function."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_plain, real_number
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    transformed_interval,
)
from fastdim.estimators.inputs import rows_of
from fastdim.estimators.leave_out import (
    DRAWS,
    GROUPS,
    Spectra,
    descending,
    estimate_of_spectra,
    second_moments,
    split,
)
from fastdim.estimators.spectral import isotropy_of
from fastdim.moments import VANISHED

Array = NDArray[np.float64]


def isoscore_star(
    x: Any,
    zeta: float,
    covariance: Any = None,
    *,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """IsoScore* (Rudman & Eickhoff, ICLR 2024): IsoScore of a shrunk covariance.

    (PR - 1) / (d - 1) of the eigenvalues of (1 - zeta) C + zeta C0, PR the participation ratio, C
    the covariance with divisor n - 1, for samples too small for their columns.

    x: rows (n, d), centered. zeta: in [0, 1]. covariance: C0 (d, d), that of a larger sample; None
    for the identity, whose weight then depends on the scale of x. Assumes that C0 is near the
    truth. Bias: towards the isotropy of C0 by design. Duplicates count as rows; k plays no part.
    Interval: jackknife over groups of rows, C0 fixed. Cost: O(n d^2 + d^3) for all rows,
    and again without each group.
    """
    rows = rows_of(x, "isoscore_star")
    zeta = real_number("zeta", zeta)
    if not 0.0 <= zeta <= 1.0:
        raise InputError(f"zeta must lie in [0, 1], got {zeta!r}")
    given = as_plain("covariance", np.eye(rows.d) if covariance is None else covariance)
    if given.dtype.kind not in "fiu":
        raise InputError(f"covariance must hold real numbers, got {given.dtype}")
    target = given.astype(np.float64)
    if target.shape != (rows.d, rows.d) or not np.isfinite(target).all():
        raise InputError(
            f"covariance must be a finite matrix ({rows.d}, {rows.d}), got shape {target.shape}"
        )
    labels = split(groups, rows.n, jackknife)
    workers = cpu.resolve_threads(threads)

    def less(part: int | None) -> Array:
        keep = None if part is None else np.flatnonzero(labels != part)
        moments, count = second_moments(rows, keep, True, None, workers)
        mixed = (1.0 - zeta) * moments * (count / max(1, count - 1)) + zeta * target
        with one_blas_thread():
            values = np.linalg.eigvalsh(mixed).astype(np.float64, copy=False)
        if not values[-1] > 0.0:
            raise InputError(f"the shrunk covariance is zero: all rows are equal{VANISHED}")
        return descending(values)

    parts = [less(part) for part in range(int(labels.max()) + 1)] if jackknife else []
    found = Spectra(less(None), rows.n, parts, [rows.n] * len(parts), True)
    return estimate_of_spectra(
        found,
        lambda powers, n: isotropy_of(powers, rows.d),
        f"IsoScore*, zeta = {zeta:g}",
        confidence,
        (0.0, 1.0),
    )


def partition_isotropy(
    x: Any, *, groups: Any = None, confidence: float = 0.95, threads: int | None = None
) -> Estimate:
    """Partition-function isotropy (Mu & Viswanath, ICLR 2018): min Z(c) / max Z(c).

    Z(c) = sum_i exp(c.x_i), c over the eigenvectors of X'X and their negatives (an eigenvector has
    no sign; other codes take whichever the solver returns). 1 if isotropic, towards 0 otherwise.

    x: rows (n, d) as they are: neither centered nor normalized, and the value depends on their
    scale; rows of norm 100 give 0. Exponents are shifted, so nothing overflows. Assumes norms of
    about 1. Bias: high d leaves the maximum to a few rows, and the value is low where the largest
    and the least of equal Z are chance. Duplicates count as rows; k plays no part. Interval:
    influence of the rows on log Z of all directions, moved together 400 times (seeded), the range
    taken of each; normal on the log scale. Cost: O(n d (d + 400) + d^3).
    """
    check_confidence(confidence)
    rows = rows_of(x, "partition_isotropy")
    labels = as_groups(groups, rows.n)
    moments, _ = second_moments(rows, None, False, None, cpu.resolve_threads(threads))
    with one_blas_thread():
        axes = np.linalg.eigh(moments)[1].astype(np.float64, copy=False)
    top = np.full(2 * rows.d, -math.inf)
    for _, scores in _scores(rows, axes):
        np.maximum(top, scores.max(axis=0), out=top)
    total = np.zeros(2 * rows.d)
    for _, scores in _scores(rows, axes):
        total += np.exp(scores - top).sum(axis=0)
    logs = np.log(total) + top
    low, high = int(logs.argmin()), int(logs.argmax())
    value = math.exp(logs[low] - logs[high])
    stderr = value * _error_of_range(rows, axes, logs, labels)
    if value > 0.0:
        ends = transformed_interval(value, stderr, confidence, math.log, bounded_exp, 1.0 / value)
    else:
        ends = (0.0, 0.0)  # below the smallest number: exp(-745)
    return Estimate(
        value=value,
        lower=ends[0],
        upper=min(ends[1], 1.0),
        stderr=stderr,
        n_points=rows.n,
        n_distinct=None,
        n_queries=rows.n,
        method="partition function",
        interval="influence function",
        confidence=confidence,
    )


@one_blas_thread()
def _error_of_range(rows: Rows, axes: Array, logs: Array, labels: NDArray[Any] | None) -> float:
    """Standard error of min - max of log Z (2d,) over the axes and their negatives.

    Which of them are the ends is chance where their log Z are nearly equal, and an extreme of many
    varies less than one of them: errors of all directions are drawn together, as sums of the rows'
    influences times normal numbers, one a row or a document, and added to log Z as they would be
    without errors: what the two signs of an axis have in common about its mean, and half of what
    they differ by about 0, each less the share of its squares that errors explain (James & Stein).
    """
    d = rows.d
    rng = np.random.default_rng(0)
    count = rows.n if labels is None else int(labels.max()) + 1
    if count < 2:
        return math.nan
    # Documents one after the other: as many as there may be, numbers of a block are held at most.
    order = None if labels is None else np.argsort(labels, kind="stable")
    moved = np.zeros((DRAWS, 2 * d))
    document, times = -1, np.empty((0, DRAWS))
    for span, scores in _scores(rows, axes, DRAWS, order):
        influence = np.exp(scores - logs) - 1.0 / rows.n
        kept = times[:0]
        if labels is not None and order is not None:
            found = labels[order[span]]
            if found[0] == document:  # begun in the block before
                kept = times[-1:]
            document = found[-1]
            starts = np.flatnonzero(np.diff(found, prepend=-1))
            influence = np.add.reduceat(influence, starts, axis=0)
        times = np.concatenate([kept, rng.standard_normal((len(influence) - len(kept), DRAWS))])
        moved += times.T @ influence
    moved *= math.sqrt(count / max(1, count - 1))
    common, apart = _by_sign(logs)
    center = common.mean()
    commonly, apartly = _by_sign(moved)
    commonly = commonly - commonly.mean(axis=1, keepdims=True)
    common = center + _shrunk(common - center, commonly)
    apart = _shrunk(apart, apartly)
    drawn = moved + np.concatenate([common + apart, common - apart])
    return float((drawn.min(axis=1) - drawn.max(axis=1)).std(ddof=1))


def _by_sign(found: Array) -> tuple[Array, Array]:
    """Mean, and half of the difference, of the axes and of their negatives."""
    plus, minus = np.split(found, 2, axis=-1)
    return 0.5 * (plus + minus), 0.5 * (plus - minus)


def _shrunk(found: Array, errors: Array) -> Array:
    """Numbers about 0 (d,), of which draws of their errors (draws, d) explain a part."""
    squares = float(np.square(found).sum())
    explained = float(np.square(errors).sum()) / len(errors)
    return found * max(0.0, 1.0 - explained / squares) if squares > 0.0 else found


def _scores(
    rows: Rows, axes: Array, beside: int = 0, order: NDArray[np.int64] | None = None
) -> Iterator[tuple[slice, Array]]:
    """(slice, c.x_i for every axis and its negative) of rows one after the other, or in an order.

    beside: other float64 values that a row needs.
    """
    for start, stop in rows.spans(2 * rows.d + beside):
        if order is None:
            values = rows.float64(start, stop)
        else:
            values = rows.take(order[start:stop]).float64(0, stop - start)
        with one_blas_thread():
            scores = values @ axes
        yield slice(start, stop), np.concatenate([scores, -scores], axis=1)
