"""Rows of one matrix spread over ranks: rank 0 has the first, the next rank those after them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows
from fastdim.backends import cpu
from fastdim.distributed.ranks import Ranks
from fastdim.errors import InputError
from fastdim.moments import inverse_norms
from fastdim.neighbors import Distinct

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shard:
    """This rank's rows of a matrix (n, d), and where they lie in it.

    rows: those of this rank, perhaps none; counts: rows of every rank. Row numbers of the whole
    matrix are called numbers, those of `rows` places.
    """

    rows: Rows
    counts: tuple[int, ...]
    ranks: Ranks

    @property
    def n(self) -> int:
        """Rows of the whole matrix."""
        return sum(self.counts)

    @property
    def d(self) -> int:
        """Columns."""
        return self.rows.d

    @cached_property
    def ends(self) -> Int64:
        """(ranks + 1,) rank r has the rows from ends[r] to ends[r + 1]."""
        return np.cumsum([0, *self.counts])

    @property
    def start(self) -> int:
        """Number of this rank's first row."""
        return int(self.ends[self.ranks.rank])

    @property
    def stop(self) -> int:
        """Number after this rank's last row."""
        return int(self.ends[self.ranks.rank + 1])

    def places(self, numbers: Int64) -> Int64:
        """Places here of those of the ascending numbers that are rows of this rank."""
        low, high = np.searchsorted(numbers, (self.start, self.stop))
        return np.asarray(numbers[low:high] - self.start)

    def own(self, values: NDArray[Any]) -> NDArray[Any]:
        """The part of an array (n, ...) that belongs to this rank's rows."""
        return values[self.start : self.stop]

    def take(self, numbers: Int64) -> Shard:
        """The shard of the listed rows, ascending; each stays where it is."""
        rows = self.ranks.each(lambda: self.rows.take(self.places(numbers)))
        return self.with_rows(rows, numbers)

    def with_rows(self, rows: Rows, numbers: Int64) -> Shard:
        """Other rows in place of the listed ones: `rows` holds those of this rank."""
        counts = np.diff(np.searchsorted(numbers, self.ends))
        return Shard(rows, tuple(int(count) for count in counts), self.ranks)

    def fetch(self, numbers: Int64) -> Rows:
        """The listed rows, ascending, on every rank."""
        data = self.ranks.concatenate(self.rows.data[self.places(numbers)])
        return as_rows(Rows(data, self.rows.dtype))

    def norms(self) -> Float64:
        """Norm of every row (n,), on every rank."""
        return self.ranks.concatenate(self.ranks.each(self.rows.norms))

    def inverse(self, norms: Float64) -> Float64:
        """1/|row| (n,), 0 for a zero row; InputError where squares vanish in float64."""
        inverse = self.ranks.each(lambda: inverse_norms(self.rows, self.own(norms)))
        return self.ranks.concatenate(inverse)

    def distinct(self, threads: int) -> Distinct:
        """Groups of equal rows (-0 equals 0) of the whole matrix, in order of first occurrence.

        Rows of two ranks are taken as equal if they have the same SHA-256.
        """
        first, inverse = self.ranks.each(lambda: cpu.distinct(self.rows, threads))
        digests = self.ranks.concatenate(_digests(self.rows, first))
        firsts = self.ranks.concatenate(first + self.start)
        # Of equal digests numpy names the one that comes first.
        _, chosen, codes = np.unique(digests, return_index=True, return_inverse=True)
        order = np.argsort(chosen)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        groups = place[codes]  # of the rows that are distinct within their rank
        lengths = self.ranks.gather(len(first))
        before = sum(lengths[: self.ranks.rank])
        mine = groups[before : before + len(first)][inverse]
        return Distinct(firsts[chosen[order]], self.ranks.concatenate(mine))


def open_shard(
    x: Any, ranks: Ranks, *, min_rows: int = 2, min_columns: int = 1, name: str = "x"
) -> Shard:
    """Validate this rank's rows x (n_r, d), n_r >= 0; all ranks must have one d and number type.

    Raises on every rank what `as_rows` raises on one, and InputError where the ranks differ or
    have fewer than `min_rows` rows together.
    """
    rows = ranks.each(lambda: as_rows(x, name=name, min_columns=min_columns, empty=True))
    told = ranks.gather((rows.n, rows.d, rows.dtype))
    other = next((rank for rank, found in enumerate(told) if found[1:] != told[0][1:]), None)
    if other is not None:
        raise InputError(
            f"rank 0 has {told[0][1]} columns of {told[0][2]}, and rank {other} {told[other][1]} "
            f"of {told[other][2]}: give every rank the same (a rank without rows too)"
        )
    counts = tuple(found[0] for found in told)
    if sum(counts) < min_rows:
        raise InputError(f"at least {min_rows} rows are needed, got {sum(counts)} on all ranks")
    return Shard(rows, counts, ranks)


def _digests(rows: Rows, places: Int64) -> NDArray[np.void]:
    """SHA-256 of each listed row, -0 as 0: (m,) entries of 32 bytes."""
    out = np.empty(len(places), dtype="V32")
    for start, stop in rows.spans():
        low, high = np.searchsorted(places, (start, stop))
        # Decoded values: + 0 turns -0 into 0 and changes nothing else.
        block = np.ascontiguousarray(rows.block(start, stop)[places[low:high] - start] + 0.0)
        for number, row in enumerate(block, int(low)):
            out[number] = np.void(hashlib.sha256(row.data).digest())
    return out
