"""Sums over rows spread over ranks, added in one order; spectrum and cosine moments from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastdim import moments
from fastdim.backends.cpu import RowForms, second_moments
from fastdim.cosine import (
    DIRECT_ROWS,
    CosineStats,
    moments_of,
    parts_of,
    parts_of_pairs,
)
from fastdim.covariance import (
    Decomposition,
    Spectrum,
    decompose_sums,
    scores,
    spectrum_from_forms,
    spectrum_of,
)
from fastdim.distributed.shard import Shard
from fastdim.errors import InputError
from fastdim.moments import SHIFT_ROWS, Sums

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def near_mean(shard: Shard, scale: Float64 | None, numbers: Int64 | None) -> Float64:
    """`fastdim.moments.near_mean` of the rows listed (None: all), the same bits."""
    chosen = np.arange(shard.n) if numbers is None else numbers
    chosen = chosen[:: max(1, len(chosen) // SHIFT_ROWS)][:SHIFT_ROWS]
    sample = shard.fetch(chosen)
    return moments.near_mean(sample, None if scale is None else scale[chosen])


def sums(
    shard: Shard, shift: Float64, threads: int, numbers: Int64 | None, scale: Float64 | None
) -> Sums:
    """Moments of scale * x about `shift` over the rows listed, or all."""
    d = shard.d

    def own() -> Float64:
        places = None if numbers is None else shard.places(numbers)
        if (shard.rows.n if places is None else len(places)) == 0:
            return np.zeros((d + 1, d))
        here = None if scale is None else np.ascontiguousarray(shard.own(scale))
        total, outer = second_moments(shard.rows, shift, places, here, threads)
        return np.concatenate([total[None], outer])

    added = shard.ranks.total(shard.ranks.each(own))
    return Sums(shift, shard.n if numbers is None else len(numbers), added[0], added[1:])


def decompose(
    shard: Shard, parts: Sums, numbers: Int64 | None, scale: Float64 | None, threads: int
) -> Decomposition:
    """Axes from rank 0, and the forms of every row, which each rank computes for its own."""
    ranks = shard.ranks

    def on_first() -> tuple[Float64, Float64, Float64]:
        found = decompose_sums(parts, None, scale)
        return found.eigenvalues, found.axes, found.mean

    values, axes, mean = ranks.from_first(on_first)
    found = Decomposition(values, axes, False, mean, parts.count, numbers, scale)
    places = None if numbers is None else shard.places(numbers)

    def own() -> RowForms:
        if (shard.rows.n if places is None else len(places)) == 0:
            return RowForms(np.zeros(0), np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)), "")
        here = None if scale is None else np.ascontiguousarray(shard.own(scale))
        return scores(shard.rows, replace(found, ids=places, scale=here, forms=None), threads)

    forms = ranks.each(own)
    arithmetic = next((name for name in ranks.gather(forms.arithmetic) if name), "")
    first, rest, linear, squares = (
        ranks.concatenate(part) for part in (forms.first, forms.rest, forms.linear, forms.forms)
    )
    found.forms = RowForms(first, rest, linear, squares, arithmetic)
    return found


def spectrum(
    shard: Shard,
    labels: Int64 | None,
    confidence: float,
    threads: int,
    known: Decomposition | None = None,
    kept: Int64 | None = None,
) -> Spectrum:
    """`fastdim.covariance.spectrum_of` the rows `kept` of the whole matrix, None for all.

    Fewer rows than columns are no more bytes than their covariance, and go to every rank. known:
    their decomposition with its forms.
    """
    count = shard.n if kept is None else len(kept)
    if shard.d < 2 or count < max(2, shard.d):
        rows = shard.fetch(np.arange(shard.n) if kept is None else kept)
        return shard.ranks.from_first(lambda: spectrum_of(rows, labels, confidence, threads))
    if known is None:
        shift = near_mean(shard, None, kept)
        known = decompose(shard, sums(shard, shift, threads, kept, None), kept, None, threads)
    return spectrum_from_forms(known, labels, confidence, shard.d)


def moments_of_cosines(
    shard: Shard,
    inverse: Float64,
    labels: Int64 | None,
    confidence: float,
    threads: int,
    known: Decomposition | None = None,
    kept: Int64 | None = None,
) -> tuple[CosineStats, Float64]:
    """`fastdim.cosine.cosine_moments` of the rows `kept` (None: all): their statistics, and
    1/|row| (n,) with 0 for all others.

    inverse: 1/|row| of all rows (n,), 0 for a zero row. known: the decomposed covariance of the
    unit rows among them.
    """
    n = shard.n if kept is None else len(kept)
    here = inverse.copy()
    if kept is not None:
        here[np.setdiff1d(np.arange(shard.n), kept, assume_unique=True)] = 0.0
    used = here > 0
    count = int(used.sum())
    if count < 2:
        raise InputError(f"cosines need at least two rows that are not zero, got {count} of {n}")
    numbers = np.flatnonzero(used)
    if count <= max(DIRECT_ROWS, shard.d):
        few = shard.fetch(numbers)
        parts = shard.ranks.from_first(lambda: parts_of_pairs(few, here[numbers], count))
    else:
        if known is None:
            ids = None if used.all() else numbers
            shift = near_mean(shard, here, None)
            known = decompose(shard, sums(shard, shift, threads, ids, here), ids, here, threads)
        assert known.forms is not None  # decomposed above
        parts = parts_of(known, known.forms)
    taking = used if kept is None else used[kept]
    groups = None if labels is None else labels[taking]
    group_count = 0 if labels is None else int(labels.max()) + 1
    return moments_of(n, count, parts, groups, group_count, confidence), here
