"""ABIDE, GeoMLE, graph lengths and DANCo against plain references and known dimensions."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import gaussian
from scipy import optimize, sparse, special, stats
from scipy.spatial.distance import pdist, squareform

from fastdim import (
    InputError,
    abide,
    danco,
    geomle,
    gride,
    k_star,
    knn,
    knn_graph,
    levina_bickel,
    mind_ml,
    naive,
    ph_dimension,
)
from fastdim.arrays import as_rows
from fastdim.estimators.danco import (
    angle_divergence,
    ball_law,
    concentration,
    features_of,
    norm_divergence,
)
from fastdim.estimators.graphs import nearest_lengths, tree_edges
from fastdim.estimators.inputs import rows_and_neighbors
from fastdim.estimators.special import log_bessel0, mean_resultant, student_quantile


def cube(n: int = 400, d: int = 3, columns: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, n, d])
    return rng.random((n, d)) @ np.linalg.qr(rng.standard_normal((columns, d)))[0].T


def plain_k_star(r: np.ndarray, near: np.ndarray, d: float, k_max: int, level: float) -> list[int]:
    limit = stats.chi2.isf(level, 1)
    found = []
    for i in range(len(r)):
        for k in range(3, k_max):
            if k == k_max - 1:
                break
            v, w = r[i, k - 1] ** d, r[near[i, k], k - 1] ** d
            if -2 * k * (math.log(v) + math.log(w) - 2 * math.log(v + w) + math.log(4)) > limit:
                break
        found.append(k)
    return found


def density_gradient() -> np.ndarray:
    """A plane whose density falls by orders of magnitude from the middle out."""
    rng = np.random.default_rng(4)
    direction = rng.standard_normal((300, 2))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * np.exp(1.5 * rng.standard_normal((300, 1)))


@pytest.mark.parametrize("level", [1e-6, 0.05])
def test_k_star_is_the_first_failure_of_the_test(level: float) -> None:
    x = density_gradient()
    r, near = naive.knn(x, 30)
    expected = plain_k_star(r, near, 2.0, 30, level)
    assert k_star(x, 2.0, 30, level=level).tolist() == expected
    assert min(expected) < 29
    assert k_star(knn(x, 30, duplicates="collapse"), 2.0, 30, level=level).tolist() == expected


def test_abide_is_a_fixed_point() -> None:
    x = np.concatenate([density_gradient(), density_gradient()[:9]])
    found = abide(x, 40)
    d = found.value
    stars = k_star(x, d, 40)
    r = naive.knn(density_gradient(), 40)[0]
    t = min(0.975, 0.2032 ** (1 / d))
    inner = [(row < t * row[k - 1]).sum() for row, k in zip(r, stars, strict=True)]
    again = math.log(sum(inner) / (stars - 1).sum()) / math.log(t)
    # A few of 300 whole k* alternate for ever.
    assert d == pytest.approx(again, rel=5e-3)
    assert (found.n_points, found.n_distinct) == (309, 300)
    assert found.lower < d < found.upper
    assert abide(x, 40, iterations=60).value == pytest.approx(d, rel=5e-3)
    # The estimate at each row's own scale is nearer to 2 than one at a fixed large scale.
    assert abs(d - 2.0) < abs(gride(density_gradient(), 40).value - 2.0)


def test_abide_counts_as_the_binomial_likelihood_says() -> None:
    """Its error is that of inner points drawn from k* - 1, where neighbourhoods do not overlap."""
    found = [abide(cube(500, 2, 2, seed), 12) for seed in range(40)]
    spread = np.std([e.value for e in found])
    assert np.mean([e.stderr for e in found]) < 1.5 * spread
    assert np.mean([e.value for e in found]) == pytest.approx(2.0, rel=0.05)


def test_geomle_extrapolates_curvature_away() -> None:
    """A strongly bent strip: the plain estimate falls off the sheet, the intercept less."""
    rng = np.random.default_rng(0)
    angle = 3 * np.pi * (1 + rng.random(1500)) / 2
    roll = np.column_stack([angle * np.cos(angle), 3 * rng.random(1500), angle * np.sin(angle)])
    roll = np.column_stack([roll, np.sin(4 * roll)])
    found = geomle(roll, bootstraps=20)
    assert abs(found.value - 2.0) < abs(levina_bickel(roll, 40).value - 2.0)
    assert found.lower < found.value < found.upper


def test_geomle_is_its_regression() -> None:
    """Fed m_k that is linear in R_k, it returns the intercept as the ridge weight vanishes."""
    x = cube(300)
    found = geomle(x, 5, 12, bootstraps=8, seed=1)
    moved = geomle(3e4 * x, 5, 12, bootstraps=8, seed=1)
    assert moved.value == pytest.approx(found.value, rel=1e-6)  # no unit enters
    near = knn(x, 30, duplicates="collapse")
    assert geomle(near, 5, 12, bootstraps=8, seed=1).value == pytest.approx(found.value, rel=1e-12)
    stiff = geomle(x, 5, 12, bootstraps=8, seed=1, ridge=1e12).value
    # Without slopes the intercept is a weighted mean of m_k over the bootstrap samples.
    assert stiff == pytest.approx(levina_bickel(x, (5, 12), average="mean").value, rel=0.1)


def test_tree_edges_are_the_minimum_spanning_tree() -> None:
    x = gaussian(90, 4) + 50.0
    tree = sparse.csgraph.minimum_spanning_tree(squareform(pdist(x)))
    assert np.sort(tree_edges(x)) == pytest.approx(np.sort(tree.data), rel=1e-10)
    assert tree_edges(np.arange(5.0)[:, None] ** 2) == pytest.approx([1, 3, 5, 7])


@pytest.mark.parametrize(
    "function",
    [lambda x, s: knn_graph(x, sizes=s, draws=3), lambda x, s: ph_dimension(x, sizes=s, draws=3)],
)
def test_graph_lengths_grow_with_the_dimension(function: Any) -> None:
    for d in (2, 5):
        found = function(cube(900, d), [300, 450, 600, 900])
        assert found.value == pytest.approx(d, rel=0.2)
        assert found.lower < found.value < found.upper
    doubled = np.repeat(cube(200, 2), 2, axis=0)
    assert function(doubled, [50, 100, 200]).n_distinct == 200


def test_one_search_serves_every_subset() -> None:
    """Few neighbours a subset: some rows are searched for again, and none is left out."""
    x = as_rows(cube(300, 3).astype(np.float64))
    rng = np.random.default_rng(0)
    parts = np.stack([np.sort(rng.choice(300, size=40, replace=False)) for _ in range(4)])
    wanted = [(naive.knn(x.float64(0, 300)[part], 2)[0] ** 1.5).sum() for part in parts]
    for least in (20, 40, 300):  # too deep, deep enough, and 16 neighbours, of which 2 are inside
        found = nearest_lengths(x, 2, 1.5, least, 2)(parts)
        assert found == pytest.approx(wanted, rel=1e-6)
        one_by_one = [nearest_lengths(x, 2, 1.5, least, 2)(part[None])[0] for part in parts]
        np.testing.assert_array_equal(found, one_by_one)


def test_trees_at_once_are_trees_one_by_one() -> None:
    sets = np.stack([gaussian(30, 3, seed) for seed in range(4)])
    assert tree_edges(sets) == pytest.approx(np.stack([tree_edges(x) for x in sets]))
    assert tree_edges(sets).shape == (4, 29)


def test_few_rows_have_no_blocks() -> None:
    """A value without an interval, said by nan."""
    found = knn_graph(cube(9, 2), 5, sizes=[6, 9])
    assert math.isfinite(found.value)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


def test_danco_of_few_rows_with_heavy_tails() -> None:
    """Widened draws of their dimension stay above 0, whose logarithm the divergence takes."""
    found = danco(np.random.default_rng([5, 2, 3, 1]).standard_t(1, (5, 4)), 2, seed=3)
    assert 0.0 < found.lower < found.value < found.upper


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 40])
def test_student_quantile(degrees: int) -> None:
    for p in (0.6, 0.975, 0.9995):
        expected = stats.t.ppf(p, degrees)
        assert student_quantile(p, degrees) == pytest.approx(expected, rel=1e-10)


def test_graph_length_by_hand() -> None:
    """All subsets of full size are the rows themselves: the slope has no spread there."""
    x = cube(60, 2)
    length = dict.fromkeys((30, 60), 0.0)
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(2):
        for n in length:
            part = np.sort(rng.choice(60, size=n, replace=False))
            length[n] = (naive.knn(x[part], 3)[0] ** 0.5).sum()
        slopes.append(math.log(length[60] / length[30]) / math.log(2))
    found = knn_graph(x, 3, gamma=0.5, sizes=[30, 60], draws=2)
    assert found.value == pytest.approx(0.5 / (1 - np.mean(slopes)), rel=1e-9)


@pytest.mark.parametrize("x", [0.01, 0.5, 3.3, 9.99, 10.01, 200.0])
def test_special_functions(x: float) -> None:
    assert log_bessel0(x) == pytest.approx(math.log(special.i0e(x)) + x, rel=1e-13, abs=1e-15)
    assert mean_resultant(x) == pytest.approx(special.i1e(x) / special.i0e(x), rel=1e-12)


def test_divergences_are_integrals() -> None:
    """Both against quadrature of p log(p / q)."""
    k, own, ball = 5, 3.0, 4.5

    def rho_density(rho: np.ndarray, d: float) -> np.ndarray:
        return k * d * rho ** (d - 1) * (1 - rho**d) ** (k - 1)

    rho = (np.arange(200000) + 0.5) / 200000
    p, q = rho_density(rho, own), rho_density(rho, ball)
    integral = float((p * np.log(p / q)).mean())
    assert norm_divergence(own, ball, k) == pytest.approx(integral, rel=1e-4)
    angle = np.linspace(-np.pi, np.pi, 20000, endpoint=False)
    first, second = (stats.vonmises.pdf(angle, t, loc=m) for m, t in ((1.5, 4.0), (1.2, 7.0)))
    integral = float((first * np.log(first / second)).mean() * 2 * np.pi)
    assert angle_divergence((1.5, 4.0), (1.2, 7.0)) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("k", [2, 3, 10, 40, 44, 60, 200])
def test_divergence_of_norms_is_the_published_sum(k: int) -> None:
    """In fractions: where one dimension is m times the other, digamma is a harmonic number."""
    harmonic = [Fraction(0)]
    for i in range(1, 7 * k + 1):
        harmonic.append(harmonic[-1] + Fraction(1, i))
    for m in (2, 3, 7):
        terms = sum((-1) ** i * math.comb(k, i) * harmonic[m * i] for i in range(k + 1))
        exact = harmonic[k] * (Fraction(1, m) - 1) - (k - 1) * (terms + Fraction(1, k))
        found = norm_divergence(2.5 * m, 2.5, k)
        assert found == pytest.approx(float(exact) + math.log(m), rel=1e-12)


@pytest.mark.parametrize("k", [2, 10, 60, 1100, 10**6])
def test_divergence_of_norms_is_least_at_equal_dimensions(k: int) -> None:
    assert norm_divergence(5.3, 5.3, k) == 0.0
    for sign in (-1, 1):
        found = [norm_divergence(5.3, 5.3 * math.exp(sign * t), k) for t in np.linspace(0, 3, 60)]
        assert np.diff(found).min() > 0.0


@pytest.mark.parametrize("k", [44, 60, 100])
def test_danco_of_long_lists(k: int) -> None:
    """With k = 60 it was 1, from 0.40 to 2.48."""
    x = np.random.default_rng(1).random((600, 3))
    found = danco(np.hstack([x, x]), k)
    assert abs(found.value - 3.0) < 0.1
    assert 2.7 < found.lower < found.value < found.upper < 3.3


def test_danco_features() -> None:
    x = cube(60, 4)
    rows, found = rows_and_neighbors(as_rows(x), 6, "danco", None, None, 0, None)
    features = features_of(rows, found, 5)
    assert features.summary(5)[0] == pytest.approx(mind_ml(x, 5).value)
    near = naive.knn(x, 5)[1]
    for row in (0, 17):
        v = x[near[row]] - x[row]
        unit = v / np.linalg.norm(v, axis=1, keepdims=True)
        angles = np.arccos(np.clip((unit @ unit.T)[np.triu_indices(5, 1)], -1, 1))
        mean = np.exp(1j * angles).mean()
        assert features.direction[row] == pytest.approx(np.angle(mean))
        tau = optimize.brentq(lambda t: mean_resultant(t) - abs(mean), 1e-6, 1e4)  # noqa: B023
        assert features.concentration[row] == pytest.approx(tau, rel=0.02)
    assert concentration(np.array([0.0, 0.999])) == pytest.approx([0.0, 500.0], rel=0.01)


@pytest.mark.parametrize(("d", "columns"), [(2, 6), (9, 14)])
def test_danco_finds_the_dimension_of_a_ball(d: int, columns: int) -> None:
    rng = np.random.default_rng(7)
    ball = rng.standard_normal((600, d))
    ball *= rng.random((600, 1)) ** (1 / d) / np.linalg.norm(ball, axis=1, keepdims=True)
    found = danco(ball @ np.linalg.qr(rng.standard_normal((columns, d)))[0].T)
    assert abs(found.value - d) < 4 * found.stderr + 0.3
    assert found.lower <= found.value <= found.upper
    assert found.stderr > 0
    assert danco(ball, largest=1).value == 1.0


def test_ball_summary_depends_on_its_arguments_alone() -> None:
    first, noise = ball_law(200, 3, 5, 0)
    ball_law.cache_clear()
    again, same = ball_law(200, 3, 5, 0)
    assert again == first
    assert np.array_equal(noise, same)
    assert ball_law(200, 3, 5, 1)[0] != first


def test_danco_noise_is_the_spread_of_summaries() -> None:
    """Of 60 balls, the errors that the rows of one ball tell."""
    told = [ball_law(300, 4, 8, seed) for seed in range(60)]
    summaries = np.array([summary for summary, _ in told])
    summaries[:, [0, 2]] = np.log(summaries[:, [0, 2]])
    squares = np.mean([root @ root.T for _, root in told], axis=0)
    ratio = np.sqrt(np.diag(squares)) / summaries.std(axis=0, ddof=1)
    assert (ratio > 0.7).all()
    assert (ratio < 1.9).all()


def test_danco_at_the_largest_dimension_is_no_point() -> None:
    """Values that are cut stand at the upper end, and the lower lies below: also where a ball of
    more dimensions is nearer by far."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 9))
    for most in (4, 9):
        found = danco(x, largest=most)
        assert found.value == found.upper == most
        assert 0.5 * most < found.lower < most


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: abide(cube(), 4), "k_max must be a whole number >= 5"),
        (lambda: abide(cube(), start=-1.0), "pass start="),
        (lambda: abide(cube(), level=2.0), "level must lie"),
        (lambda: abide(knn(cube(), 20, queries=30), 20), "Neighbors of every row"),
        (lambda: k_star(cube(), 0.0), "dimension must be finite and above 0"),
        (lambda: geomle(cube(), 5, 5), "k2 must be"),
        (lambda: geomle(cube(), 5, 6), "widen k1..k2"),
        (lambda: geomle(cube(), ridge=-1.0), "ridge must be"),
        (lambda: geomle(cube(44), 10, 40), "leaves fewer than k2 = 40"),
        (lambda: knn_graph(cube(), 5, sizes=[5, 90]), "sizes above k"),
        (lambda: knn_graph(cube(), sizes=[90, 401]), "none above the 400 distinct rows"),
        (lambda: knn_graph(cube(), gamma=0.0), "must be above 0"),
        (lambda: ph_dimension(np.eye(60)), "smaller power"),
        (lambda: ph_dimension(cube(), sizes=[1, 9]), "at least 2"),
        (lambda: danco(cube(), largest=0), "largest must be"),
        (lambda: danco(knn(cube(), 11)), "reads the rows"),
    ],
)  # fmt: skip
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def curves(seed: int) -> dict[str, np.ndarray]:
    """Sets of 400 rows in three columns that have one dimension."""
    rng = np.random.default_rng(seed)
    t = rng.random((400, 1))
    segment = np.hstack([t, 0 * t, 0 * t])
    return {
        "circle": np.hstack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t), 0 * t]),
        "spiral": np.hstack([t * np.cos(6 * t), t * np.sin(6 * t), t]),
        "segment": segment,
        "segment and noise": segment + 1e-5 * rng.standard_normal((400, 3)),
    }


@pytest.mark.parametrize("k", [5, 10])
@pytest.mark.parametrize("name", list(curves(0)))
def test_danco_tells_a_curve_from_a_disc(name: str, k: int) -> None:
    """Rows at an end see all neighbours in one direction: they must not be the whole mean."""
    found = danco(curves(4)[name], k)
    assert found.value == pytest.approx(1.0, abs=0.1)
    assert found.lower <= 1.0 <= found.upper < 1.5


def test_geomle_needs_every_row() -> None:
    x = gaussian(600, 3)
    near = knn(x, 100, queries=300, duplicates="collapse")
    with pytest.raises(InputError, match="300 of 600 distinct rows are queries"):
        geomle(near, 10, 20)
