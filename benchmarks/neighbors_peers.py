"""Other programs' neighbour searches, as benchmarks/neighbors.py runs them.

Each takes rows (n, d) float32 and gives distances (n, k) of the k nearest other rows. The row comes
back as its own nearest, so one more is asked for. scikit-dimension and DADApy search through
scikit-learn, llm-microscope and torchid through torch.cdist.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from data import Matrix
from numpy.typing import NDArray

BLOCK = 2048
Found = tuple[NDArray[Any], None]


def _distances(squared: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sqrt(np.maximum(squared[:, 1:], 0)))


def faiss_flat(x: Matrix, queries: Matrix, k: int) -> Found:
    """faiss.knn."""
    import faiss

    return _distances(faiss.knn(queries, x, k + 1)[0]), None


def _serve(pipe: Connection, threads: int) -> None:
    """Answer ("load", files of rows and queries) by True, ("search", k) by distances."""
    import faiss

    faiss.omp_set_num_threads(threads)
    x = queries = np.zeros((0, 0), dtype=np.float32)
    while (request := pipe.recv()) is not None:
        if request[0] == "load":
            x, queries = (np.load(path) for path in request[1:])
            pipe.send(True)
        else:
            pipe.send(faiss_flat(x, queries, request[1])[0])


class OtherBlas:
    """faiss.knn in a process of its own, whose OpenBLAS was told other kernels."""

    def __init__(self, core: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, threads), daemon=True)
        mine = os.environ.get("OPENBLAS_CORETYPE")
        os.environ["OPENBLAS_CORETYPE"] = core
        try:
            self._process.start()
        finally:
            os.environ.pop("OPENBLAS_CORETYPE")
            if mine is not None:
                os.environ["OPENBLAS_CORETYPE"] = mine
        child.close()

    def load(self, x: Matrix, queries: Matrix) -> None:
        """Give it rows; not to be timed."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / "x.npy", Path(folder) / "queries.npy"]
            for path, rows in zip(paths, (x, queries), strict=True):
                np.save(path, rows)
            self._pipe.send(("load", *paths))
            self._pipe.recv()

    def close(self) -> None:
        """Ask the process to end and wait for it."""
        self._pipe.send(None)
        self._process.join()

    def search(self, k: int) -> Found:
        """faiss.knn of what was loaded."""
        self._pipe.send(("search", k))
        return np.asarray(self._pipe.recv()), None


def faiss_panorama(x: Matrix, k: int, threads: int) -> Found:
    """IndexFlatL2Panorama on rows rotated to their principal axes, the rotation included."""
    import faiss

    faiss.omp_set_num_threads(threads)
    d = x.shape[1]
    rotation = faiss.PCAMatrix(d, d)
    rotation.train(x)
    rotated = rotation.apply(x)
    index = faiss.IndexFlatL2Panorama(d, 8)
    index.add(rotated)
    return _distances(index.search(rotated, k + 1)[0]), None


def torch_cdist(x: Matrix, k: int, threads: int) -> Found:
    """torch.cdist in blocks of rows, then topk."""
    import torch

    torch.set_num_threads(threads)
    rows = torch.from_numpy(x)
    parts = [
        torch.cdist(part, rows).topk(k + 1, largest=False) for part in torch.split(rows, BLOCK)
    ]
    return torch.cat([found.values[:, 1:] for found in parts]).numpy(), None


def sklearn_brute(x: Matrix, k: int, threads: int) -> Found:
    """sklearn.neighbors.NearestNeighbors(algorithm="brute")."""
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=threads).fit(x)
        return search.kneighbors()[0], None


OTHERS: dict[str, Callable[[Matrix, int, int], Found]] = {
    "FAISS IndexFlatL2Panorama": faiss_panorama,
    "torch.cdist + topk": torch_cdist,
    "sklearn brute": sklearn_brute,
}
