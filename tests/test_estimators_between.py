"""Two representations of the same rows: overlap, imbalance, linear maps, angles."""

import math
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, token_like
from scipy import stats

from fastdim import (
    InputError,
    angular_distance,
    block_influence,
    information_imbalance,
    knn,
    linear_cka,
    linearity_score,
    naive,
    neighborhood_overlap,
)
from fastdim.estimators.leave_out import split

X = gaussian(150, 6)
Y = np.tanh(X @ gaussian(6, 4)) + 0.1 * gaussian(150, 4, 1)
Z = X + 0.3 * gaussian(150, 6, 2)


def test_overlap_counts_common_neighbours() -> None:
    found = neighborhood_overlap(X, Y, 9)
    one, two = naive.knn(X, 9)[1], naive.knn(Y, 9)[1]
    shared = [len(set(a) & set(b)) / 9 for a, b in zip(one, two, strict=True)]
    assert found.value == pytest.approx(np.mean(shared), rel=1e-12)
    # Every row is in the neighbourhoods of others, which a few queries among many rows hardly see.
    plain = np.std(shared, ddof=1) / math.sqrt(150)
    assert 1.1 * plain < found.stderr < 1.8 * plain
    assert found.lower < found.value < found.upper
    near = knn(X, 12), knn(Y, 12)
    assert neighborhood_overlap(*near, 9) == found
    same = neighborhood_overlap(X, 3 * X + 7, 9)
    assert (same.value, same.lower, same.upper) == (1.0, 1.0, 1.0)
    chance = neighborhood_overlap(X, gaussian(150, 5, 9), 30)
    assert chance.value == pytest.approx(30 / 149, abs=4 * chance.stderr)
    assert neighborhood_overlap(X, Y, 9, queries=40, seed=1).n_queries == 40
    # Far rows, which a count draws in proportion, are others in x and in y, as in two layers.
    x, y = X.copy(), Y.copy()
    x[:20] += 100.0
    y[60:110] += 100.0
    for seed in range(5):
        near = knn(x, 9, queries=40, seed=seed)
        assert near.far is not None
        assert len(near.far)
        expected = neighborhood_overlap(near, knn(y, 9, queries=near.queries), 9)
        assert neighborhood_overlap(x, y, 9, queries=40, seed=seed) == expected


def plain_imbalance(x: np.ndarray, y: np.ndarray, k: int) -> float:
    near, ranked = naive.knn(x, k)[1], naive.knn(y, len(y) - 1)[1]
    ranks = [[int(np.flatnonzero(ranked[i] == j)[0]) + 1 for j in near[i]] for i in range(len(x))]
    return 2 / len(x) * float(np.mean(ranks))


@pytest.mark.parametrize("k", [1, 4])
def test_imbalance_is_the_mean_rank(k: int) -> None:
    for x, y in ((X, Y), (Y, X)):
        found = information_imbalance(x, y, k)
        assert found.value == pytest.approx(plain_imbalance(x, y, k), rel=1e-12)
        assert found.lower < found.value < found.upper
    assert information_imbalance(X, Y, k).value != information_imbalance(Y, X, k).value
    free = information_imbalance(X, gaussian(150, 5, 9), k)
    assert free.value == pytest.approx(1.0, abs=4 * free.stderr)


def test_ranks_where_products_cannot_tell() -> None:
    """A grid far from the origin has ties everywhere, beside points at every scale."""
    grid = np.stack(np.meshgrid(range(5), range(5), range(4)), -1).reshape(-1, 3) * 1.0
    y = np.concatenate([grid + 1e6, 1e6 + 1e-7 * gaussian(50, 3), 1e4 * gaussian(9, 3)])
    x = gaussian(len(y), 4)
    assert information_imbalance(x, y, 3).value == pytest.approx(plain_imbalance(x, y, 3))


def test_cka() -> None:
    for x, y in ((X, Y), (X + 50, Y), (gaussian(20, 40), gaussian(20, 30, 1))):
        a, b = x - x.mean(0), y - y.mean(0)
        expected = np.sum((b.T @ a) ** 2) / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
        assert linear_cka(x, y).value == pytest.approx(expected, rel=1e-9)
    turned = 3 * X @ np.linalg.qr(gaussian(6, 6, 3))[0] + 1
    assert linear_cka(X, turned).value == pytest.approx(1.0)
    found = linear_cka(X, Y)
    assert found.lower < found.value < found.upper
    assert found == linear_cka(X, Y, groups=np.arange(150))


