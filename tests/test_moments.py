"""Sums over rows: the contract of csrc/moments.h on every instruction set level, and `Sums`."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like

from fastdim import InputError, anisotropy, cosine_stats, spectrum
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.covariance import STATISTICS, decompose_sums
from fastdim.moments import near_mean, random_rows, sums

SIZES = (1, 2, 3, 7, 8, 9, 11, 12, 13, 23, 24, 25, 31, 33, 47, 48, 49, 64, 97)


@pytest.mark.parametrize("d", SIZES)
def test_second_moments_of_any_size(isa: str, d: int) -> None:
    for n in (1, 5, 65, 700):
        x = gaussian(n, d)
        shift = np.linspace(-1.0, 1.0, d)
        total, gram = cpu.second_moments(in_dtype(x, "float64"), shift, None, None, 2)
        y = x - shift
        np.testing.assert_allclose(total, y.sum(axis=0), atol=1e-12 * n)
        np.testing.assert_allclose(gram, y.T @ y, atol=1e-12 * n)
        np.testing.assert_array_equal(gram, gram.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_second_moments_of_chosen_and_scaled_rows(isa: str, dtype: str) -> None:
    rows = in_dtype(token_like(2100, 37), dtype)
    ids = np.random.default_rng(0).permutation(2100)[:1500]
    scale = np.random.default_rng(1).uniform(0.5, 2.0, 2100)
    shift = near_mean(rows, scale)
    total, gram = cpu.second_moments(rows, shift, ids, scale, 2)
    y = rows.float64(0, 2100)[ids] * scale[ids, None] - shift
    size = np.square(y).sum()
    np.testing.assert_allclose(gram, y.T @ y, atol=1e-14 * size)
    np.testing.assert_allclose(total, y.sum(axis=0), atol=1e-11 * np.abs(y).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("d", [*SIZES, 95, 96, 101])
def test_second_moments_in_floats_keep_their_bound(isa: str, d: int, dtype: str) -> None:
    for n in (4, 63, 64, 65, 1500):
        rows = in_dtype(token_like(n, d), dtype)
        shift = near_mean(rows)
        total, gram = cpu.second_moments(rows, shift, None, None, 2, floats=True)
        y = rows.float64(0, n) - shift
        size = np.abs(y).T @ np.abs(y)
        assert (np.abs(gram - y.T @ y) <= 67 * 2.0**-24 * size).all()
        np.testing.assert_allclose(total, y.sum(axis=0), atol=2.0**-23 * np.abs(y).sum())
        np.testing.assert_array_equal(gram, gram.T)


def test_strided_rows(isa: str) -> None:
    wide = in_dtype(gaussian(300, 40), "float32")
    part = type(wide)(wide.data[::3, :21], "float32")
    y = part.float64(0, 100)
    gram = cpu.second_moments(part, np.zeros(21), None, None, 2)[1]
    np.testing.assert_allclose(gram, y.T @ y, atol=1e-11)


def test_the_same_bits_for_any_threads(isa: str) -> None:
    rows = in_dtype(token_like(5000, 50), "float32")
    shift, basis = near_mean(rows), np.linalg.qr(gaussian(50, 50))[0]
    weights = np.stack([np.arange(50.0), np.ones(50)])
    grams, floats, forms = [], [], []
    for threads in (1, 2, 5):
        floats.append(cpu.second_moments(rows, shift, None, None, threads, floats=True)[1])
        grams.append(cpu.second_moments(rows, shift, None, None, threads)[1])
        forms.append(cpu.row_forms(rows, shift, None, None, basis, weights, basis[:1], threads))
    for gram, rounded, form in zip(grams, floats, forms, strict=True):
        np.testing.assert_array_equal(gram, grams[0])
        np.testing.assert_array_equal(rounded, floats[0])
        for found, expected in zip(form[:4], forms[0][:4], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e-60, 1e60])
def test_row_forms_of_any_size(isa: str, d: int, scale: float) -> None:
    x = gaussian(131, d) * scale
    x[7] *= 1e4
    x[9] = 0.0
    basis = np.linalg.qr(gaussian(d, d, seed=1))[0]
    weights = np.random.default_rng(2).standard_normal((2, d))
    lines = gaussian(3, d, seed=4)
    rows = in_dtype(x, "float64")
    found = cpu.row_forms(rows, np.zeros(d), None, None, basis, weights, lines, 2)
    scores = x @ basis.T
    length2 = np.square(x).sum(axis=1)
    np.testing.assert_allclose(found.first, scores[:, 0], atol=1e-13 * np.abs(x).max())
    rest = length2 - np.square(scores[:, 0])
    assert (np.abs(found.rest - rest) <= 1e-13 * length2 + 1e-300).all()
    np.testing.assert_allclose(found.linear, x @ lines.T, atol=1e-12 * np.abs(x).max())
    # 15 bits of the rest of the row, which is all of it at most.
    gap = np.abs(found.forms - np.square(scores) @ weights.T)
    assert (gap <= 2e-4 * np.abs(weights).max() * length2[:, None] + 1e-300).all()
    assert found.arithmetic in ("float32", "int16")


def test_row_forms_of_chosen_rows(isa: str) -> None:
    rows = in_dtype(token_like(400, 30), "bfloat16")
    scale = np.random.default_rng(1).uniform(0.5, 2.0, 400)
    ids = np.arange(3, 400, 7)
    basis, weights = np.linalg.qr(gaussian(30, 30))[0], np.stack([np.ones(30), np.arange(30.0)])
    shift = near_mean(rows, scale)
    found = cpu.row_forms(rows, shift, ids, scale, basis[:20], weights[:, :20], basis[:0], 2)
    scores = (rows.float64(0, 400)[ids] * scale[ids, None] - shift) @ basis[:20].T
    np.testing.assert_allclose(found.forms, np.square(scores) @ weights[:, :20].T, rtol=1e-3)
    np.testing.assert_allclose(found.first, scores[:, 0], rtol=1e-10)


def test_bad_row_numbers(isa: str) -> None:
    rows = in_dtype(gaussian(5, 3), "float32")
    for ids in ([0, 5], [-1]):
        with pytest.raises(ValueError, match="row number"):
            cpu.second_moments(rows, np.zeros(3), np.array(ids), None, 1)


@pytest.mark.parametrize("case", ["massive rows", "offset", "line", "float16"])
def test_kernel_and_float64_give_the_same_errors(
    isa: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = token_like(900, 40)
    if case == "offset":
        x = x + 1e4
    elif case == "line":
        x = np.outer(gaussian(900, 1), gaussian(1, 40)) + 1e-4 * gaussian(900, 40)
    rows = in_dtype(x, "float16" if case == "float16" else "float32")
    groups = np.arange(900) // 30
    exact, moments = spectrum(rows, groups=groups), cosine_stats(rows, groups=groups, pairs=9)
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    found = spectrum(rows, groups=groups)
    for name in STATISTICS:
        one, other = found.estimate(name), exact.estimate(name)
        assert one.value == other.value
        assert one.stderr == pytest.approx(other.stderr, rel=1e-3)
    np.testing.assert_allclose(found.row_share, exact.row_share, rtol=1e-9, atol=1e-15)
    stats = cosine_stats(rows, groups=groups, pairs=9)
    assert stats.std == moments.std
    for name in ("mean_estimate", "std_estimate"):
        one, other = getattr(stats, name), getattr(moments, name)
        assert one.stderr == pytest.approx(other.stderr, rel=1e-3)


def test_sums_of_parts_are_the_sums_of_all() -> None:
    rows = in_dtype(token_like(800, 20), "float32")
    shift = near_mean(rows)
    part = np.arange(800) % 3 == 0
    whole = sums(rows, shift, 2)
    parts = sums(rows, shift, 2, np.flatnonzero(part)) + sums(rows, shift, 2, np.flatnonzero(~part))
    assert parts.count == whole.count == 800
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.scatter(), whole.scatter(), rtol=1e-10, atol=1e-6)
    values = decompose_sums(parts).eigenvalues
    assert values[0] / values.sum() == pytest.approx(anisotropy(rows), rel=1e-12)
    with pytest.raises(ValueError, match="two different shifts"):
        whole + sums(rows, shift.copy(), 2)


def test_parallel_rows_have_no_spread() -> None:
    x = np.outer(np.random.default_rng(0).uniform(1, 5, 900), gaussian(1, 12))
    found = cosine_stats(x)
    assert (found.mean, found.std) == pytest.approx((1.0, 0.0), abs=1e-15)
    with pytest.raises(InputError, match="all 900 rows are equal"):
        spectrum(np.repeat(gaussian(1, 12), 900, axis=0))


def test_blas_threads_are_given_back() -> None:
    from threadpoolctl import threadpool_info

    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
    with one_blas_thread():
        inside = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
        assert inside
        assert set(inside) == {1}
    assert [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()] == before


@pytest.mark.parametrize("n", [1, 1024, 1025, 50_000, 3_000_000])
def test_rows_drawn_for_the_shift(n: int) -> None:
    drawn = random_rows(n)
    assert len(drawn) == min(n, 1024)
    assert (np.diff(drawn) > 0).all()
    assert drawn[0] >= 0
    assert drawn[-1] < n
    if n > 1025:  # no place within documents of 256 rows has more than a few
        assert np.bincount(drawn % 256).max() < 20
