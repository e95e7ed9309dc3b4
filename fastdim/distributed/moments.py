"""Sums over rows spread over ranks, added in one order; spectrum and cosine moments from them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastdim import moments, quadratic
from fastdim.backends.blas import one_blas_thread
from fastdim.backends.cpu import RowForms, second_moments
from fastdim.cosine import (
    DIRECT_ROWS,
    CosineStats,
    moments_of,
    sums_of_pairs,
)
from fastdim.covariance import (
    Decomposition,
    Spectrum,
    covariance_of,
    decompose_sums,
    decomposed_at_once,
    scores,
    spectrum_from_forms,
    spectrum_of,
)
from fastdim.distributed.shard import Shard
from fastdim.errors import InputError
from fastdim.moments import SHIFT_ROWS, Sums
from fastdim.quadratic import PairSums

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


Wanted = tuple[Sums, Int64 | None, Float64 | None]


def decompose(shard: Shard, wanted: Sequence[Wanted], threads: int) -> list[Decomposition]:
    """Axes and forms of every row for each of (sums, numbers, scale).

    Each is decomposed by one of the ranks, in turn, and the forms are computed by each rank for its
    own rows.
    """
    ranks, d = shard.ranks, shard.d
    mine = wanted[ranks.rank :: ranks.size]

    def own() -> Float64:
        workers = min(threads, decomposed_at_once(d))
        with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda one: decompose_sums(one[0], None, one[2]), mine))
        packed = np.empty((len(mine), d + 1, d))
        for place, one in zip(packed, found, strict=True):
            place[0], place[1:] = one.eigenvalues, one.axes
        return packed

    packed = ranks.concatenate(ranks.each(own))
    order = [i for rank in range(ranks.size) for i in range(rank, len(wanted), ranks.size)]
    found = []
    for number, (parts, numbers, scale) in enumerate(wanted):
        values, axes = packed[order.index(number), 0], packed[order.index(number), 1:]
        one = Decomposition(values, axes, False, parts.mean, parts.count, numbers, scale)
        one.forms = _forms(shard, one, threads)
        found.append(one)
    return found


def _forms(shard: Shard, found: Decomposition, threads: int) -> RowForms:
    """`scores` of all rows that take part, each rank's by itself."""
    ranks, numbers, scale = shard.ranks, found.ids, found.scale
    places = None if numbers is None else shard.places(numbers)

    def own() -> RowForms:
        if (shard.rows.n if places is None else len(places)) == 0:
            return RowForms(np.zeros(0), np.zeros(0), np.zeros((0, 0)), np.zeros((0, 2)), "")
        here = None if scale is None else np.ascontiguousarray(shard.own(scale))
        return scores(shard.rows, replace(found, ids=places, scale=here, forms=None), threads)

    forms = ranks.each(own)
    arithmetic = next((name for name in ranks.gather(forms.arithmetic) if name), "")
    first, rest, linear, squares = (
        ranks.concatenate(part) for part in (forms.first, forms.rest, forms.linear, forms.forms)
    )
    return RowForms(first, rest, linear, squares, arithmetic)


def pair_sums(
    shard: Shard, parts: Sums, numbers: Int64 | None, scale: Float64, threads: int
) -> PairSums:
    """`quadratic.pair_sums` of unit rows with these sums; each rank looks at its own rows."""
    ranks = shard.ranks
    known = covariance_of(parts, numbers, scale)
    sample = quadratic.judged(known, shard.fetch)
    axes = ranks.from_first(lambda: quadratic.axes_of(known, sample))
    places = None if numbers is None else shard.places(numbers)

    def own() -> quadratic.Added:
        if (shard.rows.n if places is None else len(places)) == 0:
            return quadratic.Added(np.zeros(0), np.zeros(0), np.zeros(0))
        here = np.ascontiguousarray(shard.own(scale))
        return quadratic.added_by(shard.rows, replace(known, ids=places, scale=here), axes, threads)

    found = ranks.each(own)
    every = (ranks.concatenate(part) for part in (found.slopes, found.along, found.squares))
    return quadratic.pair_sums(known, quadratic.Added(*every))


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
        total = sums(shard, shift, threads, kept, None)
        known = decompose(shard, [(total, kept, None)], threads)[0]
    return spectrum_from_forms(known, labels, confidence, shard.d)


def moments_of_cosines(
    shard: Shard,
    inverse: Float64,
    labels: Int64 | None,
    confidence: float,
    threads: int,
    known: PairSums | None = None,
    kept: Int64 | None = None,
) -> tuple[CosineStats, Float64]:
    """`fastdim.cosine.cosine_moments` of the rows `kept` (None: all): their statistics, and
    1/|row| (n,) with 0 for all others.

    inverse: 1/|row| of all rows (n,), 0 for a zero row. known: `pair_sums` of the unit
    rows among them, where they are known.
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
        known = shard.ranks.from_first(lambda: sums_of_pairs(few, here[numbers], count))
    elif known is None:
        ids = None if used.all() else numbers
        shift = near_mean(shard, here, None)
        total = sums(shard, shift, threads, ids, here)
        known = pair_sums(shard, total, ids, here, threads)
    taking = used if kept is None else used[kept]
    groups = None if labels is None else labels[taking]
    group_count = 0 if labels is None else int(labels.max()) + 1
    return moments_of(n, count, known, groups, group_count, confidence), here
