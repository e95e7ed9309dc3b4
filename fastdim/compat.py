"""Our neighbours in the form other packages take, and theirs for our estimators.

    near = fastdim.knn(x, 20)
    skdim.id.MLE().fit(x, precomputed_knn_arrays=compat.to_skdim(near))
    skdim.id.TwoNN().fit_pw(x, precomputed_knn=compat.to_skdim(near)[1])
    dadapy.Data(distances=compat.to_dadapy(near), maxk=20)
    umap.UMAP(n_neighbors=21, precomputed_knn=compat.to_umap(near)).fit(x)
    sklearn.cluster.DBSCAN(metric="precomputed").fit(compat.to_graph(near))
    umap.UMAP(metric="precomputed").fit(compat.to_graph(near, symmetric=True))
    fastdim.levina_bickel(compat.from_arrays(distances, indices))

None of these packages is imported here, and scipy by `to_graph` alone. Neighbours that lie on a
GPU are fetched. They expect one list for
each row, in the order of the rows: `knn` of every row with duplicates="keep" (its default).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_plain, detached, one_of, yes_or_no
from fastdim.errors import InputError, require
from fastdim.neighbors import Neighbors

Int64 = NDArray[np.int64]

MODES = ("distance", "connectivity")


def to_skdim(neighbors: Neighbors) -> tuple[NDArray[Any], Int64]:
    """(distances, indices), each (n, k), the row itself left out, as scikit-dimension has them.

    For `precomputed_knn_arrays=` of its local estimators; the indices alone are `precomputed_knn=`
    of the others. Raises InputError unless every row was a query.
    """
    neighbors = _of_every_row(neighbors, "scikit-dimension")
    return neighbors.distances, neighbors.indices


def to_dadapy(neighbors: Neighbors) -> tuple[NDArray[np.float64], Int64]:
    """(distances, indices), each (n, k + 1), the row itself first: `dadapy.Data(distances=...)`.

    Distances are float64. DADApy uses at most 100 of them unless maxk=k is given too. Raises
    InputError unless every row was a query.
    """
    distances, indices = _self_first(neighbors, "DADApy")
    return distances.astype(np.float64), indices


def to_umap(neighbors: Neighbors) -> tuple[Int64, NDArray[np.float32]]:
    """(indices, distances), each (n, k + 1), the row itself first, for `umap.UMAP`.

    For its `precomputed_knn=`, in its order. UMAP counts the row itself: search with k =
    n_neighbors - 1, since below 4,096 rows it does not cut longer lists. Distances are float32, in
    which it computes. It warns that it cannot transform new rows without an index of its own.
    Raises InputError unless every row was a query.
    """
    distances, indices = _self_first(neighbors, "UMAP")
    return indices, distances.astype(np.float32)


def to_graph(neighbors: Neighbors, mode: str = "distance", symmetric: bool = False) -> Any:
    """scipy CSR matrix (n, n) of neighbours, as scikit-learn's metric="precomputed" takes it.

    A row holds itself, at an explicit distance 0, and its k neighbours in ascending order: what
    KNeighborsTransformer(n_neighbors=k) gives; mode="connectivity": ones in the same places. Of
    neighbours of another matrix's rows: (m, n), k entries a row. symmetric: an entry also where the
    other row lists this one, as UMAP's metric="precomputed" wants it; the first k stay the nearest.

    Raises InputError on another mode, where queries were chosen or where other rows' neighbours
    should be symmetric, DependencyError without scipy.
    """
    one_of("mode", mode, MODES)
    symmetric = yes_or_no("symmetric", symmetric)
    neighbors = _in_memory(neighbors)
    if neighbors.foreign:
        if symmetric:
            raise InputError(
                "neighbours of another matrix's rows have no symmetric graph: leave symmetric out, "
                "or compute the neighbours of x itself"
            )
        return csr(neighbors.distances, neighbors.indices, neighbors.n_points, mode)
    distances, indices = _self_first(neighbors, "scikit-learn")
    build = _either_way if symmetric else csr
    return build(distances, indices, neighbors.n_points, mode)


def from_arrays(distances: Any, indices: Any) -> Neighbors:
    """`Neighbors` of what another package found: the neighbours of every row of one matrix.

    distances: (n, k) ascending, as float32 or float64; indices: (n, k) row numbers. The row itself
    is left out: drop the first column of what faiss, DADApy, UMAP or scikit-learn's `kneighbors(X)`
    return. Exact only if they were. Tensors in host memory pass too, without their gradient.

    Raises InputError on lists of unequal lengths, shapes that differ, values that are no distances,
    lists that do not ascend, numbers that are no rows, and a row among its own neighbours.
    """
    near = as_plain("distances", detached(distances))
    rows = as_plain("indices", indices)
    if near.ndim != 2 or near.shape != rows.shape or near.size == 0:
        raise InputError(
            f"distances and indices must have one shape (n, k), got {near.shape} and {rows.shape}"
        )
    if near.dtype not in (np.float32, np.float64) or rows.dtype.kind not in "iu":
        raise InputError(
            f"distances must be float32 or float64 and indices whole numbers, got {near.dtype} "
            f"and {rows.dtype}"
        )
    n = len(near)
    if not (np.isfinite(near).all() and (near[:, 0] >= 0.0).all()):
        raise InputError("distances hold NaN, infinite or negative values")
    if (np.diff(near, axis=1) < 0.0).any():
        raise InputError("the distances of a row must ascend: sort them with their indices")
    if int(rows.min()) < 0 or int(rows.max()) >= n:
        raise InputError(
            f"indices must lie in 0..{n - 1}, got {int(rows.min())}..{int(rows.max())}: one list a "
            "row is expected"
        )
    own = (rows == np.arange(n)[:, None]).any(axis=1)
    if own.any():
        raise InputError(
            f"{int(own.sum())} of {n} rows are among their own neighbours: drop that column"
        )
    return Neighbors(
        distances=near,
        indices=rows.astype(np.int64),
        queries=np.arange(n),
        n_points=n,
        n_distinct=None,
        duplicates="keep",
        backend="given",
        plan={},
        seconds=0.0,
    )


def csr(distances: NDArray[Any], indices: Int64, n: int, mode: str) -> Any:
    """CSR matrix (m, n) of lists (m, k) of neighbours, float64 as scikit-learn's own."""
    sparse = require("scipy.sparse", "sklearn")
    m, k = indices.shape
    values = distances.ravel().astype(np.float64) if mode == "distance" else np.ones(m * k)
    starts = np.arange(0, m * k + 1, k, dtype=np.int64)
    return sparse.csr_matrix((values, indices.ravel(), starts), shape=(m, n))


