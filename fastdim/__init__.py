"""Exact neighbour distances, cosine statistics and intrinsic dimension of representations.

    sweep(model, texts)          extract: hooks on the unmodified model write shards of rows
      |                            (extract_modules: of any torch module; Store reads them)
      |                          sweeps:  layers x token filters, one finished piece at a time
      v
    profile(x), measure(x)       all metrics of one matrix of rows x (n, d)
      |
      +-- twonn(x), gride(x) ... estimators: functions of neighbours, of a spectrum, of two layers
      |     +-- knn(x)           neighbors: distinct rows first, then the exact search
      |           prepare(x)     the form that search reads, made once for many calls
      +-- spectrum(x)            covariance: float64 Gram matrix, row influences
      +-- cosine_stats(x)        cosine: exact moments by sums over rows, histogram over pairs
            |
            v
    arrays.as_rows               the one place that validates input: pointer, strides, number type
    backends.cpu -> _core        C++ kernels (scalar, avx2, avx512), chosen at run time

What is chunked, and why. The kernels walk blocks of queries x references and keep the k best of
each query, so the n x n distances and cosines never exist. numpy's part reads the rows in blocks of
16 MB decoded to float64, so no second copy of x exists either; half precision stays half. Chunks
and threads never change a result. Shards are written while the model runs and read layer by layer.
`fastdim.disk` reads rows larger than memory tile by tile: knn and cosine_stats with memory="4GB".

`fastdim.diagnose` (shapes of profiles, differences, training phases), `fastdim.track`
(checkpoints), `fastdim.attention` and `fastdim.causes`: docs/shapes.md, docs/attention.md.
`fastdim.torch` (differentiable functions, a loss) and `fastdim.torchmetrics` (over the batches of a
loop) are packages of their own, imported only when asked for: docs/torch.md.

`fastdim.distributed`: the same functions of rows spread over the processes of a group, on which
`torchrun -m fastdim sweep` stands (docs/distributed.md).

`fastdim.naive` holds the plain float64 reference of every operation.
"""

from typing import TYPE_CHECKING, Any

from fastdim.arrays import Rows, as_rows
from fastdim.backends.faiss_audit import Audit
from fastdim.backends.faiss_index import FaissIndex
from fastdim.cosine import CosineStats, cosine_stats
from fastdim.covariance import Spectrum, anisotropy, spectrum
from fastdim.errors import (
    BackendError,
    DependencyError,
    FastdimError,
    InputError,
    ModelError,
    StoreError,
)
from fastdim.estimate import Estimate
from fastdim.estimators.abide import abide, k_star
from fastdim.estimators.between import (
    angular_distance,
    block_influence,
    information_imbalance,
    neighborhood_overlap,
)
from fastdim.estimators.blocks import BlockAnalysis, block_analysis
from fastdim.estimators.corrint import corrint
from fastdim.estimators.danco import danco
from fastdim.estimators.ess import ess
from fastdim.estimators.fishers import fishers
from fastdim.estimators.geomle import geomle
from fastdim.estimators.graphs import knn_graph, ph_dimension
from fastdim.estimators.gride import ScaleCurve, gride, gride_scales
from fastdim.estimators.isotropy import isoscore_star, partition_isotropy
from fastdim.estimators.linear_maps import linear_cka, linearity_score
from fastdim.estimators.local import LocalDimension, local_dimension, mada, mom
from fastdim.estimators.lpca import lpca
from fastdim.estimators.mind import mind_ml
from fastdim.estimators.mle import levina_bickel
from fastdim.estimators.spectral import (
    alpha_req,
    effective_rank,
    isoscore,
    matrix_entropy,
    participation_ratio,
    rankme,
    stable_rank,
)
from fastdim.estimators.tle import tle
from fastdim.estimators.twonn import twonn
from fastdim.layer import LayerProfile, Measurement, Metric, measure, profile
from fastdim.neighbors import Neighbors, Prepared, knn, prepare
from fastdim.query_sample import stratified_queries

if TYPE_CHECKING:
    from fastdim.disk.rows import DiskRows as DiskRows
    from fastdim.disk.rows import open_rows as open_rows
    from fastdim.extract.modules import extract_modules as extract_modules
    from fastdim.extract.store import Store as Store
    from fastdim.layer_sweep import LayerSweep as LayerSweep
    from fastdim.sweeps import Sweep as Sweep
    from fastdim.sweeps import sweep as sweep

    __version__: str

__all__ = [
    "Audit",
    "BackendError",
    "BlockAnalysis",
    "CosineStats",
    "DependencyError",
    "DiskRows",
    "Estimate",
    "FaissIndex",
    "FastdimError",
    "InputError",
    "LayerProfile",
    "LayerSweep",
    "LocalDimension",
    "Measurement",
    "Metric",
    "ModelError",
    "Neighbors",
    "Prepared",
    "Rows",
    "ScaleCurve",
    "Spectrum",
    "Store",
    "StoreError",
    "Sweep",
    "abide",
    "alpha_req",
    "angular_distance",
    "anisotropy",
    "as_rows",
    "block_analysis",
    "block_influence",
    "corrint",
    "cosine_stats",
    "danco",
    "effective_rank",
    "ess",
    "extract_modules",
    "fishers",
    "geomle",
    "gride",
    "gride_scales",
    "information_imbalance",
    "isoscore",
    "isoscore_star",
    "k_star",
    "knn",
    "knn_graph",
    "levina_bickel",
    "linear_cka",
    "linearity_score",
    "local_dimension",
    "lpca",
    "mada",
    "matrix_entropy",
    "measure",
    "mind_ml",
    "mom",
    "neighborhood_overlap",
    "open_rows",
    "participation_ratio",
    "partition_isotropy",
    "ph_dimension",
    "prepare",
    "profile",
    "rankme",
    "spectrum",
    "stable_rank",
    "stratified_queries",
    "sweep",
    "tle",
    "twonn",
]


# What is imported when first asked for: it costs time, or needs an extra.
_LATER = {
    "DiskRows": "fastdim.disk.rows",
    "LayerSweep": "fastdim.layer_sweep",
    "Store": "fastdim.extract.store",
    "Sweep": "fastdim.sweeps",
    "extract_modules": "fastdim.extract.modules",
    "open_rows": "fastdim.disk.rows",
    "sweep": "fastdim.sweeps",
}


def __getattr__(name: str) -> Any:
    """The names of `_LATER`, and the version from the package's metadata, when first asked for."""
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("fastdim")
    raise AttributeError(f"module 'fastdim' has no attribute {name!r}")
