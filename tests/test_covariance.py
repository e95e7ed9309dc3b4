"""spectrum() and anisotropy(): the reference, the paper's formula, errors, refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like

from fastdim import InputError, anisotropy, naive, spectrum
from fastdim.backends import cpu
from fastdim.covariance import STATISTICS, largest_eigenvalue

SCALES = np.array([5.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.1])


def low_rank() -> np.ndarray:
    return gaussian(60, 3) @ gaussian(3, 20)


CASES = {
    "tall": gaussian(500, 12),
    "wide": gaussian(40, 90),
    "square": gaussian(50, 50),
    "massive rows": token_like(),
    "offset 1e4": gaussian(300, 8) * 100 + 1e4,
    "column at scale 1e3": gaussian(300, 8) * np.array([1, 1, 1e3, 1, 1, 1, 1, 1]),
    "low rank": low_rank(),
    "two rows": gaussian(2, 5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_equals_the_reference(case: str, dtype: str) -> None:
    rows = in_dtype(CASES[case], dtype)
    found, expected = spectrum(rows), naive.spectrum(rows)
    for name in STATISTICS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)
        assert found.estimate(name).value == getattr(found, name)
    size = expected.eigenvalues[0]
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-12 * size)
    np.testing.assert_allclose(found.row_share, expected.row_share, atol=1e-8)
    assert found.row_share.sum() == pytest.approx(1.0)
    assert anisotropy(rows) == pytest.approx(found.anisotropy, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_anisotropy_is_llm_microscopes(dtype: torch.dtype) -> None:
    """Its formula: torch's SVD of the centered matrix, max s^2 / sum s^2."""
    x = torch.tensor(token_like(300, 32)).to(dtype)
    centered = x.float() - x.float().mean(dim=0, keepdim=True)
    singular = torch.linalg.svd(centered, full_matrices=False)[1]
    power = singular * singular / (len(x) - 1)
    assert anisotropy(x) == pytest.approx(float(power.max() / power.sum()), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_anisotropy_of_many_products_in_float32(
    case: str, dtype: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = in_dtype(CASES[case], dtype)
    expected = naive.spectrum(rows).anisotropy
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    assert anisotropy(rows) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-18, 1e18, 1e30])
def test_products_outside_of_float32(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = in_dtype(token_like(500, 12) * scale, "float32")
    expected = naive.spectrum(rows).anisotropy
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    assert anisotropy(rows) == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def in_floats(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every pass over the rows whether its products were float32."""
    asked: list[bool] = []
    real = cpu.second_moments

    def watched(*arguments: Any, **named: Any) -> Any:
        asked.append(arguments[5])
        return real(*arguments, **named)

    monkeypatch.setattr("fastdim.backends.cpu.second_moments", watched)
    return asked


def test_how_many_products_are_in_float32(in_floats: list[bool]) -> None:
    for n, dtype in ((1000, "float32"), (2000, "float32"), (2000, "float64")):
        anisotropy(in_dtype(token_like(n, 500), dtype))
    assert in_floats == [False, True, False]
    anisotropy(in_dtype(token_like(2000, 500) * 1e30, "float32"))
    assert in_floats == [False, True, False, True, False]


def massive_at(every: int, length: float) -> np.ndarray:
    """Every so many rows a massive one, as at sequence starts, all of them alike."""
    rows = 0.1 * gaussian(1 << 16, 12)
    rows[::every] = length * gaussian(1, 12)
    return rows.astype(np.float32)


@pytest.mark.parametrize("every", [48, 64, 256, 4096, 65536])
@pytest.mark.parametrize("length", [3.0, 300.0])
def test_one_pass_where_massive_rows_recur(
    every: int, length: float, in_floats: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = massive_at(every, length)
    expected = naive.spectrum(in_dtype(rows, "float32")).anisotropy
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    assert anisotropy(rows) == pytest.approx(expected, rel=1e-6)
    assert in_floats == [True]


def test_products_about_a_point_far_from_the_mean(
    in_floats: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shift is the mean of massive rows alone."""
    rows = massive_at(64, 300.0)
    expected = naive.spectrum(in_dtype(rows, "float32")).anisotropy
    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    monkeypatch.setattr("fastdim.covariance.random_rows", lambda n: np.arange(0, n, 64))
    assert anisotropy(rows) == pytest.approx(expected, rel=1e-10)
    assert in_floats == [True, False]


LARGE = {
    "massive rows": token_like(1200, 600),
    "no gap": gaussian(1500, 600),
    "wide": token_like(560, 900),
    "low rank": gaussian(800, 3) @ gaussian(3, 600),
    "two equal": gaussian(900, 600) * np.where(np.arange(600) < 2, 30.0, 1.0),
}


@pytest.mark.parametrize("case", LARGE)
def test_largest_eigenvalue_alone(case: str) -> None:
    x = LARGE[case]
    gram = np.cov(x.T, bias=True)
    exact = float(np.linalg.eigvalsh(gram)[-1])
    found = largest_eigenvalue(gram)
    assert found == pytest.approx(exact, rel=1e-9)
    assert anisotropy(x.astype(np.float64)) == pytest.approx(exact / np.trace(gram), rel=1e-9)
    assert anisotropy(x) == pytest.approx(exact / np.trace(gram), rel=1e-7)


def test_an_eigenvalue_that_lanczos_cannot_see_is_not_passed_over() -> None:
    # The start is orthogonal to the first axis, so that the iteration settles on the second.
    start = np.random.default_rng(0).standard_normal(600)
    hidden = np.zeros(600)
    hidden[:2] = start[1], -start[0]
    hidden /= np.linalg.norm(hidden)
    gram = np.diag(np.r_[1.0, 1.0, np.linspace(0.9, 0.1, 598)]) + 5.0 * np.outer(hidden, hidden)
    gram[:2, :2] = np.eye(2) + 5.0 * np.outer(hidden[:2], hidden[:2])
    found = largest_eigenvalue(gram)
    assert found is None or found == pytest.approx(6.0, rel=1e-9)


def test_float16_whose_squares_overflow() -> None:
    x = (gaussian(100, 6).clip(-3, 3) * 20000).astype(np.float16)
    assert spectrum(x).anisotropy == pytest.approx(naive.spectrum(x).anisotropy, rel=1e-9)
    assert math.isfinite(spectrum(x).eigenvalues[0])


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = token_like(300, 32)
    expected = spectrum(x)
    monkeypatch.setattr("fastdim.arrays.BLOCK_BYTES", 7 * 32 * 8)
    found = spectrum(x)
    np.testing.assert_allclose(found.row_share, expected.row_share, rtol=1e-7)
    for name in STATISTICS:
        one, other = found.estimate(name), expected.estimate(name)
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert one.stderr == pytest.approx(other.stderr, rel=1e-9)


def test_one_direction_is_anisotropy_one() -> None:
    found = spectrum(gaussian(30, 1) @ gaussian(1, 6))
    assert (found.anisotropy, found.stable_rank) == pytest.approx((1.0, 1.0))
    for name in STATISTICS:
        estimate = found.estimate(name)
        assert estimate.lower == pytest.approx(1.0)
        assert estimate.upper == pytest.approx(1.0)


@pytest.mark.parametrize("scales", [SCALES, np.geomspace(3.0, 1.0, 8), SCALES**0.5])
def test_influence_predicts_the_effect_of_a_row(scales: np.ndarray) -> None:
    """The standard error is the jackknife's, to the order of 1/n."""
    x = gaussian(400, 8) * scales
    left_out = [spectrum(np.delete(x, row, axis=0)) for row in range(len(x))]
    found = spectrum(x)
    for name in STATISTICS:
        values = np.array([getattr(one, name) for one in left_out])
        jackknife = math.sqrt((len(x) - 1) * values.var())
        assert found.estimate(name).stderr == pytest.approx(jackknife, rel=0.05)


def test_gram_matrix_of_rows_or_of_columns_gives_the_same() -> None:
    x = gaussian(40, 8) * SCALES
    tall = spectrum(x, groups=np.arange(40) // 4)
    wide = spectrum(np.hstack([x, np.zeros((40, 50))]), groups=np.arange(40) // 4)
    np.testing.assert_allclose(wide.row_share, tall.row_share, atol=1e-12)
    for name in STATISTICS:
        one, other = wide.estimate(name), tall.estimate(name)
        assert (one.value, one.stderr) == pytest.approx((other.value, other.stderr), rel=1e-9)


def samples(grouped: bool, count: int) -> list[Any]:
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(100), 6)
    out = []
    for _ in range(count):
        x = rng.standard_normal((600, 8))
        if grouped:
            x = 0.8 * rng.standard_normal((100, 8))[groups] + 0.6 * x
        out.append(spectrum(x * SCALES, groups=groups if grouped else None))
    return out


@pytest.mark.parametrize("grouped", [False, True])
def test_errors_and_coverage(grouped: bool) -> None:
    """Both samples have the same covariance; dependence within groups doubles the error."""
    found = samples(grouped, 200)
    power = SCALES**2
    share = power / power.sum()
    truth = {
        "anisotropy": share[0],
        "participation_ratio": 1 / np.square(share).sum(),
        "effective_rank": math.exp(-(share * np.log(share)).sum()),
        "stable_rank": 1 / share[0],
    }
    for name, true in truth.items():
        estimates = [one.estimate(name) for one in found]
        spread = np.std([e.value for e in estimates])
        assert np.mean([e.stderr for e in estimates]) == pytest.approx(spread, rel=0.2)
        # 95 % less 3 standard errors of a share of 200
        assert np.mean([e.lower <= true <= e.upper for e in estimates]) >= 0.9


def test_one_group_has_no_error() -> None:
    found = spectrum(gaussian(20, 3), groups=np.zeros(20, dtype=int)).estimate("anisotropy")
    assert math.isfinite(found.value)
    assert math.isnan(found.stderr)
    assert math.isnan(found.lower)


def test_directions_without_variance_are_zero() -> None:
    for x in (low_rank(), low_rank()[:15]):
        eigenvalues = spectrum(x).eigenvalues
        assert (eigenvalues[:3] > 0).all()
        assert (eigenvalues[3:] == 0).all()


def test_row_share_names_the_massive_rows() -> None:
    x = token_like(400)
    heaviest = np.argsort(-spectrum(x).row_share)[:4]
    assert set(heaviest.tolist()) == {0, 100, 200, 300}


def test_interval_of_a_nearly_perfect_line_is_finite() -> None:
    x = gaussian(50, 3) * np.array([1.0, 1e-6, 1e-6])
    x[0, 0] = 1e4
    for name in STATISTICS:
        found = spectrum(x).estimate(name)
        assert math.isfinite(found.lower)
        assert math.isfinite(found.upper)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((5, 3)), "all 5 rows are equal"),
        (np.full((5, 3), 1e4 + 0.1, dtype=np.float32), "all 5 rows are equal"),
        (gaussian(1, 3), "at least 2 rows"),
        (gaussian(5, 1), "at least 2 columns"),
        (np.full((5, 3), np.inf), "Inf"),
    ],
)
def test_refusals(x: np.ndarray, message: str) -> None:
    for operation in (spectrum, anisotropy):
        with pytest.raises(InputError, match=message):
            operation(x)
    with pytest.raises(InputError, match="shape"):
        spectrum(gaussian(5, 3), groups=[1])
    with pytest.raises(InputError, match="confidence"):
        spectrum(gaussian(5, 3), confidence=95)
    with pytest.raises(InputError, match="spectrum estimates are"):
        spectrum(gaussian(5, 3)).estimate("rank")
