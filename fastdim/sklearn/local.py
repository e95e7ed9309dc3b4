"""Estimators of one number a row, combined to one of all: MLE, MOM, MADA, TLE, ESS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, one_of, whole_number, yes_or_no
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimators import mle, tle
from fastdim.estimators.ess import VERSIONS, ess_shared
from fastdim.estimators.inputs import Sharing, average_of, neighbors_of
from fastdim.estimators.local import MOM_SHARING, mada_local, mada_sharing, mom_local
from fastdim.estimators.mle import inverse_mle
from fastdim.estimators.tle import tle_local
from fastdim.neighbors import Neighbors, find_distinct
from fastdim.sklearn import base
from fastdim.sklearn.base import Array, DimensionEstimator
from fastdim.sklearn.inputs import rows_of, threads_of


class Local(NamedTuple):
    """Local dimensions (m,) of the query rows, and the factors that `average_of` takes."""

    values: Array
    sharing: Sharing


class LocalEstimator(DimensionEstimator, ABC):
    """A dimension around every row from its n_neighbors nearest distinct rows, and one of all.

    n_neighbors: None for the class's own. comb: "mean", "median" or "hmean", 1 / mean(1/d). smooth:
    `dimension_pw_smooth_` too, the mean of a row's own value and its neighbours'. Each may also be
    given to `fit`, as in scikit-dimension, and then stands in place of the constructor's.

    Attributes besides those of all: dimension_pw_ (n,), that of its first equal for a repeated row;
    dimension_pw_smooth_; n_neighbors_; comb_.
    """

    n_neighbors: int | None
    comb: str
    smooth: bool

    _N_NEIGHBORS = 20
    _LEAST = 2
    _COMBS: ClassVar[dict[str, str]] = {"mean": "mean", "median": "median", "hmean": "harmonic"}

    def __init__(
        self,
        *,
        n_neighbors: int | None = None,
        comb: str = "mean",
        smooth: bool = False,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.comb = comb
        self.smooth = smooth
        self.confidence = confidence
        self.n_jobs = n_jobs

    def fit(
        self,
        X: Any,
        y: Any = None,
        precomputed_knn_arrays: Any = None,
        smooth: bool | None = None,
        n_neighbors: int | None = None,
        comb: str | None = None,
        n_jobs: int | None = None,
    ) -> LocalEstimator:
        """Estimate from the rows X (n, d); y is ignored.

        precomputed_knn_arrays: (distances, indices), each (n, k), of these rows without the row
        itself, or `fastdim.Neighbors`; all k are used unless n_neighbors is given.

        Raises ValueError (InputError is one) on bad values and where n_neighbors is not below the
        number of distinct rows: it is never cut.
        """
        with base.fitting(self):
            rows = rows_of(self, X)
            comb = self.comb if comb is None else comb
            one_of("comb", comb, self._COMBS)
            smooth = yes_or_no("smooth", self.smooth if smooth is None else smooth)
            wanted = self.n_neighbors if n_neighbors is None else n_neighbors
            given: Any = rows
            if precomputed_knn_arrays is not None:
                given = base.neighbors_of(precomputed_knn_arrays, rows.n)
                wanted = given.k if wanted is None else wanted
            k = whole_number(
                "n_neighbors", self._N_NEIGHBORS if wanted is None else wanted, self._LEAST
            )
            threads = cpu.resolve_threads(threads_of(self.n_jobs if n_jobs is None else n_jobs))
            name = type(self).__name__
            found = neighbors_of(given, k, name, threads=threads)
            place = places(rows, found, name, threads)
            values, sharing = self._local(rows, found, threads)
            label = f"{name}, k = {k}"
            average = self._COMBS[comb]
            self._keep(average_of(values, average, found, label, self.confidence, sharing))
            each = values[place]
            around = found.indices[place]
            self._keep_pointwise(each, base.smoothed(each, around) if smooth else None)
            self.n_neighbors_, self.comb_ = k, comb
        return self

    def fit_pw(
        self,
        X: Any,
        precomputed_knn_arrays: Any = None,
        smooth: bool | None = None,
        n_neighbors: int | None = None,
        n_jobs: int | None = None,
    ) -> LocalEstimator:
        """As `fit`, which keeps the values of every row anyway."""
        return self.fit(X, None, precomputed_knn_arrays, smooth, n_neighbors, None, n_jobs)

    def fit_transform_pw(
        self,
        X: Any,
        precomputed_knn_arrays: Any = None,
        smooth: bool | None = None,
        n_neighbors: int | None = None,
        n_jobs: int | None = None,
    ) -> Array | tuple[Array, Array]:
        """`fit_pw`, then dimension_pw_, with dimension_pw_smooth_ where asked for."""
        self.fit_pw(X, precomputed_knn_arrays, smooth, n_neighbors, n_jobs)
        return self.transform_pw()

    @abstractmethod
    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        """Of the query rows, whose neighbours are found."""


class MLE(LocalEstimator):
    """`fastdim.levina_bickel`: Levina & Bickel 2004, combined as MacKay & Ghahramani 2005.

    unbiased: k - 2 in place of k - 1, meant for comb="mean". comb: "mle" is scikit-dimension's
    name of "hmean" and the default, also of `fit_transform` (there it is "mean").
    """

    _COMBS: ClassVar[dict[str, str]] = {"mle": "harmonic", **LocalEstimator._COMBS}

    def __init__(
        self,
        *,
        unbiased: bool = False,
        n_neighbors: int | None = None,
        comb: str = "mle",
        smooth: bool = False,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            n_neighbors=n_neighbors, comb=comb, smooth=smooth, confidence=confidence, n_jobs=n_jobs
        )
        self.unbiased = unbiased

    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        unbiased = yes_or_no("unbiased", self.unbiased)
        whole_number("n_neighbors", found.distances.shape[1], 3 if unbiased else 2)
        with np.errstate(divide="ignore"):
            values = 1.0 / inverse_mle(found.distances, found.k, unbiased)
        return Local(values, mle.SHARING)


class MOM(LocalEstimator):
    """`fastdim.mom`: the method of moments (Amsaleg et al. 2018)."""

    _N_NEIGHBORS = 100

    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        return Local(mom_local(found.distances), MOM_SHARING)


class MADA(LocalEstimator):
    """`fastdim.mada`: the manifold-adaptive dimension (Farahmand et al. 2007).

    At odd n_neighbors log(k / (k // 2)) where scikit-dimension has log 2.
    """

    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        return Local(mada_local(found.distances), mada_sharing(found.k))


class TLE(LocalEstimator):
    """`fastdim.tle`: the tight local estimator (Amsaleg et al. 2019).

    Measurements below 1e-4 of the radius are dropped; scikit-dimension's epsilon is in the unit of
    X.
    """

    _LEAST = 3

    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        return Local(tle_local(rows, found, threads), tle.SHARING)


class ESS(LocalEstimator):
    """`fastdim.ess`: expected simplex skewness (Johnsson et al. 2015), ver "a" or "b", d = 1.

    All pairs of neighbours are used, where scikit-dimension draws 5,000 of them.
    """

    _N_NEIGHBORS = 100
    _LEAST = 3

    def __init__(
        self,
        ver: str = "a",
        *,
        n_neighbors: int | None = None,
        comb: str = "mean",
        smooth: bool = False,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            n_neighbors=n_neighbors, comb=comb, smooth=smooth, confidence=confidence, n_jobs=n_jobs
        )
        self.ver = ver

    def _local(self, rows: Rows, found: Neighbors, threads: int) -> Local:
        if not isinstance(self.ver, str) or self.ver not in VERSIONS:
            raise InputError(f"ver must be 'a' or 'b', got {self.ver!r}")
        values, sharing = ess_shared(rows, found, self.ver, threads)
        return Local(values, sharing)


def places(rows: Rows, found: Neighbors, name: str, threads: int) -> NDArray[np.int64]:
    """Place (n,) of every row among the query rows, equal rows at the same."""
    groups = find_distinct(rows, threads)
    if not np.array_equal(found.queries, groups.first):
        raise InputError(
            f"{name} gives one number a row: pass the neighbours of every distinct row of X, from "
            "fastdim.knn(X, k, duplicates='collapse')"
        )
    return groups.inverse
