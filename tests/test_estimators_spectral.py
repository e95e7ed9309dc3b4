"""Ranks, slopes, isotropy, entropy and FisherS against plain references, and their errors."""

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from conftest import gaussian
from scipy import integrate, special, stats

import fastdim
from fastdim import (
    Estimate,
    InputError,
    alpha_req,
    effective_rank,
    fishers,
    isoscore,
    isoscore_star,
    lpca,
    matrix_entropy,
    participation_ratio,
    partition_isotropy,
    rankme,
    spectrum,
    stable_rank,
)
from fastdim.estimators import fishers as fishers_of
from fastdim.estimators.fishers import sphere_dimension
from fastdim.estimators.leave_out import split
from fastdim.estimators.lpca import RULES
from fastdim.estimators.lpca_noise import marchenko_pastur_median


def rows(n: int = 200, d: int = 9, seed: int = 0) -> np.ndarray:
    """Gaussian with variances 1, 1/2, 1/3, ... and an offset."""
    return gaussian(n, d, seed) / np.sqrt(np.arange(1, d + 1)) + 0.4


SHAPES = [(200, 9), (12, 30)]  # more rows than columns, and fewer


def singular(x: np.ndarray, centered: bool = True) -> np.ndarray:
    return np.linalg.svd(x - centered * x.mean(axis=0), compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_ranks_of_a_spectrum(shape: tuple[int, int]) -> None:
    x = rows(*shape)
    power = singular(x) ** 2
    share = power[power > 1e-20] / power.sum()
    expected = {
        participation_ratio: power.sum() ** 2 / (power**2).sum(),
        effective_rank: math.exp(-(share * np.log(share)).sum()),
        stable_rank: power.sum() / power[0],
    }
    for function, value in expected.items():
        found = function(x)
        assert found.value == pytest.approx(value, rel=1e-9)
        assert found == function(spectrum(x))
        assert found.lower < found.value < found.upper


@pytest.mark.parametrize("shape", SHAPES)
def test_rankme(shape: tuple[int, int]) -> None:
    values = singular(rows(*shape), centered=False)
    p = values / values.sum() + 1e-7
    found = rankme(rows(*shape))
    assert found.value == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert found.interval == f"jackknife of {min(20, shape[0])} groups"


@pytest.mark.parametrize("shape", SHAPES)
def test_alpha_req_is_the_weighted_slope(shape: tuple[int, int]) -> None:
    powers = singular(rows(*shape)) ** 2
    rank = min(shape[0] - 1, shape[1])
    for first, last in ((1, None), (2, 6)):
        j = np.arange(first, (last or rank) + 1)
        slope = np.polyfit(np.log(j), np.log(powers[j - 1]), 1, w=1 / np.sqrt(j))[0]
        assert alpha_req(rows(*shape), first, last).value == pytest.approx(-slope, rel=1e-8)
    exact = gaussian(4000, 30) @ np.linalg.qr(gaussian(30, 30))[0] * np.arange(1, 31) ** -0.75
    assert alpha_req(exact).value == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, math.inf])
def test_matrix_entropy(shape: tuple[int, int], alpha: float) -> None:
    x = rows(*shape)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    share = np.linalg.eigvalsh(unit @ unit.T)[::-1][: min(shape)] / len(x)
    if alpha == 1.0:
        expected = -(share * np.log(share)).sum()
    elif math.isinf(alpha):
        expected = -math.log(share[0])
    else:
        expected = math.log((share**alpha).sum()) / (1 - alpha)
    found = matrix_entropy(x, alpha)
    assert found.value == pytest.approx(expected, rel=1e-8)
    largest = math.log(min(shape))
    assert matrix_entropy(x, alpha, normalize="max").value == pytest.approx(expected / largest)
    assert 0 <= found.lower < found.value < found.upper <= largest
    raw = matrix_entropy(x, alpha, unit_rows=False)
    assert raw.value == pytest.approx(matrix_entropy(7.0 * x, alpha, unit_rows=False).value)


