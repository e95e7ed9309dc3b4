"""What the pruned CUDA search is given: a few principal axes, and an order that follows them.

Neither is trusted: any axes and any permutation give the same neighbours (csrc/cuda/pruned.cuh);
good ones let more tiles be left out. Queued on torch's current stream, the host waits for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdim.errors import require

if TYPE_CHECKING:
    from torch import Tensor

# One column of 64 is the length of the rest.
AXES = 63
SAMPLE = 4096
ROUNDS = 3
# Rows of a leaf of the order: those of a tile.
LEAF = 128


def axes_of(x: Tensor) -> Tensor:
    """About the longest principal axes (at most 63, d) float64 of x (n, d), orthonormal.

    Subspace iteration on up to 4,096 rows, spread over x; the longest rows among them would be
    axes of their own, so rows longer than four times the median are shortened to that.
    """
    torch = require("torch", "torch")
    sample = x[:: max(1, len(x) // SAMPLE)][:SAMPLE].double()
    sample = sample - sample.mean(dim=0)
    lengths = torch.linalg.vector_norm(sample, dim=1)
    scale = lengths.median().clamp_min(torch.finfo(torch.float64).tiny)
    sample = sample / torch.maximum(scale, 0.25 * lengths)[:, None]
    generator = torch.Generator(device=x.device).manual_seed(0)
    count = min(AXES, x.shape[1])
    shape = (x.shape[1], count)
    basis = torch.randn(shape, dtype=torch.float64, device=x.device, generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(basis)[0]
        basis = sample.T @ (sample @ basis)
    axes: Tensor = torch.linalg.qr(basis)[0].T.contiguous()
    return axes


def order_of(x: Tensor, axes: Tensor) -> Tensor:
    """Row numbers (n,) int64 in an order that puts near rows near each other.

    Halves by the median along the first axis, those again along the second, down to a tile's rows.
    """
    torch = require("torch", "torch")
    n = len(x)
    levels = max(0, (n - 1).bit_length() - (LEAF - 1).bit_length())
    along = (x.double() if x.dtype == torch.float64 else x.float()) @ axes[: max(1, levels)].T.to(
        torch.float64 if x.dtype == torch.float64 else torch.float32
    )
    order: Tensor = torch.arange(n, device=x.device)
    for level in range(levels):
        # The g-th of 2^level groups holds the places whose number times 2^level / n is g.
        group = (torch.arange(n, device=x.device) << level) // n
        by_value = along[order, level % along.shape[1]].argsort(stable=True)
        by_group = group[by_value].argsort(stable=True)
        order = order[by_value[by_group]]
    return order
