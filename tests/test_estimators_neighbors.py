"""Neighbour-based estimators against plain references and against simulations of their models."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from conftest import gaussian
from scipy import optimize, special

from fastdim import (
    InputError,
    block_analysis,
    corrint,
    ess,
    gride,
    gride_scales,
    knn,
    levina_bickel,
    local_dimension,
    mada,
    mind_ml,
    mom,
    naive,
    tle,
    twonn,
)
from fastdim.arrays import as_rows
from fastdim.estimators import tle as tle_of
from fastdim.estimators.danco import features_of
from fastdim.estimators.ess import ess_local, reference
from fastdim.estimators.gride import bootstrap, left_out, terms
from fastdim.estimators.inputs import sharing_at
from fastdim.estimators.mle import LOSS


def sheet(n: int = 300, d: int = 4, columns: int = 9, copies: int = 0) -> np.ndarray:
    """d-dimensional Gaussian in more columns, the first rows equal to later ones."""
    x = gaussian(n, d) @ gaussian(d, columns)
    x[:copies] = x[copies : 2 * copies]
    return x


def distances(x: np.ndarray, k: int) -> np.ndarray:
    return naive.knn(x[naive.distinct(x)[0]], k)[0]


def model_neighbors(n: int, k: int, d: float, seed: int) -> Any:
    """Neighbours of independent rows in a locally uniform density: r^d are arrivals at rate 1.

    Independent as few queries among many rows are: none is a neighbour of another.
    """
    rng = np.random.default_rng(seed)
    frame = knn(rng.standard_normal((n, 2)), k, duplicates="collapse")
    frame.distances[:] = np.cumsum(rng.standard_exponential((n, k)), axis=1) ** (1.0 / d)
    return dataclasses.replace(frame, n_points=1000 * n, n_distinct=1000 * n)


def plain_mle(x: np.ndarray, k: int) -> np.ndarray:
    r = distances(x, k)
    return np.array([(k - 1) / sum(math.log(row[-1] / t) for t in row[:-1]) for row in r])


def plain_gride(x: np.ndarray, n1: int, n2: int) -> float:
    r = distances(x, n2)
    mu = r[:, n2 - 1] / r[:, n1 - 1]

    def minus_likelihood(d: float) -> float:
        logs = math.log(d) + (n2 - n1 - 1) * np.log(mu**d - 1)
        logs -= special.betaln(n2 - n1, n1) + ((n2 - 1) * d + 1) * np.log(mu)
        return -float(logs.sum())

    return float(
        optimize.minimize_scalar(
            minus_likelihood, bounds=(0.5, 50), method="bounded", options={"xatol": 1e-10}
        ).x
    )


def plain_tle(x: np.ndarray, k: int) -> np.ndarray:
    """Every pair by itself, as the algorithm is published."""
    x = x[naive.distinct(x)[0]]
    r, near = naive.knn(x, k)
    found = []
    for q in range(len(x)):
        w, v = r[q, -1], x[near[q]] - x[q]
        logs = [2 * math.log(t / w) for t in r[q]]
        for i in range(k):
            for j in range(k):
                pair = []
                for center in (v[i], -v[i]):
                    gap = float(np.square(center - v[j]).sum())
                    a = r[q, i] ** 2 + gap - r[q, j] ** 2
                    room = w**2 - r[q, i] ** 2
                    if room > 1e-9 * w**2:
                        moved = w * (math.sqrt(a**2 + 4 * gap * room) - a) / (2 * room)
                    else:
                        moved = w * gap / a if a > 0 else 0.0
                    pair.append(moved / w)
                if i != j and min(pair) >= 1e-4:
                    logs += [math.log(pair[0]), math.log(pair[1])]
        count = len(logs) + k  # the distances to the center stand for two each
        found.append(-count / sum(logs))
    return np.array(found)


def plain_ess(x: np.ndarray, k: int, version: str) -> np.ndarray:
    x = x[naive.distinct(x)[0]]
    near = naive.knn(x, k)[1]
    found = []
    for q in range(len(x)):
        u = x[near[q]] - x[near[q]].mean(axis=0)
        top = bottom = 0.0
        for i in range(k):
            for j in range(i):
                lengths = np.linalg.norm(u[i]) * np.linalg.norm(u[j])
                cosine = u[i] @ u[j] / lengths
                value = math.sqrt(1 - cosine**2) if version == "a" else abs(cosine)
                top, bottom = top + lengths * value, bottom + lengths
        found.append(top / bottom)
    sign = 1 if version == "a" else -1
    n = np.arange(1, 60)
    with np.errstate(invalid="ignore"):
        logs = special.gammaln(n / 2) - special.gammaln((n + 1) / 2)
        table = np.exp(logs) / math.sqrt(math.pi)
        if version == "a":
            table = np.exp(logs + special.gammaln(n / 2) - special.gammaln((n - 1) / 2))
            table[0] = 0.0
    return np.interp(sign * np.array(found), sign * table, n)


def plain_corrint(x: np.ndarray, k1: int, k2: int) -> float:
    x = x[naive.distinct(x)[0]]
    gaps = np.sqrt(np.square(x[:, None] - x).sum(axis=2))
    ordered = np.sort(gaps, axis=1)
    a, b = np.median(ordered[:, k1]), np.median(ordered[:, k2])
    return float(np.log(((gaps < b).sum() - len(x)) / ((gaps < a).sum() - len(x))) / np.log(b / a))


X = sheet(120, copies=6)
SHORT = distances(X, 10)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (levina_bickel(X, 9), 1 / np.mean(1 / plain_mle(X, 9))),
        (levina_bickel(X, 9, unbiased=True), 7 / 8 / np.mean(1 / plain_mle(X, 9))),
        (levina_bickel(X, 9, average="mean"), np.mean(plain_mle(X, 9)) * 7 / 8),
        (levina_bickel(X, 9, average="mean", unbiased=False), np.mean(plain_mle(X, 9))),
        (levina_bickel(X, 9, average="median"), np.median(plain_mle(X, 9))),
        (
            levina_bickel(X, (6, 8)),
            np.mean([1 / np.mean(1 / plain_mle(X, k)) for k in (6, 7, 8)]),
        ),
        (levina_bickel(X, (6, 8), average="median"), np.median(
            np.mean([plain_mle(X, k) for k in (6, 7, 8)], axis=0)
        )),
        (mom(X, 10), np.mean(SHORT.mean(1) / (SHORT[:, -1] - SHORT.mean(1)))),
        (mada(X, 10), np.mean(np.log(2) / np.log(SHORT[:, 9] / SHORT[:, 4]))),
        (mada(X, 9), np.mean(np.log(9 / 4) / np.log(SHORT[:, 8] / SHORT[:, 3]))),
        (tle(X, 8), np.mean(plain_tle(X, 8))),
        (tle(X, 8, average="harmonic"), 1 / np.mean(1 / plain_tle(X, 8))),
        (ess(X, 12), np.mean(plain_ess(X, 12, "a"))),
        (ess(X, 12, version="b"), np.mean(plain_ess(X, 12, "b"))),
        (corrint(X, 5, 12), plain_corrint(X, 5, 12)),
    ],
)  # fmt: skip
def test_the_reference(found: Any, expected: float) -> None:
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.lower < found.value < found.upper
    assert (found.n_points, found.n_distinct, found.n_queries) == (120, 114, 114)
    assert found.method
    assert found.interval == "query rows"


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (2, 4), (3, 11), (5, 6), (16, 32)])
def test_gride_is_the_maximum_of_its_likelihood(n1: int, n2: int) -> None:
    assert gride(X, n1, n2).value == pytest.approx(plain_gride(X, n1, n2), rel=1e-7)
    assert gride(X, n1, 2 * n1) == gride(X, n1)


def published_gride(mu: np.ndarray, n1: int, n2: int, compat: str) -> float:
    """Root of the score as DADApy 0.3.4 and scikit-dimension 0.5.0 form it."""
    if compat == "skdim":
        mu = mu[mu > 1.0]
    high, middle = np.percentile(mu, [95, 50])
    mu = mu[mu < 20.0 * (high - middle) + middle]
    count, logs = len(mu) - 1, np.log(mu[mu > 1.0])

    def score(d: float) -> float:
        inner = (n2 - n1 - 1) * (logs / -np.expm1(-d * logs)).sum()
        return float(count / d + inner - (n2 - 1) * logs.sum())

    return float(optimize.brentq(score, 1e-3, 1e3, xtol=1e-13))


@pytest.mark.parametrize("compat", ["dadapy", "skdim"])
@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (2, 4), (1, 5)])
def test_gride_of_other_codes(compat: str, n1: int, n2: int) -> None:
    """On a grid with pairs of near copies beside it: ties, and ratios that both drop."""
    grid = np.random.default_rng(6).integers(0, 5, (150, 3)).astype(np.float64)
    pairs = np.array([[90.0, 0.0, 0.0], [90.0, 1e-3, 0.0], [0.0, 70.0, 0.0], [1e-3, 70.0, 0.0]])
    x = np.concatenate([grid, pairs])
    r = distances(x, n2)
    mu = r[:, n2 - 1] / r[:, n1 - 1]
    assert (mu == 1.0).any()
    found = gride(x, n1, n2, compat=compat)  # type: ignore[arg-type]
    assert found.value == pytest.approx(published_gride(mu, n1, n2, compat), rel=1e-9)
    assert found.n_queries < len(mu)


@pytest.mark.parametrize(("n1", "n2"), [(1, 2), (2, 4), (3, 5)])
def test_jackknife_of_gride_leaves_rows_out(n1: int, n2: int) -> None:
    """The gain of the score by searching again without each row, and the error that follows."""
    found = gride(X, n1, n2, interval="jackknife")
    rows = X[naive.distinct(X)[0]]
    log_mu = np.log(distances(X, n2)[:, n2 - 1] / distances(X, n2)[:, n1 - 1])
    whole, slope = (part.sum() for part in terms(log_mu, found.value, n1, n2))
    gains = []
    for row in range(len(rows)):
        r = naive.knn(np.delete(rows, row, axis=0), n2)[0]
        moved = terms(np.log(r[:, n2 - 1] / r[:, n1 - 1]), found.value, n1, n2)[0].sum()
        gains.append(moved - whole)
    near = knn(X, n2 + 1, duplicates="collapse")
    score = terms(log_mu, found.value, n1, n2)[0]
    assert left_out(near, score, found.value, n1, n2) == pytest.approx(gains, rel=1e-6, abs=1e-9)
    spread = math.sqrt(len(rows)) * np.std(gains)
    assert found.stderr == pytest.approx(spread / -slope, rel=1e-6)
    assert found.stderr > gride(X, n1, n2).stderr
    assert gride(near, n1, n2, interval="jackknife").stderr == found.stderr


def test_gride_at_1_2_is_the_likelihood_of_twonn() -> None:
    n = 114
    assert gride(X).value == pytest.approx(twonn(X, method="mle").value * n / (n - 1), rel=1e-12)


def test_mind_is_gride_from_the_first_neighbour() -> None:
    free = mind_ml(X, 9)
    assert free.value == gride(X, 1, 10).value
    rho = SHORT[:, 0] / SHORT[:, 9]

    def likelihood(d: float) -> float:
        logs = math.log(9 * d) + (d - 1) * np.log(rho) + 8 * np.log(1 - rho**d)
        return float(logs.sum())

    best = max(range(1, 30), key=likelihood)
    rounded = mind_ml(X, 9, version="MLi")
    assert rounded.value == best
    assert rounded.lower <= best <= rounded.upper
    assert mind_ml(X, 9, largest=2).value == 2.0
    assert mind_ml(X, 9, largest=2, version="MLi").value == 2.0


@pytest.mark.parametrize("interval", ["robust", "fisher", "bootstrap"])
@pytest.mark.parametrize("n1", [1, 4])
def test_gride_covers_on_its_own_model(interval: str, n1: int) -> None:
    found = [
        gride(model_neighbors(120, 8, 9.0, s), n1, interval=interval, seed=s) for s in range(200)
    ]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - 9.0) < 3 * values.std() / math.sqrt(200) + 9.0 / 119
    assert np.mean([e.stderr for e in found]) == pytest.approx(values.std(), rel=0.2)
    # 95 % less 3 standard errors of a share of 200.
    assert np.mean([e.lower <= 9.0 <= e.upper for e in found]) >= 0.90


def test_gride_bootstrap_draws_from_the_density() -> None:
    """Mean of log mu is (H_{n2-1} - H_{n1-1}) / d: estimates of large samples are near d = 1."""
    draws = bootstrap(4000, 3, 7, 0)
    assert abs(draws.mean() - 1.0) < 4 * draws.std() / math.sqrt(len(draws))
    assert draws.std() < 0.03


@pytest.mark.parametrize(
    ("estimator", "bias"),
    [
        (lambda r: levina_bickel(r, 10), 0.0),
        (lambda r: levina_bickel(r, 10, average="mean"), 0.0),
        (lambda r: levina_bickel(r, 10, average="mean", unbiased=False), 1 / 8),
        (lambda r: levina_bickel(r, 10, unbiased=True), -1 / 9),
        (lambda r: levina_bickel(r, (6, 10)), 0.0),
        # E log(r_10 / r_5) is (1/5 + ... + 1/9) / d.
        (lambda r: mada(r, 10, average="harmonic"), math.log(2) / np.sum(1 / np.arange(5, 10)) - 1),
        (lambda r: mind_ml(r, 9), 0.0),
    ],
)  # fmt: skip
def test_means_on_the_ideal_model(estimator: Any, bias: float) -> None:
    """A locally uniform density: the known bias of each average, and errors that are right."""
    found = [estimator(model_neighbors(150, 10, 7.0, s)) for s in range(120)]
    values = np.array([e.value for e in found])
    allowed = 3 * values.std() / math.sqrt(len(values)) + 0.01 * 7.0
    assert abs(values.mean() - 7.0 * (1 + bias)) < allowed
    assert np.mean([e.stderr for e in found]) == pytest.approx(values.std(), rel=0.2)


def test_a_sample_of_queries_has_nearly_independent_errors() -> None:
    """A query is another's neighbour as often as queries are drawn; the excess is that share."""
    some = levina_bickel(X, 9, queries=60, seed=1)
    local = local_dimension(X, 9, queries=60, seed=1).values
    error = some.value * np.std(1 / local, ddof=1) * some.value / math.sqrt(60)
    excess = (sharing_at(some.value, LOSS) - 1) * 59 / (some.n_distinct - 1)
    assert some.stderr == pytest.approx(error * math.sqrt(1 + excess), rel=1e-6)
    near = knn(X, 9, queries=60, seed=1, duplicates="collapse")
    few = levina_bickel(dataclasses.replace(near, n_distinct=10**9), 9)
    assert few.stderr == pytest.approx(error, rel=1e-6)


