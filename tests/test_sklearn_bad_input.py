"""Parameters of fastdim.sklearn's classes that are none: one InputError, at fit, of that class.

tests/test_faces_bad_input.py has the rows, neighbours and options that all classes share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian
from sklearn.base import clone

import fastdim
from fastdim import InputError, knn
from fastdim import sklearn as ours

X = gaussian(60, 4)
BOTH = np.array([True, False])


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (ours.KNN(ps=50), "ps must be a list of values, got 50"),
        (ours.KNN(ps="50"), "ps must be a list of values"),
        (ours.KNN(ps=np.arange(20, 60, 5)[None]), "ps must be a list of values"),
        (ours.PH(n_range_min="a", n_range_max=1.0), "n_range_min must be a number, got 'a'"),
        (ours.PH(n_range_min=0.5, n_range_max=[1.0]), "n_range_max must be a number"),
        (ours.PH(n_range_min=np.array([0.1, 0.2]), n_range_max=1.0), "n_range_min must be a num"),
        (ours.PH(alpha=[0.5, 1.0]), "alpha must be a number"),
        (ours.lPCA(ver=["FO"]), r"ver must be one of FO, .*got \['FO'\]"),
        (ours.lPCA(ver=None), "ver must be one of"),
        (ours.lPCA(center=BOTH), "center must be True or False"),
        (ours.FisherS(alphas=[[0.5], [0.6, 0.7]]), "alphas must be one list .* ragged"),
        (ours.FisherS(alphas="abc"), "alphas must be a number, got 'abc'"),
        (ours.MLE(smooth=np.array([0.5, 0.6])), "smooth must be True or False"),
        (ours.TLE(smooth=BOTH), "smooth must be True or False"),
        (ours.MLE(unbiased=BOTH), "unbiased must be True or False"),
        (ours.GRIDE(multiscale=BOTH), "multiscale must be True or False"),
        (ours.TwoNN(dist=BOTH), "dist must be True or False"),
        (ours.KNeighborsTransformer(symmetric=BOTH), "symmetric must be True or False"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_a_parameter_that_is_none(estimator: Any, message: str) -> None:
    """It is looked at when rows come, so that clone and set_params take anything."""
    with pytest.raises(InputError, match=message):
        clone(estimator, safe=True).fit(X)


def test_smooth_of_a_call() -> None:
    for estimator in (ours.TwoNN(), ours.MLE()):
        with pytest.raises(InputError, match="smooth must be True or False"):
            estimator.fit_pw(X, n_neighbors=30, smooth=BOTH)
    with pytest.raises(InputError, match="dist must be True or False"):
        ours.TwoNN(dist=BOTH).fit_pw(X, n_neighbors=30)


def test_forms_that_are_taken() -> None:
    sizes = [20, 30, 60]
    for ps in (np.array(sizes), torch.tensor(sizes), tuple(sizes)):
        found = ours.KNN(ps=ps).fit(X)
        assert found.dimension_ == ours.KNN(ps=sizes).fit(X).dimension_
    alphas = torch.tensor([[0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    expected = ours.FisherS(alphas=[0.4, 0.6]).fit(X)
    assert ours.FisherS(alphas=alphas).fit(X).dimension_ == expected.dimension_
    assert ours.MLE(smooth=np.True_).fit(X).dimension_pw_smooth_.shape == (60,)


@pytest.mark.parametrize("rows", [X[:2], np.concatenate([X[:1], X[:1], X[1:2]])])
def test_lpca_of_rows_too_few_to_leave_one_out(rows: np.ndarray) -> None:
    """jackknife is an argument of the function, not of the class; its advice is then true."""
    advice = r"more rows, or fastdim\.lpca\(X, ver, jackknife=0\) for the number alone"
    with pytest.raises(InputError, match=advice):
        ours.lPCA().fit(rows)
    assert fastdim.lpca(rows, "FO", jackknife=0).value == 1.0


def test_distances_of_rows_that_have_an_equal() -> None:
    """Advice that distances alone allow: leave them out, as scikit-dimension does."""
    pair = knn(X, 2).distances
    with pytest.raises(InputError, match=r"2 of 62 rows .* at distance 0.*leave them out"):
        ours.TwoNN(dist=True).fit(np.concatenate([pair, [[0.0, 1.0], [0.0, 0.0]]]))
    copied = np.concatenate([X, X[:2]])
    distinct = knn(copied, 2, duplicates="collapse").distances
    found = ours.TwoNN(dist=True).fit(distinct).dimension_
    assert found == ours.TwoNN().fit(copied).dimension_
