"""What each document adds to the metrics of a piece: all that a bootstrap over documents needs.

A metric's first-order change when a document counts once more (its influence function summed over
the document's rows, divided by the number of rows). Replicates follow from weights on these numbers
alone: no row is read and no forward pass made again. For the intrinsic dimension the weights are on
the query rows and the references stay (copied rows would be neighbours at distance zero).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.covariance import STATISTICS
from fastdim.estimate import group_sums
from fastdim.estimators.twonn import query_parts, resolve
from fastdim.sweeps.shared import SharedJob

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# More documents than this are dealt into so many groups by their number, the same at every layer.
MOST_GROUPS = 512
METRICS = ("id_twonn", *STATISTICS, "mean_cosine", "cosine_std", "norm_median")


def contributions(
    job: SharedJob, documents: Int64 | None, kept: Int64, computed: Iterable[str]
) -> dict[str, Any] | None:
    """Numbers of the document groups and, by metric, their contributions; None without documents.

    documents: (n,) number of the document of every row of the layer; kept: rows under the filter.
    computed: the metrics that did not fail. A query of TwoNN that stands for several equal rows
    belongs to the first one's document.
    """
    if documents is None:
        return None
    numbers, group = np.unique(documents % MOST_GROUPS, return_inverse=True)
    if len(numbers) < 2:
        return None
    # The order in which measured groups stand: ascending documents among the rows kept.
    present, first = np.unique(documents[kept], return_index=True)
    groups = Groups(len(numbers), group, group[kept], group[kept][first], len(present))
    found = {name: _contribution(job, name, groups) for name in METRICS if name in computed}
    known = {name: values for name, values in found.items() if np.isfinite(values).all()}
    # Eight digits: beyond what a bootstrap can tell, and half of the bytes.
    shown = {name: [float(f"{v:.8g}") for v in values] for name, values in known.items()}
    return {"numbers": numbers.tolist(), **shown}


@dataclass(frozen=True, eq=False)
class Groups:
    """Group of each row of the layer, of each row kept, and of each document among those kept."""

    count: int
    of_row: Int64
    of_kept: Int64
    of_document: Int64
    n_documents: int


def _contribution(job: SharedJob, name: str, groups: Groups) -> Array:
    if name == "id_twonn":
        return _twonn(job, groups)
    if name == "norm_median":
        return _median(job, groups)
    if name in STATISTICS:
        parts = job.spectrum.estimate(name).by_group
    else:
        moments = job.moments[0]
        parts = (moments.mean_estimate if name == "mean_cosine" else moments.std_estimate).by_group
    assert parts is not None  # the job was given its documents
    return group_sums(parts, groups.of_document, groups.count)


def _twonn(job: SharedJob, groups: Groups) -> Array:
    """Sums over the queries of each group, in units of the dimension."""
    which, parts = query_parts(job.neighbors, resolve(), job.twonn.value)
    return group_sums(parts, groups.of_row[job.query_rows()[which]], groups.count)


def _median(job: SharedJob, groups: Groups) -> Array:
    """The side of the median on which each row lies, over the density there."""
    norms = job.norms
    median = float(np.median(job.sorted_norms))
    side = np.where(norms > median, 0.5, np.where(norms < median, -0.5, 0.0))
    # 1 / density at the median, from the tenth of the rows around it.
    low, high = np.quantile(job.sorted_norms, [0.45, 0.55])
    sums = group_sums(side - side.mean(), groups.of_kept, groups.count)
    return sums / len(norms) * float(high - low) / 0.1
