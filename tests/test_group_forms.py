"""Quadratic forms summed over groups of rows, and a layer's errors from them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, in_dtype, token_like
from sweep_cases import settings_of

from fastdim import Rows
from fastdim.backends import cpu
from fastdim.covariance import decompose_sums
from fastdim.group_forms import Asked, document_sums, segments_of
from fastdim.layer import Measurement, measure_job
from fastdim.sweeps import by_document
from fastdim.sweeps.filters import FILTERS, LayerRows, apply
from fastdim.sweeps.shared import SharedLayer

N = 900
SIZES = (1, 2, 7, 8, 9, 23, 24, 25, 47, 48, 49, 97)
# Of csrc/moments.h: float32, and what int16 adds, of lengths of columns.
BOUND, BOUND_INT16 = 260 * 2.0**-24, 5e-4


def of_int16(part: np.ndarray, matrix: np.ndarray) -> float:
    """Bound of what rounding the rows of a group to int16 moves its form by."""
    if not cpu.has_int16() or len(part) <= 4:
        return 0.0
    lengths = np.sqrt(np.square(part).sum(axis=0))
    return BOUND_INT16 * float(lengths @ np.abs(matrix) @ lengths)


@pytest.mark.parametrize("count", [5, 6, 7, 255, 256, 257, 600])
def test_products_of_whole_numbers_stay_in_range(count: int, isa: str) -> None:
    """Columns along each other, of one size, of one row, or so small that squares vanish."""
    d = 53
    x = np.ones((count, d)) * np.linspace(0.5, 2.0, d)
    x[:, 1] = 0.0
    x[:, 2] *= -1.0
    x[1:, 3] = 0.0
    x[:, 4] = 2.0**-60 * (np.arange(count) + 1.0)
    x[:, 5] *= 2.0**59
    x[:, 6] = 2.0**-140
    x[1, 7] = 1e9
    rows, matrices = in_dtype(x, "float64"), symmetric(d, d)
    for place in range(d):  # each diagonal on its own, and each line
        matrices[place] = 0.0
        matrices[place, place, place] = 1.0
        matrices[place, place, 0] = matrices[place, 0, place] = 3.0
    ids, ends = np.arange(count), np.array([count])
    forms = cpu.group_forms(rows, np.zeros(d), ids, None, ends, matrices, 2)[1][0]
    for matrix, form in zip(matrices, forms, strict=True):
        true = float(((x @ matrix) * x).sum())
        size = float(((x * x).sum(axis=0) * np.diag(np.abs(matrix))).sum()) + float(
            ((np.abs(x) @ np.abs(matrix)) * np.abs(x)).sum()
        )
        assert abs(form - true) <= BOUND * size + of_int16(x, matrix) + 2.0**-90


def symmetric(count: int, d: int) -> np.ndarray:
    made = np.random.default_rng(d).standard_normal((count, d, d))
    return np.asarray(made + made.transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("d", SIZES)
def test_group_forms_keep_their_bound(isa: str, d: int, dtype: str) -> None:
    n = 2300  # more than one chunk, and groups over their border
    rows = in_dtype(token_like(n, d), dtype)
    rng = np.random.default_rng(d)
    ids = rng.permutation(n)[:2200]
    scale = rng.uniform(0.5, 2.0, n)
    ends = np.array([0, 1, 4, 4, 260, 600, 1900, 2200, 2200])
    shift, matrices = rows.float64(0, n).mean(axis=0), symmetric(3, d)
    totals, forms = cpu.group_forms(rows, shift, ids, scale, ends, matrices, 2)
    y = rows.float64(0, n)[ids] * scale[ids, None] - shift
    for group, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        part = y[start:end]
        sizes = np.abs(part).sum(axis=0)
        assert (np.abs(totals[group] - part.sum(axis=0)) <= 2.0**-23 * sizes + 1e-12).all()
        for matrix, form in zip(matrices, forms[group], strict=True):
            true = float(((part @ matrix) * part).sum())
            size = float(((np.abs(part) @ np.abs(matrix)) * np.abs(part)).sum())
            assert abs(form - true) <= BOUND * size + of_int16(part, matrix)
    assert (forms[[0, 3, 8]] == 0.0).all()  # no rows
    for threads in (1, 5):
        again = cpu.group_forms(rows, shift, ids, scale, ends, matrices, threads)
        np.testing.assert_array_equal(again[0], totals)
        np.testing.assert_array_equal(again[1], forms)


def test_matrices_of_any_size_stay_in_range(isa: str) -> None:
    rows = in_dtype(gaussian(300, 30), "float32")
    ids, ends, shift = np.arange(300), np.array([100, 300]), np.zeros(30)
    matrices = symmetric(1, 30)
    plain = cpu.group_forms(rows, shift, ids, None, ends, matrices, 2)[1]
    for factor in (2.0**300, 2.0**-300, 0.0):
        found = cpu.group_forms(rows, shift, ids, None, ends, factor * matrices, 2)[1]
        np.testing.assert_array_equal(found, factor * plain)


@pytest.mark.parametrize(
    ("ends", "count"), [([3, 2, 10], 1), ([3, 9], 1), ([3, 11], 1), ([], 1), ([10], 0)]
)
def test_groups_that_do_not_hold_the_rows_are_refused(ends: list[int], count: int) -> None:
    rows, matrices = in_dtype(gaussian(10, 3), "float32"), symmetric(count, 3)
    given = np.array(ends, dtype=np.int64)
    with pytest.raises(ValueError, match="groups"):
        cpu.group_forms(rows, np.zeros(3), np.arange(10), None, given, matrices, 1)


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_document_sums_are_those_of_the_rows(unit: float) -> None:
    rng = np.random.default_rng(0)
    d, pattern = 20, rng.integers(0, 4, N)
    document = np.sort(rng.integers(0, 25, N))
    document[document == 3] = 4  # one of no row
    pattern[document == 7] = 1  # one that the second filter leaves out
    rows = in_dtype((token_like(N, d) + 50.0) * unit, "float64")
    scale = rng.uniform(0.5, 2.0, N)
    x = rows.float64(0, N) * scale[:, None]
    matrices = symmetric(2, d)
    lines, further = rng.standard_normal((2, d)), rng.standard_normal((1, d))
    asked = []
    for bit in (0, 1):
        mean = x[pattern >> bit & 1 == 1].mean(axis=0)
        asked.append(Asked(bit, mean, lines[bit], bit + 1, further, bit == 0))
    shift = x[:100].mean(axis=0)
    cut = segments_of(pattern, document)
    every = np.concatenate([matrices[:1], matrices])  # one of the first, two of the second
    found = document_sums(rows, shift, scale, cut, asked, every, 2)
    for one, sums in zip(asked, found, strict=True):
        kept = np.flatnonzero(pattern >> one.bit & 1)
        y = x[kept] - one.mean
        present = np.unique(document[kept])
        np.testing.assert_array_equal(sums.present, present)

        def by_document(
            values: np.ndarray, of: np.ndarray = document[kept], present: np.ndarray = present
        ) -> np.ndarray:
            return np.stack([values[of == each].sum(axis=0) for each in present])

        along = y @ one.line
        np.testing.assert_array_equal(sums.sizes, by_document(np.ones(len(kept))))
        np.testing.assert_allclose(sums.line, by_document(along), atol=1e-9 * unit)
        np.testing.assert_allclose(sums.line_squares, by_document(along**2), rtol=1e-9)
        np.testing.assert_allclose(sums.squares, by_document((y * y).sum(axis=1)), rtol=1e-6)
        size = float(np.abs(y).max()) * len(y)
        np.testing.assert_allclose(sums.further, by_document(y @ further.T), atol=1e-6 * size)
        forms = np.stack(
            [((y @ matrix) * y).sum(axis=1) for matrix in matrices[: one.matrices]], axis=1
        )
        size = float(np.square(y).sum())
        near = 1e-5 if cpu.has_int16() else 1e-6
        np.testing.assert_allclose(sums.forms, by_document(forms), atol=near * size)
        if one.by_row:
            np.testing.assert_allclose(sums.along, along, atol=1e-10 * unit)
        else:
            assert len(sums.along) == 0


DOCUMENT = np.arange(N) // 45 * 3 + 2


def layer_of(rows: Rows, with_documents: bool) -> SharedLayer:
    position, special = np.arange(N) % 45, np.arange(N) % 97 == 5
    document = DOCUMENT if with_documents else None
    layer = LayerRows(rows, rows.norms(), position, special, document)
    return SharedLayer(
        layer, [FILTERS[name] for name in FILTERS], settings_of(queries=50, pairs=200), 2
    )


def measured(shared: SharedLayer, name: str) -> tuple[Measurement, Any]:
    filtered = apply(FILTERS[name], shared.layer, 5.0)
    groups = np.unique(DOCUMENT[filtered.kept], return_inverse=True)[1]
    job = shared.job(filtered, groups)
    return measure_job(job), job


def rows_of(kind: str) -> Rows:
    x = token_like(N, 24)
    if kind == "zero rows":
        x[90:135] = 0.0  # a document of nothing else
        x[4] = 0.0
    elif kind == "duplicates":
        x = x[np.random.default_rng(1).integers(0, 300, N)]
    elif kind == "far":
        x += 1000.0
    return in_dtype(x, "float16" if kind == "float16" else "float32")


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sums by document also where there is little to do; how many matrices each product had."""
    counts: list[int] = []
    real = cpu.group_forms

    def counted(*given: Any) -> Any:
        counts.append(len(given[5]))
        return real(*given)

    monkeypatch.setattr("fastdim.moments.DIRECT_WORK", 0)
    monkeypatch.setattr("fastdim.sweeps.by_document.SEGMENT_ROWS", 1)
    monkeypatch.setattr("fastdim.backends.cpu.group_forms", counted)
    return counts