def plain_linearity(x: np.ndarray, y: np.ndarray) -> float:
    a, b = x - x.mean(0), y - y.mean(0)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 1 - float(np.square(a @ np.linalg.lstsq(a, b, rcond=None)[0] - b).sum())


def test_linearity_score() -> None:
    for x, y in ((X, Y), (X + 50, Y - 9), (token_like(), np.tanh(token_like(seed=5)))):
        assert linearity_score(x, y).value == pytest.approx(plain_linearity(x, y), rel=1e-6)
    assert linearity_score(X, Z, residual=True).value == pytest.approx(
        plain_linearity(X, Z - X), rel=1e-9
    )
    assert linearity_score(X, X @ gaussian(6, 9)).value == pytest.approx(1.0)
    assert linearity_score(X, Y).lower < linearity_score(X, Y).value
    # Equal columns leave directions without variance, by which the original divides.
    twice = np.column_stack([X, X[:, 0]])
    assert linearity_score(twice, Y).value == pytest.approx(plain_linearity(X, Y), rel=1e-9)


def test_angles() -> None:
    cosine = (X * Z).sum(1) / np.linalg.norm(X, axis=1) / np.linalg.norm(Z, axis=1)
    found = angular_distance(X, Z)
    assert found.value == pytest.approx(np.mean(np.arccos(cosine)) / np.pi, rel=1e-12)
    assert block_influence(X, Z).value == pytest.approx(1 - np.mean(cosine), rel=1e-12)
    assert angular_distance(X, -X).value == pytest.approx(1.0)
    assert block_influence(X, 2 * X).value == pytest.approx(0.0, abs=1e-12)
    assert block_influence(X, -X).value == pytest.approx(2.0)
    assert found.lower < found.value < found.upper


@pytest.mark.parametrize(
    "statistic",
    [
        lambda x, y: neighborhood_overlap(x, y, 5),
        linear_cka,
        linearity_score,
        angular_distance,
        block_influence,
    ],
)
def test_errors_are_those_of_repetition(statistic: Any) -> None:
    found = []
    for seed in range(60):
        x = gaussian(200, 5, seed)
        found.append(statistic(x, x + 0.5 * gaussian(200, 5, 1000 + seed)))
    spread = np.std([e.value for e in found])
    assert np.mean([e.stderr for e in found]) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e5, 1e7, 1e8, 1e9, 1e12, 1e30, 1e140])
@pytest.mark.parametrize(
    "statistic",
    [
        linear_cka,
        linearity_score,
        lambda x, y, **k: linearity_score(x, np.hstack([y, y[:, :2]]), residual=True, **k),
    ],
)  # fmt: skip
def test_one_massive_row_leaves_the_jackknife_right(statistic: Any, factor: float) -> None:
    """The groups left out in turn, in place of the difference of two sums."""
    x, y = X.copy(), Y.copy()
    x[7] *= factor
    y[7] *= factor
    part = split(None, 150, 20)
    left = [statistic(x[part != g], y[part != g], jackknife=0).value for g in range(20)]
    direct = math.sqrt(19 / 20 * np.square(np.array(left) - np.mean(left)).sum())
    assert statistic(x, y).stderr == pytest.approx(direct, rel=1e-9)


def least_squares(x: np.ndarray, y: np.ndarray) -> float:
    """The linearity score of y - x from singular vectors, which square nothing."""
    x, added = x.astype(np.float64), y.astype(np.float64) - x
    added -= added.mean(axis=0)
    axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[0]
    return float(np.square(axes.T @ added).sum() / np.square(added).sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("factor", "off"), [(1.0, 1e-12), (1e4, 1e-8), (1e6, 1e-4), (1e8, 0.3)])
def test_one_massive_row_shared_by_both_leaves_the_residual(
    factor: float, off: float, dtype: Any
) -> None:
    """y - x before anything is added up: from two covariances, all rows were equal at 1e8."""
    x = gaussian(200, 4)
    x[3] *= factor
    y = (x + 0.1 * gaussian(200, 4, 1)).astype(dtype)
    x = x.astype(dtype)
    found = linearity_score(x, y, residual=True)
    assert found.value == pytest.approx(least_squares(x, y), rel=off)
    part = split(None, 200, 20)
    left = np.array([least_squares(x[part != g], y[part != g]) for g in range(20)])
    direct = math.sqrt(19 / 20 * np.square(left - left.mean()).sum())
    assert found.stderr == pytest.approx(direct, rel=off)


