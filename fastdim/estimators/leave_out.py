"""Eigenvalues of all rows and of all rows but one group: value and jackknife error of any spectrum.

A statistic of eigenvalues is computed on the whole and on the whole less each of g groups of rows;
the variance is (g - 1)/g times the sum of squared differences from their mean (Efron & Stein, Ann.
Stat. 9:586, 1981). It needs no derivative and takes rows of one document as dependent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, whole_number
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import Spectrum
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    normal_quantile,
    transformed_interval,
)
from fastdim.moments import VANISHED, near_mean, sums

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], float]

GROUPS = 20
# Draws of eigenvalues where only a Spectrum is known.
DRAWS = 400


@dataclass(frozen=True, eq=False)
class Spectra:
    """Eigenvalues, descending, with the rows behind them: of all rows, and less each group.

    counts: rows behind each. jackknife: whether the parts are groups left out; else they are draws
    of the normal theory, in which log eigenvalues have variance 2/n (Anderson, 1963).
    """

    whole: Array
    count: int
    parts: list[Array]
    counts: list[int]
    jackknife: bool

    def apply(self, statistic: Statistic) -> tuple[float, float]:
        """The statistic of (eigenvalues, rows) on the whole, and its standard error."""
        value = float(statistic(self.whole, self.count))
        if not self.parts:
            return value, math.nan
        pairs = zip(self.parts, self.counts, strict=True)
        found = np.array([statistic(part, count) for part, count in pairs])
        if self.jackknife:
            return value, jackknife_stderr(found)
        return value, float(found.std(ddof=1))


def jackknife_stderr(found: Array) -> float:
    """Standard error from the values (g,) with each of g groups of rows left out."""
    g = len(found)
    return math.sqrt((g - 1) / g * float(np.square(found - found.mean()).sum()))


def from_spectrum(found: Spectrum) -> Spectra:
    """What a Spectrum alone can tell: errors of normal rows, which heavy rows exceed."""
    return normal_theory(found.eigenvalues, found.n_rows)


def normal_theory(eigenvalues: Array, count: int) -> Spectra:
    """Eigenvalues, descending, of `count` rows, with draws of what normal rows would give."""
    rng = np.random.default_rng(0)
    scale = math.sqrt(2.0 / count)
    shape = (DRAWS, len(eigenvalues))
    draws = eigenvalues * np.exp(scale * rng.standard_normal(shape))
    parts = list(-np.sort(-draws, axis=1))
    return Spectra(eigenvalues, count, parts, [count] * DRAWS, False)


def from_rows(
    rows: Rows,
    groups: Any,
    parts: int,
    threads: int,
    *,
    centered: bool = True,
    scale: Array | None = None,
) -> Spectra:
    """Eigenvalues of the covariance, or of the second moments where not `centered`.

    scale: (n,) by which rows are multiplied. parts: groups left out in turn, 0 for none; documents
    stay whole, and they, or rows without `groups`, are dealt out in a fixed random order.
    """
    labels = split(groups, rows.n, parts)
    kernel = _kernel(rows, scale, centered) if rows.n < rows.d else None

    def less(part: int | None) -> tuple[Array, int]:
        keep = None if part is None else np.flatnonzero(labels != part)
        if kernel is None:
            matrix, count = second_moments(rows, keep, centered, scale, threads)
        else:
            matrix, count = _reduced(kernel, keep, centered)
        with one_blas_thread():
            return descending(np.linalg.eigvalsh(matrix).astype(np.float64, copy=False)), count

    whole, count = less(None)
    if not whole[0] > 0.0:
        raise InputError(
            f"all {rows.n} rows are equal or zero: there is no variance to analyse{VANISHED}"
        )
    left = [less(part) for part in range(int(labels.max()) + 1)] if parts else []
    if not all(part[0] > 0.0 for part, _ in left):
        raise InputError(
            "without one of the groups all rows are equal or zero, and a jackknife has nothing to "
            "compare: pass more rows, or jackknife=0"
        )
    return Spectra(whole, count, [p[0] for p in left], [p[1] for p in left], True)


def split(groups: Any, n: int, parts: int) -> NDArray[np.int64]:
    """Part (n,) of each row, 0..parts-1, documents whole."""
    labels = as_groups(groups, n)
    if whole_number("jackknife", parts, 0) == 0:
        return np.zeros(n, dtype=np.int64)
    if parts < 2:
        raise InputError(f"jackknife must be 0 or at least 2 groups, got {parts}")
    numbers = np.arange(n) if labels is None else labels
    count = int(numbers.max()) + 1
    if count < 2:
        raise InputError("a jackknife needs rows of at least 2 groups: pass jackknife=0")
    # In a fixed random order: dealt out in turn, what recurs every 100 rows, as the first token of
    # texts of one length, would all be in a few parts.
    dealt = np.random.default_rng(0).permutation(count)
    return np.asarray(dealt[numbers] % min(parts, count))


def _kernel(rows: Rows, scale: Array | None, centered: bool) -> Array:
    """Inner products (n, n) of the scaled rows, about a row where the mean is taken off anyway."""
    values = rows.float64(0, rows.n)
    if scale is not None:
        values *= scale[:, None]
    if centered:
        values -= values[0].copy()
    return np.asarray(values @ values.T)


def _reduced(kernel: Array, keep: NDArray[np.int64] | None, centered: bool) -> tuple[Array, int]:
    part = kernel if keep is None else kernel[np.ix_(keep, keep)]
    if centered:
        line = part.mean(axis=0)
        part = part - line - line[:, None] + line.mean()
    return np.asarray(part / len(part)), len(part)


def second_moments(
    rows: Rows,
    keep: NDArray[np.int64] | None,
    centered: bool,
    scale: Array | None,
    threads: int,
) -> tuple[Array, int]:
    """Covariance (d, d) with divisor n of the rows `keep`, or second moments; and their count."""
    shift = near_mean(rows, scale, keep) if centered else np.zeros(rows.d)
    found = sums(rows, shift, threads, keep, scale)
    return (found.scatter() if centered else found.outer) / found.count, found.count


def descending(ascending: Array) -> Array:
    """Eigenvalues in descending order, those below rounding set to zero."""
    noise = len(ascending) * np.finfo(np.float64).eps * ascending[-1]
    return np.asarray(np.where(ascending > noise, ascending, 0.0)[::-1].copy())


def estimate_of_spectra(
    found: Spectra,
    statistic: Statistic,
    method: str,
    confidence: float,
    bounds: tuple[float, float],
) -> Estimate:
    """Statistic with its interval, normal on the log scale where it is above 0, cut to `bounds`."""
    check_confidence(confidence)
    value, stderr = found.apply(statistic)
    if value > 0.0:
        ends = transformed_interval(value, stderr, confidence, math.log, bounded_exp, 1.0 / value)
    else:
        half = normal_quantile(confidence) * stderr
        ends = value - half, value + half
    # The value itself stays inside where rounding or a bound would leave it out.
    lower = min(max(ends[0], bounds[0]), value)
    upper = max(min(ends[1], bounds[1]), value)
    if math.isnan(stderr):
        lower = upper = math.nan
    kind = f"jackknife of {len(found.parts)} groups" if found.jackknife else "normal theory"
    return Estimate(
        value=value,
        lower=lower,
        upper=upper,
        stderr=stderr,
        n_points=found.count,
        n_distinct=None,
        n_queries=found.count,
        method=method,
        interval=kind if found.parts else "none",
        confidence=confidence,
    )
