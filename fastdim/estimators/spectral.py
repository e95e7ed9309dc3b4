"""Numbers formed from a spectrum: ranks, slopes, isotropy and entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, one_of, real_number, whole_number, yes_or_no
from fastdim.backends import cpu
from fastdim.covariance import Spectrum, spectrum
from fastdim.errors import InputError
from fastdim.estimate import Estimate, check_confidence
from fastdim.estimators.inputs import rows_of
from fastdim.estimators.leave_out import (
    GROUPS,
    Spectra,
    estimate_of_spectra,
    from_rows,
    from_spectrum,
)
from fastdim.moments import VANISHED

Array = NDArray[np.float64]


def participation_ratio(
    x_or_spectrum: Any,
    *,
    groups: Any = None,
    confidence: float | None = None,
    threads: int | None = None,
) -> Estimate:
    """(sum l)^2 / sum l^2 of the covariance's eigenvalues l (n, d rows or their `Spectrum`).

    Between 1 and min(n - 1, d): the number of axes if all carried the same variance. Source: Gao &
    Ganguli, Curr. Opin. Neurobiol. 32:148 (2015). Centers; no row is normalized; duplicates count
    as rows; k plays no part. Assumes independent rows, or documents. Bias: low by about (1 + PR/n),
    a few massive rows pull it to 1. Interval: influence of the rows, as `spectrum`; confidence:
    None for that of the Spectrum, 0.95 for rows. Errors are up to twice the true ones where
    eigenvalues are nearly equal. Cost: one covariance, O(n d^2), and its eigenvalues, O(d^3).
    """
    return _of_spectrum(x_or_spectrum, "participation_ratio", groups, confidence, threads)


def effective_rank(
    x_or_spectrum: Any,
    *,
    groups: Any = None,
    confidence: float | None = None,
    threads: int | None = None,
) -> Estimate:
    """exp(-sum p log p), p = l / sum l (Roy & Vetterli, EUSIPCO 2007), l of the covariance.

    Between `participation_ratio` and min(n - 1, d). x (n, d), or its `Spectrum`. Centers; no row is
    normalized; duplicates count as rows; k plays no part. Assumes independent rows, or documents
    (groups). Bias: low while n is not many times d: the small sample eigenvalues are too small; a
    few massive rows pull it to 1. Interval: influence of the rows, as `spectrum`; confidence: None
    for that of the Spectrum, 0.95 for rows. Errors are up to twice the true ones where eigenvalues
    are nearly equal. Cost: one covariance, O(n d^2), and its eigenvalues, O(d^3).
    """
    return _of_spectrum(x_or_spectrum, "effective_rank", groups, confidence, threads)


def stable_rank(
    x_or_spectrum: Any,
    *,
    groups: Any = None,
    confidence: float | None = None,
    threads: int | None = None,
) -> Estimate:
    """sum l / l_1 of the covariance's eigenvalues (Rudelson & Vershynin, J. ACM 54:21, 2007).

    The inverse of `anisotropy`, between 1 and `effective_rank`. x (n, d), or its `Spectrum`.
    Centers; no row is normalized; duplicates count as rows; k plays no part. Assumes independent
    rows, or documents (groups). Bias: low while n is not many times d, since the largest sample
    eigenvalue is high; a few massive rows pull it to 1. Interval: influence of the rows, as
    `spectrum`; confidence: None for that of the Spectrum, 0.95 for rows. Errors are up to twice the
    true ones where eigenvalues are nearly equal. Cost: one covariance, O(n d^2), and its
    eigenvalues, O(d^3).
    """
    return _of_spectrum(x_or_spectrum, "stable_rank", groups, confidence, threads)


def _of_spectrum(
    x: Any, name: str, groups: Any, confidence: float | None, threads: int | None
) -> Estimate:
    level = confidence_of(x, confidence)
    if isinstance(x, Spectrum):
        found = x.estimate(name)
        if groups is not None or level != found.confidence:
            raise InputError(
                "groups and confidence belong to spectrum(): the spectrum passed has them already"
            )
        return found
    return spectrum(x, groups=groups, confidence=level, threads=threads).estimate(name)


def confidence_of(x: Any, confidence: float | None) -> float:
    """The confidence asked for; where it is None that of a Spectrum, and 0.95 of rows."""
    if confidence is not None:
        return check_confidence(confidence)
    return x.estimate("anisotropy").confidence if isinstance(x, Spectrum) else 0.95


def spectra_of(
    x: Any,
    name: str,
    groups: Any,
    jackknife: int,
    threads: int | None,
    *,
    centered: bool = True,
    unit: bool = False,
) -> tuple[Spectra, int]:
    """Spectra and the number of columns: of rows, or of a Spectrum where it is the right one."""
    if isinstance(x, Spectrum):
        if not centered or unit:
            raise InputError(f"{name} is not of centered rows, as a Spectrum is: pass the rows")
        if groups is not None:
            raise InputError("groups belong to the rows: pass them with x, not with a Spectrum")
        return from_spectrum(x), x.n_columns
    rows = rows_of(x, name)
    scale = inverse_norms(rows, name) if unit else None
    workers = cpu.resolve_threads(threads)
    return from_rows(rows, groups, jackknife, workers, centered=centered, scale=scale), rows.d


def inverse_norms(rows: Rows, name: str) -> Array:
    """1/|x_i| (n,), or InputError where a row is zero."""
    norms = rows.norms()
    if not (norms > 0.0).all():
        raise InputError(
            f"{name} divides rows by their norms, and {int((norms == 0.0).sum())} rows are zero: "
            f"drop them{VANISHED}"
        )
    return np.asarray(1.0 / norms)


def rankme(
    x: Any,
    *,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """RankMe (Garrido et al., ICML 2023): exp(-sum p log p), p = s / sum s + 1e-7.

    s: singular values of the rows (n, d) as they are, not centered; the entropy is of s, where
    `effective_rank` here takes l = s^2. Between 1 and min(n, d), and slightly above by the
    constant. Assumes rows without a common offset: that is one large s and lowers it. Bias: low
    while n is not many times d. Duplicates count as rows; k plays no part. Interval: jackknife over
    groups of rows (documents whole), errors up to 1.5 times the true ones where singular values are
    nearly equal. Cost: O(n d^2 + d^3) for all rows, and again without each group.
    """
    found, columns = spectra_of(x, "rankme", groups, jackknife, threads, centered=False)

    def rank(powers: Array, n: int) -> float:
        values = np.sqrt(powers)
        share = values / values.sum() + 1e-7
        return float(np.exp(-(share * np.log(share)).sum()))

    bounds = (1.0, 1.001 * min(found.count, columns))
    return estimate_of_spectra(found, rank, "RankMe", confidence, bounds)


def alpha_req(
    x_or_spectrum: Any,
    first: int = 1,
    last: int | None = None,
    *,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float | None = None,
    threads: int | None = None,
) -> Estimate:
    """alpha-ReQ (Agrawal et al., NeurIPS 2022): slope alpha of l_j ~ j^-alpha on the covariance.

    Least squares of log l_j on log j over j = first..last, each weighted by 1/j, so that every
    decade of ranks counts the same (Stringer et al., Nature 571:361, 2019). last: None for the last
    eigenvalue above rounding. About 1 is read as a good balance; the value depends on the range, so
    state it. Assumes a power law over that range. Bias: the tail of a sample spectrum is too steep
    unless n is several times `last`. Duplicates count as rows; k plays no part. Interval: jackknife
    over groups of rows; of a Spectrum, normal theory; confidence: None for that of the Spectrum,
    0.95 for rows. Errors are up to 2.2 times the true ones where eigenvalues are nearly equal.
    Cost: O(n d^2 + d^3) for all rows, and again without each group.
    """
    found, _ = spectra_of(x_or_spectrum, "alpha_req", groups, jackknife, threads)
    rank = int((found.whole > 0.0).sum())
    first = whole_number("first", first, 1)
    stop = rank if last is None else whole_number("last", last, 2)
    if not first < stop or stop > rank:
        raise InputError(
            f"alpha_req needs 1 <= first < last <= {rank} eigenvalues above zero, got {first} and "
            f"{last}"
        )

    def slope(powers: Array, n: int) -> float:
        used = powers[first - 1 : stop]
        used = used[used > 0.0]  # a part of few rows may lack the last axes
        if len(used) < 2:
            raise InputError(
                "without one of the groups fewer than 2 eigenvalues are above zero: pass more "
                "rows, or jackknife=0"
            )
        j = np.arange(first, first + len(used))
        place, weight = np.log(j), 1.0 / j
        place -= (weight @ place) / weight.sum()
        return float(-(weight * place) @ np.log(used) / (weight @ np.square(place)))

    label = f"alpha-ReQ, {first}..{stop}"
    level = confidence_of(x_or_spectrum, confidence)
    return estimate_of_spectra(found, slope, label, level, (-math.inf, math.inf))


def isoscore(
    x_or_spectrum: Any,
    *,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float | None = None,
    threads: int | None = None,
) -> Estimate:
    """IsoScore (Rudman et al., Findings of ACL 2022): how evenly the variance fills all d columns.

    The paper's steps (eigenvalues scaled to length sqrt d, distance from (1, ..., 1), rescaled)
    reduce to (PR - 1) / (d - 1), PR the participation ratio: 0 on one axis, 1 if isotropic.
    Centers. Assumes n many times d. Bias: low otherwise, and with fewer rows than columns it cannot
    reach 1. Duplicates count as rows; k plays no part. Interval: jackknife over groups of rows; of
    a Spectrum, normal theory; confidence: None for that of the Spectrum, 0.95 for rows. Errors are
    up to 1.5 times the true ones where eigenvalues are nearly equal. Cost: O(n d^2 + d^3) for all
    rows, and again without each group.
    """
    found, columns = spectra_of(x_or_spectrum, "isoscore", groups, jackknife, threads)
    return estimate_of_spectra(
        found,
        lambda powers, n: isotropy_of(powers, columns),
        "IsoScore",
        confidence_of(x_or_spectrum, confidence),
        (0.0, 1.0),
    )


def isotropy_of(powers: Array, columns: int) -> float:
    """(PR - 1) / (d - 1) of eigenvalues."""
    shares = powers / powers.sum()
    ratio = 1.0 / np.square(shares).sum()
    return float(max(0.0, ratio - 1.0) / (columns - 1))


def matrix_entropy(
    x: Any,
    alpha: float = 1.0,
    *,
    normalize: str = "none",
    unit_rows: bool = True,
    groups: Any = None,
    jackknife: int = GROUPS,
    confidence: float = 0.95,
    threads: int | None = None,
) -> Estimate:
    """Entropy of the Gram matrix of the rows, of order alpha, in nats.

    l: eigenvalues of X X' / trace, rows divided by their norms and not centered (Skean et al.,
    "Layer by Layer", ICML 2025; Giraldo et al., IEEE Trans. Inf. Theory 61:535, 2015). S =
    log(sum l^alpha) / (1 - alpha); alpha = 1: -sum l log l; alpha = inf: -log l_1.

    normalize: "none", or "max": divided by log(min(n, d)). unit_rows: False leaves the norms in.
    Between 0 (one direction) and log(min(n, d)). Assumes that directions matter and norms do not.
    Bias: low while n is not many times d; duplicates count as rows; k plays no part. A zero row is
    refused. Interval: jackknife over groups of rows, errors up to 1.4 times the true ones where
    eigenvalues are nearly equal. Cost: O(n d^2 + d^3) for all rows, and again without each group.
    """
    alpha = real_number("alpha", alpha)
    if not alpha > 0.0:
        raise InputError(f"alpha must be above 0, got {alpha!r}")
    one_of("normalize", normalize, ("none", "max"))
    unit_rows = yes_or_no("unit_rows", unit_rows)
    found, columns = spectra_of(
        x, "matrix_entropy", groups, jackknife, threads, centered=False, unit=unit_rows
    )
    largest = math.log(min(found.count, columns))
    unit = largest if normalize == "max" else 1.0

    def entropy(powers: Array, n: int) -> float:
        share = powers[powers > 0.0] / powers.sum()
        if alpha == 1.0:
            value = -float(share @ np.log(share))
        elif math.isinf(alpha):
            value = -math.log(float(share[0]))
        else:
            # Of the largest share taken out, so that no power of all of them vanishes.
            rest = math.log(float(((share / share.max()) ** alpha).sum()))
            value = (alpha * math.log(float(share.max())) + rest) / (1.0 - alpha)
        return max(value, 0.0) / unit

    label = f"matrix entropy, alpha = {alpha:g}"
    return estimate_of_spectra(found, entropy, label, confidence, (0.0, largest / unit))
