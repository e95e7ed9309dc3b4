"""Custom operators: what torch cannot trace or differentiate by itself, each with a fake kernel.

`torch.ops.fastdim.*`. Shapes never depend on values, so compiled graphs stay whole and sizes may
be dynamic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdim.arrays import as_rows
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimators.inputs import distinct_of, neighbors_of
from fastdim.torch.inputs import check_rows


@torch.library.custom_op(
    "fastdim::rows", mutates_args=(), schema="(Tensor x, str name, int least) -> Tensor"
)
def rows(x: Tensor, name: str, least: int) -> Tensor:
    """x (n, d) as float64, checked: at least `least` rows, all finite. Identity for gradients."""
    return check_rows(x, name, least)


@rows.register_fake
def _rows_fake(x: Tensor, name: str, least: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float64)


def _rows_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.dtype = inputs[0].dtype


def _rows_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad.to(ctx.dtype), None, None


rows.register_autograd(_rows_backward, setup_context=_rows_context)


@torch.library.custom_op(
    "fastdim::nearest",
    mutates_args=(),
    schema="(Tensor x, int k, int least, str name) -> (Tensor, Tensor, Tensor)",
)
def nearest(x: Tensor, k: int, least: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours (n, k) of every row of x (n, d) among the distinct rows, first (n,) and unit ().

    first: the first row equal to each row; equal rows have the same neighbours. unit: a power of
    two, by which the middle of the distances, on the log scale of least and largest, is about 1:
    squares of tiny distances would lose digits. Constants: no gradient. Raises InputError on fewer
    than `least` distinct rows, BackendError off the CPU.
    """
    given = as_rows(x, min_columns=2)
    advice = "pass more rows" if k == 2 else "pass more rows or a smaller k"
    groups = distinct_of(given, max(least, k + 1), name, cpu.resolve_threads(None), advice)
    found = neighbors_of(given, k, name)
    indices = torch.from_numpy(found.indices[groups.inverse])
    ends = np.array([found.distances[:, 0].min(), found.distances[:, -1].max()])
    middle = int(np.frexp(ends)[1].sum()) // 2
    unit = torch.tensor(2.0 ** min(-middle, 1000), dtype=torch.float64)
    return indices, torch.from_numpy(groups.first[groups.inverse]), unit


@nearest.register_fake
def _nearest_fake(x: Tensor, k: int, least: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty((x.shape[0], k), dtype=torch.int64),
        x.new_empty((x.shape[0],), dtype=torch.int64),
        x.new_empty((), dtype=torch.float64),
    )


@torch.library.custom_op(
    "fastdim::squares",
    mutates_args=(),
    schema="(Tensor x, Tensor queries, Tensor indices) -> Tensor",
)
def squares(x: Tensor, queries: Tensor, indices: Tensor) -> Tensor:
    """|x_i - x_j|^2 (m, k), i = queries (m,), j = indices (m, k), rows of x (n, d).

    This and the next two are closed under derivatives, of any order. They go over one column of
    neighbours at a time, so that memory is that of x.
    """
    found = x.new_empty(indices.shape)
    for column, near in enumerate(indices.unbind(dim=1)):
        found[:, column] = (x[queries] - x[near]).square().sum(dim=1)
    return found


@squares.register_fake
def _squares_fake(x: Tensor, queries: Tensor, indices: Tensor) -> Tensor:
    return x.new_empty(indices.shape)


def _all_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _squares_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, queries, indices = ctx.saved_tensors
    return 2.0 * pulls(x, queries, indices, grad), None, None


squares.register_autograd(_squares_backward, setup_context=_all_context)