@pytest.mark.parametrize("kind", ["massive", "zero rows", "duplicates", "far", "float16"])
def test_errors_are_those_of_forms_of_every_row(kind: str, isa: str, summed: list[int]) -> None:
    rows = rows_of(kind)
    shared, plain = layer_of(rows, True), layer_of(rows, False)
    for name in FILTERS:
        found, job = measured(shared, name)
        expected, other = measured(plain, name)
        for one, true in zip(found.metrics, expected.metrics, strict=True):
            assert (one.name, one.status, one.reason) == (true.name, "ok", true.reason)
            assert one.value == pytest.approx(true.value, rel=1e-12, nan_ok=True)
            assert one.stderr == pytest.approx(true.stderr, rel=1e-3, abs=1e-12, nan_ok=True)
            assert one.lower == pytest.approx(true.lower, rel=1e-3, abs=1e-3, nan_ok=True)
        np.testing.assert_allclose(job.spectrum.row_share, other.spectrum.row_share, rtol=1e-6)
        for estimate in ("anisotropy", "participation_ratio", "effective_rank", "stable_rank"):
            parts = [each.spectrum.estimate(estimate).by_group for each in (job, other)]
            size = float(np.abs(parts[1]).max())
            np.testing.assert_allclose(parts[0], parts[1], atol=1e-3 * size)
            assert abs(float(parts[0].sum())) <= 1e-4 * size * len(parts[0])
        for estimate in ("mean_estimate", "std_estimate"):
            parts = [getattr(each.moments[0], estimate).by_group for each in (job, other)]
            np.testing.assert_allclose(parts[0], parts[1], atol=1e-3 * np.abs(parts[1]).max())
    # Two matrices a spectrum; of the directions one more for each set of rows that have one.
    kept = [apply(FILTERS[name], shared.layer, 5.0).kept for name in FILTERS]
    spectra = {each.tobytes() for each in kept[:3]}
    directions = {each[shared.inverse[each] > 0].tobytes() for each in kept}
    assert summed == [2 * len(spectra), 2 + len(directions)]


