"""Differentiable participation ratio, mean cosine and anisotropy."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdim.torch import operators
from fastdim.torch.inputs import differentiable
from fastdim.torch.results import in_input_dtype

_EQUAL = "all rows are equal: there is no variance to analyse"


def participation_ratio(x: Tensor) -> Tensor:
    """(sum l)^2 / sum l^2 () of the covariance's eigenvalues l of x (n, d), differentiable.

    Gao & Ganguli, Curr. Opin. Neurobiol. 32:148 (2015); the value of
    `fastdim.participation_ratio(x)`. From the traces of the covariance and of its square: no
    eigenvalue problem, derivatives of any order, backwards (`docs/torch.md`). Every row counts,
    duplicates too.

    x: rows on any device, float16, bfloat16, float32 or float64; float64 inside, returned as
    float64 for float64 and as float32 otherwise.

    Raises InputError on NaN, Inf, wrong shapes, fewer than 2 rows or 2 columns, equal rows, and an
    x that carries a forward-mode tangent.
    """
    product = _covariance(differentiable(x))
    power = operators.positive(product.square().sum(), _EQUAL)
    return in_input_dtype(product.diagonal().sum().square() / power, x)


def anisotropy(x: Tensor) -> Tensor:
    """Share of variance along the first principal axis () of x (n, d), differentiable.

    l_1 / sum l (Razzhigaev et al., arXiv 2311.05928); the value of `fastdim.anisotropy(x)`.

    Gradient: that of l_1 is v v' with v the first axis, which no gap between eigenvalues divides:
    it stays finite where l_1 = l_2 and is then that of one of the leading axes, a subgradient (the
    largest eigenvalue is convex). Second derivatives divide by the gaps and leave out those that
    are zero within rounding; third ones are refused by torch. Cost: an eigenvalue problem of
    min(n, d) rows forward, a second one for second derivatives.

    x, precision and errors as in `participation_ratio`.
    """
    product = _covariance(differentiable(x))
    total = operators.positive(product.diagonal().sum(), _EQUAL)
    top, _ = operators.top_eigenpair(product)
    return in_input_dtype(top / total, x)


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine () over all n(n - 1)/2 pairs of rows of x (n, d), differentiable.

    (|sum u|^2 - n) / (n (n - 1)) with u the unit rows; the value of `fastdim.cosine_stats(x).mean`.
    O(n d), derivatives of any order. Rows are not centered; duplicates count. A zero row has no
    direction: it is left out and its gradient is zero.

    x and precision as in `participation_ratio`. Raises InputError on NaN, Inf, wrong shapes, fewer
    than 2 rows that are not zero, and an x that carries a forward-mode tangent.
    """
    values = operators.rows(differentiable(x), "x", 2)
    # A cosine does not change with the length of a row, so the scale, which keeps squares in
    # range, is a constant.
    scale = values.detach().abs().amax(dim=1, keepdim=True)
    used = scale > 0.0
    scaled = values / torch.where(used, scale, 1.0)
    square = torch.where(used, scaled.square().sum(dim=1, keepdim=True), 1.0)
    unit = torch.where(used, scaled * square.rsqrt(), 0.0)
    count = used.sum().to(torch.float64)
    pairs = operators.positive(
        count * (count - 1.0), "cosines need at least two rows that are not zero"
    )
    return in_input_dtype((unit.sum(dim=0).square().sum() - count) / pairs, x)


def _covariance(x: Tensor) -> Tensor:
    """Scatter matrix (d, d) of the centered rows, or their products (n, n) where that is smaller.

    Both have the same eigenvalues, save zeros; in a unit of their own.
    """
    values = operators.rows(x, "x", 2)
    # About a row first: exact where all rows share a large offset.
    centered = values - values[:1].detach()
    centered = centered - centered.mean(dim=0)
    # What is formed from the eigenvalues does not change with the unit of x, so the scale, which
    # keeps squares in range, is a constant.
    scale = centered.detach().abs().amax()
    centered = centered / torch.where(scale > 0.0, scale, 1.0)
    across = centered if x.shape[0] < x.shape[1] else centered.T
    return torch.mm(across, across.T)
