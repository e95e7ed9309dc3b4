"""Estimators from all rows at once: CorrInt, KNN, PH, FisherS, lPCA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdim.arrays import (
    Rows,
    as_plain,
    detached,
    one_of,
    real_number,
    several,
    whole_number,
)
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate
from fastdim.estimators.corrint import corrint
from fastdim.estimators.fishers import ALPHAS, fishers, separability_of
from fastdim.estimators.graphs import knn_graph, neighbor_graph, ph_dimension, spanning_trees
from fastdim.estimators.leave_out import GROUPS
from fastdim.estimators.lpca import RULES, lpca
from fastdim.neighbors import find_distinct
from fastdim.sklearn.base import GlobalEstimator
from fastdim.sklearn.inputs import threads_of

LEVELS = {"FO": "alphaFO", "Fan": "alphaFan", "ratio": "alphaRatio", "KN": "alphaKN"}
RANGE_TYPES = ("fraction", "num")


class CorrInt(GlobalEstimator):
    """`fastdim.corrint`: pairs of rows within two radii (Grassberger & Procaccia 1983).

    k1, k2: neighbours whose median distances are the radii. Pairs are counted by differences, where
    scikit-dimension rounds by products: up to 5e-3 apart.
    """

    def __init__(
        self,
        k1: int = 10,
        k2: int = 20,
        *,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.k1 = k1
        self.k2 = k2
        self.confidence = confidence
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return corrint(rows, self.k1, self.k2, **self._common())


class KNN(GlobalEstimator):
    """`fastdim.knn_graph`: growth of the k-neighbour graph (Costa & Hero 2004).

    ps: rows of a subset, None for 10 sizes from a quarter to all; M: subsets a size, at least 2;
    gamma: power of an edge's length. Subsets are drawn without repetition and the value is real:
    scikit-dimension draws k + 1 to k + 4 rows with repetition and gives a whole number. That is 4
    subsets of a few rows where this measures 50 of up to all, so `fit_pw` takes 3 times as long as
    scikit-dimension's (60 neighbours); ps and M of fewer subsets take less.
    """

    def __init__(
        self,
        k: int = 2,
        ps: Any = None,
        M: int = 5,
        gamma: float = 1.0,
        *,
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.k = k
        self.ps = ps
        self.M = M
        self.gamma = gamma
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return knn_graph(rows, self.k, confidence=self.confidence, **self._options())

    def _value(self, rows: Rows) -> float:
        return neighbor_graph(rows, self.k, **self._options()).value()

    def _options(self) -> dict[str, Any]:
        return {
            "gamma": self.gamma,
            "sizes": None if self.ps is None else several("ps", self.ps),
            "draws": self.M,
            "seed": self._seed(),
            "threads": threads_of(self.n_jobs),
        }


class PH(GlobalEstimator):
    """`fastdim.ph_dimension`: length of the minimum spanning tree (Schweinhart 2020), PH0.

    alpha: power of an edge's length. n_range_min, n_range_max: least and largest subset, as shares
    of the distinct rows (range_type="fraction") or numbers of rows ("num"), nsteps sizes evenly
    between; both None for the function's own, 10 sizes from half the rows to all, at most 2,000.
    subsamples: subsets a size.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        n_range_min: float | None = None,
        n_range_max: float | None = None,
        range_type: str = "fraction",
        nsteps: int = 10,
        subsamples: int = 5,
        *,
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.n_range_min = n_range_min
        self.n_range_max = n_range_max
        self.range_type = range_type
        self.nsteps = nsteps
        self.subsamples = subsamples
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return ph_dimension(rows, confidence=self.confidence, **self._options(rows))

    def _value(self, rows: Rows) -> float:
        return spanning_trees(rows, **self._options(rows)).value()

    def _options(self, rows: Rows) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "sizes": self._sizes(rows),
            "draws": self.subsamples,
            "seed": self._seed(),
            "threads": threads_of(self.n_jobs),
        }

    def _sizes(self, rows: Rows) -> list[int] | None:
        one_of("range_type", self.range_type, RANGE_TYPES)
        if self.n_range_min is None and self.n_range_max is None:
            return None
        if self.n_range_min is None or self.n_range_max is None:
            raise InputError("n_range_min and n_range_max belong together: give both or neither")
        steps = whole_number("nsteps", self.nsteps, 2)
        if self.range_type == "num":
            least = whole_number("n_range_min", self.n_range_min, 2)
            most = whole_number("n_range_max", self.n_range_max, least + 1)
        else:
            smallest = real_number("n_range_min", self.n_range_min)
            largest = real_number("n_range_max", self.n_range_max)
            if not 0.0 < smallest < largest <= 1.0:
                raise InputError(
                    "n_range_min and n_range_max must be shares, 0 < least < largest <= 1; got "
                    f"{self.n_range_min!r} and {self.n_range_max!r}"
                )
            count = len(find_distinct(rows, cpu.resolve_threads(threads_of(self.n_jobs))).first)
            least = math.ceil(smallest * count)
            most = math.ceil(largest * count)
        return [math.ceil(size) for size in np.linspace(least, most, steps)]


