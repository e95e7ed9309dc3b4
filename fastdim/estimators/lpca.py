"""Dimension by counting principal components: every rule of scikit-dimension's lPCA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import one_of, real_number, yes_or_no
from fastdim.backends import cpu
from fastdim.covariance import Spectrum
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators import lpca_noise as noise
from fastdim.estimators.inputs import rows_of
from fastdim.estimators.leave_out import (
    GROUPS,
    Statistic,
    estimate_of_spectra,
    from_rows,
)
from fastdim.estimators.spectral import confidence_of, spectra_of

Array = NDArray[np.float64]

VARIANCE_RULES = ("FO", "Fan", "maxgap", "ratio", "participation_ratio", "Kaiser", "broken_stick")
NOISE_RULES = ("MP", "GD", "KN", "Minka", "denoised")
NULL_RULES = ("parallel", "scRMT")
RULES = VARIANCE_RULES + NOISE_RULES + NULL_RULES
# The rules that each option belongs to.
OPTIONS = {
    "alpha": ("FO", "Fan", "ratio", "KN"),
    "noise_variance": ("MP", "GD", "KN", "denoised"),
    "permutations": ("parallel",),
    "quantile": ("parallel",),
    "null": ("parallel",),
}


def lpca(
    x_or_spectrum: Any,
    rule: str = "FO",
    *,
    alpha: float | None = None,
    noise_variance: float | None = None,
    center: bool = True,
    permutations: int | None = None,
    quantile: float | None = None,
    null: str | None = None,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Number of principal components by one of fourteen rules on the covariance's eigenvalues l.

    "FO": l_j > alpha l_1, alpha = 0.05 (Fukunaga & Olsen, IEEE Trans. Comput. C-20:176, 1971).
    "Fan": noise is the mean of l beyond 95 % of the variance and is taken off; the first j with a
    gap l_j/l_{j+1} above alpha = 10, or with 80 % of the variance (Fan et al., arXiv 1002.2050).
    "maxgap": the j of the largest l_j/l_{j+1} (Johnsson, thesis, Lund 2016: R's
    intrinsicDimension). "ratio": components whose cumulated share of the variance is below
    alpha = 0.05, and one (Jolliffe, Principal Component Analysis, 2002, 6.1.1; alpha as
    scikit-dimension has it). "participation_ratio": (sum l)^2 / sum l^2 (Gao & Ganguli, Curr. Opin.
    Neurobiol. 32:148, 2015). "Kaiser": l_j above the mean (Kaiser, Educ. Psychol. Meas. 20:141,
    1960). "broken_stick": leading l_j / sum l above 1/d sum_{i=j..d} 1/i, the parts of a stick
    broken at random (Jackson, Ecology 74:2204, 1993).

    Rank of a signal in white noise, edges in full in `fastdim.estimators.lpca_noise`: "MP":
    l above the edge of noise (Marchenko & Pastur, Math. USSR Sb. 1:457, 1967). "GD": the optimal
    hard threshold (Gavish & Donoho, IEEE Trans. Inf. Theory 60:5040, 2014). "KN": sequential
    Tracy-Widom test at level alpha = 0.05 (Kritchman & Nadler, Chemom. Intell. Lab. Syst. 94:19,
    2008). "Minka": maximum of the Laplace evidence (Minka, NIPS 2000). "denoised": fewest
    components that leave no more than the noise's variance (Lun et al., F1000Research 5:2122,
    2016). Of rows alone: "parallel": l above the quantile of permuted columns (null="permute";
    Horn, Psychometrika 30:179, 1965) or flipped signs ("signflip"; Hong et al., arXiv 2012.02985).
    "scRMT": standardized columns above a fitted noise edge (Aparicio et al., Patterns 1:100035,
    2020).

    x_or_spectrum: rows (n, d), whole or one neighbourhood, or their `Spectrum`. alpha: of FO, Fan,
    ratio, KN; None for the number above. noise_variance: of MP, GD, KN, denoised; None estimates
    it. permutations, quantile, null: of parallel; None for 100, 0.95, "permute". center=False:
    second moments in place of the covariance. k plays no part. Duplicates count as rows.

    Assumes a flat set, or a neighbourhood that is. Bias: a linear count, so that a curved manifold
    needs more components than it has dimensions; the rules answer different questions. Interval:
    jackknife over groups of rows (0 width where no group changes the number, wide where one does:
    counts are no smooth functions), normal theory for a Spectrum, the null of parallel and scRMT
    held fixed; confidence: None for that of the Spectrum, 0.95 for rows. Cost: O(n d^2 + d^3) for
    all rows, again without each group, and for each permutation.
    """
    one_of("rule", rule, RULES)
    _check_options(
        rule,
        alpha=alpha,
        noise_variance=noise_variance,
        permutations=permutations,
        quantile=quantile,
        null=null,
    )
    confidence = confidence_of(x_or_spectrum, confidence)
    center = yes_or_no("center", center)
    if rule == "scRMT" and not center:
        raise InputError("scRMT standardizes the columns: leave center=True")
    if noise_variance is not None:
        noise_variance = real_number("noise_variance", noise_variance)
        if not 0.0 < noise_variance < math.inf:
            raise InputError(f"noise_variance must be finite and above 0, got {noise_variance!r}")
    if alpha is not None:
        alpha = real_number("alpha", alpha)
        if not 0.0 <= alpha < math.inf:
            raise InputError(f"alpha must be at least 0, got {alpha!r}")
        if rule == "ratio" and alpha > 1.0:
            raise InputError(f"alpha of 'ratio' is a share of the variance, at most 1, got {alpha}")
    label = f"lPCA {rule}"
    if rule not in NULL_RULES:
        found, columns = spectra_of(
            x_or_spectrum, "lpca", groups, jackknife, threads, centered=center
        )
        statistic = _statistic(rule, alpha, noise_variance, columns, center)
        return estimate_of_spectra(found, statistic, label, confidence, (0.0, float(columns)))
    if isinstance(x_or_spectrum, Spectrum):
        raise InputError(f"rule={rule!r} needs the rows: a Spectrum holds eigenvalues alone")
    rows = rows_of(x_or_spectrum, "lpca")
    columns, values = rows.d, rows.float64(0, rows.n)
    if rule == "scRMT":
        rows, statistic = noise.random_matrix_rule(values, seed)
    else:
        statistic = noise.parallel_rule(
            values,
            center,
            100 if permutations is None else permutations,
            0.95 if quantile is None else quantile,
            "permute" if null is None else null,
            seed,
        )
    workers = cpu.resolve_threads(threads)
    found = from_rows(rows, groups, jackknife, workers, centered=center)
    return estimate_of_spectra(found, statistic, label, confidence, (0.0, float(columns)))