def test_a_filter_that_takes_out_a_row_of_another_order_of_size(summed: list[int]) -> None:
    """float32 does not hold both: the filter's errors come from forms of every row."""
    x = gaussian(N, 24)
    for size in (1e8, 1e15, 1e25):
        x[7] = size * np.ones(24)
        shared = layer_of(in_dtype(x, "float64"), True)
        found = measured(shared, "no_outliers")[0]
        expected = measured(layer_of(shared.rows, False), "no_outliers")[0]
        for one, true in zip(found.metrics, expected.metrics, strict=True):
            assert one.stderr == pytest.approx(true.stderr, rel=1e-3, nan_ok=True)
    assert len(summed) == 6


def test_a_layer_is_freed_when_it_is_done_with(summed: list[int]) -> None:
    shared = layer_of(rows_of("massive"), True)
    measured(shared, "all")
    assert summed
    gone = weakref.ref(shared)
    gc.disable()
    try:
        del shared
        assert gone() is None
    finally:
        gc.enable()


def test_rows_along_one_axis_take_forms_of_every_row(summed: list[int]) -> None:
    x = 1e-3 * gaussian(N, 24)
    x[:, 0] += np.random.default_rng(2).standard_normal(N)
    shared = layer_of(in_dtype(x, "float32"), True)
    found = measured(shared, "all")[0]
    expected = measured(layer_of(shared.rows, False), "all")[0]
    assert found.metrics[1].value > 0.9999
    for one, true in zip(found.metrics, expected.metrics, strict=True):
        assert one.stderr == pytest.approx(true.stderr, rel=1e-3, nan_ok=True)
    assert len(summed) == 1  # of the directions


