"""Differentiable dimension, cosines and anisotropy of torch tensors, and a loss made of them.

    GeometryLoss(measure, target)    loss.py: torch.nn.Module, weight * squared distance to target
      |
      v
    twonn, mle                       neighbors.py: indices from the exact search, constant;
      |                                distances recomputed from differences carry the gradient
    participation_ratio, mean_cosine, anisotropy
      |                              spectral.py: torch alone, on the tensor's own device
      v
    operators.py                     custom operators with fake kernels: torch.compile sees one node
                                       for each check, search and eigenvector

Everything is computed in float64, so half precision and autocast change nothing but the input.
Values equal those of the functions of `fastdim`.
"""

from fastdim.errors import require

require("torch", "torch")

# After the check: an import without torch names the extra that brings it.
from fastdim.torch.loss import GeometryLoss  # noqa: E402
from fastdim.torch.neighbors import mle, twonn  # noqa: E402
from fastdim.torch.spectral import anisotropy, mean_cosine, participation_ratio  # noqa: E402

__all__ = ["GeometryLoss", "anisotropy", "mean_cosine", "mle", "participation_ratio", "twonn"]