def test_one_search_serves_them_all() -> None:
    near = knn(X, 20, duplicates="collapse")
    assert levina_bickel(near) == levina_bickel(X)
    assert mada(near) == mada(X)
    assert mom(near, 20) == mom(X, 20)
    assert mind_ml(near, 19) == mind_ml(X, 19)
    assert gride(near, 10) == gride(X, 10)
    assert tle(X, neighbors=near) == tle(X)
    assert ess(X, 15, neighbors=near) == ess(X, 15)
    assert local_dimension(near).values == pytest.approx(local_dimension(X).values)
    assert gride_scales(near).n1.tolist() == [1, 2, 4, 8]
    for compat in (None, "skdim", "dadapy"):
        curve = gride_scales(near, 8, compat=compat)
        assert curve.estimates == tuple(gride(near, n, compat=compat) for n in (1, 2, 4, 8))


def test_sampled_queries_and_repeated_ones() -> None:
    few = levina_bickel(X, queries=40, seed=3)
    assert (few.n_points, few.n_distinct, few.n_queries) == (120, 114, 40)
    assert few.lower < levina_bickel(X).value < few.upper
    assert tle(X, queries=[0, 0, 7]).n_queries == 2
    assert tle(X, 10, queries=np.arange(120)) == tle(X, 10)