def _check_options(rule: str, **options: Any) -> None:
    """InputError where one that is given does not belong to the rule."""
    for name, value in options.items():
        if value is not None and rule not in OPTIONS[name]:
            rules = OPTIONS[name]
            others = f"{', '.join(rules[:-1])} and {rules[-1]}" if len(rules) > 1 else rules[0]
            raise InputError(f"{name} is for {others}, not for {rule!r}: leave it out")


def _statistic(
    rule: str, alpha: float | None, variance: float | None, columns: int, center: bool
) -> Statistic:
    """The rule as a function of eigenvalues with divisor n, and n."""
    if rule in VARIANCE_RULES:
        simple = _RULES[rule]
        return lambda powers, n: float(simple(powers, alpha))
    tests: dict[str, Callable[..., float]] = {
        "MP": noise.marchenko_pastur,
        "GD": noise.gavish_donoho,
        "KN": noise.kritchman_nadler,
        "Minka": noise.minka,
        "denoised": noise.denoised,
    }
    test = tests[rule]
    level = 0.05 if alpha is None else alpha

    def count(powers: Array, n: int) -> float:
        degrees = n - 1 if center else n
        padded = np.zeros(columns)
        used = min(len(powers), columns)
        padded[:used] = powers[:used] * (n / degrees)
        return float(test(padded, degrees, n, variance, level))

    return count


def _fukunaga_olsen(powers: Array, alpha: float | None) -> float:
    return float((powers > (0.05 if alpha is None else alpha) * powers[0]).sum())


def _gaps(powers: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(powers[:-1] / powers[1:])


def _fan(powers: Array, alpha: float | None) -> float:
    rest = int(np.flatnonzero(np.cumsum(powers) / powers.sum() > 0.95)[0])
    if rest == 0:
        return 1.0  # what is left would sum to rounding
    left = powers - powers[rest:].mean()
    wide = np.flatnonzero(_gaps(left) > (10.0 if alpha is None else alpha))
    total = left.sum()
    # Axes of one length leave nothing above the noise, and no share of it.
    shares = np.cumsum(left) / total if total != 0.0 else np.zeros(len(left))
    enough = np.flatnonzero(shares > 0.8)
    return float(1 + min(np.concatenate([wide, enough, [len(powers) - 1]])))


def _maxgap(powers: Array, alpha: float | None) -> float:
    if len(powers) < 2:
        raise InputError("maxgap compares eigenvalues: it needs at least 2")
    # Beyond the rank a gap would be a division by zero.
    rank = int((powers > 0.0).sum())
    gaps = _gaps(powers[:rank])
    return float(np.argmax(gaps) + 1) if rank == len(powers) else float(rank)


def _ratio(powers: Array, alpha: float | None) -> float:
    # Without the last, whose share is 1 but for rounding.
    share = np.cumsum(powers[:-1]) / powers.sum()
    return float((share < (0.05 if alpha is None else alpha)).sum() + 1)


def _participation(powers: Array, alpha: float | None) -> float:
    powers = powers / powers[0]  # squares of large or tiny ones would leave float64
    return float(powers.sum() ** 2 / np.square(powers).sum())


def _kaiser(powers: Array, alpha: float | None) -> float:
    return float((powers > powers.mean()).sum())


def _broken_stick(powers: Array, alpha: float | None) -> float:
    count = len(powers)
    expected = np.cumsum(1.0 / np.arange(count, 0, -1))[::-1] / count
    below = np.flatnonzero(expected > powers / powers.sum())
    return float(below[0]) if len(below) else 0.0


_RULES: dict[str, Callable[[Array, float | None], float]] = {
    "FO": _fukunaga_olsen,
    "Fan": _fan,
    "maxgap": _maxgap,
    "ratio": _ratio,
    "participation_ratio": _participation,
    "Kaiser": _kaiser,
    "broken_stick": _broken_stick,
}
