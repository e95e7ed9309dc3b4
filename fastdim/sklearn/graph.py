"""The graph of nearest neighbours as a transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fastdim.arrays import Rows, one_of, whole_number, yes_or_no
from fastdim.compat import MODES, csr, to_graph
from fastdim.errors import InputError
from fastdim.neighbors import knn
from fastdim.sklearn.base import fitting
from fastdim.sklearn.inputs import rows_of, threads_of


class KNeighborsTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Rows to the sparse graph of their k nearest fitted rows, as sklearn.neighbors has it.

    Exact, Euclidean. What takes metric="precomputed" takes the result: TSNE, DBSCAN,
    KNeighborsClassifier, Isomap, SpectralClustering (affinity="precomputed_nearest_neighbors").
    UMAP refuses lists that are not symmetric, scikit-learn's too: it takes those with
    symmetric=True, and its own n_neighbors is then one more, as it counts the row itself.

    mode: "distance", or "connectivity" for ones. n_neighbors: with mode="distance" one more entry
    a row is given, since a fitted row is its own neighbour. metric: "euclidean" alone. n_jobs:
    threads, None for FASTDIM_NUM_THREADS, else all CPUs. symmetric: `fit_transform` gives an entry
    wherever one of two rows lists the other, so a row may have more; new rows are refused.

    Attributes: n_features_in_, n_samples_fit_, effective_metric_.
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "euclidean",
        n_jobs: int | None = None,
        symmetric: bool = False,
    ) -> None:
        self.mode = mode
        self.symmetric = symmetric
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> KNeighborsTransformer:
        """Keep the rows X (n, d); y is ignored. X is not copied where it needs no conversion.

        Raises ValueError (InputError is one) on bad values, parameters or shapes.
        """
        with fitting(self):
            one_of("mode", self.mode, MODES)
            if self.metric != "euclidean":
                raise InputError(
                    f"metric must be 'euclidean', got {self.metric!r}: for another one use "
                    "sklearn.neighbors.KNeighborsTransformer"
                )
            whole_number("n_neighbors", self.n_neighbors, 1)
            yes_or_no("symmetric", self.symmetric)
            threads_of(self.n_jobs)
            self._rows = rows_of(self, X, min_rows=1, min_columns=1)
            self.n_samples_fit_ = self._n_features_out = self._rows.n
            self.effective_metric_ = "euclidean"
        return self

    def transform(self, X: Any) -> Any:
        """CSR matrix (m, n) of the neighbours of the rows X (m, d) among the n fitted rows.

        Entries of a row ascend by distance; of equal distances the smaller row number comes first.
        Where X and the fitted rows differ in precision both are compared in float64.

        Raises InputError where more neighbours are asked for than rows were fitted, and with
        symmetric=True.
        """
        check_is_fitted(self)
        if yes_or_no("symmetric", self.symmetric):
            raise InputError(
                "symmetric=True is for the fitted rows among themselves: call fit_transform, or "
                "leave it out for new rows"
            )
        rows = rows_of(self, X, min_rows=1, min_columns=1, reset=False)
        k = self._width()
        fitted = self._rows
        if rows.dtype != fitted.dtype:
            rows, fitted = _widened(rows), _widened(fitted)
        found = knn(fitted, k, queries=rows, threads=threads_of(self.n_jobs))
        return to_graph(found, self.mode)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """As fit(X).transform(X), faster: each pair of rows is looked at once.

        The row itself always comes first, also before rows equal to it.
        """
        rows = self.fit(X, y)._rows
        k = self._width()
        if k == 1:
            own = np.arange(rows.n)[:, None]
            return csr(np.zeros((rows.n, 1)), own, rows.n, self.mode)
        found = knn(rows, k - 1, threads=threads_of(self.n_jobs))
        return to_graph(found, self.mode, self.symmetric)

    def _width(self) -> int:
        """Entries a row, at most the rows fitted."""
        k = whole_number("n_neighbors", self.n_neighbors, 1) + (self.mode == "distance")
        if k > self.n_samples_fit_:
            raise InputError(
                f"Expected n_neighbors <= n_samples_fit, but n_neighbors = {k}, n_samples_fit = "
                f"{self.n_samples_fit_}: fit more rows or ask for fewer neighbours"
            )
        return k

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # the graph is float64
        return tags


def _widened(rows: Rows) -> Rows:
    return Rows(rows.float64(0, rows.n), "float64")