class FisherS(GlobalEstimator):
    """`fastdim.fishers`: Fisher separability on the sphere (Albergante et al. 2019).

    conditional_number: axes with more than 1 / this of the first one's variance are kept. alphas:
    levels within (0, 1), None for 0.60, 0.62, ..., 0.98.
    """

    def __init__(
        self,
        conditional_number: float = 10.0,
        alphas: Any = None,
        *,
        confidence: float = 0.95,
        n_jobs: int | None = None,
    ) -> None:
        self.conditional_number = conditional_number
        self.alphas = alphas
        self.confidence = confidence
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        return fishers(rows, confidence=self.confidence, **self._options())

    def _value(self, rows: Rows) -> float:
        return separability_of(rows, **self._options()).value

    def _options(self) -> dict[str, Any]:
        return {
            "condition": self.conditional_number,
            # scikit-dimension's users pass one row of a matrix.
            "alphas": ALPHAS
            if self.alphas is None
            else as_plain("alphas", detached(self.alphas)).ravel().tolist(),
            "threads": threads_of(self.n_jobs),
        }


class lPCA(GlobalEstimator):
    """`fastdim.lpca`: one of fourteen rules on the eigenvalues of the covariance.

    ver: the rule. alphaRatio, alphaFO, alphaFan, alphaKN: level of the rule of that name. center,
    noise_var: as in `lpca`. n_permutations, quantile, null: as there, read by ver="parallel" alone.
    Repeated rows count as rows.
    """

    def __init__(
        self,
        ver: str = "FO",
        alphaRatio: float = 0.05,
        alphaFO: float = 0.05,
        alphaFan: float = 10.0,
        *,
        center: bool = True,
        noise_var: float | None = None,
        alphaKN: float = 0.05,
        n_permutations: int = 100,
        quantile: float = 0.95,
        null: str = "permute",
        confidence: float = 0.95,
        random_state: Any = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.ver = ver
        self.alphaRatio = alphaRatio
        self.alphaFO = alphaFO
        self.alphaFan = alphaFan
        self.center = center
        self.noise_var = noise_var
        self.alphaKN = alphaKN
        self.n_permutations = n_permutations
        self.quantile = quantile
        self.null = null
        self.confidence = confidence
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _estimate(self, rows: Any) -> Estimate:
        try:
            return self._lpca(rows, GROUPS)
        except InputError as error:
            # The function's argument, by which a user of this class would search in vain.
            told = str(error).replace(
                "jackknife=0", "fastdim.lpca(X, ver, jackknife=0) for the number alone"
            )
            raise InputError(told) from error

    def _value(self, rows: Rows) -> float:
        return self._lpca(rows, 0).value

    def _lpca(self, rows: Rows, jackknife: int) -> Estimate:
        one_of("ver", self.ver, RULES)
        level, drawn = LEVELS.get(self.ver), self.ver == "parallel"
        return lpca(
            rows,
            self.ver,
            alpha=None if level is None else getattr(self, level),
            noise_variance=self.noise_var,
            center=self.center,
            permutations=self.n_permutations if drawn else None,
            quantile=self.quantile if drawn else None,
            null=self.null if drawn else None,
            jackknife=jackknife,
            seed=self._seed(),
            **self._common(),
        )
