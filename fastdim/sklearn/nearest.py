"""Estimators from neighbours: TwoNN, MiND_ML, GRIDE, ABIDE, GeoMLE, DANCo."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdim.arrays import Rows, one_of, whole_number, yes_or_no
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators import danco as angles
from fastdim.estimators import twonn as pairs
from fastdim.estimators.abide import abide
from fastdim.estimators.geomle import curve_of, geomle
from fastdim.estimators.gride import gride, gride_scales
from fastdim.estimators.inputs import rows_and_neighbors
from fastdim.estimators.mind import mind_ml
from fastdim.neighbors import Neighbors, find_distinct
from fastdim.sklearn.base import NeighborsEstimator
from fastdim.sklearn.inputs import threads_of

METHODS = {"linear": "linear", "mle": "censored", "bayes": "bayes"}


class TwoNN(NeighborsEstimator):
    """`fastdim.twonn`: the ratio of the two nearest distances (Facco et al. 2017).

    discard_fraction: share of the largest ratios left out of the fit. dist: X is (n, 2), the
    distances r1 <= r2 of every row. method: "linear", scikit-dimension's default; "mle", unbiased,
    the discarded ratios censored, which `fastdim.twonn` calls "censored" and has for its default;
    "bayes". interval: "robust", or for "mle" and "bayes" "ideal".

    Repeated rows count once; scikit-dimension drops rows whose nearest is at distance 0.
    """

    def __init__(
        self,
        discard_fraction: float = 0.1,
        dist: bool = False,
        method: str = "linear",
        *,
        interval: str = "robust",
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.discard_fraction = discard_fraction
        self.dist = dist
        self.method = method
        self.interval = interval
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        if yes_or_no("dist", self.dist) and isinstance(rows, Rows):
            rows = of_distances(rows)
        return pairs.twonn(
            rows,
            discard_fraction=self.discard_fraction,
            method=self._method(),
            interval=self.interval,
            seed=self._seed(),
            **self._common(),
        )

    def _value(self, rows: Rows) -> float:
        if yes_or_no("dist", self.dist):
            raise InputError("fit_pw searches neighbourhoods: it needs rows, so leave dist=False")
        workers = cpu.resolve_threads(threads_of(self.n_jobs))
        found = pairs.search_pairs(rows, None, find_distinct(rows, workers), workers, 0)
        plan = pairs.resolve(self._method(), None, self.discard_fraction)
        return pairs.point(found, plan, 0)[0]

    def _method(self) -> str:
        one_of("method", self.method, METHODS)
        return METHODS[self.method]


class MiND_ML(NeighborsEstimator):
    """`fastdim.mind_ml`: the nearest of k neighbours relative to the next (Rozza et al. 2012).

    k: neighbours. D: the largest dimension, None for no bound. ver: "MLk", real, or "MLi", whole.
    """

    def __init__(
        self,
        k: int = 20,
        D: int | None = 10,
        ver: str = "MLk",
        *,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.k = k
        self.D = D
        self.ver = ver
        self.confidence = confidence
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return mind_ml(rows, self.k, version=self.ver, largest=self.D, **self._common())


class GRIDE(NeighborsEstimator):
    """`fastdim.gride`: r_n2 / r_n1 by likelihood (Denti et al. 2022).

    n1, n2: orders of the neighbours, n2 = 2 n1 if None. multiscale: also n1 = 1, 2, 4, ... while
    2 n1 <= range_max and below the number of distinct rows, into scales_, dimension_scales_,
    error_scales_ (standard errors) and radius_scales_ (mean distance to n2). compat: "skdim" for
    scikit-dimension's definition at every scale, N - 1 in place of N and large ratios dropped,
    "dadapy" for DADApy's; None for the paper's.
    """

    def __init__(
        self,
        n1: int = 1,
        n2: int | None = None,
        multiscale: bool = False,
        range_max: int = 64,
        *,
        compat: str | None = None,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.n1 = n1
        self.n2 = n2
        self.multiscale = multiscale
        self.range_max = range_max
        self.compat = compat
        self.confidence = confidence
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        multiscale = yes_or_no("multiscale", self.multiscale)
        found = gride(rows, self.n1, self.n2, compat=self.compat, **self._common())
        if multiscale:
            room = (found.n_distinct or found.n_points) - 1
            if isinstance(rows, Neighbors):
                room = rows.k
            most = min(whole_number("range_max", self.range_max, 2), room)
            largest = 1 << ((most // 2).bit_length() - 1)
            curve = gride_scales(rows, largest, compat=self.compat, **self._common())
            self.scales_ = curve.n1
            self.dimension_scales_ = curve.values
            self.error_scales_ = np.array([scale.stderr for scale in curve.estimates])
            self.radius_scales_ = curve.distance
        return found

    def _value(self, rows: Rows) -> float:
        return gride(rows, self.n1, self.n2, compat=self.compat, **self._common()).value


class ABIDE(NeighborsEstimator):
    """`fastdim.abide`: the scale each row allows (Di Noia et al. 2024); parameters as there."""

    def __init__(
        self,
        k_max: int = 100,
        *,
        level: float = 1e-6,
        start: float | None = None,
        iterations: int = 20,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.k_max = k_max
        self.level = level
        self.start = start
        self.iterations = iterations
        self.confidence = confidence
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return abide(
            rows,
            self.k_max,
            level=self.level,
            start=self.start,
            iterations=self.iterations,
            **self._common(),
        )


class GeoMLE(NeighborsEstimator):
    """`fastdim.geomle`: extrapolated to radius 0 (Gomtsyan et al. 2019); parameters as there."""

    def __init__(
        self,
        k1: int = 10,
        k2: int = 40,
        *,
        degree: int = 2,
        ridge: float = 5e-3,
        bootstraps: int = 40,
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.k1 = k1
        self.k2 = k2
        self.degree = degree
        self.ridge = ridge
        self.bootstraps = bootstraps
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return geomle(rows, self.k1, self.k2, confidence=self.confidence, **self._options())

    def _value(self, rows: Rows) -> float:
        return curve_of(rows, self.k1, self.k2, **self._options()).value()

    def _options(self) -> dict[str, Any]:
        return {
            "degree": self.degree,
            "ridge": self.ridge,
            "bootstraps": self.bootstraps,
            "seed": self._seed(),
            "threads": threads_of(self.n_jobs),
        }


class DANCo(NeighborsEstimator):
    """`fastdim.danco`: norms and angles against balls (Ceruti et al. 2014).

    k: neighbours. D: dimensions tried at most, None for the columns of X. The value is real (what
    scikit-dimension calls fractal); it is random in both packages and agrees within its error.
    """

    def __init__(
        self,
        k: int = 10,
        D: int | None = None,
        *,
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.k = k
        self.D = D
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return angles.danco(rows, self.k, largest=self.D, seed=self._seed(), **self._common())

    def _estimate_of(self, rows: Rows, neighbors: Neighbors) -> Estimate:
        return angles.danco(
            rows,
            self.k,
            largest=self.D,
            neighbors=neighbors,
            seed=self._seed(),
            **self._common(),
        )

    def _value(self, rows: Rows) -> float:
        k, threads = whole_number("k", self.k, 2), threads_of(self.n_jobs)
        _, found = rows_and_neighbors(rows, k + 1, "danco", None, None, 0, threads)
        return angles.point(rows, found, k, self.D, self._seed())[2]


def of_distances(rows: Rows) -> Neighbors:
    """Neighbors of distances r1 <= r2 (n, 2) alone; nothing may read their indices."""
    values = rows.float64(0, rows.n)
    if rows.d != 2 or not ((values[:, 0] >= 0.0) & (values[:, 0] <= values[:, 1])).all():
        raise InputError(
            "dist=True needs X of shape (n, 2): 0 <= distance to the first <= to the second"
        )
    equal = int((values[:, 0] == 0.0).sum())
    if equal:
        raise InputError(
            f"{equal} of {rows.n} rows have their nearest at distance 0, so r2/r1 is undefined: "
            "leave them out, as scikit-dimension does, or pass the distances of distinct rows, "
            "from fastdim.knn(X, 2, duplicates='collapse')"
        )
    return Neighbors(
        distances=values,
        indices=np.full((rows.n, 2), -1),
        queries=np.arange(rows.n),
        n_points=rows.n,
        n_distinct=None,
        duplicates="keep",
        backend="given",
        plan={},
        seconds=0.0,
    )
