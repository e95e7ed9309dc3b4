"""How much each ratio moves TwoNN's value: the limit of resampling the query rows, without draws.

Every fit is a smooth function of the sorted log ratios x_(1) <= ... <= x_(N), so a resampled row
moves it through the quantiles alone. With g_j the derivative of log d by x_(j), and f the density
of x, a row at rank i has the influence -(C_i - mean C), C_i the sum over j >= i of g_j / f(x_(j))
(infinitesimal jackknife; Serfling, Approximation Theorems of Mathematical Statistics, 1980, ch. 8).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fastdim.estimators.twonn_fits import kept_count

Array = NDArray[np.float64]


def influence(log_mu: Array, method: str, discard: float, slope: float = -1.0) -> Array:
    """Influence (N,) of each sorted log ratio on log d, of mean zero.

    method: name of the fit, as in `Estimate.method`. slope: derivative of log d by the logarithm of
    a common factor of all log ratios; -1 but under a prior.
    """
    count = len(log_mu)
    start, gradient, atom = _gradient(log_mu, method, discard)
    used = log_mu[start : start + len(gradient)]
    scale = slope / (float(gradient @ used) + atom * float(used[-1]))
    # 1 / (N f) is the distance to the next ratio; the last one borrows that of the one before.
    following = log_mu[start + 1 : start + 1 + len(gradient)]
    steps = np.diff(used) if len(following) < len(used) else following - used
    if len(steps) < len(used) or not math.isfinite(steps[-1]):
        steps = np.append(steps[: len(used) - 1], steps[len(used) - 2] if len(used) > 1 else 0.0)
    moved = scale * count * gradient * steps
    if atom:
        moved[-1] += scale * count * atom * _local_scale(log_mu, len(used)) / (count - len(used))
    tail = np.zeros(count)
    tail[start : start + len(used)] = np.cumsum(moved[::-1])[::-1]
    tail[:start] = tail[start]
    return np.asarray(tail.mean() - tail)


def _gradient(log_mu: Array, method: str, discard: float) -> tuple[int, Array, float]:
    """First rank used, derivatives up to a factor from there on, and what the last has on top."""
    count = len(log_mu)
    compat, _, name = method.rpartition(":")
    kept = kept_count(count, discard, compat)
    if name != "linear":
        # d = r / sum: the largest kept ratio stands for those beyond it, save in intRinsic's trim.
        return 0, np.ones(kept), 0.0 if compat == "intrinsic" else float(count - kept)
    start = 0
    line = partial(np.arange, dtype=np.float64)
    if compat == "llm-microscope":
        start = int((log_mu <= math.log1p(1e-8)).sum())
        size = min((count - start) // 5, count - start - 1)
        shares = line(start + 1, start + 1 + size) / count
    elif compat == "intrinsic":
        shares = line(kept) / kept
    elif compat == "skdim":
        finite = int(np.isfinite(log_mu).sum())
        shares = line(1, 1 + math.floor(finite * (1.0 - discard))) / finite
    else:
        first = 0 if compat in ("facco", "torchid") else 1
        shares = line(first, first + kept) / count
    x, y = log_mu[start : start + len(shares)], -np.log1p(-shares)
    # d = sum(x y) / sum(x^2)
    return start, y / float(x @ y) - 2.0 * x / float(x @ x), 0.0


def _local_scale(log_mu: Array, kept: int) -> float:
    """(1 - F) / f at the largest kept ratio, 1/d for exponential ones: from the ratios around it.

    There x_(j) has the slope 1/d against the expected quantiles sum 1 / (N - i + 1) over i <= j.
    """
    count = len(log_mu)
    width = math.ceil(0.5 * count**0.7)
    low = max(0, kept - 1 - width)
    high = kept - 1 + int(np.isfinite(log_mu[kept : kept + width]).sum())
    expected = float((1.0 / (count - np.arange(low + 1, high + 1))).sum())
    return float(log_mu[high] - log_mu[low]) / expected if high > low else 0.0
