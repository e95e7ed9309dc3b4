"""cosine_stats(): exact moments, histogram, sampled pairs with their band, errors, refusals."""

import math
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like
from cosine_cases import awkward, check

from fastdim import InputError, cosine, cosine_stats, naive

CASES = {
    "few rows": gaussian(100, 8),
    "many rows": gaussian(700, 8),
    "wide": gaussian(550, 600),
    **awkward(600, 120, 60),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(isa: str, case: str) -> None:
    rows = in_dtype(CASES[case], "float32")
    found = cosine_stats(rows)
    check(found, rows, case)
    assert found.backend == f"cpu-{isa}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(dtype: str) -> None:
    rows = in_dtype(gaussian(300, 12).clip(-3, 3) * 20000, dtype)
    found, expected = cosine_stats(rows, bins=37), naive.cosine_stats(rows, bins=37)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.std == pytest.approx(expected.std, abs=1e-9)
    np.testing.assert_array_equal(found.histogram, expected.histogram)


def test_spread_of_nearly_parallel_rows_does_not_cancel() -> None:
    """Cosines within 1e-9 of 1: E[c^2] - E[c]^2 would have no correct digit."""
    for n in (200, 900):  # pair by pair, and by sums over rows
        x = 1.0 + 3e-5 * gaussian(n, 16)
        # 1 - c = |u_i - u_j|^2 / 2, from differences of unit rows
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        first, second = np.triu_indices(n, k=1)
        distance = np.square(unit[first] - unit[second]).sum(axis=1) / 2
        found = cosine_stats(x)
        assert found.std == pytest.approx(distance.std(), rel=1e-6)
        assert 1 - found.mean == pytest.approx(distance.mean(), rel=1e-6)


def test_orthogonal_rows_have_no_spread() -> None:
    found = cosine_stats(np.eye(40))
    assert (found.mean, found.std) == pytest.approx((0.0, 0.0), abs=1e-15)
    assert found.histogram[100] == 40 * 39 // 2


def test_equal_and_opposite_rows() -> None:
    found = cosine_stats(np.array([[1.0, 2.0], [1.0, 2.0], [-2.0, -4.0]]), bins=4)
    assert found.mean == pytest.approx(-1 / 3)
    np.testing.assert_array_equal(found.histogram, [2, 0, 0, 1])  # the last bin is closed
    assert (found.min, found.max) == pytest.approx((-1.0, 1.0))
    equal = cosine_stats(np.ones((5, 3)))
    assert (equal.mean, equal.std) == pytest.approx((1.0, 0.0))
    assert (equal.mean_estimate.lower, equal.mean_estimate.upper) == pytest.approx((1.0, 1.0))


def test_quantiles_lie_within_their_interval() -> None:
    x = gaussian(300, 6) + 0.3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(300, k=1)]
    found = cosine_stats(x)
    for q in (0.0, 0.001, 0.05, 0.5, 0.77, 0.95, 1.0):
        true = float(np.quantile(cosines, q, method="inverted_cdf"))
        lower, upper = found.quantile_interval(q)
        assert lower - 1e-12 <= true <= upper + 1e-12
        assert upper - lower <= 0.0100001
        assert lower <= found.quantile(q) <= upper
        assert found.quantile(q) == pytest.approx(true, abs=0.01)
    assert found.quantile(0.0) == pytest.approx(cosines.min(), abs=0.01)
    assert found.quantile(1.0) == pytest.approx(cosines.max(), abs=1e-9)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        found.quantile(1.5)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        found.quantile_interval(-0.1)


def test_sampled_pairs() -> None:
    x = gaussian(500, 6) + 0.3
    every, found = cosine_stats(x), cosine_stats(x, pairs=4000, seed=5)
    assert (found.pairs, found.n_pairs, int(found.histogram.sum())) == ("sampled", 4000, 4000)
    assert found.band == pytest.approx(math.sqrt(math.log(40) / 8000))
    assert (found.mean, found.std) == (every.mean, every.std)  # these need no pairs
    assert every.min <= found.min < found.max <= every.max
    again, other = cosine_stats(x, pairs=4000, seed=5), cosine_stats(x, pairs=4000, seed=6)
    np.testing.assert_array_equal(found.histogram, again.histogram)
    assert (found.histogram != other.histogram).any()
    low, high = found.quantile_interval(0.001)
    assert low == -1.0
    assert high >= every.quantile(0.001)
    assert found.quantile_interval(0.999)[1] == 1.0


def test_the_band_covers_all_pairs() -> None:
    x = gaussian(300, 6) + 0.3
    every = np.cumsum(cosine_stats(x).histogram) / (300 * 299 / 2)
    outside = 0
    for seed in range(200):
        found = cosine_stats(x, pairs=500, seed=seed)
        outside += np.abs(np.cumsum(found.histogram) / 500 - every).max() > found.band
    assert outside <= 20  # 5 % of 200, and 3 standard errors