def test_results_do_not_depend_on_the_precision_or_offset_of_rows() -> None:
    moved = (X + 1000.0).astype(np.float32)
    for estimator in (levina_bickel, mada, tle, mind_ml, corrint):
        exact = estimator(moved.astype(np.float64)).value
        assert estimator(moved).value == pytest.approx(exact, rel=1e-5)


def test_local_dimension_of_every_row() -> None:
    found = local_dimension(X, 9)
    assert found.values == pytest.approx(plain_mle(X, 9), rel=1e-9)
    assert found.smoothed is None
    rows = found.of_rows()
    assert rows.shape == (120,)
    assert rows[:6] == pytest.approx(rows[6:12])  # the copies
    assert local_dimension(X, 8, method="tle").values == pytest.approx(plain_tle(X, 8), rel=1e-9)
    assert local_dimension(X, 12, method="ess").values == pytest.approx(plain_ess(X, 12, "a"))
    assert local_dimension(X, 10, method="mom").values.mean() == pytest.approx(mom(X, 10).value)
    assert local_dimension(X, 10, method="mada").values.mean() == pytest.approx(mada(X, 10).value)
    some = local_dimension(X, 9, queries=[3, 50])
    assert np.flatnonzero(~np.isnan(some.of_rows())).tolist() == [3, 9, 50]


