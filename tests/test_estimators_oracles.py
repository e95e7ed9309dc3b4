"""Published and simulated values that every change must still meet within three standard errors."""

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest

from fastdim import gride, knn, levina_bickel, naive, twonn
from fastdim.estimators import twonn_fits as fits
from fastdim.estimators.gamma import gamma_quantile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the package, at import
    import skdim

SEEDS = 6
REPETITIONS = 10  # behind the recorded means

# Means over 10 samples of 2,500 points: TwoNN (Facco's fit), its s.d., Gride(4, 8), MacKay k = 20.
RECORDED = {
    "M1_Sphere": (9.45, 0.17, 9.10, 9.00),
    "M2_Affine_3to5": (2.92, 0.09, 2.89, 2.85),
    "M4_Nonlinear": (3.91, 0.09, 3.90, 3.96),
    "M5b_Helix2d": (2.03, 0.04, 2.50, 2.59),
    "M6_Nonlinear": (5.94, 0.10, 6.22, 6.39),
    "M8_Nonlinear": (13.44, 0.31, 13.6, 13.46),
    "M9_Affine": (15.62, 0.40, 14.8, 14.5),
    "M10b_Cubic": (14.00, 0.36, 13.6, 13.3),
    "M10d_Cubic": (40.3, 0.7, 36.5, 35.6),
    "M12_Norm": (17.0, 0.4, 16.0, 15.5),
    "Mn2_Nonlinear": (18.2, 0.3, 17.1, 16.9),
    "Mp3_Paraboloid": (7.23, 0.18, 6.30, 5.87),
}

# TwoNN (Facco's fit) of 10,000 points.
RECORDED_10K = {
    "M1_Sphere": 9.78,
    "M2_Affine_3to5": 2.94,
    "M4_Nonlinear": 3.91,
    "M5b_Helix2d": 1.99,
    "M6_Nonlinear": 5.80,
    "M8_Nonlinear": 13.06,
    "M9_Affine": 15.90,
    "M10b_Cubic": 14.40,
    "M10d_Cubic": 42.6,
    "M12_Norm": 17.6,
    "Mn2_Nonlinear": 19.0,
    "Mp3_Paraboloid": 7.61,
}
SEEDS_10K = 3


@cache
def samples(seed: int) -> dict[str, Any]:
    found = skdim.datasets.BenchmarkManifolds(random_state=seed).generate(n=2500)
    return {name: knn(found[name], 20, duplicates="collapse") for name in RECORDED}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_means(name: str) -> None:
    expected, spread, at_four, mackay = RECORDED[name]
    near = [samples(seed)[name] for seed in range(SEEDS)]
    fitted = [twonn(found, compat="facco").value for found in near]
    gap = math.sqrt(1 / SEEDS + 1 / REPETITIONS)
    assert abs(np.mean(fitted) - expected) < 3 * spread * gap + rounding(expected)
    for estimator, recorded in ((lambda r: gride(r, 4), at_four), (levina_bickel, mackay)):
        found = [estimator(r) for r in near]
        error = max(np.std([e.value for e in found], ddof=1), np.mean([e.stderr for e in found]))
        assert abs(np.mean([e.value for e in found]) - recorded) < 3 * error * gap + rounding(
            recorded
        )


@cache
def samples_10k(seed: int) -> dict[str, Any]:
    found = skdim.datasets.BenchmarkManifolds(random_state=seed).generate(n=10_000)
    return {name: twonn(found[name].astype("f4"), compat="facco") for name in RECORDED_10K}


@pytest.mark.parametrize("name", RECORDED_10K)
def test_recorded_means_of_10_000_points(name: str) -> None:
    found = [samples_10k(seed)[name] for seed in range(SEEDS_10K)]
    values = [e.value for e in found]
    error = max(np.std(values, ddof=1), np.mean([e.stderr for e in found]))
    gap = math.sqrt(1 / SEEDS_10K + 1 / REPETITIONS)
    expected = RECORDED_10K[name]
    assert abs(np.mean(values) - expected) < 3 * error * gap + rounding(expected)


def rounding(value: float) -> float:
    """Half a unit of the last place a recorded value was written with."""
    return 0.05 if round(value, 1) == value else 0.005


