"""How far one representation is a linear image of another: CKA and the linearity score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, yes_or_no
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimate import Estimate, check_confidence, normal_quantile
from fastdim.estimators.between import pair_of
from fastdim.estimators.leave_out import GROUPS, jackknife_stderr, split
from fastdim.moments import VANISHED, near_mean, shift_rows

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]
Moments = tuple[int, Array, Array]

# Less of the squares of all rows than this, and the difference of two sums is not precise.
LEAST_LEFT = 1e-3
# Of |x| + |y|, in y - x.
ROUNDING = 2.0 * float(np.finfo(np.float64).eps)


def linear_cka(
    x: Any,
    y: Any,
    *,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float = 0.95,
) -> Estimate:
    """Linear centered kernel alignment (Kornblith et al., ICML 2019).

    |Y'X|_F^2 / (|X'X|_F |Y'Y|_F) of the centered rows: 1 where y is x rotated and scaled, and not
    changed by either.

    x: rows (n, d), y: rows (n, e) of the same tokens. Duplicates count as rows; k plays no part.
    Assumes n many times d. Bias: high where n is not many times d: unrelated Gaussian rows with n =
    d give about 1/2. A few massive rows shared by both carry it to 1. Interval: jackknife over
    groups of rows (documents whole), cut to [0, 1]. Cost: O(n (d + e)^2).
    """
    first, second = pair_of(x, y, "linear_cka")

    def alignment(xx: Array, xy: Array, yy: Array) -> float:
        # Each in units of its own: fourth powers of the rows may overflow.
        a, b = math.sqrt(np.trace(xx)), math.sqrt(np.trace(yy))
        below = float(np.linalg.norm(xx / a / a) * np.linalg.norm(yy / b / b))
        return float(np.square(xy / a / b).sum()) / below

    return _jackknifed(first, second, alignment, "linear CKA", groups, jackknife, confidence)


def linearity_score(
    x: Any,
    y: Any,
    *,
    residual: bool = False,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float = 0.95,
) -> Estimate:
    """Procrustes linearity score of two layers (Razzhigaev et al., arXiv 2405.12250).

    1 - min_A |X A - Y|_F^2, X and Y centered and divided by their Frobenius norms: the share of y's
    variance that a linear map of x explains (llm-microscope: procrustes_similarity). residual=True
    has y - x in place of y, what the blocks between add (procrustes_similarity_centered); it needs
    the same columns.

    x: rows (n, d), y: rows (n, e) of the same tokens. Directions of x below rounding are left out,
    where the original divides by them. Duplicates count as rows; k plays no part. Assumes n many
    times d. Bias: high by about d/n of what is left to explain; with n <= d every y is explained.
    Massive rows shared by both carry the score near 1 without residual=True; one that is 1e6 times
    the others leaves 4 digits, 1e8 times one, for products of x are added up. Interval: jackknife
    over groups of rows (documents whole), cut to [0, 1]; "none" where one group less leaves no more
    than d + 1 rows, of which every y is explained. Cost: O(n (d + e)^2 + d^3).
    """
    first, second = pair_of(x, y, "linearity_score")
    residual = yes_or_no("residual", residual)
    if residual and first.d != second.d:
        raise InputError(
            f"residual=True takes x from y, which needs the same columns; got {first.d} and "
            f"{second.d}"
        )

    def explained(xx: Array, xy: Array, yy: Array) -> float:
        with one_blas_thread():
            powers, axes = np.linalg.eigh(xx)
        known = powers > len(powers) * np.finfo(np.float64).eps * powers[-1]
        part = axes[:, known].T @ xy / np.sqrt(powers[known, None])
        return float(np.square(part).sum()) / float(np.trace(yy))

    label = "linearity of the residual" if residual else "linearity"
    return _jackknifed(
        first, second, explained, label, groups, jackknife, confidence, residual, first.d
    )


def _jackknifed(
    first: Rows,
    second: Rows,
    statistic: Callable[[Array, Array, Array], float],
    method: str,
    groups: Any,
    jackknife: int,
    confidence: float,
    residual: bool = False,
    explained_by: int = 0,
) -> Estimate:
    """A statistic of the joint covariance, in [0, 1], with the error of leaving groups out.

    explained_by: columns that explain everything where there are no more rows than they and one:
    without one of the groups the statistic is then 1 whatever the rows, and tells no error.
    residual: y - x in place of y, before anything is added up: massive rows that both share leave
    nothing of it in the difference of two covariances.
    """
    check_confidence(confidence)
    n, d = first.n, first.d
    labels = split(groups, n, jackknife)
    width = d + second.d
    step = next(stop for _, stop in first.spans(width))
    other = "y - x" if residual else "y"

    def blocks(chosen: Int64 | None, size: int = step) -> Iterator[list[Array]]:
        """Consecutive rows of x and y, or of x and y - x, of those chosen or of all."""
        count = n if chosen is None else len(chosen)
        for start in range(0, count, size):
            stop = min(start + size, count)
            if chosen is None:
                x, y = (rows.float64(start, stop) for rows in (first, second))
            else:
                taken = chosen[start:stop]
                x, y = (rows.take(taken).float64(0, len(taken)) for rows in (first, second))
            if residual:
                y -= x
            yield [x, y]

    def moments(chosen: Int64 | None, shift: Array) -> Moments:
        """Count, sums and products of sums of both rows side by side, of those chosen or of all."""
        total, outer = np.zeros(width), np.zeros((width, width))
        for parts in blocks(chosen):
            both = np.concatenate(parts, axis=1) - shift
            total += both.sum(axis=0)
            outer += both.T @ both
        return n if chosen is None else len(chosen), total, outer

    def sample(chosen: Int64 | None) -> list[Array]:
        ids = shift_rows(np.arange(n) if chosen is None else chosen)
        return next(blocks(ids, len(ids)))

    def shift_of(chosen: Int64 | None) -> Array:
        return np.concatenate([near_mean(Rows(part, "float64")) for part in sample(chosen)])

    def all_equal(chosen: Int64 | None) -> bool:
        """Whether y - x is one row and rounding. The first block tells where it is not."""
        x, added = sample(chosen)
        center, middle = np.median(added, axis=0), np.median(_sizes(x, added), axis=0)
        return not any(
            (np.abs(added - center) > ROUNDING * (middle + _sizes(x, added))).any()
            for x, added in blocks(chosen)
        )

    def of(scatter: Array) -> float:
        return statistic(scatter[:d, :d], scatter[:d, d:], scatter[d:, d:])

    if residual and all_equal(None):
        raise InputError("the rows of y - x are all equal: nothing is to be explained")
    shift = shift_of(None)
    whole = moments(None, shift)
    spread, scatter = _spread(whole[2], d), _scatter(whole)
    if not (_spread(scatter, d) > 0.0).all():
        raise InputError(
            f"all {n} rows of x or of {other} are equal: there is nothing to compare{VANISHED}"
        )
    value = min(max(of(scatter), 0.0), 1.0)

    def without(part: int) -> float:
        count, total, outer = moments(np.flatnonzero(labels == part), shift)
        scatter = _scatter((n - count, whole[1] - total, whole[2] - outer))
        # Where massive rows are in the part, the difference is rounding, and the rest is added up
        # anew about a mean of its own: of all parts two at most hold nearly all of one.
        if not (_spread(scatter, d) > LEAST_LEFT * spread).all():
            rest = np.flatnonzero(labels != part)
            scatter = _scatter(moments(rest, shift_of(rest)))
            if residual and all_equal(rest):
                scatter[d:, d:] = 0.0
        if not (_spread(scatter, d) > 0.0).all():
            raise InputError(
                f"without one of the groups all rows of x or of {other} are equal, and a jackknife "
                f"has nothing to compare: pass more rows, or jackknife=0{VANISHED}"
            )
        return of(scatter)

    stderr, parts = math.nan, int(labels.max()) + 1
    left = n - int(np.bincount(labels).max())
    has_error = bool(jackknife) and left > explained_by + 1
    if has_error:
        # One part at a time: twenty matrices of (d + e)^2 would be gigabytes at 4,096 columns.
        stderr = jackknife_stderr(np.array([without(part) for part in range(parts)]))
    half = normal_quantile(confidence) * stderr
    return Estimate(
        value=value,
        lower=max(value - half, 0.0) if has_error else math.nan,
        upper=min(value + half, 1.0) if has_error else math.nan,
        stderr=stderr,
        n_points=n,
        n_distinct=None,
        n_queries=n,
        method=method,
        interval=f"jackknife of {parts} groups" if has_error else "none",
        confidence=confidence,
    )


def _sizes(x: Array, added: Array) -> Array:
    """|x| + |y| of x and y - x, whose rounding is a part of them."""
    return np.asarray(np.abs(x) + np.abs(x + added))


def _scatter(moments: Moments) -> Array:
    """Sum of outer products of the rows less their mean."""
    count, total, outer = moments
    return np.asarray(outer - np.outer(total, total / count))


def _spread(scatter: Array, d: int) -> Array:
    """Sums of squares (2,) of x, of the first d columns, and of y."""
    squares = np.diag(scatter)
    return np.array([squares[:d].sum(), squares[d:].sum()])
