"""The sample behind a search's axes: centre and scale at any magnitude, and what is left out."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype

from fastdim.backends import basis
from fastdim.backends.basis import lacks_structure, middle, principal_axes
from fastdim.backends.blas import one_blas_thread


def structured(n: int = 4000, d: int = 300) -> np.ndarray:
    """A few long directions and a little of the others."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((n, 8)) @ rng.standard_normal((8, d))
    return x + 0.05 * rng.standard_normal((n, d))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_axes_are_those_of_the_rows(dtype: str) -> None:
    x = structured() + 30.0
    rows = in_dtype(x, dtype)
    found = principal_axes(rows, order_only=False)
    assert found.axes.shape == (192, 300)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(192), atol=1e-3)
    values = rows.float64(0, rows.n)
    np.testing.assert_allclose(found.center, values.mean(axis=0), atol=0.5)
    centered = values - values.mean(axis=0)
    inside = np.square(centered @ found.axes[:8].T).sum() / np.square(centered).sum()
    assert inside > 0.99


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [("float32", -100), ("float32", 120), ("float64", -1000), ("float64", -300), ("float64", 480)],
)
def test_scale_changes_neither_axes_nor_centre(dtype: str, exponent: int) -> None:
    plain, scaled = (in_dtype(np.ldexp(structured(), e), dtype) for e in (0, exponent))
    for of in (lambda rows: principal_axes(rows, order_only=True), middle):
        expected, found = of(plain), of(scaled)
        np.testing.assert_array_equal(found.axes, expected.axes)
        np.testing.assert_array_equal(np.ldexp(found.center, -exponent), expected.center)
    assert lacks_structure(scaled) == lacks_structure(plain)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_an_offset_costs_no_digit_of_the_axes(offset: float) -> None:
    x = structured()
    x = (x + np.float32(offset)).astype(np.float32).astype(np.float64)
    found = principal_axes(in_dtype(x, "float32"), order_only=False)
    centered = x - x.mean(axis=0)
    assert np.square(centered @ found.axes[:8].T).sum() > 0.95 * np.square(centered).sum()


def test_massive_rows_have_no_say() -> None:
    x = structured()
    x[::100] *= 1e4
    found = principal_axes(in_dtype(x, "float32"), order_only=False)
    kept = np.delete(x, slice(None, None, 100), axis=0)
    centered = kept - kept.mean(axis=0)
    assert np.square(centered @ found.axes[:8].T).sum() > 0.95 * np.square(centered).sum()


def test_which_rows_lack_structure() -> None:
    def lacks(x: np.ndarray) -> bool:
        return lacks_structure(in_dtype(x, "float32"))

    assert lacks(gaussian(4000, 600))
    assert not lacks(structured())
    massive = structured()
    massive[::50] *= 1e3
    assert not lacks(massive)
    assert not lacks(np.ones((4000, 300)))
    assert not lacks(structured()[np.arange(4000) % 40])
    assert not lacks(gaussian(900, 600))  # too few to say


def test_large_sets_get_more_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "MANY_ROWS", 1000)
    for n, d, axes in ((999, 400, 192), (1000, 400, 320)):
        rows = in_dtype(gaussian(n, d), "float32")
        assert len(principal_axes(rows, order_only=False).axes) == axes


def test_constant_rows_have_an_axis() -> None:
    found = principal_axes(in_dtype(np.full((2000, 40), 3.0), "float32"), order_only=False)
    assert len(found.axes) >= 1
    np.testing.assert_array_equal(found.center, np.full(40, 3.0))


@pytest.mark.parametrize(("n", "d"), [(4000, 300), (700, 1100), (3010, 513)])
def test_axes_do_not_depend_on_threads(n: int, d: int) -> None:
    rows = in_dtype(structured(n, d), "float32")
    with one_blas_thread():
        one = principal_axes(rows, order_only=False, threads=1)
        for threads in (2, 5):
            np.testing.assert_array_equal(
                principal_axes(rows, order_only=False, threads=threads).axes, one.axes
            )
            assert lacks_structure(rows, threads) == lacks_structure(rows, 1)
