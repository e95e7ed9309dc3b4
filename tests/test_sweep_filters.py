"""Token filters: which rows stay, in every dtype, with massive, zero and unknown rows."""

import numpy as np
import pytest
from conftest import gaussian, in_dtype

from fastdim.arrays import as_rows
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.sweeps.filters import FILTERS, LayerRows, apply, resolve_filters


def layer(x, position=None, special=None):
    rows = as_rows(x)
    return LayerRows(rows, rows.norms(), position, special)


@pytest.fixture
def x():
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    x[7] *= 100
    return x


def test_all_keeps_the_rows_themselves(x):
    given = layer(x)
    kept = apply(FILTERS["all"], given, 5.0)
    assert kept.rows is given.rows
    assert kept.n_removed == 0


def test_no_special_drops_special_tokens_and_first_positions(x):
    position = np.arange(50) % 10
    special = np.zeros(50, dtype=bool)
    special[[3, 9]] = True
    kept = apply(FILTERS["no_special"], layer(x, position, special), 5.0)
    expected = [i for i in range(50) if i % 10 and i not in (3, 9)]
    assert kept.kept.tolist() == expected
    assert np.array_equal(kept.rows.data, x[expected])


def test_no_outliers_compares_with_the_median_of_all_rows(x):
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    for factor in (1.2, 5.0):
        kept = apply(FILTERS["no_outliers"], layer(x), factor)
        assert kept.kept.tolist() == np.flatnonzero(norms <= factor * np.median(norms)).tolist()
        assert 7 not in kept.kept
        assert kept.n_removed == 50 - len(kept.kept)
    assert FILTERS["no_outliers"].stated(5.0).count("5 x the median")


@pytest.mark.parametrize("zero", [10, 25, 40])
def test_zero_rows_make_no_other_row_an_outlier(x, zero):
    x[10 : 10 + zero] = 0
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    kept = apply(FILTERS["no_outliers"], layer(x), 5.0)
    assert kept.kept.tolist() == [row for row in range(50) if row != 7]
    assert norms[7] > 5.0 * np.median(norms[norms > 0])
    everything = apply(FILTERS["no_outliers"], layer(np.zeros((4, 3), dtype=np.float32)), 5.0)
    assert everything.n_removed == 0


def test_norms_of_float16_rows_do_not_overflow(x):
    big = np.full((50, 8), 3e4, dtype=np.float16)
    big[0] = 6e4
    kept = apply(FILTERS["no_outliers"], layer(big), 1.5)
    assert kept.kept.tolist() == list(range(1, 50))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normalized_rows_have_norm_one_and_zero_rows_go(x, dtype):
    x = x.astype(dtype)
    x[[0, 11]] = 0
    kept = apply(FILTERS["normalized"], layer(x), 5.0)
    assert kept.n_removed == 2
    assert kept.rows.dtype == "float32"
    true = x[kept.kept].astype(np.float64)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    assert np.abs(kept.rows.data - true).max() < 1e-7


def test_normalizing_in_blocks_reads_the_right_rows(monkeypatch, x):
    monkeypatch.setattr("fastdim.arrays.BLOCK_BYTES", 7 * 8 * 8)
    x[[0, 6, 7, 30]] = 0
    kept = apply(FILTERS["normalized"], layer(x), 5.0)
    true = np.delete(x, [0, 6, 7, 30], axis=0).astype(np.float64)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    assert np.abs(kept.rows.data - true).max() < 1e-7


def test_a_filter_that_leaves_nothing_says_so():
    with pytest.raises(InputError, match="filter normalized leaves no row of 4"):
        apply(FILTERS["normalized"], layer(np.zeros((4, 3), dtype=np.float32)), 5.0)


def test_names_are_checked():
    assert [f.name for f in resolve_filters(None, tokens=True)] == list(FILTERS)
    assert "no_special" not in [f.name for f in resolve_filters(None, tokens=False)]
    assert [f.name for f in resolve_filters(["normalized", "all"], tokens=True)] == [
        "normalized",
        "all",
    ]
    with pytest.raises(InputError, match=r"unknown filter 'some'; there are: all, no_special"):
        resolve_filters(["some"], tokens=True)
    with pytest.raises(InputError, match="once each"):
        resolve_filters(["all", "all"], tokens=True)
    with pytest.raises(InputError, match="no_special needs token ids"):
        resolve_filters(["no_special"], tokens=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rows_divided_by_numbers_of_their_own(isa, dtype):
    rows = in_dtype(gaussian(300, 13) * 1e3, dtype)
    divisors = rows.norms() * np.linspace(0.5, 2.0, 300)
    ids = np.arange(1, 300, 3)
    found = cpu.divided(rows, ids, divisors, 2)
    expected = (rows.float64(0, 300) / divisors[:, None])[ids].astype(np.float32)
    assert found.dtype == "float32"
    assert np.array_equal(found.data, expected)
    with pytest.raises(ValueError, match="outside the matrix"):
        cpu.divided(rows, np.array([300]), divisors, 1)