def _either_way(distances: NDArray[Any], indices: Int64, n: int, mode: str) -> Any:
    """The same of lists (n, k), with an entry wherever one of two rows lists the other.

    Zeros stay entries, which adding a matrix and its transpose would lose: a row's own, and those
    between equal rows.
    """
    sparse = require("scipy.sparse", "sklearn")
    near, far = np.repeat(np.arange(n), indices.shape[1]), indices.ravel()
    rows, columns = np.concatenate([near, far]), np.concatenate([far, near])
    values = np.tile(distances.ravel().astype(np.float64), 2)
    once = np.unique(rows * n + columns, return_index=True)[1]
    rows, columns, values = rows[once], columns[once], values[once]
    # Ascending distances, the row itself before rows equal to it.
    order = np.lexsort((columns, rows != columns, values, rows))
    starts = np.concatenate([[0], np.bincount(rows, minlength=n).cumsum()])
    held = values[order] if mode == "distance" else np.ones(len(order))
    return sparse.csr_matrix((held, columns[order], starts), shape=(n, n))


def _in_memory(neighbors: Any) -> Neighbors:
    """Neighbours as numpy arrays, those of a GPU fetched; InputError on anything else."""
    if not isinstance(neighbors, Neighbors):
        raise InputError(f"neighbors must be what knn() returns, got {type(neighbors).__name__}")
    return neighbors.numpy()


def _of_every_row(neighbors: Any, package: str) -> Neighbors:
    """The same, InputError unless every row was a query."""
    found = _in_memory(neighbors)
    every = np.arange(found.n_points)
    if found.foreign or not np.array_equal(found.queries, every):
        raise InputError(
            f"{package} expects the neighbours of every row, in order: {len(found.queries)} "
            f"queries of {found.n_points} rows were passed (duplicates="
            f"{found.duplicates!r}); compute them by knn(x, k), or of distinct rows alone"
        )
    return found


def _self_first(neighbors: Neighbors, package: str) -> tuple[NDArray[Any], Int64]:
    """Distances and indices (n, k + 1) with each row in front of its neighbours."""
    neighbors = _of_every_row(neighbors, package)
    zero = np.zeros((neighbors.n_points, 1), dtype=neighbors.distances.dtype)
    return (
        np.concatenate([zero, neighbors.distances], axis=1),
        np.concatenate([neighbors.queries[:, None], neighbors.indices], axis=1),
    )
