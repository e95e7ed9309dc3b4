"""fastdim.sklearn: what a fit leaves on an estimator is of that fit alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import gaussian
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from fastdim import InputError
from fastdim import sklearn as ours

A, B = gaussian(80, 4), gaussian(70, 6, seed=2)
EQUAL = np.ones((20, 3))


def fitted(estimator: Any) -> set[str]:
    """Names of what a fit left, the transformer's private ones too."""
    return set(vars(estimator)) - set(estimator.get_params())


def test_scales_are_dropped() -> None:
    found = ours.GRIDE(multiscale=True).fit(A)
    assert {"scales_", "dimension_scales_", "error_scales_", "radius_scales_"} <= fitted(found)
    found.set_params(multiscale=False).fit(B)
    assert fitted(found) == fitted(ours.GRIDE().fit(B))
    assert found.dimension_ == ours.GRIDE().fit(B).dimension_


def test_pointwise_values_are_dropped() -> None:
    found = ours.TwoNN().fit_pw(A, n_neighbors=40, smooth=True).fit(B)
    assert fitted(found) == fitted(ours.TwoNN().fit(B))
    with pytest.raises(NotFittedError):
        found.transform_pw()
    found.fit_pw(A, n_neighbors=40)
    assert fitted(found) == {"dimension_pw_", "n_features_in_"}
    with pytest.raises(NotFittedError):
        found.transform()
    assert isinstance(found.transform_pw(), np.ndarray)


def test_pointwise_values_stand_beside_the_dimension_of_the_same_rows() -> None:
    """As in scikit-dimension, where both calls are made on one estimator."""
    found = ours.GRIDE(multiscale=True).fit(A)
    whole = {name: vars(found)[name] for name in fitted(found)}
    found.fit_pw(pd.DataFrame(A, columns=list("abcd")), n_neighbors=40)
    assert fitted(found) == set(whole) | {"dimension_pw_", "feature_names_in_"}
    assert found.dimension_ == whole["dimension_"]
    assert found.dimension_scales_ is whole["dimension_scales_"]
    assert "dimension_pw_" not in fitted(found.fit(A))


def test_names_of_columns_are_dropped() -> None:
    found = ours.MLE().fit(pd.DataFrame(A, columns=list("abcd")))
    assert list(found.feature_names_in_) == list("abcd")
    assert "feature_names_in_" not in fitted(found.fit(A))


@pytest.mark.parametrize(
    "estimator",
    [ours.TwoNN(), ours.MLE(smooth=True), ours.GRIDE(multiscale=True), ours.lPCA(), ours.PH()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("call", ["fit", "fit_pw", "fit_transform"])
def test_a_refused_fit_leaves_it_unfitted(estimator: Any, call: str) -> None:
    estimator.fit(A)
    with pytest.raises(InputError):
        getattr(estimator, call)(EQUAL)
    assert fitted(estimator) == set()
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    for read in (estimator.transform, estimator.transform_pw):
        with pytest.raises(NotFittedError):
            read()
    estimator.fit(A)
    assert estimator.transform(A) == estimator.dimension_


def test_a_fit_refused_for_its_parameters_leaves_it_unfitted() -> None:
    found = ours.TwoNN().fit(A).set_params(method="map")
    with pytest.raises(InputError, match="method"):
        found.fit(B)
    assert fitted(found) == set()
    with pytest.raises(InputError, match="neighbourhood of row 0"):
        found.set_params(method="linear").fit_pw(A, precomputed_knn=np.ones((80, 5), dtype=int))
    assert fitted(found) == set()


def test_the_transformer_forgets_too() -> None:
    graph = ours.KNeighborsTransformer(n_neighbors=3).set_output(transform="default").fit(A)
    assert graph.get_feature_names_out().shape == (80,)
    with pytest.raises(InputError, match="n_neighbors"):
        graph.set_params(n_neighbors=0).fit(B)
    for read in (lambda: graph.transform(A), graph.get_feature_names_out):
        with pytest.raises(NotFittedError):
            read()
    assert fitted(graph) == {"_sklearn_output_config"}
    assert graph.set_params(n_neighbors=3).fit(B).transform(B).shape == (70, 70)