@pytest.mark.parametrize("smooth", ["mean", "harmonic"])
def test_smoothing_averages_over_the_neighbourhood(smooth: str) -> None:
    x = X[6:]
    found = local_dimension(x, 9, smooth=smooth)
    near = naive.knn(x, 9)[1]
    for row in range(len(x)):
        patch = np.append(found.values[row], found.values[near[row]])
        mean = patch.mean() if smooth == "mean" else 1 / np.mean(1 / patch)
        assert found.smoothed[row] == pytest.approx(mean, rel=1e-12)
    assert found.of_rows() == pytest.approx(found.smoothed)


def test_ess_reference_table() -> None:
    n = np.arange(2, 300)
    logs = special.gammaln(n / 2) - special.gammaln((n + 1) / 2)
    area = np.exp(logs + special.gammaln(n / 2) - special.gammaln((n - 1) / 2))
    assert reference("a", 299)[1:] == pytest.approx(area, rel=1e-10)
    assert reference("b", 299)[1:] == pytest.approx(np.exp(logs) / math.sqrt(math.pi), rel=1e-10)
    assert (reference("a", 299)[0], reference("b", 299)[0]) == (0.0, 1.0)


def test_block_analysis(tmp_path: Any) -> None:
    x = sheet(400, 4, copies=20)
    found = block_analysis(x, seed=3)
    assert found.blocks.tolist() == [1, 2, 4, 8, 16]
    assert found.sizes.tolist() == [380, 190, 95, 47, 23]
    assert [len(v) for v in found.values] == [1, 2, 4, 8, 16]
    assert found.means[0] == pytest.approx(twonn(x).value, rel=1e-12)
    assert math.isnan(found.spreads[0])
    assert found.spreads[2] == pytest.approx(np.std(found.values[2], ddof=1))
    assert found.stderrs[3] == pytest.approx(found.spreads[3] / math.sqrt(8))
    # Blocks are disjoint, so the mean over four of them meets the whole within its own error.
    assert abs(found.means[2] - found.means[0]) < 4 * found.stderrs[2]
    assert block_analysis(x, [2], compat="llm-microscope").means[0] > 0
    written = found.plot(tmp_path / "blocks.png")
    assert written.read_bytes().startswith(b"\x89PNG")


