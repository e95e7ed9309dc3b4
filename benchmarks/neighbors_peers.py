"""Other programs' neighbour searches, as benchmarks/neighbors.py runs them.

Each takes rows (n, d) float32 and gives distances (n, k) of the k nearest other rows. Here is what
is no program of compare.py (peers.py). scikit-dimension and DADApy search through
scikit-learn, llm-microscope and torchid through torch.cdist.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from data import Matrix
from peers import Distances, faiss_flat, sklearn_brute, torch_cdist, without_self
from worker import environment


def _serve(pipe: Connection, threads: int) -> None:
    """Answer ("load", files of rows and queries) by True, ("search", k) by distances."""
    import faiss  # before anything is timed

    faiss.omp_set_num_threads(threads)
    x = queries = np.zeros((0, 0), dtype=np.float32)
    while (request := pipe.recv()) is not None:
        if request[0] == "load":
            x, queries = (np.load(path) for path in request[1:])
            pipe.send(True)
        else:
            pipe.send(faiss_flat(x, request[1], threads, queries))


class OtherBlas:
    """faiss.knn in a process of its own, whose OpenBLAS was told other kernels."""

    def __init__(self, core: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, threads), daemon=True)
        with environment(core, threads):
            self._process.start()
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

    def search(self, k: int) -> Distances:
        """faiss.knn of what was loaded."""
        self._pipe.send(("search", k))
        return np.asarray(self._pipe.recv())


def faiss_panorama(x: Matrix, k: int, threads: int) -> Distances:
    """IndexFlatL2Panorama on rows rotated to their principal axes, the rotation included."""
    import faiss

    faiss.omp_set_num_threads(threads)
    d = x.shape[1]
    rotation = faiss.PCAMatrix(d, d)
    rotation.train(x)
    rotated = rotation.apply(x)
    index = faiss.IndexFlatL2Panorama(d, 8)
    index.add(rotated)
    return without_self(index.search(rotated, k + 1)[0])


OTHERS: dict[str, Callable[[Matrix, int, int], Distances]] = {
    "FAISS IndexFlatL2Panorama": faiss_panorama,
    "torch.cdist + topk": torch_cdist,
    "sklearn brute": sklearn_brute,
}
