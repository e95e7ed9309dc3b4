"""Dimension, anisotropy and cosines of all rows a loop sees, as torchmetrics.

    IntrinsicDimension      reservoir.py: a fixed number of distinct rows of lowest hash
    Anisotropy, ParticipationRatio, MeanCosine
                            moments.py: count, mean and scatter matrix, exact over all rows

States have a fixed size and merge exactly: batches, ranks and their order change nothing.
"""

from fastdim.errors import require

require("torch", "torchmetrics")
require("torchmetrics", "torchmetrics")

# After the check: an import without torchmetrics names the extra that brings it.
from fastdim.torchmetrics.dimension import IntrinsicDimension  # noqa: E402
from fastdim.torchmetrics.moments import (  # noqa: E402
    Anisotropy,
    MeanCosine,
    ParticipationRatio,
)

__all__ = ["Anisotropy", "IntrinsicDimension", "MeanCosine", "ParticipationRatio"]