def test_scale_curve_sees_noise_at_small_scales() -> None:
    rng = np.random.default_rng(0)
    line = np.column_stack([np.linspace(0, 100, 1500), np.zeros((1500, 5))])
    curve = gride_scales(line + 0.05 * rng.standard_normal(line.shape), 64)
    assert curve.n1.tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert curve.values[0] > 1.5
    assert curve.values[-1] == pytest.approx(1.0, abs=0.05)
    assert (np.diff(curve.distance) > 0).all()
    assert gride_scales(line[::10] + 1e-3 * rng.standard_normal((150, 6))).n1[-1] == 64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: levina_bickel(X, 1), "k must be a whole number >= 2"),
        (lambda: levina_bickel(X, (9, 4)), "k2 of k"),
        (lambda: levina_bickel(X, average="mode"), "average must be one of"),
        (lambda: levina_bickel(X, 2, average="mean"), ">= 3"),
        (lambda: levina_bickel(X, confidence=1.5), "confidence"),
        (lambda: levina_bickel(knn(X[6:], 20), queries=3), "belong to knn"),
        (lambda: gride(X, 2, 2), "n2 must be a whole number >= 3"),
        (lambda: gride(X, interval="gamma"), "interval must be one of"),
        (lambda: gride_scales(X, interval="gamma"), "interval must be one of"),
        (lambda: gride(X, queries=20, interval="jackknife"), "20 of 114 distinct rows are queries"),
        (lambda: gride(X, interval="jackknife", compat="skdim"), "leave compat= out"),
        (
            lambda: gride(knn(X, 8, duplicates="collapse"), 4, interval="jackknife"),
            "needs 9 neighbours",
        ),
        (lambda: gride(X, compat="sklearn"), "compat must be"),
        (lambda: gride_scales(X, 3), "power of two"),
        (lambda: gride_scales(X, 64), "needs at least 129 distinct rows"),
        (lambda: mind_ml(X, version="ML1"), "version must be"),
        (lambda: ess(X, version="c"), "version must be"),
        (lambda: tle(knn(X, 20)), "reads the rows"),
        (lambda: tle(X, neighbors=knn(X[:100], 20)), "of 100 rows, and x has 120"),
        (lambda: tle(X, neighbors="knn"), "what knn"),
        (lambda: corrint(X, 5, 5), "k2 must be"),
        (lambda: local_dimension(X, method="twonn"), "method must be one of"),
        (lambda: local_dimension(X, smooth="yes"), "smooth must be one of"),
        (lambda: local_dimension(X, smooth="mean", queries=30), "every neighbour"),
        (lambda: local_dimension(knn(X[6:], 20)).of_rows(), "pass the rows"),
        (lambda: block_analysis(X, [50]), "114 distinct rows"),
        (lambda: block_analysis(X, [0]), "each of blocks"),
    ],
)  # fmt: skip
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_blocks_of_neighbourhoods_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither how many neighbourhoods are taken out at a time nor a last block of one."""
    for rows, columns, k in ((301, 3, 20), (301, 768, 20), (201, 60, 100)):
        x = gaussian(rows, 8) @ gaussian(8, columns, seed=1)
        for dtype in ("float32", "float64"):
            given = as_rows(x.astype(dtype))
            found = knn(given, k + 1)
            results = []
            for values, pairs in ((tle_of.BLOCK_VALUES, tle_of.BLOCK_PAIRS), (1, 1), (70_000, 900)):
                monkeypatch.setattr(tle_of, "BLOCK_VALUES", values)
                monkeypatch.setattr(tle_of, "BLOCK_PAIRS", pairs)
                features = features_of(given, found, k, threads=2)
                results.append(
                    [
                        tle_of.tle_local(given, found, threads=2),
                        ess_local(given, found, "a", threads=2),
                        features.direction,
                        features.concentration,
                    ]
                )
                monkeypatch.undo()
            for other in results[1:]:
                np.testing.assert_array_equal(results[0], other)
