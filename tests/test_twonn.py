"""TwoNN: published values on manifolds, the definitions of other codes, intervals, refusals."""

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import gaussian
from scipy import special, stats

from fastdim import InputError, block_analysis, knn, naive, twonn
from fastdim.estimators import twonn_fits as fits
from fastdim.estimators.gamma import gamma_quantile, gamma_tails


def sphere(n: int, rng: np.random.Generator) -> np.ndarray:
    v = rng.standard_normal((n, 11))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def affine(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random((n, 20)) * 5 - 2.5


def cube_surface(n: int, rng: np.random.Generator) -> np.ndarray:
    """The 36 faces of the cube in 18 columns, equally many points on each."""
    x = rng.random((n, 18))
    face = np.arange(n) % 36
    x[np.arange(n), face // 2] = face % 2
    return x


def normal(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, 20))


@pytest.mark.parametrize(
    ("manifold", "mean", "spread"),
    [(sphere, 9.45, 0.17), (affine, 15.62, 0.40), (cube_surface, 14.00, 0.36), (normal, 17.0, 0.4)],
)
def test_published_means(manifold: Any, mean: float, spread: float) -> None:
    """Mean over 10 samples of 2,500 points, and its s.d., of skdim's M1, M9, M10b, M12."""
    seeds = 6
    found = [
        float(twonn(manifold(2500, np.random.default_rng(seed)), compat="facco"))
        for seed in range(seeds)
    ]
    # The table is itself a mean over 10, and rounded.
    error = spread * math.sqrt(1 / seeds + 1 / 10) + 0.05
    assert abs(np.mean(found) - mean) < 3 * error


def cube_with_copies(copies: int, offset: float) -> np.ndarray:
    """A cube of 8 dimensions in 64 columns, float32."""
    rng = np.random.default_rng(5)
    x = rng.random((1200, 8)) @ rng.standard_normal((8, 64)) / 8
    x[:copies] = x[copies : 2 * copies]
    return (x + offset).astype(np.float32)


def test_duplicates_and_offset_do_not_move_the_value() -> None:
    plain = twonn(cube_with_copies(0, 0.0))
    copied = twonn(cube_with_copies(60, 0.0))
    assert (copied.n_points, copied.n_distinct, copied.n_queries) == (1200, 1140, 1140)
    assert abs(copied.value - plain.value) < 2 * plain.stderr
    assert copied.value == pytest.approx(naive.twonn(cube_with_copies(60, 0.0)), rel=1e-6)
    moved = cube_with_copies(0, 1000.0)
    assert twonn(moved).value == pytest.approx(naive.twonn(moved), rel=1e-6)
    assert twonn(moved).value == pytest.approx(plain.value, rel=0.01)


def test_default_is_the_reference(isa: str) -> None:
    x = gaussian(400, 7).astype(np.float32)
    found = twonn(x)
    assert found.value == pytest.approx(naive.twonn(x), rel=1e-6)
    assert (found.method, found.interval, found.confidence) == ("censored", "robust", 0.95)
    assert found.lower < float(found) < found.upper
    assert found == twonn(x, method="censored", discard_fraction=0.1)
    assert found == twonn(knn(x, duplicates="collapse"))
    assert twonn(x, discard_fraction=0.3).value == pytest.approx(naive.twonn(x, 0.3), rel=1e-6)


def ratios(x: np.ndarray) -> np.ndarray:
    """Sorted mu = r2/r1 of rows kept as they are."""
    distances, _ = naive.knn(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sort(distances[:, 1] / distances[:, 0])


def fitted(mu: np.ndarray, share: np.ndarray) -> float:
    x, y = np.log(mu), -np.log(1 - share)
    return float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


def other_mle(mu: np.ndarray) -> float:
    return (len(mu) - 1) / np.log(mu).sum()


def other_facco(mu: np.ndarray) -> float:
    kept = int(len(mu) * 0.9)
    return fitted(mu[:kept], np.arange(kept) / len(mu))


def other_skdim(mu: np.ndarray) -> float:
    mu = mu[np.isfinite(mu)]
    kept = int(len(mu) * 0.9)
    return fitted(mu[:kept], np.arange(1, kept + 1) / len(mu))


def other_dadapy(mu: np.ndarray) -> float:
    kept = int(len(mu) * 0.9)
    return fitted(mu[:kept], np.arange(1, kept + 1) / len(mu))


def other_microscope(mu: np.ndarray) -> float:
    mu = np.sort(np.where(np.isfinite(mu), mu, -1.0))
    useless = int((mu <= 1 + 1e-8).sum())
    mu = mu[useless:]
    share = np.arange(1 + useless, len(mu) + 1 + useless) / (len(mu) + useless)
    kept = min(len(mu) // 5, len(mu) - 1)
    return fitted(mu[:kept], share[:kept])


def other_intrinsic(mu: np.ndarray) -> float:
    return other_mle(mu[: math.floor(len(mu) * 0.99)])


def other_intrinsic_fit(mu: np.ndarray) -> float:
    mu = mu[: math.floor(len(mu) * 0.99)]
    return fitted(mu, np.arange(len(mu)) / len(mu))


def other_intrinsic_bayes(mu: np.ndarray) -> float:
    mu = mu[: math.floor(len(mu) * 0.99)]
    return (0.001 + len(mu)) / (0.001 + np.log(mu).sum())


@pytest.mark.parametrize(
    ("options", "definition"),
    [
        ({"method": "mle"}, other_mle),
        ({"method": "linear"}, other_skdim),
        ({"compat": "facco"}, other_facco),
        ({"compat": "torchid"}, other_facco),
        ({"compat": "skdim"}, other_skdim),
        ({"compat": "dadapy"}, other_dadapy),
        ({"compat": "dadapy", "method": "mle"}, other_mle),
        ({"compat": "llm-microscope"}, other_microscope),
        ({"compat": "intrinsic"}, other_intrinsic),
        ({"compat": "intrinsic", "method": "linear"}, other_intrinsic_fit),
        ({"compat": "intrinsic", "method": "bayes"}, other_intrinsic_bayes),
    ],
)
def test_definitions(options: dict[str, str], definition: Any) -> None:
    x = gaussian(501, 6)
    found = twonn(x, **options)
    assert found.value == pytest.approx(definition(ratios(x)), rel=1e-9)
    assert found.method.startswith(options.get("compat", options.get("method", "")))
    assert found.lower < found.value < found.upper


def copied_pairs() -> np.ndarray:
    x = gaussian(500, 6)
    x[:25] = x[25:50]  # 5 % of the rows: at 4 % skdim's treatment moves the value by 1.3 % only
    return x


@pytest.mark.parametrize(
    ("compat", "definition"),
    [("skdim", other_skdim), ("dadapy", other_dadapy), ("llm-microscope", other_microscope)],
)
def test_zero_distances_as_the_other_code_treats_them(compat: str, definition: Any) -> None:
    found = twonn(copied_pairs(), compat=compat)
    assert found.value == pytest.approx(definition(ratios(copied_pairs())), rel=1e-9)
    assert found.n_distinct is None
    assert abs(found.value / twonn(copied_pairs()).value - 1) > 0.02


def test_zero_distances_in_the_rest() -> None:
    x = copied_pairs()
    distances, _ = naive.knn(x)
    tiny = np.maximum(distances[:, 0], np.finfo(np.float64).tiny)
    assert twonn(x, compat="torchid").value == pytest.approx(
        other_facco(np.sort(distances[:, 1] / tiny)), rel=1e-9
    )
    assert twonn(x, compat="dadapy", method="mle").value == 0.0
    assert twonn(x, compat="intrinsic").value == pytest.approx(
        other_intrinsic(ratios(x[25:])), rel=1e-9
    )
    jittered = twonn(x, compat="facco", seed=1)
    assert jittered.value == twonn(x, compat="facco", seed=1).value
    # Zero becomes at most 5e-6, so mu is at least r2 / 5e-6: all 40 stay in the discarded tenth.
    assert jittered.value == pytest.approx(
        other_facco(np.sort(distances[:, 1] / np.maximum(distances[:, 0], 5e-6))), rel=1e-9
    )


@pytest.mark.parametrize(
    ("dtype", "tiny", "recorded"),
    [("float64", 2.2250738585072014e-308, 0.00245116), ("float32", 1.1754944e-38, 0.0200109)],
)
def test_torchid_clamps_at_the_tiny_of_the_rows(dtype: str, tiny: float, recorded: float) -> None:
    """30 of 200 rows twice, so that clamped ratios are fitted; what torchid 0.5.1 gives of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 9))
    x = np.concatenate([x, x[:30]]).astype(dtype)
    near = knn(x)
    found = twonn(x, compat="torchid")
    mu = np.sort(near.distances[:, 1] / np.maximum(near.distances[:, 0].astype(float), tiny))
    assert found.value == pytest.approx(other_facco(mu), rel=1e-9)
    assert found.value == pytest.approx(recorded, rel=1e-4)
    # Of neighbours alone, by the type of their distances; half precision counts as float32.
    assert twonn(near, compat="torchid") == found
    assert knn(x.astype("float16")).distances.dtype == np.float32
    # r2 / tiny is infinite above r2 = 4 in float64, and a discarded ratio may be.
    far = np.concatenate([100.0 * x[:200], 100.0 * x[:10]])
    assert math.isfinite(twonn(far, compat="torchid").value)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.29, 0.3, 0.4, 0.5, 0.57, 0.6, 0.7, 0.8, 0.9])
def test_dadapy_keeps_the_share_it_is_told(share: float) -> None:
    """int(100 * 0.2) is 20 and int(100 * (1 - 0.8)) 19; of 0.29 DADApy itself keeps 28."""
    for discarded in (1.0 - share, float(f"{1.0 - share:.2f}")):
        for count in range(50, 701):
            assert fits.kept_count(count, discarded, "dadapy") == int(count * share)
    mu = ratios(gaussian(100, 5))
    kept = int(100 * share)
    found = twonn(gaussian(100, 5), compat="dadapy", discard_fraction=discarded)
    expected = fitted(mu[:kept], np.arange(1, kept + 1) / 100)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert 0.0 < found.stderr < found.value


def test_ten_rows_are_enough_for_llm_microscope() -> None:
    """A fifth of them is two ratios, and 1 - 0.8 of them less than two."""
    x = gaussian(10, 3)
    found = twonn(x, compat="llm-microscope").value
    assert found == pytest.approx(other_microscope(ratios(x)), rel=1e-9)
    assert twonn(knn(x), compat="dadapy", discard_fraction=0.8).value > 0.0
    with pytest.raises(InputError, match="at least 2 ratios"):
        twonn(x[:9], compat="llm-microscope")


def test_ideal_intervals_of_dadapys_likelihoods() -> None:
    x = gaussian(300, 4)
    own, theirs = (twonn(x, method="mle", interval="ideal", compat=c) for c in (None, "dadapy"))
    assert (theirs.value, theirs.lower, theirs.upper) == (own.value, own.lower, own.upper)
    posterior = stats.gamma(2.0 + 300, scale=1.0 / (5.0 + np.log(ratios(x)).sum()))
    found = twonn(x, method="bayes", interval="ideal", compat="dadapy")
    assert found.value == pytest.approx(posterior.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(posterior.std(), rel=1e-9)
    assert (found.lower, found.upper) == pytest.approx(posterior.interval(0.95), rel=1e-9)
    for name in ("mle", "bayes"):  # an equal row makes the sum infinite
        zero = twonn(copied_pairs(), method=name, interval="ideal", compat="dadapy")
        assert zero.value == 0.0
        assert all(math.isnan(part) for part in (zero.lower, zero.upper, zero.stderr))


def test_bayes_is_the_posterior_mean() -> None:
    log_mu = np.log(ratios(gaussian(400, 5)))
    total = log_mu[:360].sum() + 40 * log_mu[359]
    posterior = stats.gamma(360.001, scale=1 / (0.001 + total))
    found = twonn(gaussian(400, 5), method="bayes", interval="ideal")
    assert found.value == pytest.approx(posterior.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(posterior.std(), rel=1e-9)
    assert (found.lower, found.upper) == pytest.approx(posterior.interval(0.95), rel=1e-9)


def test_bayes_with_a_prior_of_ones_own() -> None:
    log_mu = np.log(ratios(gaussian(400, 5)))
    posterior = stats.gamma(360 + 50.0, scale=1 / (10.0 + log_mu[:360].sum() + 40 * log_mu[359]))
    found = twonn(gaussian(400, 5), method="bayes", prior=(50.0, 10.0), interval="ideal")
    assert found.value == pytest.approx(posterior.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(posterior.std(), rel=1e-9)
    assert (found.lower, found.upper) == pytest.approx(posterior.interval(0.95), rel=1e-9)


def pareto_neighbors(n: int, d: float, seed: int) -> Any:
    """Neighbours whose ratios are independent and Pareto with exponent d.

    Independent as few queries among many rows are: none is a neighbour of another.
    """
    rng = np.random.default_rng(seed)
    frame = knn(rng.standard_normal((n, 2)), duplicates="collapse")
    frame.distances[:, 0] = 1.0
    frame.distances[:, 1] = rng.random(n) ** (-1.0 / d)
    return replace(frame, n_points=1000 * n, n_distinct=1000 * n)


@pytest.mark.parametrize("interval", ["ideal", "robust"])
def test_intervals_cover_on_ideal_ratios(interval: str) -> None:
    found = [twonn(pareto_neighbors(150, 12.0, s), interval=interval, seed=s) for s in range(300)]
    covered = np.mean([e.lower <= 12.0 <= e.upper for e in found])
    # 95 % less 3 standard errors of a share of 300, and the deficit of normal intervals.
    assert 0.90 <= covered <= 0.985
    values = np.array([e.value for e in found])
    assert abs(values.mean() - 12.0) < 3 * values.std() / math.sqrt(len(values))
    assert np.mean([e.stderr for e in found]) == pytest.approx(values.std(), rel=0.15)


def test_robust_interval_is_wider_where_ratios_are_not_pareto() -> None:
    rng = np.random.default_rng(0)
    mixed = pareto_neighbors(2000, 5.0, 0)
    mixed.distances[:, 1] = rng.random(2000) ** (-1.0 / np.where(rng.random(2000) < 0.5, 2.0, 40.0))
    ideal, robust = (
        twonn(mixed, interval=kind, discard_fraction=0.0) for kind in ("ideal", "robust")
    )
    assert robust.stderr > 1.3 * ideal.stderr
    log_mu = np.log(mixed.distances[:, 1])
    assert robust.stderr / robust.value == pytest.approx(
        log_mu.std() / log_mu.mean() / math.sqrt(2000), rel=0.1
    )


def test_interval_is_deterministic_and_widens_with_confidence() -> None:
    x = gaussian(200, 4)
    assert twonn(x, seed=3) == twonn(x, seed=3)
    assert twonn(x, seed=3) == twonn(x, seed=4)
    assert twonn(x, confidence=0.99).lower < twonn(x, confidence=0.8).lower


def test_sampled_queries() -> None:
    x = np.repeat(gaussian(300, 5), 2, axis=0)
    found = twonn(x, queries=100, seed=9)
    assert (found.n_points, found.n_distinct, found.n_queries) == (600, 300, 100)
    every = twonn(x)
    assert found.lower < every.value < found.upper
    # Equal rows, or one row named twice, are one observation.
    assert twonn(x, queries=np.arange(40)).n_queries == 20
    assert twonn(x, queries=[0, 2, 4, 6, 6, 6]).n_queries == 4


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (gaussian(2, 3), {}, "at least 3 distinct rows, got 2 distinct of 2"),
        (np.repeat(gaussian(2, 3), 9, axis=0), {}, "got 2 distinct of 18"),
        (np.ones((9, 3)), {}, "got 1 distinct of 9"),
        (gaussian(30, 1), {}, "at least 2 columns"),
        (
            np.stack(np.meshgrid(range(6), range(6)), -1).reshape(-1, 2) * 1.0,
            {},
            "all ratios are 1",
        ),
        (gaussian(20, 3), {"queries": 2, "discard_fraction": 0.5}, "at least 2 ratios"),
        (gaussian(20, 3), {"method": "map"}, "method must be one of"),
        (gaussian(20, 3), {"compat": "sklearn"}, "compat must be one of"),
        (gaussian(20, 3), {"compat": "skdim", "method": "censored"}, "fixes linear"),
        (gaussian(20, 3), {"compat": "llm-microscope", "discard_fraction": 0.5}, "lowest fifth"),
        (gaussian(20, 3), {"method": "mle", "discard_fraction": 0.2}, "uses every ratio"),
        (gaussian(20, 3), {"method": "linear", "discard_fraction": 0.0}, "discard_fraction > 0"),
        (gaussian(20, 3), {"discard_fraction": 1.0}, r"\[0, 1\)"),
        (gaussian(20, 3), {"interval": "gamma"}, "interval must be"),
        (gaussian(20, 3), {"interval": "dependent"}, "interval must be one of robust, ideal"),
        (gaussian(20, 3), {"compat": "skdim", "discard_fraction": 0}, "F = 1 has no logarithm"),
        (
            gaussian(20, 3),
            {"compat": "dadapy", "discard_fraction": 0.0},
            "F = 1 has no logarithm, or method='mle'",
        ),
        (gaussian(20, 3), {"method": "linear", "interval": "ideal"}, "use interval='robust'"),
        (gaussian(20, 3), {"compat": "skdim", "interval": "ideal"}, "'skdim:linear' is least sq"),
        (
            gaussian(20, 3),
            {"compat": "intrinsic", "interval": "ideal"},
            "'intrinsic:mle' leaves the largest ratios out of it: use interval='robust'",
        ),
        (gaussian(20, 3), {"prior": (1.0, 1.0)}, "belongs to method='bayes'"),
        (gaussian(20, 3), {"method": "bayes", "prior": (0.0, 1.0)}, "shape above 0"),
        (gaussian(20, 3), {"confidence": 1.0}, "confidence"),
        (np.full((20, 3), np.nan), {}, "NaN"),
    ],
)
def test_refusals(x: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        twonn(x, **options)


def test_refusals_on_neighbours() -> None:
    x = copied_pairs()
    with pytest.raises(InputError, match="duplicates='collapse'"):
        twonn(knn(x))
    with pytest.raises(InputError, match="k >= 2"):
        twonn(knn(x, 1))
    with pytest.raises(InputError, match=r"belong to knn"):
        twonn(knn(x), queries=10)
    with pytest.raises(InputError, match="pass the rows"):
        twonn(knn(x), compat="llm-microscope")
    assert twonn(knn(x), compat="skdim") == twonn(x, compat="skdim")


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.0, 9.9, 10.1, 50.0, 333.0, 1e4, 123456.7, 1e6])
def test_gamma_quantile(shape: float) -> None:
    for p in (0.001, 0.025, 0.3, 0.5, 0.77, 0.975, 0.9999):
        found = gamma_quantile(p, shape)
        assert found == pytest.approx(special.gammaincinv(shape, p), rel=1e-12)
        lower, upper = gamma_tails(shape, found)
        assert lower == pytest.approx(p, rel=1e-9)
        assert upper == pytest.approx(1 - p, rel=1e-9)
    assert gamma_tails(shape, 0.0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 < p < 1"):
        gamma_quantile(1.0, shape)


@pytest.mark.parametrize("function", [twonn, block_analysis])
def test_the_signature_shows_the_defaults(function: Any) -> None:
    shown = inspect.signature(function).parameters
    assert (shown["discard_fraction"].default, shown["method"].default) == (0.1, "censored")
    assert "discard_fraction: 'float | None' = 0.1" in str(shown["discard_fraction"])
    assert str(shown["method"]).endswith("= 'censored'")


def test_what_is_asked_for_is_told_from_a_default_of_the_same_value() -> None:
    x = gaussian(300, 4)
    usual = twonn(x)
    assert usual == twonn(x, discard_fraction=0.1, method="censored")
    assert usual == twonn(x, discard_fraction=None, method=None)
    assert type(usual.method) is str
    # intRinsic leaves out 1 % unless asked for another share.
    assert twonn(x, compat="intrinsic") == twonn(x, compat="intrinsic", discard_fraction=0.01)
    assert twonn(x, compat="intrinsic") != twonn(x, compat="intrinsic", discard_fraction=0.1)
    assert twonn(x, method="mle") == twonn(x, method="mle", discard_fraction=0)
    for options in (
        {"method": "mle", "discard_fraction": 0.1},
        {"compat": "skdim", "method": "censored"},
        {"compat": "llm-microscope", "discard_fraction": 0.1},
    ):
        with pytest.raises(InputError, match=r"leave discard_fraction out|fixes linear"):
            twonn(x, **options)
