"""What rows add to the sums over pairs: few axes where they do, all of them where not."""

from typing import Any

import numpy as np
import pytest
from conftest import in_dtype, token_like

from fastdim import cosine_stats, quadratic
from fastdim.covariance import Covariance
from fastdim.quadratic import Added, added, axes_of, judged_rows

N, D = 3000, 320


def spectrum_of_kind(kind: str) -> np.ndarray:
    """Variances of the columns. Those of the sample along its axes spread: isotropic 0.5 to 1.8."""
    if kind == "decaying":
        return np.arange(1, D + 1) ** -1.5
    if kind == "isotropic":
        return np.ones(D)
    if kind == "one long":
        return np.r_[100.0, np.full(D - 1, 0.01)]
    # Two lengths, and as many of the longer ones as three panels do not hold.
    return np.r_[np.ones(150), np.full(D - 150, 0.01)]


def rows_of(kind: str) -> tuple[np.ndarray, Covariance]:
    if kind == "massive":
        x = token_like(N, D).astype(np.float64)
    else:
        x = np.random.default_rng(0).standard_normal((N, D)) * np.sqrt(spectrum_of_kind(kind)) + 0.3
    w = x - x.mean(axis=0)
    return x, Covariance(w.T @ w / N, x.mean(axis=0), N)


def deviations(known: Covariance, found: Added) -> np.ndarray:
    """What a row's part of the spread of cosines hangs on, about its mean."""
    part = found.squares + 2.0 * found.along + np.square(found.slopes)
    return np.asarray(part - part.mean())


@pytest.mark.parametrize("kind", ["decaying", "isotropic", "one long", "two lengths", "massive"])
def test_the_axes_leave_out_next_to_nothing(isa: str, kind: str) -> None:
    x, known = rows_of(kind)
    w = x - known.mean
    axes = axes_of(known, w[judged_rows(N)])
    found = quadratic.added_by(in_dtype(x, "float64"), known, axes, 2)
    exact = quadratic.added_by(in_dtype(x, "float64"), known, None, 2)
    np.testing.assert_allclose(exact.squares, np.einsum("ij,jk,ik->i", w, known.gram, w), rtol=1e-9)
    np.testing.assert_allclose(
        found.slopes, w @ known.mean, atol=1e-9 * np.abs(w @ known.mean).max()
    )
    np.testing.assert_allclose(exact.slopes, found.slopes, atol=1e-9 * np.abs(found.slopes).max())
    np.testing.assert_allclose(exact.along, found.along, atol=1e-9 * np.abs(found.along).max())
    off = deviations(known, found) - deviations(known, exact)
    # The judged rows met the limit; all rows meet it but for the luck of the draw.
    assert off.std() <= 1.5 * quadratic.LEFT_OUT * deviations(known, exact).std()
    turned = axes.vectors @ axes.vectors.T
    np.testing.assert_allclose(turned, np.eye(len(turned)), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "count"), [("decaying", 97), ("isotropic", D), ("one long", 97), ("two lengths", D)]
)
def test_more_axes_only_where_they_are_needed(kind: str, count: int) -> None:
    x, known = rows_of(kind)
    assert len(axes_of(known, (x - known.mean)[judged_rows(N)]).weights) == count


def test_few_columns_take_all_axes() -> None:
    x = np.random.default_rng(1).standard_normal((N, 60)) * np.linspace(2.0, 0.1, 60)
    w = x - x.mean(axis=0)
    known = Covariance(w.T @ w / N, x.mean(axis=0), N)
    axes = axes_of(known, w[judged_rows(N)])
    assert (axes.vectors.shape, axes.rest) == ((60, 60), 0.0)
    np.testing.assert_allclose(
        (axes.vectors.T * axes.weights) @ axes.vectors, known.gram, atol=1e-9
    )


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 20])
def test_what_is_rounding_beyond_the_axes_has_no_weight(rank: int) -> None:
    """Of rows of low rank: a quotient of roundings came out larger than any eigenvalue."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((N, rank)) @ rng.standard_normal((rank, D))
        x /= np.linalg.norm(x, axis=1)[:, None]
        w = x - x.mean(axis=0)
        known = Covariance(w.T @ w / N, x.mean(axis=0), N)
        axes = axes_of(known, w[judged_rows(N)])
        assert (len(axes.weights), axes.rest) == (97, 0.0)


@pytest.mark.parametrize("count", [256, 646, 767, 1023, 1024, 5000])
def test_judged_rows_are_from_everywhere(count: int) -> None:
    places = judged_rows(count)
    assert len(places) == 256
    assert (np.diff(places) > 0).all()
    assert places[0] < 0.05 * count
    assert places[-1] > 0.95 * count


def test_equal_directions_add_nothing() -> None:
    known = Covariance(np.zeros((D, D)), np.full(D, D**-0.5), N)
    axes = axes_of(known, np.zeros((len(judged_rows(N)), D)))
    x = np.full((N, D), D**-0.5)
    found = quadratic.added_by(in_dtype(x, "float64"), known, axes, 2)
    for part in (found.slopes, found.along, found.squares):
        np.testing.assert_allclose(part, 0.0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_chosen_and_scaled_rows(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_dtype(token_like(N, D), dtype)
    ids = np.flatnonzero(np.random.default_rng(2).random(N) < 0.7)
    scale = 1.0 / rows.norms()
    u = rows.float64(0, N)[ids] * scale[ids, None]
    w = u - u.mean(axis=0)
    known = Covariance(w.T @ w / len(ids), u.mean(axis=0), len(ids), ids, scale)
    assert quadratic.judged(known, rows.take) is None
    exact = added(rows, known, 2)
    np.testing.assert_allclose(exact.squares, np.einsum("ij,jk,ik->i", w, known.gram, w), rtol=1e-9)
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    found = added(rows, known, 2)
    assert len(found.squares) == len(ids)
    off = deviations(known, found) - deviations(known, exact)
    assert off.std() <= 1.5 * quadratic.LEFT_OUT * deviations(known, exact).std()


@pytest.mark.parametrize("grouped", [False, True])
def test_standard_errors_hardly_move(
    isa: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = token_like(N, D)
    given: dict[str, Any] = {"pairs": 1000, "groups": np.arange(N) // 50 if grouped else None}
    assert N * D**2 > 1 << 28
    few = cosine_stats(x, **given)
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 1 << 40)
    exact = cosine_stats(x, **given)
    assert (few.mean, few.std, few.second_moment) == (exact.mean, exact.std, exact.second_moment)
    assert few.std_estimate.stderr == pytest.approx(exact.std_estimate.stderr, rel=1e-3)
    assert few.mean_estimate.stderr == pytest.approx(exact.mean_estimate.stderr, rel=1e-9)
