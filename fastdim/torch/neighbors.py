"""Differentiable dimensions from neighbour distances: TwoNN and Levina-Bickel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdim.arrays import whole_number
from fastdim.errors import BackendError, InputError
from fastdim.estimators.twonn_fits import kept_count
from fastdim.torch import operators
from fastdim.torch.inputs import differentiable, number
from fastdim.torch.results import in_input_dtype

_FLAT = (
    "{} is undefined here: the neighbours of too many rows are equally far, as on a grid, or so "
    "near that their distances vanish in float64"
)


def twonn(x: Tensor, *, discard_fraction: float = 0.1) -> Tensor:
    """Intrinsic dimension () by TwoNN (Facco et al., Sci. Rep. 7:12140, 2017), differentiable.

    x: rows (n, d) on the CPU, float16, bfloat16, float32 or float64. The value is that of
        `fastdim.twonn(x)`, censored maximum likelihood; float64 inside, returned as float64 for
        float64 and as float32 otherwise.
    discard_fraction: share of the largest ratios known only to exceed the largest kept one.

    Gradient: of the distances to the two neighbours found, recomputed from differences; who the
    neighbours are, and which ratios are kept, is constant (the value jumps nowhere, its slope does
    where they change). Derivatives of any order, backwards (`docs/torch.md`). Equal rows are one
    row first: each of them gets an equal share of its gradient, so a step leaves them equal.

    Raises InputError on NaN, Inf, wrong shapes, fewer than 3 distinct rows or too few for
    `discard_fraction`, ratios that are all 1, and an x that carries a forward-mode tangent;
    BackendError off the CPU: pass x.cpu(), through which gradient flows.
    """
    discard_fraction = number("discard_fraction", discard_fraction)
    if not 0.0 <= discard_fraction < 1.0:
        raise InputError(f"discard_fraction must lie in [0, 1), got {discard_fraction!r}")
    least = max(3, math.ceil(2 / (1.0 - discard_fraction)))
    while kept_count(least, discard_fraction) < 2:  # where rounding says otherwise
        least += 1
    near, counted = _distances(x, 2, least, "TwoNN")
    log_mu = (near[:, 1] / near[:, 0]).log()
    # Rows equal to an earlier one stand behind all others, and are never kept.
    ordered = log_mu.masked_fill(~counted, math.inf).sort().values
    count = counted.sum()
    # `kept_count` of a tensor: a whole one times a number would be float32, rounded otherwise.
    kept = (count.to(torch.float64) * (1.0 - discard_fraction)).to(torch.int64)
    place = torch.arange(ordered.shape[0], device=x.device)
    total = torch.where(place < kept, ordered, 0.0).sum()
    total = total + (count - kept) * ordered.gather(0, (kept - 1).reshape(1)).squeeze(0)
    total = operators.positive(total, _FLAT.format("TwoNN"))
    return in_input_dtype((kept - 1) / total, x)


def mle(x: Tensor, k: int = 20) -> Tensor:
    """Intrinsic dimension () by Levina & Bickel (NIPS 2004), inverses averaged, differentiable.

    1 / mean over rows of sum_{j<k} log(T_k / T_j) / (k - 1), T_j the distance to the j-th
    neighbour (MacKay & Ghahramani, 2005): the value of `fastdim.levina_bickel(x, k)`.

    x: rows (n, d) on the CPU. k: neighbours, at least 2 and below the number of distinct rows.

    Precision, gradient, equal rows and errors as in `twonn`.
    """
    k = whole_number("k", k, 2)
    near, counted = _distances(x, k, k + 1, f"mle with k = {k}")
    logs = near.log()
    each = (logs[:, -1:] - logs[:, :-1]).sum(dim=1)
    total = torch.where(counted, each, 0.0).sum() / (k - 1)
    total = operators.positive(total, _FLAT.format("mle"))
    return in_input_dtype(counted.sum() / total, x)


def _distances(x: Tensor, k: int, least: int, name: str) -> tuple[Tensor, Tensor]:
    """Distances (n, k) to the neighbours, differentiable, and which rows count: the first of each.

    A row equal to an earlier one carries the distances of that one. The unit of the distances is
    their own, one that keeps their squares in range: ratios do not change with it.
    """
    x = differentiable(x)
    if x.device.type != "cpu":
        raise BackendError(
            f"x lies on {x.device}, and neighbours are searched on the CPU so far: pass x.cpu(); "
            "gradient flows through the copy"
        )
    values = operators.rows(x, "x", 2)
    indices, first, unit = operators.nearest(x.detach(), k, least, name)
    numbers = torch.arange(x.shape[0], device=x.device)
    merged = _merge(values, first) * unit
    return operators.squares(merged, first, indices).sqrt(), first == numbers


def _merge(values: Tensor, first: Tensor) -> Tensor:
    """The rows (n, d) as they are, but whose gradient is that of the means of groups of equal rows.

    It arrives at the first row of each group, and every row of the group gets the same share.
    """
    size = torch.zeros_like(values[:, 0]).index_add(0, first, torch.ones_like(values[:, 0]))
    total = torch.zeros_like(values).index_add(0, first, values)
    mean = total / size.clamp(min=1.0)[:, None]
    return values.detach() + (mean - mean.detach())
