"""What all estimators share: the protocol of scikit-dimension's classes over our functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import TransformerTags
from sklearn.utils.validation import check_is_fitted

from fastdim.arrays import Rows, whole_number, yes_or_no
from fastdim.backends.blas import one_blas_thread
from fastdim.compat import from_arrays
from fastdim.errors import InputError
from fastdim.estimate import Estimate, check_confidence
from fastdim.neighbors import Neighbors, knn
from fastdim.sklearn.inputs import rows_of, seed_of, threads_of

Array = NDArray[np.float64]

# Attributes that fit_pw sets itself.
OF_ROWS = ("dimension_pw_", "dimension_pw_smooth_", "n_features_in_", "feature_names_in_")

_ONE_NUMBER = "one number describes the whole set: transform gives that, as in scikit-dimension"
EXPECTED_FAILED_CHECKS = {
    "check_methods_subset_invariance": "the dimension of a part is not that of the whole",
    "check_methods_sample_order_invariance": _ONE_NUMBER,
    "check_transformer_general": _ONE_NUMBER,
    "check_transformer_data_not_an_array": _ONE_NUMBER,
}


class DimensionEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A dimension of rows X (n, d): `fit`, then `dimension_`.

    confidence: level of `interval_`. n_jobs: threads, None for FASTDIM_NUM_THREADS, else all CPUs;
    the result is the same for any. random_state: seeds what is resampled, so the same rows give the
    same numbers; None draws a new seed.

    Attributes once fitted: dimension_; interval_ (lower, upper) and stderr_; n_distinct_, distinct
    rows, None where they are not counted; estimate_, the `fastdim.Estimate` of all of that;
    n_features_in_. Those of an earlier fit are dropped, by fit_pw where its rows have another
    shape; a refused fit leaves the estimator unfitted.
    """

    confidence: float
    n_jobs: int | None
    random_state: Any
    dimension_pw_: Array
    dimension_pw_smooth_: Array

    def transform(self, X: Any = None) -> float:
        """dimension_ of the fitted rows; X is checked for its columns and otherwise not used."""
        check_is_fitted(self, "dimension_")
        if X is not None:
            rows_of(self, X, min_rows=1, min_columns=1, reset=False)
        return float(self.dimension_)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> float:
        """`fit`, then dimension_."""
        return float(self.fit(X, y, **fit_params).dimension_)

    def fit_predict(self, X: Any, y: Any = None, **fit_params: Any) -> float:
        """`fit`, then dimension_."""
        return self.fit_transform(X, y, **fit_params)

    def transform_pw(self, X: Any = None) -> Array | tuple[Array, Array]:
        """dimension_pw_ (n,), with dimension_pw_smooth_ where that was asked for; X is not used."""
        check_is_fitted(self, "dimension_pw_")
        if hasattr(self, "dimension_pw_smooth_"):
            return self.dimension_pw_, self.dimension_pw_smooth_
        return self.dimension_pw_

    def _keep(self, estimate: Estimate) -> None:
        self.estimate_ = estimate
        self.dimension_ = estimate.value
        self.interval_ = (estimate.lower, estimate.upper)
        self.stderr_ = estimate.stderr
        self.n_distinct_ = estimate.n_distinct

    def _keep_pointwise(self, values: Array, smooth: Array | None) -> None:
        self.dimension_pw_ = values
        if smooth is not None:
            self.dimension_pw_smooth_ = smooth

    def _common(self) -> dict[str, Any]:
        """Arguments that every function takes."""
        return {"confidence": self.confidence, "threads": threads_of(self.n_jobs)}

    def _seed(self) -> int:
        return seed_of(self.random_state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=[])
        return tags


