"""TwoNN's fits: functions of sorted log(r2/r1) alone, and the definitions other codes use.

Every fit maps `log_mu` (..., N), ascending along the last axis, to values (...); how much each
ratio moves it is in `twonn_influence`. Model: mu = r2/r1 is Pareto with exponent d (Facco et al.,
Sci. Rep. 7:12140, 2017), so log(mu) is exponential with rate d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import generator
from fastdim.errors import InputError

Array = NDArray[np.float64]
Fit = Callable[[Array], Array]

# A nearly flat Gamma prior on d, the one of the R package intRinsic.
PRIOR_SHAPE = 0.001
PRIOR_RATE = 0.001
DADAPY_PRIOR = (2.0, 5.0)
# Codes that are told the share they keep: 0.2, where 1 - 0.8 is 0.19999999999999996.
DECIMAL = ("dadapy", "llm-microscope")


def kept_count(count: int, discard_fraction: float, compat: str = "") -> int:
    """How many of the smallest ratios are kept, rounded down as the code of that name does."""
    share = 1.0 - discard_fraction
    return int(count * (round(share, 12) if compat in DECIMAL else share))


def censored_total(log_mu: Array, kept: int) -> Array:
    """T = sum of the `kept` smallest log mu + (N - kept) times the largest of them."""
    censored_count = log_mu.shape[-1] - kept
    total = log_mu[..., :kept].sum(axis=-1)
    # Nothing is added where nothing is censored: the largest ratio may be infinite.
    return np.asarray(total + censored_count * log_mu[..., kept - 1] if censored_count else total)


def censored(log_mu: Array, discard_fraction: float) -> Array:
    """Unbiased maximum likelihood under type-II censoring: d = (r - 1) / T.

    The top tail is known to lie above the r-th smallest ratio, and no more is used of it.
    """
    kept = kept_count(log_mu.shape[-1], discard_fraction)
    return (kept - 1) / censored_total(log_mu, kept)


def bayes(log_mu: Array, discard_fraction: float, shape: float, rate: float) -> Array:
    """Posterior mean (shape + r) / (rate + T) under a Gamma(shape, rate) prior on d, censored."""
    kept = kept_count(log_mu.shape[-1], discard_fraction)
    return (shape + kept) / (rate + censored_total(log_mu, kept))


def linear(log_mu: Array, discard_fraction: float, first_rank: int = 1, compat: str = "") -> Array:
    """Least squares through the origin of -log(1 - F) on log mu, F_i = i/N with i from first_rank.

    Infinite ratios count in N; they are at the top, where the discarded ones are.
    """
    count = log_mu.shape[-1]
    kept = kept_count(count, discard_fraction, compat)
    ranks = np.arange(first_rank, first_rank + kept)
    return _slope(log_mu[..., :kept], -np.log1p(-ranks / count))


def linear_finite(log_mu: Array, discard_fraction: float) -> Array:
    """`linear` after dropping infinite ratios (scikit-dimension)."""
    count = np.isfinite(log_mu).sum(axis=-1, keepdims=True)
    ranks = np.arange(1, log_mu.shape[-1] + 1)
    used = ranks <= np.floor(count * (1.0 - discard_fraction))
    share = np.where(used, ranks / count, 0.0)
    return _slope(np.where(used, log_mu, 0.0), -np.log1p(-share))


def linear_bottom_fifth(log_mu: Array) -> Array:
    """llm-microscope: ratios up to 1 + 1e-8 dropped but counted in F, then the lowest fifth."""
    total = log_mu.shape[-1]
    dropped = (log_mu <= math.log1p(1e-8)).sum(axis=-1, keepdims=True)
    count = total - dropped
    ranks = np.arange(1, total + 1)
    used = (ranks > dropped) & (ranks <= dropped + np.minimum(count // 5, count - 1))
    share = np.where(used, ranks / total, 0.0)
    return _slope(np.where(used, log_mu, 0.0), -np.log1p(-share))


def trimmed_mle(log_mu: Array, discard_fraction: float) -> Array:
    """intRinsic's MLE: (n - 1) / sum(log mu) over the kept ratios, as if there were no others."""
    kept = kept_count(log_mu.shape[-1], discard_fraction)
    return np.asarray((kept - 1) / log_mu[..., :kept].sum(axis=-1))