@pytest.mark.parametrize(
    ("setting", "value"), [("SEGMENT_ROWS", 200), ("MATRIX_BYTES", 1), ("DIRECT_WORK", 1 << 28)]
)
def test_where_sums_by_document_do_not_pay(
    setting: str, value: int, summed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = "fastdim.moments" if setting == "DIRECT_WORK" else "fastdim.sweeps.by_document"
    monkeypatch.setattr(f"{home}.{setting}", value)
    found = measured(layer_of(rows_of("massive"), True), "all")[0]
    assert all(metric.status == "ok" for metric in found.metrics)
    assert summed == []


def test_rows_without_groups_are_independent_of_the_documents(summed: list[int]) -> None:
    shared = layer_of(rows_of("massive"), True)
    job = shared.job(apply(FILTERS["all"], shared.layer, 5.0), None)
    other = layer_of(shared.rows, False)
    alone = other.job(apply(FILTERS["all"], other.layer, 5.0), None)
    for one, true in zip(measure_job(job).metrics, measure_job(alone).metrics, strict=True):
        assert repr(replace(one, seconds=0.0)) == repr(replace(true, seconds=0.0))
    assert summed == []


def failing(real: Callable[..., Any], kept: int, error: Exception) -> Callable[..., Any]:
    def one(parts: Any, ids: Any = None, scale: Any = None) -> Any:
        if scale is None and parts.count == kept:
            raise error
        return real(parts, ids, scale)

    return one


def test_a_filter_that_fails_leaves_the_others(
    summed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = layer_of(rows_of("massive"), True)
    kept = len(apply(FILTERS["no_special"], shared.layer, 5.0).kept)
    error = np.linalg.LinAlgError("no convergence")
    monkeypatch.setattr(
        "fastdim.sweeps.shared.decompose_sums",
        failing(decompose_sums, kept, error),
    )
    status = {
        name: {metric.name: metric.status for metric in measured(shared, name)[0].metrics}
        for name in FILTERS
    }
    assert status["no_special"]["anisotropy"] == "failed"
    for name in ("all", "no_outliers", "normalized"):
        assert set(status[name].values()) == {"ok"}
    assert len(summed) == 2


def test_matrices_of_forms_are_their_sums_over_axes() -> None:
    shared = layer_of(rows_of("massive"), True)
    found = shared.decomposition(np.arange(N), False)
    weights = by_document.form_weights(found.eigenvalues)
    matrices = np.full((2, 24, 24), np.nan)
    by_document.form_matrices(found, matrices)
    for matrix, given in zip(matrices, weights, strict=True):
        expected = (found.axes.T * given) @ found.axes
        np.testing.assert_allclose(matrix, expected, atol=1e-13 * np.abs(given).max())
