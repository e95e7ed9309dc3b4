"""The cosine kernel's contract, one body over every instruction set level."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype

from fastdim import Rows, naive
from fastdim.backends import cpu
from fastdim.cosine import leading_axes

SIZES = (2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 257)


def inverse_norms(rows: Rows) -> np.ndarray:
    norms = rows.norms()
    return np.divide(1.0, norms, out=np.zeros(rows.n), where=norms > 0)


def check(rows: Rows, bins: int = 200, threads: int = 2) -> dict[str, object]:
    histogram, low, high, counts = cpu.cosine_histogram(rows, inverse_norms(rows), bins, threads)
    expected = naive.cosine_stats(rows, bins)
    np.testing.assert_array_equal(histogram, expected.histogram)
    assert low == pytest.approx(expected.min, abs=1e-12)
    assert high == pytest.approx(expected.max, abs=1e-12)
    assert -1.0 <= low <= high <= 1.0
    return counts


@pytest.mark.parametrize("d", [2, 3, 7, 8, 9, 17, 33, 64, 97, 257])
def test_sizes(isa: str, d: int) -> None:
    for n in SIZES:
        check(in_dtype(gaussian(n, d), "float64"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(isa: str, dtype: str) -> None:
    for d in (5, 131):
        check(in_dtype(gaussian(200, d), dtype))


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 1000, 100_003])
def test_bins(isa: str, bins: int) -> None:
    check(in_dtype(gaussian(150, 12), "float32"), bins)


@pytest.mark.parametrize("d", [512, 513, 4096, 16384])
def test_many_columns(isa: str, d: int) -> None:
    check(in_dtype(gaussian(60, d), "float32"))


def test_one_column_has_cosines_of_one_only(isa: str) -> None:
    x = gaussian(50, 1)
    histogram, low, high, _ = cpu.cosine_histogram(
        in_dtype(x, "float64"), inverse_norms(in_dtype(x, "float64")), 10, 2
    )
    positive = int((x > 0).sum())
    same = positive * (positive - 1) // 2 + (50 - positive) * (49 - positive) // 2
    assert histogram.tolist() == [positive * (50 - positive), *[0] * 8, same]
    assert (low, high) == (-1.0, 1.0)


def test_bit_identical_for_any_threads(isa: str) -> None:
    rows = in_dtype(gaussian(700, 33) + 0.3, "float32")
    runs = [cpu.cosine_histogram(rows, inverse_norms(rows), 200, t)[:3] for t in (1, 2, 8)]
    for histogram, low, high in runs[1:]:
        np.testing.assert_array_equal(histogram, runs[0][0])
        assert (low, high) == runs[0][1:]


def test_rows_almost_parallel(isa: str) -> None:
    check(in_dtype(gaussian(300, 40) * 1e-3 + 1.0, "float64"))
    check(in_dtype(gaussian(300, 40) * 1e-3 + 1.0, "float64"), bins=1_000_000)


def test_offset_scale_and_massive_rows(isa: str) -> None:
    x = gaussian(300, 40)
    x[::50, 3] += 2000.0
    check(in_dtype(x, "float32"))
    check(in_dtype(x * 1e100, "float64"))
    check(in_dtype(x * 1e-100, "float64"))
    check(in_dtype(gaussian(200, 24) * 1e4, "float16"))


def test_duplicates_are_counted_with_their_multiplicity(isa: str) -> None:
    rng = np.random.default_rng(3)
    x = gaussian(40, 24)[rng.integers(0, 40, 500)]
    counts = check(in_dtype(x, "float32"))
    assert counts["pairs_filtered"] == 40 * 39 // 2


def test_zero_rows_take_part_in_no_pair(isa: str) -> None:
    x = gaussian(120, 24)
    x[[0, 5, 64, 119]] = 0.0
    rows = in_dtype(x, "float32")
    check(rows)
    histogram = cpu.cosine_histogram(rows, inverse_norms(rows), 200, 2)[0]
    assert histogram.sum() == 116 * 115 // 2


def test_rows_left_out_though_equal_rows_take_part(isa: str) -> None:
    x = gaussian(40, 24)[np.random.default_rng(3).integers(0, 40, 300)]
    rows = in_dtype(x, "float32")
    kept = np.random.default_rng(4).random(300) < 0.7
    found = cpu.cosine_histogram(rows, np.where(kept, inverse_norms(rows), 0.0), 200, 2)
    expected = naive.cosine_stats(x[kept].astype(np.float32))
    np.testing.assert_array_equal(found[0], expected.histogram)
    assert found[1] == pytest.approx(expected.min, abs=1e-12)


@pytest.mark.parametrize("nonzero", [0, 1])
def test_no_pair_at_all(isa: str, nonzero: int) -> None:
    x = np.zeros((5, 3))
    x[:nonzero] = 1.0
    rows = in_dtype(x, "float32")
    histogram, low, high, _ = cpu.cosine_histogram(rows, inverse_norms(rows), 4, 2)
    assert histogram.sum() == 0
    assert np.isnan(low)
    assert np.isnan(high)


def test_cosines_that_are_edges(isa: str) -> None:
    # Orthogonal rows lie on the edge at 0; the bin above an edge holds it, and the last bin is
    # closed. Powers of two keep every product exact.
    x = np.concatenate([np.eye(40), -2.0 * np.eye(40)])
    rows = in_dtype(x, "float32")
    histogram, low, high, _ = cpu.cosine_histogram(rows, inverse_norms(rows), 4, 2)
    assert histogram.tolist() == [40, 0, 80 * 79 // 2 - 40, 0]
    assert (low, high) == (-1.0, 0.0)


def test_rounding_errors_that_add_up_are_inside_the_margin(isa: str) -> None:
    # Long runs of equal positive terms: every sum of a binade is rounded in the same direction, so
    # float32 cosines are wrong by about 1e-5 and many would fall into the next bin.
    angles = np.random.default_rng(7).uniform(0.2, 1.3, 150)
    x = np.repeat(np.stack([np.cos(angles), np.sin(angles)], axis=1), 4096, axis=1)
    check(in_dtype(x, "float64"), bins=2000)


def test_cosines_close_to_an_edge(isa: str) -> None:
    rng = np.random.default_rng(8)
    count, d = 400, 300
    axis, others = np.zeros(d), rng.standard_normal((count, d))
    axis[0], others[:, 0] = 1.0, 0.0
    gaps = rng.choice([-1.0, 1.0], count) * 10.0 ** rng.uniform(-11, -7, count)
    cosines = rng.integers(-90, 91, count) / 100 + gaps
    others *= np.sqrt(1 - cosines**2)[:, None] / np.linalg.norm(others, axis=1)[:, None]
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    check(in_dtype(np.vstack([axis, cosines[:, None] * axis + others]) @ turn, "float64"))


def test_float64_settles_few_pairs(isa: str) -> None:
    counts = check(in_dtype(gaussian(1200, 64), "float32"))
    assert counts["isa"] == isa
    assert counts["pairs_filtered"] == 1200 * 1199 // 2
    assert 0 < int(str(counts["pairs_refined"])) < 0.02 * 1200 * 1199 / 2


def test_pairs(isa: str) -> None:
    x = gaussian(80, 37)
    x[7] = 0.0
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        rows = in_dtype(x, dtype)
        i, j = (part.ravel() for part in np.divmod(np.arange(80 * 80), 80))
        cosines = cpu.cosine_pairs(rows, inverse_norms(rows), i, j, 3).reshape(80, 80)
        unit = rows.float64(0, 80) * inverse_norms(rows)[:, None]
        zero = np.arange(80) == 7
        np.testing.assert_array_equal(np.isnan(cosines), zero[:, None] | zero)
        expected = unit @ unit.T
        np.testing.assert_allclose(cosines[~zero][:, ~zero], expected[~zero][:, ~zero], atol=1e-14)
        assert np.nanmax(np.abs(cosines)) <= 1.0


def test_pair_of_a_row_that_does_not_exist(isa: str) -> None:
    rows = in_dtype(gaussian(5, 3), "float32")
    with pytest.raises(ValueError, match="pair 1"):
        cpu.cosine_pairs(rows, inverse_norms(rows), np.array([0, 5]), np.array([1, 1]), 1)


def test_bad_inverse_norms(isa: str) -> None:
    rows = in_dtype(gaussian(5, 3), "float32")
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="row 2"):
            cpu.cosine_histogram(rows, np.where(np.arange(5) == 2, bad, 1.0), 10, 1)


def orthonormal(count: int, d: int) -> np.ndarray:
    return np.ascontiguousarray(np.linalg.qr(gaussian(d, count, seed=9))[0].T)


def awkward(case: str, n: int, d: int) -> np.ndarray:
    """Rows on which products of rounded rows are at their worst."""
    x = gaussian(n, d) + 0.5
    if case == "massive":
        x[::20, 3] += 3000.0
    elif case == "parallel":
        x = 1.0 + 1e-3 * x
    elif case == "peaked":
        x[:, 5] *= 1e4
    elif case == "sparse":
        x *= np.random.default_rng(1).random((n, d)) < 0.2
        x[4] = 0.0
    elif case == "copies":
        x[n // 2 :] = x[: n - n // 2] + 1e-4 * gaussian(n - n // 2, d, seed=4)
    return x


ARITHMETICS = ["float32", "int16"]


@pytest.fixture(params=ARITHMETICS)
def arithmetic(isa: str, request: pytest.FixtureRequest) -> str:
    """Each arithmetic on each level; int16 where the level and the processor have it."""
    if request.param == "int16" and not cpu.has_int16():
        rows = in_dtype(gaussian(5, 3), "float32")
        with pytest.raises(ValueError, match="VNNI"):
            cpu.cosine_histogram(rows, inverse_norms(rows), 10, 1, arithmetic="int16")
        return "float32"
    return str(request.param)


@pytest.mark.parametrize("axes", [0, 1, 16])
@pytest.mark.parametrize("case", ["gaussian", "massive", "parallel", "peaked", "sparse", "float64"])
def test_exact_counts_in_either_arithmetic(arithmetic: str, case: str, axes: int) -> None:
    for n, d in ((70, 17), (230, 40), (97, 131)):
        x = awkward(case, n, d)
        rows = in_dtype(x * (1e120 if case == "float64" else 1.0), "float64")
        for bins in (3, 200, 20_001):
            histogram, low, high, counts = cpu.cosine_histogram(
                rows,
                inverse_norms(rows),
                bins,
                2,
                axes=orthonormal(min(axes, d), d),
                arithmetic=arithmetic,
            )
            expected = naive.cosine_stats(rows, bins)
            if case == "sparse":  # cosines of 0 but for rounding lie on either side of an edge
                gap = np.cumsum(histogram - expected.histogram)
                assert np.abs(gap).max() <= (np.abs(histogram).max() if bins % 2 == 0 else 0)
            else:
                np.testing.assert_array_equal(histogram, expected.histogram)
            assert low == pytest.approx(expected.min, abs=1e-12)
            assert high == pytest.approx(expected.max, abs=1e-12)
            assert counts["arithmetic"] == arithmetic


def test_fast_counts_are_at_most_one_bin_off(arithmetic: str) -> None:
    x = gaussian(900, 96) * np.geomspace(1.0, 0.05, 96) + 0.3
    rows = in_dtype(x, "float32")
    inverse, axes = inverse_norms(rows), orthonormal(16, 96)
    exact = cpu.cosine_histogram(rows, inverse, 2000, 2)
    fast = cpu.cosine_histogram(rows, inverse, 2000, 2, "fast", axes, arithmetic)
    assert fast[1:3] == exact[1:3]
    moved = np.abs(np.cumsum(fast[0] - exact[0]))
    assert fast[0].sum() == exact[0].sum()
    assert moved.sum() < 0.01 * exact[0].sum()
    assert int(str(fast[3]["pairs_refined"])) < int(str(exact[3]["pairs_refined"]))


@pytest.mark.parametrize("axes", [0, 1, 16, 48])
@pytest.mark.parametrize("case", ["gaussian", "massive", "parallel", "peaked", "sparse", "copies"])
def test_int8_moves_few_pairs_and_keeps_the_extremes(isa: str, case: str, axes: int) -> None:
    for n, d in ((70, 17), (230, 64), (97, 131)):
        rows = in_dtype(awkward(case, n, d), "float32")
        inverse = inverse_norms(rows)
        basis = orthonormal(min(axes, d), d)
        if not cpu.has_int16():
            with pytest.raises(ValueError, match="VNNI"):
                cpu.cosine_histogram(rows, inverse, 50, 1, "fast", basis, "int8")
            continue
        exact = cpu.cosine_histogram(rows, inverse, 50, 1)
        for threads in (1, 3):
            fast = cpu.cosine_histogram(rows, inverse, 50, threads, "fast", basis, "int8")
            assert fast[1:3] == exact[1:3]
            assert fast[3]["arithmetic"] == "int8"
            assert fast[0].sum() == exact[0].sum()
            # 0.007 of the length at each end, against bins of 0.04; a cosine of 0 is an edge
            moved = np.abs(np.cumsum(fast[0] - exact[0])).sum()
            assert moved <= (0.5 if case == "sparse" else 0.05) * exact[0].sum()


def test_int8_is_chosen_where_it_keeps_the_bins(isa: str) -> None:
    x = gaussian(1200, 256) * np.geomspace(1.0, 0.05, 256) + 0.2
    rows = in_dtype(x, "float32")
    inverse = inverse_norms(rows)
    basis = leading_axes(rows, inverse, np.arange(1200), 48)

    def chosen(bins: int, precision: str = "fast") -> str:
        found = cpu.cosine_histogram(rows, inverse, bins, 2, precision, basis)
        return str(found[3]["arithmetic"])

    assert chosen(100) == ("int8" if cpu.has_int16() else "float32")
    assert chosen(20_000) != "int8"
    assert chosen(100, "exact") != "int8"
    with pytest.raises(ValueError, match="need not be exact"):
        cpu.cosine_histogram(rows, inverse, 100, 1, "exact", basis, "int8")


def test_duplicates_and_threads_in_either_arithmetic(arithmetic: str) -> None:
    x = gaussian(300, 33)[np.random.default_rng(3).integers(0, 300, 700)]
    rows, axes = in_dtype(x, "bfloat16"), orthonormal(7, 33)
    expected = naive.cosine_stats(rows)
    for threads in (1, 2, 7):
        found = cpu.cosine_histogram(
            rows, inverse_norms(rows), 200, threads, axes=axes, arithmetic=arithmetic
        )
        np.testing.assert_array_equal(found[0], expected.histogram)
        assert found[1] == pytest.approx(expected.min, abs=1e-12)


def test_axes_must_be_orthonormal(isa: str) -> None:
    rows = in_dtype(gaussian(9, 20), "float32")
    for axes in (2.0 * np.eye(3, 20), np.ones((2, 20)) / np.sqrt(20)):
        with pytest.raises(ValueError, match="not orthonormal"):
            cpu.cosine_histogram(rows, inverse_norms(rows), 10, 1, axes=axes)
    wide = in_dtype(gaussian(9, 60), "float32")
    with pytest.raises(ValueError, match="at most 48"):
        cpu.cosine_histogram(wide, inverse_norms(wide), 10, 1, axes=np.eye(49, 60))