def ideal(repetitions: int, count: int, seed: int) -> np.ndarray:
    """Sorted log mu of the ideal model with d = 1."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.standard_exponential((repetitions, count)), axis=1)


@pytest.mark.parametrize(
    ("fit", "mean", "efficiency"),
    [
        (lambda log_mu: fits.censored(log_mu, 0.0), 1.0, 1.00),
        (lambda log_mu: fits.censored(log_mu, 0.1), 1.0, 1.07),
        (lambda log_mu: fits.linear(log_mu, 0.1), None, 1.08),
        (lambda log_mu: fits.linear(log_mu, 0.02), None, 1.05),
        (lambda log_mu: fits.linear(log_mu, 0.8), None, 2.43),
        (lambda log_mu: fits.trimmed_mle(log_mu, 0.01), 1.048, None),
        (lambda log_mu: fits.trimmed_linear(log_mu, 0.01), 1.077, None),
    ],
)
def test_efficiency_and_bias_on_ideal_ratios(
    fit: fits.Fit, mean: float | None, efficiency: float | None
) -> None:
    repetitions, count = 4000, 2000
    found = fit(ideal(repetitions, count, 3))
    spread = float(found.std(ddof=1))
    if mean is not None:
        assert abs(found.mean() - mean) < 3 * spread / math.sqrt(repetitions) + 0.0005
    if efficiency is not None:
        # A standard deviation of so many values is known within 1/sqrt(2 x 4,000).
        error = 3 * efficiency / math.sqrt(2 * repetitions) + 0.005
        assert abs(spread * math.sqrt(count) - efficiency) < error


@pytest.mark.parametrize(("share", "recorded"), [(0.0085, 1.06), (0.05, 1.35)])
def test_points_that_llm_microscope_drops_but_counts(share: float, recorded: float) -> None:
    """6 % high where 0.85 % of the points have an equal, 35 % where 5 %."""
    repetitions, count = 400, 3000
    dropped = round(share * count)
    log_mu = ideal(repetitions, count, 9)
    log_mu[:, :dropped] = 0.0
    log_mu[:, dropped:] = ideal(repetitions, count - dropped, 10)
    found = fits.linear_bottom_fifth(log_mu)
    error = 3 * found.std(ddof=1) / math.sqrt(repetitions)
    assert abs(found.mean() - recorded) < error + 0.005


def test_harmonic_mean_with_k_minus_2() -> None:
    """5.3 % low at k = 20."""
    rng = np.random.default_rng(11)
    radii = np.cumsum(rng.standard_exponential((200, 500, 20)), axis=2)
    inverse = np.log(radii[:, :, -1:] / radii[:, :, :-1]).sum(axis=2)
    found = 1.0 / (inverse / 18).mean(axis=1)
    error = 3 * found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - (1 - 0.053)) < error + 0.0005
    near = samples(0)["M2_Affine_3to5"]
    low, plain = (levina_bickel(near, unbiased=u).value for u in (True, False))
    assert low / plain == pytest.approx(18 / 19, rel=1e-12)


def test_share_of_ideal_intervals_on_uniform_tori() -> None:
    """The exact Gamma interval of independent ratios holds 88-92 % there."""
    held, values = [], []
    for seed in range(300):
        angle = 2 * np.pi * np.random.default_rng([seed, 31]).random((400, 5))
        x = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        found = twonn(x, interval="ideal")
        values.append(found.value)
        held.append((found.lower, found.upper))
    mean = np.mean(values)
    share = np.mean([low <= mean <= high for low, high in held])
    error = 3 * math.sqrt(0.9 * 0.1 / len(held))
    assert 0.88 - error < share < 0.92 + error


def test_censored_interval_covers() -> None:
    """94.8 % recorded, 95 % in theory."""
    repetitions, count = 4000, 500
    log_mu = ideal(repetitions, count, 5)
    kept = fits.kept_count(count, 0.1)
    total = fits.censored_total(log_mu, kept)
    lower, upper = (gamma_quantile(q, kept) / total for q in (0.025, 0.975))
    covered = float(((lower <= 1.0) & (upper >= 1.0)).mean())
    assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / repetitions)


def test_cube_with_duplicates_and_an_offset() -> None:
    """Cube of 8 in 64 columns, 3,000 rows, float32: 7.42, with 150 equal pairs 7.47, moved 7.42."""
    found = {"plain": [], "copied": [], "moved": []}
    copies = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        x = (rng.random((3000, 8)) @ np.linalg.qr(rng.standard_normal((64, 8)))[0].T).astype("f4")
        copied = x.copy()
        copied[:150] = copied[150:300]
        copies.append(copied)
        moved = (x.astype("f8") + 1000).astype("f4")
        for name, rows in (("plain", x), ("copied", copied), ("moved", moved)):
            found[name].append(twonn(rows).value)
    spread = np.std(found["plain"], ddof=1)
    for name, recorded in (("plain", 7.42), ("copied", 7.47), ("moved", 7.42)):
        assert abs(np.mean(found[name]) - recorded) < 3 * spread * math.sqrt(1 / SEEDS + 1)
    # What the definitions of others make of the copies: 4.75, 4.75, none at all, and zero.
    for compat in ("dadapy", "torchid"):
        theirs = [twonn(rows, compat=compat).value for rows in copies]
        assert abs(np.mean(theirs) - 4.75) < 3 * np.std(theirs, ddof=1) * math.sqrt(1 / SEEDS + 1)
    assert twonn(copies[0], compat="dadapy", method="mle").value == 0.0
    with np.errstate(divide="ignore"):
        assert float(skdim.id.MLE().fit(copies[0]).dimension_) == 0.0
    # The offset costs float32 its last digits and nothing else.
    assert np.array(found["moved"]) == pytest.approx(found["plain"], rel=0.01)
    assert naive.twonn(x[:400]) == pytest.approx(twonn(x[:400]).value, rel=1e-6)