class GlobalEstimator(DimensionEstimator, ABC):
    """One number of all rows; `fit_pw` gives that of the neighbourhood of every row.

    Neighbourhoods of `fit_pw` are the n_neighbors rows nearest to a row, without it.
    """

    def fit(self, X: Any, y: Any = None) -> GlobalEstimator:
        """Estimate from the rows X (n, d); y is ignored.

        Raises ValueError (InputError is one) as the function that the class names.
        """
        with fitting(self):
            self._keep(self._estimate(rows_of(self, X)))
        return self

    def fit_pw(
        self,
        X: Any,
        precomputed_knn: Any = None,
        smooth: bool = False,
        n_neighbors: int = 100,
        n_jobs: int | None = None,
    ) -> GlobalEstimator:
        """dimension_pw_ (n,): the estimate from the neighbourhood of every row.

        precomputed_knn: (n, k) numbers of the neighbours, n_neighbors is then not read. smooth:
        dimension_pw_smooth_ too, the mean of a row's own value and its neighbours'. n_jobs: of
        the search for neighbours, in place of the constructor's; the rest runs on one thread.
        What `fit` found of rows of the same shape stays.
        Raises InputError, with the row, where a neighbourhood is refused.
        """
        before = {name: vars(self)[name] for name in fitted(self) if name not in OF_ROWS}
        shape = "estimate_" in before and (self.estimate_.n_points, self.n_features_in_)
        with fitting(self):
            rows = rows_of(self, X)
            check_confidence(self.confidence)  # not read below, and refused as by fit
            smooth = yes_or_no("smooth", smooth)
            if precomputed_knn is None:
                threads = threads_of(self.n_jobs if n_jobs is None else n_jobs)
                near = knn(rows, n_neighbors, threads=threads).indices
            else:
                near = check_indices(precomputed_knn, rows.n)
            values = self._values(rows, near)
            self._keep_pointwise(values, smoothed(values, near) if smooth else None)
            if shape == (rows.n, rows.d):
                self.__dict__.update(before)
        return self

    def _values(self, rows: Rows, near: NDArray[np.int64]) -> Array:
        """The number (n,) of the neighbourhood of every row."""
        # Side by side, too, neighbourhoods take longer than in turn: each is a few milliseconds of
        # small arrays, during which Python runs one thread (2 threads: 1.1 to 1.7 times as long).
        patient = clone(self).set_params(n_jobs=1)
        values = np.empty(rows.n)
        with one_blas_thread():
            for row, patch in enumerate(near):
                try:
                    values[row] = patient._value(rows.take(patch))
                except InputError as error:
                    raise InputError(f"the neighbourhood of row {row}: {error}") from error
        return values

    def fit_transform_pw(
        self,
        X: Any,
        precomputed_knn: Any = None,
        smooth: bool = False,
        n_neighbors: int = 100,
        n_jobs: int | None = None,
    ) -> Array | tuple[Array, Array]:
        """`fit_pw`, then dimension_pw_, with dimension_pw_smooth_ where asked for."""
        return self.fit_pw(X, precomputed_knn, smooth, n_neighbors, n_jobs).transform_pw()

    @abstractmethod
    def _estimate(self, rows: Any) -> Estimate:
        """The function that the class names, of rows."""

    def _value(self, rows: Rows) -> float:
        """The number alone, where an interval costs more than it."""
        return self._estimate(rows).value


class NeighborsEstimator(GlobalEstimator):
    """A global estimator that needs no more than neighbours, or takes them where known."""

    def fit(self, X: Any, y: Any = None, precomputed_knn_arrays: Any = None) -> NeighborsEstimator:
        """Estimate from the rows X (n, d); y is ignored.

        precomputed_knn_arrays: (distances, indices), each (n, k), of these rows without the row
        itself, or `fastdim.Neighbors`: one search then serves many estimators.

        Raises ValueError (InputError is one) as the function that the class names.
        """
        with fitting(self):
            rows = rows_of(self, X)
            if precomputed_knn_arrays is None:
                self._keep(self._estimate(rows))
            else:
                near = neighbors_of(precomputed_knn_arrays, rows.n)
                self._keep(self._estimate_of(rows, near))
        return self

    def _estimate_of(self, rows: Rows, neighbors: Neighbors) -> Estimate:
        """From rows and their neighbours; of neighbours alone unless overridden."""
        return self._estimate(neighbors)


@contextmanager
def fitting(estimator: Any) -> Iterator[None]:
    """What an earlier fit found is dropped, and what this one does where it is refused: numbers of
    other rows or of another setting are never read as this fit's.
    """
    _forget(estimator)
    try:
        yield
    except BaseException:
        _forget(estimator)
        raise


def _forget(estimator: Any) -> None:
    """Drop fitted attributes: of scikit-learn's convention, and the transformer's private ones."""
    for name in fitted(estimator):
        delattr(estimator, name)


def fitted(estimator: Any) -> list[str]:
    """Names of these attributes."""
    private = ("_rows", "_n_features_out")
    return [n for n in vars(estimator) if n in private or (n[-1] == "_" and n[0] != "_")]


def smoothed(values: Array, near: NDArray[np.int64]) -> Array:
    """Mean of each row's value and those of its neighbours (n, k), as scikit-dimension smooths."""
    return np.asarray(np.column_stack([values, values[near]]).mean(axis=1))


def neighbors_of(precomputed: Any, n: int) -> Neighbors:
    """Neighbors of n rows, from themselves or from (distances, indices)."""
    if isinstance(precomputed, Neighbors):
        found = precomputed
    elif isinstance(precomputed, (tuple, list)) and len(precomputed) == 2:
        found = from_arrays(*precomputed)
    else:
        raise InputError(
            "precomputed_knn_arrays must be (distances, indices) or what fastdim.knn() returns, "
            f"got {type(precomputed).__name__}"
        )
    if found.n_points != n:
        raise InputError(f"the neighbours passed are of {found.n_points} rows, and X has {n}")
    return found


def check_indices(precomputed: Any, n: int) -> NDArray[np.int64]:
    """Row numbers (n, k) of neighbourhoods, or one clear error."""
    near = np.asarray(precomputed)
    if near.ndim != 2 or len(near) != n or near.dtype.kind not in "iu" or near.shape[1] < 1:
        raise InputError(
            f"precomputed_knn must hold row numbers, shape ({n}, k); got {near.dtype} of shape "
            f"{near.shape}"
        )
    if int(near.min()) < 0 or int(near.max()) >= n:
        raise InputError(
            f"precomputed_knn must lie in 0..{n - 1}, got {int(near.min())}..{int(near.max())}"
        )
    whole_number("neighbours of precomputed_knn", near.shape[1], 2)
    return near.astype(np.int64)
