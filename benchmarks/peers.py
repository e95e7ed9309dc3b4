"""The programs compared. Each takes rows (n, d) float32 and threads, and gives arrays by name.

knn: "distances" (n, 2).  id: "value".  anisotropy: "value".  cosine: "mean", "histogram" (200 bins
over [-1, 1], all pairs i < j).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Distances = NDArray[Any]
Result = dict[str, Any]
Peer = Callable[[Matrix, int], Result]

BINS = 200
BLOCK = 2048


def fastdim_knn(x: Matrix, threads: int) -> Result:
    """fastdim.knn, every row against all rows."""
    import fastdim

    return {"distances": fastdim.knn(x, 2, threads=threads).distances}


def without_self(squares: NDArray[Any]) -> Distances:
    """Distances (m, k) from squared ones (m, k + 1), of which the row itself is dropped."""
    return np.asarray(np.sqrt(np.maximum(squares[:, 1:], 0)))


def faiss_flat(x: Matrix, k: int, threads: int, queries: Matrix | None = None) -> Distances:
    """faiss.knn, flat, float32: distances (m, k) of the queries, None for every row."""
    import faiss

    faiss.omp_set_num_threads(threads)
    return without_self(faiss.knn(x if queries is None else queries, x, k + 1)[0])


def torch_cdist(x: Matrix, k: int, threads: int) -> Distances:
    """torch.cdist in blocks of rows, then topk; its default way to compute."""
    import torch

    torch.set_num_threads(threads)
    rows = torch.from_numpy(x)
    parts = [
        torch.cdist(part, rows).topk(k + 1, largest=False) for part in torch.split(rows, BLOCK)
    ]
    return np.asarray(torch.cat([found.values[:, 1:] for found in parts]).numpy())


def sklearn_brute(x: Matrix, k: int, threads: int) -> Distances:
    """sklearn.neighbors.NearestNeighbors(algorithm="brute")."""
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=threads).fit(x)
        return np.asarray(search.kneighbors()[0])


def nearest_two(search: Callable[[Matrix, int, int], Distances]) -> Peer:
    """A search as a program of group knn."""
    return lambda x, threads: {"distances": search(x, 2, threads)}


def fastdim_twonn(x: Matrix, threads: int) -> Result:
    """fastdim.twonn with its robust interval."""
    import fastdim

    return {"value": float(fastdim.twonn(x, threads=threads))}


def skdim_twonn(x: Matrix, threads: int) -> Result:
    """skdim.id.TwoNN."""
    import skdim.id
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the rows it drops; the value shows the effect
        return {"value": float(skdim.id.TwoNN().fit(x).dimension_)}


def dadapy_twonn(x: Matrix, threads: int) -> Result:
    """dadapy.Data(...).compute_id_2NN()."""
    from dadapy import Data

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of equal rows; the value shows the effect
        data = Data(coordinates=x, verbose=False, n_jobs=threads)
        return {"value": float(data.compute_id_2NN()[0])}


@cache
def microscope() -> ModuleType:
    """llm_microscope/functions.py by its path: the package's own import fails (version 0.0.7)."""
    spec = importlib.util.find_spec("llm_microscope")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-microscope is missing: pip install llm-microscope==0.0.7")
    path = Path(spec.submodule_search_locations[0]) / "functions.py"
    loading = importlib.util.spec_from_file_location("llm_microscope_functions", path)
    assert loading is not None
    assert loading.loader is not None
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module


def microscope_id(x: Matrix, threads: int) -> Result:
    """llm-microscope's intrinsic_dimension on the CPU."""
    import torch

    torch.set_num_threads(threads)
    return {"value": microscope().intrinsic_dimension(torch.from_numpy(x), "cpu")}


def fastdim_anisotropy(x: Matrix, threads: int) -> Result:
    """fastdim.anisotropy."""
    from threadpoolctl import threadpool_limits

    import fastdim

    with threadpool_limits(threads):
        return {"value": fastdim.anisotropy(x)}


def microscope_anisotropy(x: Matrix, threads: int) -> Result:
    """llm-microscope's calculate_anisotropy_torch."""
    import torch

    torch.set_num_threads(threads)
    return {"value": microscope().calculate_anisotropy_torch(torch.from_numpy(x))}


def fastdim_cosine(x: Matrix, threads: int) -> Result:
    """fastdim.cosine_stats over all pairs."""
    import fastdim

    stats = fastdim.cosine_stats(x, bins=BINS, pairs="all", threads=threads)
    return {"mean": stats.mean, "histogram": stats.histogram}


def torch_cosine(x: Matrix, threads: int) -> Result:
    """Products of unit rows in blocks with torch, float32, histc of the upper triangle."""
    import torch

    torch.set_num_threads(threads)
    unit = torch.nn.functional.normalize(torch.from_numpy(x))
    total = 0.0
    histogram = torch.zeros(BINS, dtype=torch.int64)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit[start:].T
        upper = torch.ones_like(block, dtype=torch.bool).triu(1)
        cosines = block[upper].clamp(-1, 1)
        total += float(cosines.sum(dtype=torch.float64))
        histogram += torch.histc(cosines, BINS, -1, 1).to(torch.int64)
    pairs = len(x) * (len(x) - 1) // 2
    return {"mean": total / pairs, "histogram": histogram.numpy()}


# The first of each group is ours. The name after the group says which definition a peer follows.
PEERS: dict[str, dict[str, Peer]] = {
    "knn": {
        "fastdim.knn": fastdim_knn,
        "faiss.knn": nearest_two(faiss_flat),
        "torch.cdist + topk": nearest_two(torch_cdist),
        "sklearn brute": nearest_two(sklearn_brute),
    },
    "id": {
        "fastdim.twonn": fastdim_twonn,
        "scikit-dimension TwoNN": skdim_twonn,
        "DADApy 2NN": dadapy_twonn,
        "llm-microscope ID": microscope_id,
    },
    "anisotropy": {
        "fastdim.anisotropy": fastdim_anisotropy,
        "llm-microscope anisotropy": microscope_anisotropy,
    },
    "cosine": {
        "fastdim.cosine_stats": fastdim_cosine,
        "torch blocks + histc": torch_cosine,
    },
}
COMPAT = {
    "scikit-dimension TwoNN": "skdim",
    "DADApy 2NN": "dadapy",
    "llm-microscope ID": "llm-microscope",
}