def trimmed_linear(log_mu: Array, discard_fraction: float) -> Array:
    """intRinsic's fit: F_i = i/n from 0, with n the kept count."""
    kept = kept_count(log_mu.shape[-1], discard_fraction)
    return _slope(log_mu[..., :kept], -np.log1p(-np.arange(kept) / kept))


def trimmed_bayes(log_mu: Array, discard_fraction: float) -> Array:
    """intRinsic's posterior mean over the kept ratios."""
    kept = kept_count(log_mu.shape[-1], discard_fraction)
    total = log_mu[..., :kept].sum(axis=-1)
    return np.asarray((PRIOR_SHAPE + kept) / (PRIOR_RATE + total))


def _slope(x: Array, y: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(axis=-1) / np.square(x).sum(axis=-1))


# What a code does with r1 = 0: "drop" and "microscope" make the fit leave the point out,
# "infinite" keeps mu = inf, "tiny" clamps r1 to the smallest normal number of the distances'
# type, "jitter" replaces zero distances by up to 5e-6, "collapse" reduces to distinct rows first.
@dataclass(frozen=True)
class Definition:
    """How another code defines TwoNN; the first fit is its default."""

    fits: dict[str, Callable[..., Array]]
    discard_fraction: float
    zeros: str


COMPAT: dict[str, Definition] = {
    "facco": Definition({"linear": partial(linear, first_rank=0)}, 0.1, "jitter"),
    "skdim": Definition({"linear": linear_finite}, 0.1, "drop"),
    "dadapy": Definition(
        {
            "linear": partial(linear, compat="dadapy"),
            "mle": lambda log_mu, _: censored(log_mu, 0.0),
            "bayes": lambda log_mu, _: bayes(log_mu, 0.0, *DADAPY_PRIOR),
        },
        0.1,
        "infinite",
    ),
    "torchid": Definition({"linear": partial(linear, first_rank=0)}, 0.1, "tiny"),
    "intrinsic": Definition(
        {"mle": trimmed_mle, "linear": trimmed_linear, "bayes": trimmed_bayes}, 0.01, "collapse"
    ),
    "llm-microscope": Definition(
        {"linear": lambda log_mu, _: linear_bottom_fifth(log_mu)}, 0.8, "microscope"
    ),
}


def log_ratios(distances: NDArray[Any], zeros: str, seed: int, scale: float = 1.0) -> Array:
    """Sorted log(r2/r1) of distances (m, >= 2), with zero distances treated as `zeros` says.

    scale: mean norm of the centered rows, by which "microscope" divides before its threshold.
    "tiny" is float64's for float64 distances, else float32's: `knn` gives float64 for such rows
    alone, and torchid takes half precision to float32 as well.
    """
    nearest = distances[:, :2].astype(np.float64)
    if zeros == "jitter":
        rng = generator(seed)
        zero = nearest == 0.0
        nearest[zero] = 5e-6 * (1.0 - rng.random(int(zero.sum())))
        nearest.sort(axis=1)
    elif zeros == "tiny":
        stored = np.float64 if distances.dtype == np.float64 else np.float32
        nearest[:, 0] = np.maximum(nearest[:, 0], np.finfo(stored).tiny)
    elif zeros in ("reject", "collapse") and (nearest[:, 0] == 0.0).any():
        raise InputError(
            f"{int((nearest[:, 0] == 0.0).sum())} points have a neighbour at distance zero, so "
            "r2/r1 is undefined: compute the neighbours with duplicates='collapse'"
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_mu = np.log(nearest[:, 1] / nearest[:, 0])
    if zeros == "microscope":
        log_mu[nearest[:, 0] < 1e-8 * scale] = -math.inf
    elif zeros == "drop":
        log_mu[~np.isfinite(log_mu)] = math.inf
    return np.sort(log_mu)
