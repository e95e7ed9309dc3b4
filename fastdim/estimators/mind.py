"""MiND: dimension from the nearest of k neighbours relative to the next one outside."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from fastdim.arrays import one_of, whole_number
from fastdim.estimate import Estimate
from fastdim.estimators import gride
from fastdim.estimators.inputs import neighbors_of

VERSIONS = ("MLk", "MLi")


def mind_ml(
    x_or_neighbors: Any,
    k: int = 20,
    *,
    version: str = "MLk",
    largest: int | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by minimum neighbour distance (Rozza et al., Mach. Learn. 89:37, 2012).

    rho = r_1 / r_{k+1}; log likelihood N log(k d) + (d - 1) sum log rho + (k - 1) sum log(1 -
    rho^d). "MLk": its maximum over real d, the same as `gride` with n1 = 1, n2 = k + 1. "MLi": the
    best whole number from 1 on, with the interval of "MLk" widened to hold it.

    x_or_neighbors: rows (n, d), reduced to distinct rows, or `Neighbors` with at least k + 1
        columns and no zero distance. k + 1 >= number of distinct rows is refused.
    largest: None, or an upper bound of d; scikit-dimension's is 10, unless told otherwise.

    Assumes a density constant up to the (k+1)-th neighbour; bias as `gride`. Interval: sandwich
    error over the query rows, normal on the log scale. Cost: one search, then O(m) a step of
    Newton.
    """
    k = whole_number("k", k, 1)
    one_of("version", version, VERSIONS)
    bound = math.inf if largest is None else whole_number("largest", largest, 1)
    found = neighbors_of(
        x_or_neighbors, k + 1, "mind_ml", queries=queries, seed=seed, threads=threads
    )
    free = gride.estimate(found, 1, k + 1, "robust", confidence)
    value: float = min(free.value, bound)
    if version == "MLi":
        log_mu = np.log(found.distances[:, k] / found.distances[:, 0])
        low = max(1, math.floor(value))
        whole_numbers = [low, low + 1] if low + 1 <= bound else [low]
        # The likelihood is concave in d, so the best whole number is beside its maximum.
        value = float(max(whole_numbers, key=lambda d: _likelihood(log_mu, d, k)))
    return dataclasses.replace(
        free,
        value=value,
        lower=min(free.lower, value),
        upper=max(free.upper, value) if bound == math.inf else min(max(free.upper, value), bound),
        method=f"MiND_{version}, k = {k}",
    )


def _likelihood(log_mu: gride.Array, d: int, k: int) -> float:
    with np.errstate(divide="ignore"):
        outside = np.log(-np.expm1(-d * log_mu)).sum() if k > 1 else 0.0
    return float(len(log_mu) * math.log(k * d) - (d - 1) * log_mu.sum() + (k - 1) * outside)
