"""Spectrum of the centered covariance: anisotropy and its relatives, with uncertainty.

The rows are read twice: once for the smaller of the Gram matrices (d x d columns, float64, about a
point near the mean; or n x n rows when n < d), and once for the scores (h_i.v_k)^2, whose weighted
sums are the influence of every row on every statistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim import moments
from fastdim.arrays import Rows, as_groups, as_rows
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    clustered_stderr,
    group_sums,
    transformed_interval,
)
from fastdim.moments import VANISHED, Sums, near_mean, random_rows, sums

Array = NDArray[np.float64]

# Up to this size a full set of eigenvalues takes no longer than the first one with its proof.
FULL_SIZE = 512

# Covariances are decomposed side by side as far as this much holds them: a matrix, its vectors,
# LAPACK's work of two more, and the vectors in the order that they are kept in.
DECOMPOSED_BYTES, DECOMPOSED_COPIES = 2 << 30, 5

# A float32 product may lose 2^-126; sums of squares above this a product have not lost 2^-24.
FLOATS_VANISH = 2.0**-102
# Float32 products do where this much of the squares about the shift is variance: the rest, of a
# shift far from the mean, is taken off and leaves its rounding. A shift of `random_rows` is so far
# off with a chance of 0.3 % at most: then float64 is a pass more, a second shift would be one too.
VARIANCE_LEFT = 0.75

STATISTICS = ("anisotropy", "participation_ratio", "effective_rank", "stable_rank")


@dataclass(frozen=True, eq=False, repr=False)
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
    n_columns: int
    estimates: dict[str, Estimate]

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={estimate}" for name, estimate in self.estimates.items())
        return f"Spectrum({self.n_rows:,} rows, {len(self.eigenvalues)} eigenvalues, {numbers})"

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


def spectrum(
    x: Any, *, groups: Any = None, confidence: float = 0.95, threads: int | None = None
) -> Spectrum:
    """Covariance spectrum of the rows of x (n, d), float64, with errors by influence function.

    groups: (n,) labels, e.g. documents; rows of one group may depend on each other. None takes
        rows as independent.
    threads: None for FASTDIM_NUM_THREADS, else all CPUs.

    Values are float64 throughout. Beyond 2^28 multiplications the standard errors come from
    products of at least 15 bits, which moves them by less than 1e-3 of themselves.

    Raises InputError on fewer than 2 rows, a single column, or rows that are all equal.
    """
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, min_rows=2, min_columns=2, threads=workers)
    return spectrum_of(rows, as_groups(groups, rows.n), confidence, workers)


def spectrum_of(
    rows: Rows,
    labels: NDArray[np.int64] | None,
    confidence: float,
    threads: int,
    known: Decomposition | None = None,
) -> Spectrum:
    """`spectrum` of validated rows; `known` where the covariance was decomposed before."""
    as_rows(rows, min_rows=2, min_columns=2)
    check_confidence(confidence)
    found = decompose(rows, threads) if known is None else known
    _check_variance(found.eigenvalues, found.count)
    scores(rows, found, threads)
    return spectrum_from_forms(found, labels, confidence, rows.d)


def spectrum_from_forms(
    found: Decomposition,
    labels: NDArray[np.int64] | None,
    confidence: float,
    columns: int,
) -> Spectrum:
    """The spectrum of a decomposition whose forms are known (`scores`); no row is read."""
    forms = found.forms
    assert forms is not None
    first = np.square(forms.first)
    influence = _influence(found, first, forms.rest, forms.forms)
    if labels is not None:
        influence = group_sums(influence, labels)
    return _spectrum(found, first, influence, labels is not None, confidence, columns)


def spectrum_from_sums(
    found: Decomposition, first: Array, sums: tuple[Array, Array, Array], confidence: float
) -> Spectrum:
    """The spectrum of a decomposition and what its forms (`scores`) come to in each group.

    first: (n,) of every row. sums: over each of g groups, of the squares of first (g,), of rest
    (g,) and of forms (g, 2).
    """
    influence = _influence(found, *sums)
    return _spectrum(found, np.square(first), influence, True, confidence, len(found.mean))


def _spectrum(
    found: Decomposition, first: Array, influence: Array, grouped: bool, confidence: float, d: int
) -> Spectrum:
    """first: (n,) squared. influence: of every row (n, 4), or summed over groups of them (g, 4)."""
    values = _statistics(found.eigenvalues)[0]
    # The values do not change with the scale of x, so the influences already sum to zero (Euler).
    errors = clustered_stderr(influence, None, found.count)
    parts = influence / found.count if grouped else None
    estimates = {
        name: replace(
            _estimate(name, float(values[place]), float(errors[place]), found.count, confidence),
            by_group=None if parts is None else parts[:, place],
        )
        for place, name in enumerate(STATISTICS)
    }
    return Spectrum(
        eigenvalues=found.eigenvalues,
        row_share=first / first.sum(),
        n_rows=found.count,
        n_columns=d,
        estimates=estimates,
    )


def anisotropy(x: Any, *, threads: int | None = None) -> float:
    """Share of the variance along the first principal axis, s_1^2 / sum s^2 of the centered rows.

    The measure of Razzhigaev et al. (arXiv 2311.05928); no row is normalized. Beyond 512 columns
    and rows the first eigenvalue comes from a Lanczos iteration and is proven to be the largest
    within 1e-9; where the proof fails, from a full decomposition.

    Float64 (as in `spectrum`) for float64 rows and for up to 2^28 multiplications (rows x
    columns^2), and where the mean of 1,024 rows drawn with a fixed seed is far from that of all
    (on any rows a chance of 0.3 % at most). Else sums of 64 products of half or single precision
    rows are float32, added in float64: errors of up to 5e-8 of the value were seen (6e-6
    (1 + 1 / value) of it if all roundings had one sign). Same errors raised as `spectrum`.
    """
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, min_rows=2, min_columns=2, threads=workers)
    gram = _gram_for_the_first(rows, workers)
    with one_blas_thread():
        top = largest_eigenvalue(gram) if len(gram) > FULL_SIZE else None
        if top is not None:
            return min(1.0, top / float(np.trace(gram)))
        ascending = np.linalg.eigvalsh(gram).astype(np.float64, copy=False)
    eigenvalues = _descending(ascending)
    _check_variance(eigenvalues, rows.n)
    return float(eigenvalues[0] / eigenvalues.sum())


def largest_eigenvalue(gram: Array) -> float | None:
    """Largest eigenvalue of a positive semidefinite matrix, within 1e-9 of itself, or None.

    Lanczos with full reorthogonalization gives theta, a Rayleigh quotient and so a lower bound.
    That no eigenvalue exceeds theta (1 + 1e-9) is proven by a Cholesky factor of the difference,
    which exists only if it is positive definite (up to rounding, about n 2^-53 theta). None if the
    iteration has not settled after 300 steps or the factor does not exist.
    """
    size = len(gram)
    steps = min(300, size)
    basis = np.zeros((steps, size))
    vector = np.random.default_rng(0).standard_normal(size)
    basis[0] = vector / np.linalg.norm(vector)
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    theta = 0.0
    for step in range(steps):
        vector = gram @ basis[step]
        diagonal[step] = float(vector @ basis[step])
        for _ in range(2):  # twice is enough (Kahan; Parlett, The Symmetric Eigenvalue Problem)
            vector -= basis[: step + 1].T @ (basis[: step + 1] @ vector)
        beside[step] = float(np.linalg.norm(vector))
        done = beside[step] <= 1e-14 * diagonal[0]
        if done or step % 5 == 4 or step == steps - 1:
            used = step + 1
            small = np.diag(diagonal[:used]) + np.diag(beside[: used - 1], -1)
            values, vectors = np.linalg.eigh(small)
            theta = float(values[-1])
            if done or beside[step] * abs(float(vectors[-1, -1])) <= 1e-10 * theta:
                break
        if step + 1 < steps:
            basis[step + 1] = vector / beside[step]
    else:
        return None
    if not theta > 0.0:
        return None
    bound = -gram
    bound[np.diag_indices(size)] += theta * (1.0 + 1e-9)
    try:
        np.linalg.cholesky(bound)
    except np.linalg.LinAlgError:
        return None  # a larger one may hide: the caller decomposes
    return theta


@dataclass(frozen=True, eq=False)
class Covariance:
    """gram (d, d) and mean (d,) of `count` rows, those of `ids` (None: all), each times `scale`
    (n,). ids ascend."""

    gram: Array
    mean: Array
    count: int
    ids: NDArray[np.int64] | None = None
    scale: Array | None = None


@dataclass(eq=False)
class Decomposition:
    """Covariance of the rows `ids` (None: all), each times `scale` (n,), as axes and eigenvalues.

    eigenvalues: (r,) descending. axes: (r, d) orthonormal; (n, r) unit scores in columns if
    `by_rows`, where there are fewer rows than columns. mean: (d,). forms: filled by `scores`.
    ids ascend.
    """

    eigenvalues: Array
    axes: Array
    by_rows: bool
    mean: Array
    count: int
    ids: NDArray[np.int64] | None = None
    scale: Array | None = None
    forms: cpu.RowForms | None = None


def decomposed_at_once(d: int) -> int:
    """How many d x d matrices are decomposed at the same time, where there are cores for it."""
    return max(1, DECOMPOSED_BYTES // (8 * DECOMPOSED_COPIES * d * d))


def decompose(rows: Rows, threads: int) -> Decomposition:
    """Decompose the covariance of all rows, or their Gram matrix where that is smaller."""
    gram, mean, by_rows = _gram(rows, threads)
    with one_blas_thread():
        ascending, columns = np.linalg.eigh(gram)
    axes = np.ascontiguousarray(columns[:, ::-1] if by_rows else columns.T[::-1])
    return Decomposition(_descending(ascending), axes, by_rows, mean, rows.n)


def covariance_of(
    parts: Sums, ids: NDArray[np.int64] | None = None, scale: Array | None = None
) -> Covariance:
    """Covariance of rows from their sums."""
    gram, mean = parts.scatter() / parts.count, parts.mean
    if scale is not None and np.trace(gram) <= (4 * np.finfo(np.float64).eps) ** 2 * (mean @ mean):
        gram = np.zeros_like(gram)  # scaled rows that differ by the rounding of the scale alone
    return Covariance(gram, mean, parts.count, ids, scale)


def decompose_sums(
    parts: Sums, ids: NDArray[np.int64] | None = None, scale: Array | None = None
) -> Decomposition:
    """Decompose the covariance of rows from their sums."""
    found = covariance_of(parts, ids, scale)
    with one_blas_thread():
        ascending, columns = np.linalg.eigh(found.gram)
    axes = np.ascontiguousarray(columns.T[::-1])
    return Decomposition(_descending(ascending), axes, False, found.mean, found.count, ids, scale)


@one_blas_thread()
def _gram(rows: Rows, threads: int) -> tuple[Array, Array, bool]:
    """Covariance (d, d), or (n, n) matrix of the rows if n < d; the mean; and which it is."""
    if rows.n < rows.d:
        centered = rows.float64(0, rows.n)
        origin = centered[0].copy()
        centered -= origin
        shift = centered.sum(axis=0) / rows.n
        centered -= shift
        return centered @ centered.T / rows.n, origin + shift, True
    found = sums(rows, near_mean(rows), threads)
    return found.scatter() / rows.n, found.mean, False


def _gram_for_the_first(rows: Rows, threads: int) -> Array:
    """`_gram` for the first eigenvalue as a share of all, in float32 products where they do."""
    work = rows.n * rows.d * rows.d
    if rows.n >= rows.d and rows.dtype != "float64" and work > moments.DIRECT_WORK:
        found = sums(rows, near_mean(rows, None, random_rows(rows.n)), threads, floats=True)
        trace = float(np.trace(found.outer))
        # Products below the range of float32 would have been lost, those beyond it are infinite.
        if rows.n * rows.d * FLOATS_VANISH < trace < np.inf:
            scatter = found.scatter()
            if float(np.trace(scatter)) >= VARIANCE_LEFT * trace:
                return scatter / rows.n
    return _gram(rows, threads)[0]


def _check_variance(eigenvalues: Array, count: int) -> None:
    if not eigenvalues[0] > 0.0:
        raise InputError(f"all {count} rows are equal: there is no variance to analyse{VANISHED}")


def _descending(ascending: Array) -> Array:
    # Below this an eigenvalue is rounding: zero to the precision of the decomposition.
    noise = len(ascending) * np.finfo(np.float64).eps * ascending[-1]
    return np.asarray(np.where(ascending > noise, ascending, 0.0)[::-1].copy())


def centered(
    rows: Rows, ids: NDArray[np.int64] | None, scale: Array | None, mean: Array
) -> Iterator[Array]:
    """The rows `ids` (None: all), each times its scale, less the mean: float64, block by block."""
    for start, stop in rows.spans():
        inside = np.arange(start, stop) if ids is None else ids[(ids >= start) & (ids < stop)]
        y = rows.float64(start, stop)[inside - start]
        if scale is not None:
            y *= scale[inside, None]
        y -= mean
        yield y


def scores(rows: Rows, found: Decomposition, threads: int) -> cpu.RowForms:
    """Forms of every row y less the mean, computed once for a decomposition.

    With z_k = y.v_k: first = z_0, rest = |y|^2 - z_0^2, forms[:, 0] = sum over k > 0 of
    l_k / l_0 z_k^2, forms[:, 1] the same with the slopes of the effective rank; linear is empty.
    Eigenvalues enter as shares of the largest: products of the rows' fourth power may overflow.
    """
    if found.forms is None:
        found.forms = _scores(rows, found, threads)
    return found.forms


def form_weights(eigenvalues: Array) -> Array:
    """The weights (2, r) that make `RowForms.forms` of squared scores; 0 along the first axis."""
    some = eigenvalues[0] > 0.0
    relative = eigenvalues / eigenvalues[0] if some else eigenvalues
    weights = np.stack([relative, _statistics(eigenvalues)[1][:, 2] if some else eigenvalues])
    weights[:, 0] = 0.0
    return weights


@one_blas_thread()
def _scores(rows: Rows, found: Decomposition, threads: int) -> cpu.RowForms:
    powers, weights = found.eigenvalues, form_weights(found.eigenvalues)
    if found.by_rows:
        squares = np.square(found.axes) * (rows.n * powers)
        first = found.axes[:, 0] * math.sqrt(rows.n * powers[0])
        rest, none = squares[:, 1:].sum(axis=1), np.zeros((rows.n, 0))
        return cpu.RowForms(first, rest, none, squares @ weights.T, "float64")
    ids, scale, lines = found.ids, found.scale, np.zeros((0, rows.d))
    if found.count * rows.d**2 > moments.DIRECT_WORK:
        return cpu.row_forms(rows, found.mean, ids, scale, found.axes, weights, lines, threads)
    parts = []
    for y in centered(rows, ids, scale, found.mean):
        z = y @ found.axes.T
        squares = np.square(z)
        parts.append((z[:, 0], squares[:, 1:].sum(axis=1), squares @ weights.T))
    first, rest, forms = (np.concatenate(part) for part in zip(*parts, strict=True))
    return cpu.RowForms(first, rest, np.zeros((len(first), 0)), forms, "float64")


def _influence(found: Decomposition, first: Array, rest: Array, forms: Array) -> Array:
    """Influence (n, 4) on the four values, of rows with these squared first scores, rests and
    forms; or summed over groups of rows, where these are sums."""
    powers = found.eigenvalues
    _check_variance(powers, found.count)
    slopes = _statistics(powers)[1]
    top = float(powers[0])
    total, power = float(powers.sum()) / top, float(np.square(powers / top).sum())
    # The slopes of anisotropy and stable rank are equal along all axes but the first.
    others = [
        slopes[-1, 0] * rest,
        2.0 * total / power * (rest - total / power * forms[:, 0]) / top,
        forms[:, 1],
        slopes[-1, 3] * rest,
    ]
    return np.asarray(np.stack(others, axis=1) + first[:, None] * slopes[0])


def _statistics(eigenvalues: Array) -> tuple[Array, Array]:
    """The four values (4,) and their derivatives by each eigenvalue (r, 4)."""
    # None of them changes with the unit, so the largest is 1: no square can overflow.
    unit = float(eigenvalues[0])
    eigenvalues = eigenvalues / unit
    total = float(eigenvalues.sum())
    squares = float(np.square(eigenvalues).sum())
    share = eigenvalues / total
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy = -float(share @ logs)
    leading = np.zeros_like(eigenvalues)
    leading[0] = 1.0
    values = np.array([1.0 / total, total**2 / squares, math.exp(entropy), total])
    slopes = np.stack(
        [
            (leading - values[0]) / total,
            2.0 * total / squares - 2.0 * total**2 * eigenvalues / squares**2,
            np.where(share > 0, -(logs + entropy) / total * values[2], 0.0),
            1.0 - leading * total,
        ],
        axis=1,
    )
    return values, slopes / unit


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