def test_a_massive_row_that_blocks_leave_as_it_is() -> None:
    """The error without its group, and that of the others, which hold all of y - x."""
    x, y = X.copy(), X + 0.1 * gaussian(150, 6, 1)
    x[7] = y[7] = 1e30 * X[7]
    part = split(None, 150, 20)
    left = [
        linearity_score(x[part != g], y[part != g], residual=True, jackknife=0).value
        for g in range(20)
    ]
    direct = math.sqrt(19 / 20 * np.square(np.array(left) - np.mean(left)).sum())
    assert linearity_score(x, y, residual=True).stderr == pytest.approx(direct, rel=1e-9)
    added = np.full((150, 6), 0.1)
    for x in (X, 1e6 * X, X.astype(np.float32), X * np.logspace(-9, 9, 150)[:, None]):
        with pytest.raises(InputError, match="rows of y - x are all equal: nothing"):
            linearity_score(x, x + added, residual=True)
    added[3] = 0.3
    with pytest.raises(InputError, match="without one of the groups all rows of x or of y - x are"):
        linearity_score(X, X + added, residual=True)


def test_rows_that_are_equal_without_a_group() -> None:
    x = np.ones((30, 3))
    x[4] = [1, 2, 3]
    with pytest.raises(InputError, match=r"without one of the groups .* jackknife=0"):
        linear_cka(x, X[:30])
    assert math.isnan(linear_cka(x, X[:30], jackknife=0).stderr)


def test_rows_of_a_document_are_dependent() -> None:
    documents = np.repeat(np.arange(75), 2)
    x, z = np.repeat(X[:75], 2, axis=0), np.repeat(Z[:75], 2, axis=0)
    grouped, single = angular_distance(x, z, groups=documents), angular_distance(X[:75], Z[:75])
    assert grouped.stderr == pytest.approx(single.stderr, rel=1e-9)
    few = neighborhood_overlap(x, z, 5, queries=np.arange(0, 150, 3), groups=documents)
    assert few.n_queries == 50
    assert few.stderr > 0


def test_overlap_falls_with_noise() -> None:
    overlaps = [
        neighborhood_overlap(X, X + s * gaussian(150, 6, 4), 5).value for s in (0.01, 0.3, 3)
    ]
    assert stats.spearmanr(overlaps, [3, 2, 1]).statistic == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighborhood_overlap(X, Y, 150), "need at least 151 rows"),
        (lambda: neighborhood_overlap(X, Y[:99], 5), "same rows in the same order"),
        (lambda: neighborhood_overlap(knn(X, 3), knn(Y, 3), 5), "have 3"),
        (lambda: neighborhood_overlap(knn(X, 3), knn(Y, 3), 2, queries=3), "belong to knn"),
        (lambda: neighborhood_overlap(knn(X, 3, queries=9), knn(Y, 3), 2), "9 queries of 150"),
        (lambda: information_imbalance(X, Y[:99]), "x has 150 rows, y 99"),
        (lambda: information_imbalance(X, Y, 0), "k must be"),
        (lambda: linear_cka(X, np.ones((150, 3))), "nothing to compare"),
        (lambda: linearity_score(X, Y, residual=True), "same columns; got 6 and 4"),
        (lambda: linearity_score(X, X + 1.0, residual=True), "nothing is to be explained"),
        (lambda: angular_distance(X, Y), "same columns, got 6 and 4"),
        (lambda: block_influence(X, X * (np.arange(150) != 7)[:, None]), "row 7 is zero"),
        (lambda: linear_cka(X, np.where(np.eye(150, 3) > 0, np.nan, 1.0)), "NaN"),
    ],
)  # fmt: skip
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-135, 1e-80, 1e76, 1e80, 1e149])
def test_angles_of_rows_at_any_scale(scale: float) -> None:
    for function in (angular_distance, block_influence):
        assert function(X * scale, X * scale).value == pytest.approx(0.0, abs=1e-7)
        expected = function(X, Z).value
        assert function(X * scale, Z * scale).value == pytest.approx(expected, rel=1e-12)
        with pytest.raises(InputError, match="row 0 is not zero, yet its squares vanish"):
            function(X * 1e-150, X)


@pytest.mark.parametrize("residual", [False, True])
def test_everything_explained_tells_no_error(residual: bool) -> None:
    """Each group less leaves rows of which every y is a linear image: 1 whatever they are."""
    x, y = gaussian(105, 100, 3), gaussian(105, 100, 4)
    found = linearity_score(x, y, residual=residual)
    assert 0.9 < found.value < 1.0
    assert found.interval == "none"
    assert math.isnan(found.stderr)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert linearity_score(x, y, jackknife=105, residual=residual).stderr > 0.0