def test_defaults_sample_beyond_the_stated_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "ALL_PAIRS_ROWS", 100)
    monkeypatch.setattr(cosine, "SAMPLED_PAIRS", 300)
    assert cosine_stats(gaussian(100, 4)).pairs == "all"
    found = cosine_stats(gaussian(101, 4))
    assert (found.pairs, found.n_pairs) == ("sampled", 300)
    assert cosine_stats(gaussian(101, 4), pairs="all").n_pairs == 5050
    # As many pairs as there are: all of them, exactly.
    assert cosine_stats(gaussian(20, 4), pairs=190).pairs == "all"


def test_precision_and_arithmetic_are_recorded(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "AXES_PAIRS", 0)
    x = token_like(500, 80)
    exact, fast = cosine_stats(x), cosine_stats(x, precision="fast")
    expected = naive.cosine_stats(x)
    np.testing.assert_array_equal(exact.histogram, expected.histogram)
    assert (exact.precision, fast.precision) == ("exact", "fast")
    assert {exact.arithmetic, fast.arithmetic} <= {"float32", "int16", "int8"}
    assert (fast.min, fast.max) == (exact.min, exact.max)
    assert np.abs(np.cumsum(fast.histogram - exact.histogram)).sum() < 0.01 * exact.n_pairs
    sampled = cosine_stats(x, pairs=50, precision="fast")
    assert (sampled.precision, sampled.arithmetic) == ("exact", "float64")


def test_sampled_pairs_leave_zero_rows_out() -> None:
    x = np.zeros((1000, 3))
    x[:30] = np.abs(gaussian(30, 3))
    found = cosine_stats(x, pairs=200)
    assert found.n_zero_rows == 970
    assert found.min > 0.0


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = token_like(600, 20)
    expected = cosine_stats(x, pairs=10)
    monkeypatch.setattr("fastdim.arrays.BLOCK_BYTES", 7 * 20 * 8)
    found = cosine_stats(x, pairs=10)
    for name in ("mean", "std", "second_moment"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)
    assert found.std_estimate.stderr == pytest.approx(expected.std_estimate.stderr, rel=1e-9)


def test_both_forms_of_the_moments_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = token_like(500, 20)
    pair_by_pair = cosine_stats(x)
    monkeypatch.setattr(cosine, "DIRECT_ROWS", 1)
    by_rows = cosine_stats(x)
    assert by_rows.std == pytest.approx(pair_by_pair.std, rel=1e-12)
    for name in ("mean_estimate", "std_estimate"):
        one, other = getattr(by_rows, name), getattr(pair_by_pair, name)
        assert one.stderr == pytest.approx(other.stderr, rel=1e-9)


@pytest.mark.parametrize("grouped", [False, True])
def test_errors_are_those_of_repeated_samples(grouped: bool) -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(75), 8)
    found: list[Any] = []
    for _ in range(150):
        x = rng.standard_normal((600, 12)) + 0.5
        if grouped:
            x += rng.standard_normal((75, 12))[groups]
        found.append(cosine_stats(x, groups=groups if grouped else None, pairs=1))
    for name in ("mean_estimate", "std_estimate"):
        estimates = [getattr(one, name) for one in found]
        spread = np.std([e.value for e in estimates])
        assert np.mean([e.stderr for e in estimates]) == pytest.approx(spread, rel=0.2)
        assert all(e.lower < e.value < e.upper for e in estimates)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (gaussian(1, 3), {}, "at least 2 rows"),
        (gaussian(5, 1), {}, "at least 2 columns"),
        (np.zeros((5, 3)), {}, "at least two rows that are not zero, got 0 of 5"),
        (np.eye(5)[:1].repeat(2, 0) * [[1], [0]], {}, "got 1 of 2"),
        (np.full((5, 3), 1e-170), {}, "row 0 is not zero"),
        (gaussian(5, 3), {"bins": 0}, "bins"),
        (gaussian(5, 3), {"bins": 2.5}, "bins"),
        (gaussian(5, 3), {"pairs": 0}, "pairs"),
        (gaussian(5, 3), {"pairs": "some"}, "pairs"),
        (gaussian(5, 3), {"pairs": True}, "pairs"),
        (gaussian(5, 3), {"groups": [1, 2]}, "groups"),
        (gaussian(5, 3), {"confidence": 0.0}, "confidence"),
        (gaussian(5, 3), {"threads": -1}, "threads"),
        (gaussian(5, 3), {"precision": "half"}, "precision must be one of exact, fast"),
        (gaussian(5, 3), {"precision": "fast", "bins": 2001}, "up to 2000 bins, got 2001"),
    ],
)
def test_refusals(x: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cosine_stats(x, **options)
