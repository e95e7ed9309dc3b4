"""Spectrum of the centered covariance: anisotropy and its relatives, with uncertainty.

The rows are read in float64 blocks: once for the mean, once for the smaller of the Gram matrices
(d x d columns, or n x n rows when n < d), once for the scores (h_i.v_k)^2, whose matrix product
gives the influence of every row on every statistic at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_rows
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    clustered_stderr,
    transformed_interval,
)

Array = NDArray[np.float64]

STATISTICS = ("anisotropy", "participation_ratio", "effective_rank", "stable_rank")


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues l of the covariance of x (n, d), and the numbers formed from them.

    eigenvalues: (min(n, d),) descending; l_k = s_k^2 / n with s_k the singular values of the
        centered rows.
    row_share: (n,) share of s_1^2 that each row carries, (h_i.v_1)^2 / s_1^2; sums to 1.
    anisotropy: l_1 / sum l (Razzhigaev et al., arXiv 2311.05928), in (0, 1].
    participation_ratio: (sum l)^2 / sum l^2. effective_rank: exp of the entropy of l / sum l (Roy &
        Vetterli, EUSIPCO 2007). stable_rank: sum l / l_1. All in [1, min(n - 1, d)].
    """

    eigenvalues: Array
    row_share: Array
    n_rows: int
    estimates: dict[str, Estimate]

    @property
    def anisotropy(self) -> float:
        """Share of the variance along the first principal axis."""
        return self.estimates["anisotropy"].value

    @property
    def participation_ratio(self) -> float:
        """(sum l)^2 / sum l^2."""
        return self.estimates["participation_ratio"].value

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of l / sum l."""
        return self.estimates["effective_rank"].value

    @property
    def stable_rank(self) -> float:
        """sum l / l_1."""
        return self.estimates["stable_rank"].value

    def estimate(self, name: str) -> Estimate:
        """One of the four numbers with standard error and interval; InputError on another name.

        The error is that of the influence function, summed within groups; the interval is normal
        on the logit scale (of 1/value for the ranks), so it stays in range. A few rows that carry
        most of s_1^2 make it optimistic: look at row_share.
        """
        if name not in self.estimates:
            raise InputError(f"spectrum estimates are {', '.join(STATISTICS)}; got {name!r}")
        return self.estimates[name]


def spectrum(x: Any, *, groups: Any = None, confidence: float = 0.95) -> Spectrum:
    """Covariance spectrum of the rows of x (n, d), float64, with errors by influence function.

    groups: (n,) labels, e.g. documents; rows of one group may depend on each other. None takes
        rows as independent.

    Raises InputError on fewer than 2 rows, a single column, or rows that are all equal.
    """
    rows = as_rows(x, min_rows=2, min_columns=2)
    labels = as_groups(groups, rows.n)
    check_confidence(confidence)
    mean = _mean(rows)
    eigenvalues, vectors, by_rows = _eigen(rows, mean)
    values, slopes = _statistics(eigenvalues)
    influence = np.empty((rows.n, len(STATISTICS)))
    first = np.empty(rows.n)
    for start, stop in rows.spans():
        if by_rows:
            scores = np.square(vectors[start:stop]) * (rows.n * eigenvalues)
        else:
            scores = np.square((rows.float64(start, stop) - mean) @ vectors)
        influence[start:stop] = scores @ slopes
        first[start:stop] = scores[:, 0]
    # The values do not change with the scale of x, so the influences already sum to zero (Euler).
    errors = clustered_stderr(influence, labels)
    estimates = {
        name: _estimate(name, float(values[place]), float(errors[place]), rows.n, confidence)
        for place, name in enumerate(STATISTICS)
    }
    return Spectrum(
        eigenvalues=eigenvalues,
        row_share=first / first.sum(),
        n_rows=rows.n,
        estimates=estimates,
    )


def anisotropy(x: Any) -> float:
    """Share of the variance along the first principal axis, s_1^2 / sum s^2 of the centered rows.

    The measure of Razzhigaev et al. (arXiv 2311.05928); no row is normalized. Same errors raised as
    `spectrum`.
    """
    rows = as_rows(x, min_rows=2, min_columns=2)
    eigenvalues, _, _ = _eigen(rows, _mean(rows), vectors=False)
    return float(eigenvalues[0] / eigenvalues.sum())


def _mean(rows: Rows) -> Array:
    total = np.zeros(rows.d)
    # The mean about the first row: exact where columns are constant, however large.
    origin = rows.float64(0, 1)[0]
    for start, stop in rows.spans():
        total += (rows.float64(start, stop) - origin).sum(axis=0)
    return np.asarray(origin + total / rows.n)


def _eigen(rows: Rows, mean: Array, vectors: bool = True) -> tuple[Array, Array, bool]:
    """Eigenvalues (descending), eigenvectors in columns, and whether they belong to the rows."""
    by_rows = rows.n < rows.d
    if by_rows:
        centered = rows.float64(0, rows.n)
        centered -= mean
        gram = centered @ centered.T
    else:
        gram = np.zeros((rows.d, rows.d))
        for start, stop in rows.spans():
            centered = rows.float64(start, stop)
            centered -= mean
            gram += centered.T @ centered
    gram /= rows.n
    scale = float(np.trace(gram))
    if not scale > 0.0:
        raise InputError(f"all {rows.n} rows are equal: there is no variance to analyse")
    if vectors:
        ascending, columns = np.linalg.eigh(gram)
    else:
        ascending, columns = np.linalg.eigvalsh(gram), gram
    # Below this an eigenvalue is rounding: zero to the precision of the decomposition.
    noise = len(ascending) * np.finfo(np.float64).eps * ascending[-1]
    eigenvalues = np.where(ascending > noise, ascending, 0.0)[::-1].copy()
    # BLAS takes no negative strides.
    return eigenvalues, np.ascontiguousarray(columns[:, ::-1]), by_rows


def _statistics(eigenvalues: Array) -> tuple[Array, Array]:
    """The four values (4,) and their derivatives by each eigenvalue (r, 4)."""
    total = float(eigenvalues.sum())
    squares = float(np.square(eigenvalues).sum())
    top = float(eigenvalues[0])
    share = eigenvalues / total
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy = -float(share @ logs)
    leading = np.zeros_like(eigenvalues)
    leading[0] = 1.0
    values = np.array([top / total, total**2 / squares, math.exp(entropy), total / top])
    slopes = np.stack(
        [
            (leading - values[0]) / total,
            2.0 * total / squares - 2.0 * total**2 * eigenvalues / squares**2,
            np.where(share > 0, -(logs + entropy) / total * values[2], 0.0),
            1.0 / top - leading * total / top**2,
        ],
        axis=1,
    )
    return values, slopes


def _estimate(name: str, value: float, stderr: float, n: int, confidence: float) -> Estimate:
    if name == "anisotropy":
        value = min(value, 1.0)
        room = value * (1.0 - value)
        lower, upper = transformed_interval(
            value,
            stderr if room > 0.0 else 0.0,
            confidence,
            lambda p: math.log(p / (1.0 - p)),
            lambda z: 1.0 / (1.0 + bounded_exp(-z)),
            1.0 / room if room > 0.0 else math.inf,
        )
    else:
        # logit(1/value) = -log(value - 1): a rank stays above 1.
        value = max(value, 1.0)
        lower, upper = transformed_interval(
            value,
            stderr if value > 1.0 else 0.0,
            confidence,
            lambda rank: math.log(rank - 1.0),
            lambda z: 1.0 + bounded_exp(z),
            1.0 / (value - 1.0) if value > 1.0 else math.inf,
        )
    return Estimate(
        value=value,
        lower=lower,
        upper=upper,
        stderr=stderr,
        n_points=n,
        n_distinct=None,
        n_queries=n,
        method="centered covariance",
        interval="influence function",
        confidence=confidence,
    )
