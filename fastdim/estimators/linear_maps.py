"""How far one representation is a linear image of another: CKA and the linearity score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, yes_or_no
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimate import Estimate, check_confidence, normal_quantile
from fastdim.estimators.between import pair_of
from fastdim.estimators.leave_out import GROUPS, jackknife_stderr, split
from fastdim.moments import VANISHED, near_mean

Array = NDArray[np.float64]
Moments = tuple[int, Array, Array]


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
    Massive rows shared by both carry the score near 1 without residual=True. Interval: jackknife
    over groups of rows (documents whole), cut to [0, 1]. Cost: O(n (d + e)^2 + d^3).
    """
    first, second = pair_of(x, y, "linearity_score")
    residual = yes_or_no("residual", residual)
    if residual and first.d != second.d:
        raise InputError(
            f"residual=True takes x from y, which needs the same columns; got {first.d} and "
            f"{second.d}"
        )

    def explained(xx: Array, xy: Array, yy: Array) -> float:
        if residual:
            yy = yy - xy - xy.T + xx
            xy = xy - xx
        total = float(np.trace(yy))
        if not total > 0.0:
            raise InputError("the rows of y (less x) are all equal: nothing is to be explained")
        with one_blas_thread():
            powers, axes = np.linalg.eigh(xx)
        known = powers > len(powers) * np.finfo(np.float64).eps * powers[-1]
        part = axes[:, known].T @ xy / np.sqrt(powers[known, None])
        return float(np.square(part).sum()) / total

    label = "linearity of the residual" if residual else "linearity"
    return _jackknifed(first, second, explained, label, groups, jackknife, confidence)


def _jackknifed(
    first: Rows,
    second: Rows,
    statistic: Callable[[Array, Array, Array], float],
    method: str,
    groups: Any,
    jackknife: int,
    confidence: float,
) -> Estimate:
    """A statistic of the joint covariance, in [0, 1], with the error of leaving groups out."""
    check_confidence(confidence)
    n, d = first.n, first.d
    labels = split(groups, n, jackknife)
    shift = np.concatenate([near_mean(first), near_mean(second)])

    def moments(part: int | None) -> Moments:
        """Count, sums and products of sums of both rows side by side, of a part or of all."""
        chosen = None if part is None else np.flatnonzero(labels == part)
        a, b = (rows if chosen is None else rows.take(chosen) for rows in (first, second))
        total, outer = np.zeros(d + second.d), np.zeros((d + second.d, d + second.d))
        for start, stop in a.spans(d + second.d):
            both = np.concatenate([a.float64(start, stop), b.float64(start, stop)], axis=1) - shift
            total += both.sum(axis=0)
            outer += both.T @ both
        return a.n, total, outer

    def of(count: int, total: Array, outer: Array) -> float:
        scatter = outer - np.outer(total, total / count)
        if not (np.trace(scatter[:d, :d]) > 0.0 and np.trace(scatter[d:, d:]) > 0.0):
            raise InputError(
                f"all {n} rows of x or of y are equal: there is nothing to compare{VANISHED}"
            )
        return statistic(scatter[:d, :d], scatter[:d, d:], scatter[d:, d:])

    whole = moments(None)
    value = min(max(of(*whole), 0.0), 1.0)
    stderr, parts = math.nan, int(labels.max()) + 1
    if jackknife:
        # One part at a time: twenty matrices of (d + e)^2 would be gigabytes at 4,096 columns.
        left = (moments(part) for part in range(parts))
        less = ((whole[0] - m[0], whole[1] - m[1], whole[2] - m[2]) for m in left)
        stderr = jackknife_stderr(np.array([of(*rest) for rest in less]))
    half = normal_quantile(confidence) * stderr
    return Estimate(
        value=value,
        lower=max(value - half, 0.0) if jackknife else math.nan,
        upper=min(value + half, 1.0) if jackknife else math.nan,
        stderr=stderr,
        n_points=n,
        n_distinct=None,
        n_queries=n,
        method=method,
        interval=f"jackknife of {parts} groups" if jackknife else "none",
        confidence=confidence,
    )