def published_isoscore(powers: np.ndarray) -> float:
    """The paper's steps, one after the other."""
    d = len(powers)
    scaled = math.sqrt(d) * powers / np.linalg.norm(powers)
    defect = np.linalg.norm(scaled - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    share = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    return float((d * share - 1) / (d - 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_isoscore(shape: tuple[int, int]) -> None:
    x = rows(*shape)
    powers = np.zeros(shape[1])
    powers[: min(shape)] = singular(x) ** 2
    found = isoscore(x)
    assert found.value == pytest.approx(published_isoscore(powers), rel=1e-8)
    assert isoscore(spectrum(x)).value == pytest.approx(found.value, rel=1e-12)
    line = np.outer(np.arange(50.0), np.ones(5))
    assert isoscore(line).value == pytest.approx(0.0, abs=1e-12)
    assert isoscore(gaussian(30000, 5)).value == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_isoscore_star(shape: tuple[int, int]) -> None:
    x, larger = rows(*shape), np.cov(rows(900, shape[1], 1).T)
    for zeta, covariance in ((0.0, None), (0.3, None), (0.3, larger), (1.0, larger)):
        target = np.eye(shape[1]) if covariance is None else covariance
        powers = np.linalg.eigvalsh((1 - zeta) * np.cov(x.T) + zeta * target)
        found = isoscore_star(x, zeta, covariance)
        assert found.value == pytest.approx(published_isoscore(powers), rel=1e-8)
    assert isoscore_star(x, 0.0).value == pytest.approx(isoscore(x).value, rel=1e-8)
    assert isoscore_star(x, 1.0, larger).stderr == pytest.approx(0.0, abs=1e-12)


def test_sphere_dimension_solves_its_equation() -> None:
    for alpha in (0.6, 0.8, 0.98):
        for p in (1e-9, 1e-4, 0.02, 0.3):
            n = sphere_dimension(p, alpha)
            w = math.log(1 - alpha**2)
            z = -w / (2 * math.pi * p**2 * alpha**2 * (1 - alpha**2))
            assert n == pytest.approx(special.lambertw(z).real / -w, rel=1e-12)
            again = (1 - alpha**2) ** ((n - 1) / 2) / (alpha * math.sqrt(2 * math.pi * n))
            assert again == pytest.approx(p, rel=1e-9)


def test_fishers_counts_every_pair() -> None:
    x = np.repeat(rows(80, 4), 2, axis=0)
    found = fishers(x)
    centered = x[::2] - x[::2].mean(axis=0)
    left = np.linalg.svd(centered, full_matrices=False)[0]
    kept = singular(x[::2]) ** 2 > singular(x[::2])[0] ** 2 / 10
    assert kept.all()
    unit = left / np.linalg.norm(left, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(80)
    shares = {a: (cosines >= a).sum() / (80 * 79) for a in 0.6 + 0.02 * np.arange(20)}
    last = max(a for a, p in shares.items() if p > 0)
    alpha = min(shares, key=lambda a: abs(a - 0.9 * last))
    assert found.value == pytest.approx(sphere_dimension(shares[alpha], alpha), rel=1e-9)
    assert (found.n_points, found.n_distinct) == (160, 80)
    few = fishers(gaussian(30, 3) @ gaussian(3, 40))
    assert few.lower < few.value < few.upper


@pytest.mark.parametrize("values", [1, 40, 700, 1 << 20])
def test_fishers_counts_as_float64_does(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines a hundred times nearer to a level than float32 tells, from either side."""
    monkeypatch.setattr(fishers_of, "BLOCK_VALUES", values)
    levels = np.array(fishers_of.ALPHAS)
    near = np.concatenate([levels + 1e-9, levels - 1e-9])
    unit = np.column_stack([near, np.sqrt(1.0 - near**2)])
    unit = np.concatenate([[[1.0, 0.0]], unit])
    found = fishers_of._counts(unit, levels)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    expected = (cosines[:, :, None] >= levels).sum(axis=1)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found, expected)
    # float32 alone says something else.
    single = np.float32(unit[0, 0]) * unit[1:, 0].astype(np.float32)
    assert (single[:, None] >= levels.astype(np.float32)).sum() != expected[0].sum()
    unit = gaussian(90, 3)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    expected = (cosines[:, :, None] >= levels).sum(axis=1)
    np.testing.assert_array_equal(fishers_of._counts(unit, levels), expected)


def test_fishers_needs_little_memory_where_all_pairs_are_at_a_level() -> None:
    n = 300
    unit = np.column_stack([np.full(n, math.sqrt(0.8)), math.sqrt(0.2) * np.eye(n)])
    tracemalloc.start()
    try:
        found = fishers_of._counts(unit, np.array(fishers_of.ALPHAS))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(np.unique(found)) <= {0, n - 1}
    assert peak < 6 * 8 * fishers_of.BLOCK_VALUES  # the rows of all pairs twice: 216 MB


@pytest.mark.parametrize("rule", RULES)
def test_lpca_counts_the_axes_of_a_clear_signal(rule: str) -> None:
    """Five equal axes far above white noise; what each rule is meant to find there."""
    n, d = (100, 300) if rule == "scRMT" else (300, 20)
    x = 10.0 * gaussian(n, 5) @ np.linalg.qr(gaussian(d, 5))[0].T + gaussian(n, d)
    # scRMT's fitted edge lies below the largest noise here, in scikit-dimension's form as well.
    expected = {"ratio": 1, "Fan": 4, "scRMT": 6}.get(rule, 5)
    found = lpca(x, rule)
    if rule == "participation_ratio":
        assert 4 < found.value < 7
    else:
        assert found.value == expected
    assert 0 <= found.lower <= found.value <= found.upper <= d
    assert found.method == f"lPCA {rule}"
    if rule not in ("parallel", "scRMT"):
        assert lpca(spectrum(x), rule).value == pytest.approx(found.value)
    assert lpca(x + 1000.0, rule).value == pytest.approx(found.value, rel=1e-6)


def test_lpca_levels() -> None:
    x = rows(400, 12)
    powers = singular(x) ** 2
    assert lpca(x, "FO", alpha=0.2).value == (powers > 0.2 * powers[0]).sum()
    assert lpca(x, "Kaiser").value == (powers > powers.mean()).sum()
    assert lpca(x, "participation_ratio").value == pytest.approx(participation_ratio(x).value)
    assert lpca(x, "MP", noise_variance=1e-3).value == 12
    assert (
        lpca(x, "FO", center=False).value
        == (singular(x, False) ** 2 > 0.05 * singular(x, False)[0] ** 2).sum()
    )
    signed = lpca(x, "parallel", null="signflip", permutations=30, seed=2)
    assert signed == lpca(x, "parallel", null="signflip", permutations=30, seed=2)


def test_marchenko_pastur_median() -> None:
    for beta in (0.01, 0.3, 0.9, 1.0):
        ends = ((1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2)
        share = integrate.quad(
            lambda y, a, b, ratio: math.sqrt(max((b - y) * (y - a), 0)) / (2 * math.pi * ratio * y),
            ends[0],
            marchenko_pastur_median(beta),
            args=(*ends, beta),
        )[0]
        assert share == pytest.approx(0.5, abs=1e-7)


STATISTICS = [
    rankme,
    alpha_req,
    isoscore,
    matrix_entropy,
    lambda x: isoscore_star(x, 0.2),
    partition_isotropy,
]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_errors_are_those_of_repetition(statistic: Any) -> None:
    found = [statistic(rows(250, 4, seed)) for seed in range(80)]
    spread = np.std([e.value for e in found])
    # A jackknife of 20 groups knows its error within 16 %, 80 repetitions theirs within 8 %.
    assert np.mean([e.stderr for e in found]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_fishers_measures_how_squared_cosines_vary(d: int) -> None:
    """On circles, where a sphere's formula is a quarter too small at d = 2."""
    angle = 2 * np.pi * np.random.default_rng(d).random((3000, d))
    unit = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(d)
    assert fishers_of._spread_of_squares(unit) == pytest.approx(
        (2 - 1.5 / d) / (2 * d) ** 2, rel=0.08
    )
    few = unit[:50]
    pairs = np.square(few @ few.T)[np.triu_indices(50, 1)]
    assert fishers_of._spread_of_squares(few) == pytest.approx(pairs.var(), rel=1e-9)


def test_fishers_measures_squared_cosines_whatever_the_order_of_rows() -> None:
    """The first row of every document of 8 may be unlike the others."""
    unit = gaussian(8192, 30)
    unit[::8] = unit[0] + 0.01 * unit[::8]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    mixed = np.random.default_rng(1).permutation(unit)
    expected = fishers_of._spread_of_squares(mixed)
    assert fishers_of._spread_of_squares(unit) == pytest.approx(expected, rel=0.5)


def test_fishers_takes_equal_alphas_once() -> None:
    x = gaussian(300, 12)
    assert fishers(x, alphas=(*fishers_of.ALPHAS, *fishers_of.ALPHAS)) == fishers(x)


def test_fishers_error_of_hundreds_of_axes_is_a_number() -> None:
    """Densities of cosines on so many axes are below what float64 holds."""
    x = np.random.default_rng(0).standard_normal((1000, 768)).astype(np.float16)
    alone = fishers(x, alphas=[0.1])
    assert alone.stderr > 0.0
    assert fishers(x, alphas=[0.1, 0.98]).stderr == pytest.approx(alone.stderr, rel=0.01)


def test_fishers_drift_of_the_dimension_weighs_what_levels_tell_besides() -> None:
    """Pairs are nested: where nearly all of a level reach the next, a step is well known."""
    rng = np.random.default_rng(0)
    levels = np.array([0.50, 0.60, 0.61, 0.62, 0.63])
    share = (1 - levels**2) ** 3.5 / (levels * np.sqrt(16 * np.pi))
    drifts = []
    for _ in range(400):
        pairs = [rng.binomial(10**5, share[0])]
        for before, after in itertools.pairwise(share):
            pairs.append(rng.binomial(pairs[-1], after / before))
        mean = np.array(pairs) / 1e5
        line = fishers_of._expected_shares(levels, mean, 1e5)
        ends = [fishers_of.sphere_dimension(line[i], levels[i]) for i in (1, 4)]
        found = [fishers_of.sphere_dimension(p, a) for p, a in zip(mean, levels, strict=True)]
        step = np.diff(levels)
        by_counts = (mean[1:] * step) @ np.diff(found) / (mean[1:] @ step**2)
        drifts.append([(ends[1] - ends[0]) / (levels[4] - levels[1]), by_counts])
    ours, plain = np.std(drifts, axis=0)
    assert abs(np.mean(drifts, axis=0)[0]) < 3 * ours / 20
    assert ours < 0.93 * plain


def test_fishers_formula_is_high_at_small_alphas() -> None:
    """As its docstring says, by the shares of even spheres of 2, 5 and 20 dimensions."""
    for n, times in ((2, (1.27, 3.24, 23.1)), (5, (1.10, 1.95, 10.5)), (20, (1.01, 1.19, 3.55))):
        for alpha, factor in zip((0.6, 0.3, 0.1), times, strict=True):
            share = 0.5 * stats.beta.sf(alpha**2, 0.5, (n - 1) / 2)
            found = fishers_of.sphere_dimension(share, alpha)
            assert found == pytest.approx(factor * n, rel=0.01)


def test_fishers_error_is_an_upper_bound() -> None:
    found = [fishers(rows(250, 4, seed), alphas=[0.7]) for seed in range(80)]
    spread = np.std([e.value for e in found])
    assert 0.85 * spread < np.mean([e.stderr for e in found]) < 2.5 * spread


def test_rows_of_a_document_are_dependent() -> None:
    x, documents = np.repeat(rows(60, 5), 4, axis=0), np.repeat(np.arange(60), 4)
    for statistic in (isoscore, rankme, matrix_entropy):
        grouped, single = statistic(x, groups=documents), statistic(rows(60, 5))
        assert grouped.stderr == pytest.approx(single.stderr, rel=1e-6)
        assert grouped.value == pytest.approx(single.value, rel=1e-9)
    bare = isoscore(x, jackknife=0)
    assert bare.interval == "none"
    assert math.isnan(bare.lower)
    assert math.isnan(bare.stderr)


def test_normal_theory_of_a_spectrum_agrees_with_the_jackknife_on_normal_rows() -> None:
    x = rows(3000, 5)
    for statistic in (isoscore, alpha_req):
        theory, left_out = statistic(spectrum(x)), statistic(x)
        assert theory.interval == "normal theory"
        assert theory.stderr == pytest.approx(left_out.stderr, rel=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rankme(spectrum(rows())), "pass the rows"),
        (lambda: isoscore(spectrum(rows()), groups=[1]), "groups belong to the rows"),
        (lambda: participation_ratio(spectrum(rows()), confidence=0.5), "has them already"),
        (lambda: rankme(rows(), jackknife=1), "at least 2 groups"),
        (lambda: rankme(rows(), groups=["a"] * 200), "rows of at least 2 groups"),
        (lambda: alpha_req(rows(), 5, 5), "1 <= first < last <= 9"),
        (lambda: alpha_req(rows(), 1, 10), "1 <= first < last <= 9"),
        (lambda: matrix_entropy(rows(), 0.0), "alpha must be above 0"),
        (lambda: matrix_entropy(rows(), normalize="log"), "normalize must be"),
        (lambda: matrix_entropy(np.zeros((9, 3))), "9 rows are zero"),
        (lambda: isoscore_star(rows(), 1.5), r"zeta must lie in \[0, 1\]"),
        (lambda: isoscore_star(rows(), 0.5, np.eye(3)), r"finite matrix \(9, 9\)"),
        (lambda: isoscore_star(np.ones((9, 3)), 0.0), "all rows are equal"),
        (lambda: lpca(rows(), "elbow"), "rule must be one of"),
        (lambda: lpca(rows(), "FO", noise_variance=1.0), "noise_variance is for"),
        (lambda: lpca(rows(), "Minka", noise_variance=1.0), "for MP, GD, KN and denoised"),
        (lambda: lpca(rows(), "Kaiser", alpha=0.2), "alpha is for FO, Fan, ratio and KN"),
        (lambda: lpca(rows(), "MP", alpha=0.2), "alpha is for"),
        (lambda: lpca(rows(), "FO", quantile=0.9), "quantile is for parallel, not for 'FO'"),
        (lambda: lpca(rows(), "scRMT", permutations=9), "permutations is for parallel"),
        (lambda: lpca(rows(), "KN", null="signflip"), "null is for parallel"),
        (lambda: lpca(rows(), confidence=1.0), "confidence must lie"),
        (lambda: lpca(rows(), "KN", alpha=0.2), "KN has levels"),
        (lambda: lpca(spectrum(rows()), "parallel"), "needs the rows"),
        (lambda: lpca(rows(), "scRMT", center=False), "leave center=True"),
        (lambda: lpca(np.tile(np.eye(3), (40, 1)), "scRMT"), "no bulk of noise"),
        (lambda: lpca(rows(), "parallel", null="shuffle"), "null must be"),
        (lambda: lpca(rows(), "parallel", quantile=0.0), "quantile must lie"),
        (lambda: fishers(rows(), alphas=[1.0]), "strictly between 0 and 1"),
        (lambda: fishers(rows(), condition=1.0), "condition must be above 1"),
        (lambda: fishers(np.eye(6)), "separable at every alpha"),
        (lambda: fishers(np.array([[-1.0, 0], [0, 0], [1, 0]])), "lie at the mean"),
    ],
)  # fmt: skip
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "statistic", [participation_ratio, effective_rank, stable_rank, alpha_req, isoscore, lpca]
)
def test_a_spectrum_has_its_own_confidence(statistic: Any) -> None:
    given = spectrum(rows(), confidence=0.9)
    found = statistic(given)
    assert found.confidence == 0.9
    assert statistic(given, confidence=0.9) == found
    assert statistic(spectrum(rows())).confidence == statistic(rows()).confidence == 0.95
    assert statistic(rows(), confidence=0.9).confidence == 0.9
    with pytest.raises(InputError, match="confidence must lie"):
        statistic(given, confidence=0.0)


def test_every_public_estimator_says_what_it_is() -> None:
    for function in (rankme, alpha_req, isoscore, matrix_entropy, partition_isotropy, fishers):
        found = function(rows())
        assert isinstance(found, Estimate)
        assert found.method
        assert found.interval
        assert function.__name__ in fastdim.__all__


@pytest.mark.parametrize("scale", [1e-60, 1e60, 1e100])
def test_the_unit_of_x_is_free(scale: float) -> None:
    """Fourth powers of such rows leave float64, their spectra do not; warnings are errors."""
    x = gaussian(80, 6).astype(np.float64) * np.arange(1.0, 7.0)
    y = np.tanh(x @ np.arange(30.0).reshape(6, 5) / 30.0)
    for function in (participation_ratio, effective_rank, stable_rank, rankme, alpha_req, isoscore):
        plain, moved = function(x), function(scale * x)
        for part in ("value", "lower", "upper"):
            assert getattr(moved, part) == pytest.approx(getattr(plain, part), rel=1e-9)
    for compare in (fastdim.linear_cka, fastdim.linearity_score):
        plain, moved = compare(x, y), compare(scale * x, scale * y)
        assert moved.value == pytest.approx(plain.value, rel=1e-9)
        assert moved.stderr == pytest.approx(plain.stderr, rel=1e-6)
    whole = fastdim.profile(scale * x)
    assert whole.spectrum.estimates["anisotropy"].stderr == pytest.approx(
        fastdim.spectrum(x).estimates["anisotropy"].stderr, rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-100, 1e-85, 1e78, 1e80, 1e140])
@pytest.mark.parametrize("rule", ["participation_ratio", "KN", "MP", "Minka", "ratio"])
def test_rules_of_lpca_at_any_scale(rule: str, scale: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 9))
    x += 0.1 * rng.standard_normal((300, 9))
    plain, scaled = lpca(x, rule), lpca(x * scale, rule)
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)
    assert scaled.stderr == pytest.approx(plain.stderr, rel=1e-6)


def test_a_share_counts_no_more_components_than_there_are() -> None:
    for d in (4, 8, 37):
        assert lpca(gaussian(100, d), "ratio", alpha=1.0).value == d
    with pytest.raises(InputError, match=r"share of the variance, at most 1, got 1\.5"):
        lpca(gaussian(100, 4), "ratio", alpha=1.5)


@pytest.mark.parametrize("period", [20, 100, 500])
def test_what_recurs_is_dealt_to_all_parts(period: int) -> None:
    """The first token of texts of one length, which may be massive."""
    labels = split(None, 10_000, 20)
    assert (np.bincount(labels) == 500).all()
    recurring = np.bincount(labels[::period], minlength=20)
    even = len(labels[::period]) / 20
    assert recurring.max() < even + 5 * np.sqrt(even)
    assert (recurring > 0).sum() > 10
    documents = np.repeat(np.arange(100), 100)
    whole = split(documents, 10_000, 20).reshape(100, 100)
    assert (whole == whole[:, :1]).all()
    assert (np.bincount(whole[:, 0]) == 5).all()
