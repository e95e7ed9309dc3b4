"""A number with its uncertainty, as every estimator returns it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError


@dataclass(frozen=True)
class Estimate:
    """A value with an interval at level `confidence`; `float(e)` gives the value.

    `n_points` rows were given, `n_distinct` of them differ (None: not counted), and `n_queries`
    entered the estimate. `method` and `interval` say how value and interval were formed.
    by_group: (g,) first-order change of the value when the rows of one group (a document) count
    once more; None where rows were not grouped. Summing to zero, they are what a bootstrap over
    documents needs.
    """

    value: float
    lower: float
    upper: float
    stderr: float
    n_points: int
    n_distinct: int | None
    n_queries: int
    method: str
    interval: str
    confidence: float
    by_group: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}]"


def check_confidence(confidence: Any) -> float:
    """Return `confidence`, or raise InputError unless it lies strictly between 0 and 1."""
    number = isinstance(confidence, (int, float, np.integer, np.floating))
    if not (number and 0.0 < confidence < 1.0):
        raise InputError(f"confidence must lie strictly between 0 and 1, got {confidence!r}")
    return float(confidence)


def normal_quantile(confidence: float) -> float:
    """Half width, in standard errors, of a two-sided normal interval at level `confidence`."""
    return NormalDist().inv_cdf(0.5 + check_confidence(confidence) / 2)


def group_sums(
    influence: NDArray[np.float64], groups: NDArray[np.int64], count: int | None = None
) -> NDArray[np.float64]:
    """Sums (g, ...) of influence values (n, ...) within groups 0..g-1; count: g where larger."""
    size = count or int(groups.max()) + 1
    columns = influence.reshape(len(influence), math.prod(influence.shape[1:])).T
    sums = np.stack([np.bincount(groups, column, size) for column in columns], axis=-1)
    return np.asarray(sums.reshape(-1, *influence.shape[1:]), dtype=np.float64)


def clustered_stderr(
    influence: NDArray[np.float64], groups: NDArray[np.int64] | None, rows: int | None = None
) -> NDArray[np.float64]:
    """Standard error of a mean of influence values (n, ...), summed within groups first.

    Rows of one group (a document) may depend on each other in any way; groups are taken as
    independent (Liang & Zeger, Biometrika 73:13, 1986). `groups` holds numbers 0..g-1 or None for
    independent rows. Needs at least two groups; with fewer the error is unknown: nan. rows: how
    many there are, where each influence value is the sum over a group already.
    """
    n = influence.shape[0] if rows is None else rows
    if groups is None:
        sums, count = influence, len(influence)
    else:
        sums = group_sums(influence, groups)
        count = len(sums)
    if count < 2:
        return np.full(influence.shape[1:], math.nan)
    variance = np.square(sums).sum(axis=0) * (count / (count - 1)) / n**2
    return np.asarray(np.sqrt(variance))


def bounded_exp(z: float) -> float:
    """exp(z), at most 1e304: the end of an interval that knows nothing is large, not an error."""
    return math.exp(min(z, 700.0))


def transformed_interval(
    value: float,
    stderr: float,
    confidence: float,
    forward: Callable[[float], float],
    backward: Callable[[float], float],
    slope: float,
) -> tuple[float, float]:
    """Normal interval on a transformed scale (delta method), so that it stays in range.

    `slope` is |d forward / d value| at the value. A zero standard error gives a point.
    """
    if stderr == 0.0:
        return value, value
    if not math.isfinite(stderr) or not math.isfinite(slope):
        return math.nan, math.nan
    half = normal_quantile(confidence) * stderr * slope
    ends = sorted((backward(forward(value) - half), backward(forward(value) + half)))
    return ends[0], ends[1]
