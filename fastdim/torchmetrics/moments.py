"""Metrics from count, mean and scatter matrix: exact over all rows, and merged stably."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimate import Estimate, transformed_interval
from fastdim.estimators.leave_out import descending, estimate_of_spectra, normal_theory
from fastdim.moments import VANISHED
from fastdim.torchmetrics.base import RowMetric

Array = NDArray[np.float64]


def moments_of(rows: Tensor) -> Tensor:
    """One state (d + 1, d + 1) float64 of rows (n, d): [0, 0] n, [0, 1:] mean, [1:, 1:] scatter.

    The scatter matrix is the sum of outer products of the rows less their mean.
    """
    values = rows.to(torch.float64)
    # About a row first: exact where all rows share a large offset.
    origin = values[:1]
    centered = values - origin
    shift = centered.mean(dim=0)
    centered -= shift
    state = values.new_zeros((values.shape[1] + 1,) * 2)
    state[0, 0] = len(values)
    state[0, 1:] = origin[0] + shift
    state[1:, 1:] = centered.T @ centered
    return state


def merge_moments(stacked: Tensor) -> Tensor:
    """The state of all rows behind states (w, d + 1, d + 1).

    Chan, Golub & LeVeque (Amer. Stat. 37:242, 1983): means are compared, never subtracted from
    sums of squares.
    """
    whole = stacked[0].clone()
    for part in stacked[1:]:
        count = whole[0, 0] + part[0, 0]
        if count == 0:
            continue
        apart = part[0, 1:] - whole[0, 1:]
        share = part[0, 0] / count
        whole[1:, 1:] += part[1:, 1:] + torch.outer(apart, apart * (whole[0, 0] * share))
        whole[0, 1:] += apart * share
        whole[0, 0] = count
    return whole


class MomentMetric(RowMetric):
    """A metric of the moments of all rows seen; the state takes (num_features + 1)^2 float64.

    num_features: columns of a row. confidence: level of the interval of `estimate()`. kwargs: of
    torchmetrics.Metric.
    """

    # MetricCollection shares states that have equal names and values after the first batch.
    _state = "moments"

    def __init__(self, num_features: int, *, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(num_features, confidence, **kwargs)
        size = self.num_features + 1
        nothing = torch.zeros(size, size, dtype=torch.float64)
        self.add_state(self._state, nothing, dist_reduce_fx=merge_moments)

    def _add(self, rows: Tensor) -> None:
        before = getattr(self, self._state)
        setattr(self, self._state, merge_moments(torch.stack([before, moments_of(rows)])))

    def _parts(self) -> tuple[int, Array, Array]:
        """Count, mean (d,) and scatter (d, d) of at least two rows."""
        state = getattr(self, self._state).cpu().numpy()
        count = int(state[0, 0])
        if count < 2:
            raise InputError(f"{type(self).__name__} needs at least 2 rows, got {count}")
        return count, state[0, 1:], state[1:, 1:]


class SpectralMetric(MomentMetric):
    """A number formed from the eigenvalues of the covariance."""

    @abstractmethod
    def _of(self, eigenvalues: Array) -> float:
        """The number from the eigenvalues (d,) of the covariance, in a unit of their own."""

    def _estimate(self) -> Estimate:
        count, _, scatter = self._parts()
        with one_blas_thread():
            ascending = np.linalg.eigvalsh(scatter / count).astype(np.float64, copy=False)
        values = descending(ascending)
        if not values[0] > 0.0:
            raise InputError(
                f"all {count} rows are equal: there is no variance to analyse{VANISHED}"
            )
        # No number changes with the unit, so the largest is 1, as in `spectrum`: squares of
        # eigenvalues stay in range.
        return estimate_of_spectra(
            normal_theory(values / values[0], count),
            lambda eigenvalues, _: self._of(eigenvalues),
            "centered covariance",
            self.confidence,
            self._bounds(count),
        )

    @abstractmethod
    def _bounds(self, count: int) -> tuple[float, float]:
        """Least and largest value that the number can have."""


class Anisotropy(SpectralMetric):
    """Share of variance along the first principal axis of all rows: `fastdim.anisotropy`.

    The interval of `estimate()` is that of normal rows, which heavy rows exceed: influences need
    the rows, and those are gone. Raises InputError at `compute` on fewer than 2 rows or equal rows.
    """

    def _of(self, eigenvalues: Array) -> float:
        return float(eigenvalues[0] / eigenvalues.sum())

    def _bounds(self, count: int) -> tuple[float, float]:
        return 0.0, 1.0


class ParticipationRatio(SpectralMetric):
    """(sum l)^2 / sum l^2 of the covariance's eigenvalues: `fastdim.participation_ratio`.

    Interval and errors as for `Anisotropy`.
    """

    def _of(self, eigenvalues: Array) -> float:
        return float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())

    def _bounds(self, count: int) -> tuple[float, float]:
        return 1.0, float(min(count - 1, self.num_features))


class MeanCosine(MomentMetric):
    """Mean cosine over all pairs of rows: `fastdim.cosine_stats(x).mean`, with its interval.

    The moments are those of the unit rows. Zero rows have no direction and are left out.
    """

    _state = "unit_moments"

    def _add(self, rows: Tensor) -> None:
        values = rows.to(torch.float64)
        largest = values.abs().amax(dim=1, keepdim=True)
        used = largest[:, 0] > 0.0
        scaled = values[used] / largest[used]  # squares stay in range
        if len(scaled):
            super()._add(scaled / scaled.norm(dim=1, keepdim=True))

    def _estimate(self) -> Estimate:
        count, mean, scatter = self._parts()
        square = float(mean @ mean)
        value = square - float(np.trace(scatter)) / count / (count - 1)
        value = min(1.0, max(-1.0, value))
        # Influence of a unit row u: 2 n/(n - 1) (u - mean).mean
        spread = max(0.0, float(mean @ scatter @ mean)) / (count - 1)
        stderr = 2.0 * count / (count - 1) * math.sqrt(spread / count)
        stderr = stderr if abs(value) < 1.0 else 0.0
        slope = 1.0 / max(1.0 - value * value, 1e-300)
        lower, upper = transformed_interval(
            value, stderr, self.confidence, math.atanh, math.tanh, slope
        )
        return Estimate(
            value=value,
            lower=lower,
            upper=upper,
            stderr=stderr,
            n_points=count,
            n_distinct=None,
            n_queries=count,
            method="all pairs, by sums over rows",
            interval="influence function",
            confidence=self.confidence,
        )