@torch.library.custom_op(
    "fastdim::pulls",
    mutates_args=(),
    schema="(Tensor x, Tensor queries, Tensor indices, Tensor weights) -> Tensor",
)
def pulls(x: Tensor, queries: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Sum over i, j of w_ij (x_i - x_j), added to row i and taken from row j: (n, d)."""
    total = torch.zeros_like(x)
    own = torch.zeros_like(x[queries])
    for column, near in enumerate(indices.unbind(dim=1)):
        pull = weights[:, column, None] * (x[queries] - x[near])
        own += pull
        total.index_add_(0, near, pull, alpha=-1)
    return total.index_add_(0, queries, own)


@pulls.register_fake
def _pulls_fake(x: Tensor, queries: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(x)


def _pulls_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, queries, indices, weights = ctx.saved_tensors
    by_x = pulls(grad, queries, indices, weights)
    return by_x, None, None, products(x, grad, queries, indices)


pulls.register_autograd(_pulls_backward, setup_context=_all_context)


@torch.library.custom_op(
    "fastdim::products",
    mutates_args=(),
    schema="(Tensor a, Tensor b, Tensor queries, Tensor indices) -> Tensor",
)
def products(a: Tensor, b: Tensor, queries: Tensor, indices: Tensor) -> Tensor:
    """(a_i - a_j) . (b_i - b_j) (m, k)."""
    found = a.new_empty(indices.shape)
    for column, near in enumerate(indices.unbind(dim=1)):
        found[:, column] = ((a[queries] - a[near]) * (b[queries] - b[near])).sum(dim=1)
    return found


@products.register_fake
def _products_fake(a: Tensor, b: Tensor, queries: Tensor, indices: Tensor) -> Tensor:
    return a.new_empty(indices.shape)


def _products_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b, queries, indices = ctx.saved_tensors
    return pulls(b, queries, indices, grad), pulls(a, queries, indices, grad), None, None


products.register_autograd(_products_backward, setup_context=_all_context)


@torch.library.custom_op(
    "fastdim::positive", mutates_args=(), schema="(Tensor value, str otherwise) -> Tensor"
)
def positive(value: Tensor, otherwise: str) -> Tensor:
    """A scalar as it is, or InputError(otherwise) unless it is above zero."""
    if not value.item() > 0.0:
        raise InputError(otherwise)
    return value.clone()


@positive.register_fake
def _positive_fake(value: Tensor, otherwise: str) -> Tensor:
    return torch.empty_like(value)


def _no_context(ctx: Any, inputs: Any, output: Any) -> None:
    """Nothing to keep: the derivative is one."""


def _positive_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad, None


positive.register_autograd(_positive_backward, setup_context=_no_context)


@torch.library.custom_op(
    "fastdim::top_eigenpair", mutates_args=(), schema="(Tensor matrix) -> (Tensor, Tensor)"
)
def top_eigenpair(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue () and a unit eigenvector (p,) of a symmetric matrix (p, p).

    The gradient of the value is v v', finite also where eigenvalues are equal; there it is that of
    one of the leading eigenvectors, a subgradient. The vector carries no gradient.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values[-1].clone(), vectors[:, -1].clone()


@top_eigenpair.register_fake
def _top_eigenpair_fake(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return matrix.new_empty(()), matrix.new_empty((matrix.shape[0],))


def _top_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])


def _top_backward(ctx: Any, grad: Tensor, _: Any) -> Tensor:
    matrix, found = ctx.saved_tensors
    vector = top_eigenvector(matrix, found)
    return grad * torch.outer(vector, vector)


top_eigenpair.register_autograd(_top_backward, setup_context=_top_context)


@torch.library.custom_op(
    "fastdim::top_eigenvector", mutates_args=(), schema="(Tensor matrix, Tensor found) -> Tensor"
)
def top_eigenvector(matrix: Tensor, found: Tensor) -> Tensor:
    """The eigenvector that was found, as a function of the matrix: for second derivatives."""
    return found.clone()


@top_eigenvector.register_fake
def _top_eigenvector_fake(matrix: Tensor, found: Tensor) -> Tensor:
    return torch.empty_like(found)


def _vector_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    matrix, found = ctx.saved_tensors
    return eigenvector_gradient(matrix, found, grad), None


top_eigenvector.register_autograd(_vector_backward, setup_context=_all_context)


@torch.library.custom_op(
    "fastdim::eigenvector_gradient",
    mutates_args=(),
    schema="(Tensor matrix, Tensor vector, Tensor grad) -> Tensor",
)
def eigenvector_gradient(matrix: Tensor, vector: Tensor, grad: Tensor) -> Tensor:
    """First order of the top eigenvector: dv = sum_k v_k (v_k' dM v) / (l_1 - l_k), as a gradient.

    Terms with l_k = l_1 within rounding are left out: inside a space of equal eigenvalues the
    vector has no derivative. Not derived again: third derivatives are refused by torch.
    """
    values, vectors = torch.linalg.eigh(matrix)
    gap = values[-1] - values
    least = len(values) * torch.finfo(values.dtype).eps * values[-1].abs()
    inverse = torch.where(gap > least, 1.0 / gap, torch.zeros_like(gap))
    spread = vectors @ (inverse * (vectors.T @ grad))
    outer = torch.outer(spread, vector)
    return 0.5 * (outer + outer.T)


@eigenvector_gradient.register_fake
def _eigenvector_gradient_fake(matrix: Tensor, vector: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(matrix)
