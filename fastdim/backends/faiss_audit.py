"""How far an approximate search is from the exact one: a sample of its rows searched exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdim.estimate import clustered_stderr, normal_quantile

Array = NDArray[np.float64]

CONFIDENCE = 0.95
# A neighbour as near as the exact one is right whatever its number: distances agree to this.
SAME = 1e-9


@dataclass(frozen=True)
class Audit:
    """What exact neighbours of `rows` sampled queries say of an approximate search.

    recall_1, recall_2: share of the exact first neighbours, and of the exact first two, that were
    found (None with k = 1); equally near rows count. Intervals (`_interval`) are Wilson's over
    rows. exact_id, approximate_id: TwoNN (censored, as `twonn`) of these same rows either way, and
    shift = approximate_id / exact_id - 1 with its interval, all at 95 %; None with k = 1, fewer
    than 3 rows, or where a distance is zero or all ratios are 1, as TwoNN is undefined there.
    Nothing is corrected by it.
    """

    rows: int
    recall_1: float
    recall_1_interval: tuple[float, float]
    recall_2: float | None
    recall_2_interval: tuple[float, float] | None
    exact_id: float | None
    approximate_id: float | None
    shift: float | None
    shift_interval: tuple[float, float] | None

    @property
    def recall(self) -> float:
        """The lower of the recalls, which is what a limit is held against."""
        return self.recall_1 if self.recall_2 is None else min(self.recall_1, self.recall_2)


def compare(found: Array, exact: Array) -> Audit:
    """The audit of distances found (s, k) against exact ones (s, k), ascending."""
    first, both = recalls(found, exact)
    ids = _shift(found, exact) if both is not None else None
    return Audit(
        rows=len(found),
        recall_1=float(first.mean()),
        recall_1_interval=wilson(float(first.mean()), len(first)),
        recall_2=None if both is None else float(both.mean()),
        recall_2_interval=None if both is None else wilson(float(both.mean()), len(both)),
        exact_id=None if ids is None else ids[0],
        approximate_id=None if ids is None else ids[1],
        shift=None if ids is None else ids[2],
        shift_interval=None if ids is None else (ids[3], ids[4]),
    )


def recalls(found: Array, exact: Array) -> tuple[Array, Array | None]:
    """Recall@1 and recall@2 (None with k = 1) of each row."""
    first = (found[:, 0] <= exact[:, 0] * (1.0 + SAME)).astype(np.float64)
    if exact.shape[1] < 2:
        return first, None
    return first, (found[:, :2] <= exact[:, 1:2] * (1.0 + SAME)).mean(axis=1)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count` rows; wide enough for halves too (JASA 22:209)."""
    z = normal_quantile(CONFIDENCE)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _shift(found: Array, exact: Array) -> tuple[float, float, float, float, float] | None:
    """TwoNN exact and approximate, the relative shift and its interval; None where undefined.

    The two numbers come from the same rows, so the error is that of the paired influences, row by
    row. A few misses in a sample tell little of their size: two imagined rows, one either way and
    each as large as a row's own spread, are added, in the manner of Agresti and Coull (Am. Stat.
    52:119, 1998), so that a sample without a miss does not promise a shift of zero.
    """
    from fastdim.estimators import twonn, twonn_influence

    if len(exact) < 3 or (exact[:, 0] <= 0.0).any() or (found[:, 0] <= 0.0).any():
        return None
    plan = twonn.resolve()
    values, moved = [], []
    for distances in (exact, found):
        log_mu = np.log(distances[:, 1] / distances[:, 0])
        order = np.argsort(log_mu, kind="stable")
        if not (log_mu > 0.0).any():
            return None
        values.append(float(plan.fit(log_mu[order])))
        if not (math.isfinite(values[-1]) and values[-1] > 0.0):
            return None
        influence = np.empty(len(log_mu))
        influence[order] = twonn_influence.influence(log_mu[order], plan.method, plan.discard)
        moved.append(influence)
    paired = float(clustered_stderr(moved[1] - moved[0], None))
    stderr = math.hypot(paired, math.sqrt(2.0) * float(moved[0].std()) / len(exact))
    ratio = values[1] / values[0]
    half = normal_quantile(CONFIDENCE) * stderr
    ends = ratio * math.exp(-half) - 1.0, ratio * math.exp(half) - 1.0
    return values[0], values[1], ratio - 1.0, *ends
