"""Rules of lPCA that compare eigenvalues with those of noise.

Functions of (eigenvalues of the covariance with n - 1, all d of them; degrees of freedom; rows;
noise variance or None; level) give the number of components.

In the docstrings: l are those eigenvalues, v the degrees of freedom (n - 1 where rows are centered,
else n), s^2 the variance of the noise. Where that is not given it is median(l) / m over the l that
are not rounding: m the median of the Marchenko-Pastur law of ratio b = min(v, d) / max(v, d), times
max(v, d) / v (Gavish & Donoho, IEEE Trans. Inf. Theory 60:5040, 2014). All assume noise that is
independent of the signal and of equal variance in every column.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, generator, one_of, real_number, whole_number
from fastdim.backends.blas import one_blas_thread
from fastdim.errors import InputError
from fastdim.estimators.leave_out import Statistic
from fastdim.moments import VANISHED

Array = NDArray[np.float64]

# Upper quantiles of the Tracy-Widom law of order 1 (Johnstone, Ann. Stat. 29:295, 2001; Bejan,
# 2005).
TRACY_WIDOM = {0.1: 0.4501, 0.05: 0.9793, 0.01: 2.0234, 0.005: 2.4223, 0.001: 3.2722}


def marchenko_pastur(
    powers: Array, degrees: int, n: int, variance: float | None, level: float
) -> float:
    """l > s^2 (1 + sqrt(d / v))^2 (Marchenko & Pastur, Math. USSR Sb. 1:457, 1967).

    The largest eigenvalue of noise alone is above that edge in about one sample of six (the share
    of the Tracy-Widom law above 0), so the count is then too high; KN has a level.
    """
    used, sigma = _noise(powers, degrees, n, variance)
    return float((used > sigma * (1.0 + math.sqrt(len(powers) / degrees)) ** 2).sum())


def gavish_donoho(
    powers: Array, degrees: int, n: int, variance: float | None, level: float
) -> float:
    """l > t^2 s^2 max(v, d) / v: singular values above t s sqrt(max(v, d)).

    t^2 = 2 (b + 1) + 8 b / (b + 1 + sqrt(b^2 + 14 b + 1)), b = min(v, d) / max(v, d) (equation 11
    of Gavish & Donoho, IEEE Trans. Inf. Theory 60:5040, 2014): the hard threshold of least squared
    error, which leaves out signals that are there and too weak to be worth their noise.
    """
    used, sigma = _noise(powers, degrees, n, variance)
    small, large = sorted((degrees, len(powers)))
    beta = small / large
    square = 2.0 * (beta + 1.0) + 8.0 * beta / (beta + 1.0 + math.sqrt(beta**2 + 14.0 * beta + 1.0))
    return float((used > square * large / degrees * sigma).sum())


def denoised(powers: Array, degrees: int, n: int, variance: float | None, level: float) -> float:
    """Fewest k >= 1 with l_{k+1} + ... + l_d <= d s^2 (Lun et al., F1000Research 5:2122, 2016).

    The rest may hold as much as the noise of all d columns, so weak signals go with it: low.
    """
    _, sigma = _noise(powers, degrees, n, variance)
    above = np.flatnonzero(np.cumsum(powers[::-1]) > len(powers) * sigma)
    return float(len(powers) - above[0]) if len(above) else 1.0


def kritchman_nadler(
    powers: Array, degrees: int, n: int, variance: float | None, level: float
) -> float:
    """k - 1 for the first k with v l_k <= s_k^2 (m + q u): a test at the level of q for each k.

    With a = sqrt(v - 1/2) and c = sqrt(d - k + 1/2): m = (a + c)^2, u = (a + c)
    (1/a + 1/c)^(1/3), q the upper quantile of the Tracy-Widom law of order 1, s_k^2 the noise given
    k - 1 signals, by `_spiked_noise` where it is not known (Kritchman & Nadler, Chemom. Intell.
    Lab. Syst. 94:19, 2008).
    """
    if level not in TRACY_WIDOM:
        raise InputError(f"KN has levels alpha = {', '.join(map(str, TRACY_WIDOM))}, got {level!r}")
    d, largest = len(powers), powers[0]
    powers = powers / largest  # squares of large or tiny ones would leave float64
    variance = None if variance is None else variance / largest
    for k in range(1, min(degrees, d)):
        sigma = _spiked_noise(powers, degrees, k - 1) if variance is None else variance
        a, b = math.sqrt(degrees - 0.5), math.sqrt(d - k + 0.5)
        edge = (a + b) ** 2 + TRACY_WIDOM[level] * (a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0)
        if degrees * powers[k - 1] <= sigma * edge:
            return float(k - 1)
    return float(min(degrees, d) - 1)


def minka(powers: Array, degrees: int, n: int, variance: float | None, level: float) -> float:
    """k of the largest Laplace approximation of the evidence of probabilistic PCA.

    log p(k) = log p(U) - n/2 sum_{i<=k} log l_i - n (d - k)/2 log w + (f + k)/2 log 2 pi
    - 1/2 log|A| - k/2 log n, with w the mean of l_{k+1}, ..., l_d, f = d k - k (k + 1)/2,
    log p(U) = -k log 2 + sum_{i<=k} (log Gamma((d - i + 1)/2) - (d - i + 1)/2 log pi), and
    |A| = prod_{i<=k} prod_{j=i+1..d} (1/h_j - 1/h_i) (l_i - l_j) n, h_i = l_i up to k and w beyond
    (Minka, NIPS 2000). l are taken in units of the largest.
    """
    d = len(powers)
    scaled = powers / powers[0]
    rank = int((scaled > d * np.finfo(np.float64).eps).sum())
    if rank < 2:
        return float(rank)

    def log(values: Array) -> Array:
        return np.asarray(np.log(np.maximum(values, np.finfo(np.float64).tiny)))

    evidence = np.empty(rank - 1)
    prior = between = inside = 0.0
    for k in range(1, rank):
        half = (d - k + 1) / 2.0
        prior += math.lgamma(half) - math.log(math.pi) * half
        last, rest = scaled[k - 1], scaled[k:]
        between += float(log(last - rest).sum())
        before = scaled[: k - 1]
        inside += float(log((before - last) / (before * last)).sum())
        noise = float(rest.sum()) / (d - k)
        outside = (d - k) * float(log((scaled[:k] - noise) / (scaled[:k] * noise)).sum())
        free = d * k - k * (k + 1) / 2.0
        hessian = free * math.log(n) + between + inside + outside
        evidence[k - 1] = (
            prior
            - k * math.log(2.0)
            - n / 2.0 * float(log(scaled[:k]).sum())
            - n * (d - k) / 2.0 * float(log(np.array([noise]))[0])
            + math.log(2.0 * math.pi) * (free + k) / 2.0
            - hessian / 2.0
            - k * math.log(n) / 2.0
        )
    return float(np.argmax(evidence) + 1)


def parallel_rule(
    values: Array, center: bool, permutations: int, quantile: float, null: str, seed: int
) -> Statistic:
    """Leading eigenvalues above the quantile of those of permuted columns, or of flipped signs.

    Horn, Psychometrika 30:179 (1965), by permutation in place of normal rows; flipped signs: Hong,
    Sheng & Dobriban, arXiv 2012.02985. The first l_j <= quantile of the j-th null eigenvalue ends
    the count: strong signals in the same columns raise the null and hide weak ones.
    """
    one_of("null", null, ("permute", "signflip"))
    permutations = whole_number("permutations", permutations, 1)
    quantile = real_number("quantile", quantile)
    if not 0.0 < quantile <= 1.0:
        raise InputError(f"quantile must lie in (0, 1], got {quantile!r}")
    rng = generator(seed)
    if null == "signflip" and center:
        values = values - values.mean(axis=0)
    found = []
    for _ in range(permutations):
        if null == "permute":
            drawn = rng.permuted(values, axis=0)
        else:
            drawn = values * rng.choice([-1.0, 1.0], size=values.shape)
        if center:
            drawn -= drawn.mean(axis=0)
        with one_blas_thread():
            gram = drawn.T @ drawn if len(drawn) >= drawn.shape[1] else drawn @ drawn.T
            found.append(np.linalg.eigvalsh(gram)[::-1] / len(drawn))
    limit = np.quantile(found, quantile, axis=0)

    def count(powers: Array, n: int) -> float:
        used = min(len(powers), len(limit))
        above = powers[:used] > limit[:used]
        return float(used if above.all() else np.argmin(above))

    return count


def random_matrix_rule(values: Array, seed: int) -> tuple[Rows, Statistic]:
    """Standardized rows, and the count of their eigenvalues above the fitted edge of the noise.

    Of the eigenvalues w of X X' / d, X the standardized rows (n, d), the noise is a
    Marchenko-Pastur law fitted by moments, first to permuted columns, then to the w within its
    edges until they settle: ratio g = mean(w^2) / mean(w)^2 - 1, edges mean(w) (1 +- sqrt g)^2. The
    threshold is the upper edge and one Tracy-Widom unit, (n/g)^(-2/3) g^(5/6) (1 + sqrt g)^(4/3)
    (Aparicio et al., Patterns 1:100035, 2020).
    """
    spread = values.std(axis=0)
    if not (spread > 0).any():
        raise InputError(
            f"all {len(values)} rows are equal: there is no variance to analyse{VANISHED}"
        )
    values = (values[:, spread > 0] - values[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    n, d = values.shape
    mixed = generator(seed).permuted(values, axis=0)
    with one_blas_thread():
        own = np.linalg.eigvalsh(values @ values.T / d)
        start = np.linalg.eigvalsh(mixed @ mixed.T / d)
    _, upper, lower = _fitted(start)
    _, top, bottom = _fitted(own[(own > lower) & (own < upper)])
    for _ in range(1000):
        if (1.0 - top / upper) ** 2 <= 1e-6:
            break
        upper = top
        _, top, bottom = _fitted(own[(own > bottom) & (own < top)])
    bulk = own[(own > bottom) & (own < top)]
    ratio = _fitted(bulk)[0]
    unit = (n / ratio) ** (-2 / 3) * ratio ** (5 / 6) * (1.0 + math.sqrt(ratio)) ** (4 / 3)
    limit = float(bulk.mean()) * (1.0 + math.sqrt(ratio)) ** 2 + unit
    # Eigenvalues of the covariance are d/n times those of X X' / d.
    return as_rows(values), lambda powers, count: float((powers * (n / d) > limit).sum())


def _fitted(found: Array) -> tuple[float, float, float]:
    """Ratio and edges of the Marchenko-Pastur law with the mean and second moment given."""
    if len(found) < 2:
        raise InputError(
            "scRMT finds no bulk of noise eigenvalues to fit, as with many more rows than columns: "
            "use 'MP', 'GD' or 'KN'"
        )
    mean = float(found.mean())
    ratio = float(np.square(found).mean()) / mean**2 - 1.0
    root = math.sqrt(ratio)
    return ratio, mean * (1.0 + root) ** 2, mean * (1.0 - root) ** 2


def _noise(powers: Array, degrees: int, n: int, variance: float | None) -> tuple[Array, float]:
    """Eigenvalues above zero, and the variance whose noise has their median."""
    d = len(powers)
    used = powers[: min(degrees, d)]
    used = used[used > used[0] * max(n, d) * np.finfo(np.float64).eps]
    if variance is not None:
        return used, variance
    small, large = sorted((degrees, d))
    return used, float(np.median(used)) / (marchenko_pastur_median(small / large) * large / degrees)


@lru_cache(maxsize=64)
def marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law of ratio beta <= 1 and variance 1."""
    low, high = (1.0 - math.sqrt(beta)) ** 2, (1.0 + math.sqrt(beta)) ** 2
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def below(x: float) -> float:
        # y = low + (high - low) sin^2(t) takes the roots at both edges out of the integrand.
        end = math.asin(math.sqrt((x - low) / (high - low)))
        t = 0.5 * end * (nodes + 1.0)
        sine, cosine = np.sin(t), np.cos(t)
        y = low + (high - low) * sine**2
        density = (high - low) ** 2 * 2.0 * (sine * cosine) ** 2 / (2.0 * math.pi * beta * y)
        return 0.5 * end * float(weights @ density)

    a, b = low, high
    for _ in range(100):
        middle = 0.5 * (a + b)
        if below(middle) < 0.5:
            a = middle
        else:
            b = middle
    return 0.5 * (a + b)


def _spiked_noise(powers: Array, degrees: int, k: int) -> float:
    """Noise variance given k signals: the fixed point of Kritchman & Nadler's equations."""
    d = len(powers)
    rest = float(powers[k:].sum())
    sigma = rest / (d - k)
    for _ in range(30):
        shifted = powers[:k] + sigma - sigma * (d - k) / degrees
        root = np.sqrt(np.maximum(np.square(shifted) - 4.0 * powers[:k] * sigma, 0.0))
        following = (rest + float((powers[:k] - (shifted + root) / 2.0).sum())) / (d - k)
        if abs(following - sigma) <= 1e-5 * sigma:
            return following
        sigma = following
    return sigma
