"""A uniform sample of distinct rows, of fixed size, that merges exactly.

A row's key is a 64-bit hash of its values and a seed; the sample is the rows of lowest key
(a bottom-k sketch). It depends on the set of rows alone, not on batches, ranks, order or copies.
Two different rows have the same key with probability 2^-64, and then one of them is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdim.arrays import BLOCK_BYTES

# Stands where there is no row yet, behind every key.
EMPTY = 2**63 - 1

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def row_keys(rows: Tensor, seed: int) -> Tensor:
    """Keys (n,) int64 below EMPTY of rows (n, d), float32 or float64; -0 equals 0.

    Of each column a hash of (value's bits, column, seed), of those the sum, and a hash of it.
    """
    step = max(1, BLOCK_BYTES // (8 * rows.shape[1]))
    columns = torch.arange(1, rows.shape[1] + 1, device=rows.device) * _signed(_GOLDEN)
    columns = _mix(columns ^ _signed(seed % 2**64))
    whole = torch.int64 if rows.dtype == torch.float64 else torch.int32
    parts = [
        _mix(_mix((part + 0.0).view(whole).to(torch.int64) + columns).sum(dim=1))
        for part in torch.split(rows.contiguous(), step)
    ]
    return torch.cat(parts).clamp(max=EMPTY - 1)


def lowest(rows: Tensor, keys: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """The rows (capacity, d) of lowest keys (capacity,), ascending, each once.

    Entries whose key is EMPTY are no rows; NaN and EMPTY fill the end where rows are fewer.
    """
    order = keys.argsort(stable=True)
    ordered = keys[order]
    once = torch.ones_like(ordered, dtype=torch.bool)
    once[1:] = ordered[1:] != ordered[:-1]
    kept = order[once & (ordered != EMPTY)][:capacity]
    found = rows.new_full((capacity, rows.shape[1]), torch.nan)
    found[: len(kept)] = rows[kept]
    named = keys.new_full((capacity,), EMPTY)
    named[: len(kept)] = keys[kept]
    return found, named


def merge_keys(stacked: Tensor) -> Tensor:
    """Keys of the union of samples (w, capacity) of one capacity."""
    return lowest(
        stacked.new_zeros((stacked.numel(), 1)).float(), stacked.flatten(), len(stacked[0])
    )[1]


def merge_rows(stacked: Tensor, seed: int) -> Tensor:
    """Rows of the union of samples (w, capacity, d) of one capacity and seed; NaN is no row."""
    flat = stacked.flatten(0, 1)
    keys = row_keys(flat, seed).masked_fill(flat[:, 0].isnan(), EMPTY)
    return lowest(flat, keys, stacked.shape[1])[0]


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the signed one of the same bits: torch shifts and adds int64."""
    return word - 2**64 if word >= 2**63 else word


def _mix(z: Tensor) -> Tensor:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014), products modulo 2^64."""
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift to the right that fills with zeros; torch's own repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
