"""The causes that are taken away from the rows of a layer, alone and together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows
from fastdim.errors import InputError
from fastdim.extract.store import TokenTable
from fastdim.sweeps.filters import outlier_limit

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Factor -> what its ablation does. Rows are chosen first, then the mean goes, then the norms.
FACTORS = {
    "rare": "rows of tokens in the rarest third of the sample's rows left out",
    "position": "rows of the first token of each document left out",
    "sink": "rows of special tokens, and those with a norm over the outlier factor, left out",
    "mean": "the mean of the rows subtracted",
    "norm": "every row divided by its norm",
}
LEAST_ROWS = 100


@dataclass(frozen=True, eq=False)
class LayerCauses:
    """Rows of a layer with the tokens beside them, and what a factor leaves of them."""

    rows: Rows
    tokens: TokenTable
    outlier_factor: float

    @cached_property
    def norms(self) -> Array:
        """(n,) norms of the rows."""
        return self.rows.norms()

    @cached_property
    def frequency(self) -> Int64:
        """(n,) how often the row's token stands in the sample."""
        _, inverse, counts = np.unique(self.tokens.token, return_inverse=True, return_counts=True)
        return np.asarray(counts[inverse])

    @cached_property
    def rare(self) -> Mask:
        """Rows of the rarest tokens, whole frequencies at a time up to a third of all rows; those
        of the lowest frequency even if they are more.
        """
        levels, counts = np.unique(self.frequency, return_counts=True)
        within = levels[np.cumsum(counts) <= self.rows.n / 3]
        return np.asarray(self.frequency <= (within[-1] if len(within) else levels[0]))

    def keep(self, factors: frozenset[str]) -> Int64:
        """Row numbers that are left, ascending. Raises InputError where they are too few."""
        left = np.ones(self.rows.n, dtype=bool)
        if "rare" in factors:
            left &= ~self.rare
        if "position" in factors:
            left &= self.tokens.position != 0
        if "sink" in factors:
            limit = outlier_limit(self.norms, self.outlier_factor)
            left &= ~self.tokens.special & (self.norms <= limit)
        if "norm" in factors:
            left &= self.norms > 0.0
        kept = np.flatnonzero(left)
        if len(kept) < LEAST_ROWS:
            raise InputError(
                f"without {', '.join(sorted(factors))} {len(kept)} of {self.rows.n} rows are left, "
                f"and {LEAST_ROWS} are needed: take more tokens"
            )
        return kept

    def apply(self, factors: frozenset[str], added: Array | None = None) -> tuple[Rows, Int64]:
        """The rows without these factors, and their numbers. added (d,): put on before norms."""
        kept = self.keep(factors)
        rows = self.rows if len(kept) == self.rows.n else self.rows.take(kept)
        shift = np.zeros(self.rows.d) if added is None else added
        if "mean" in factors:
            shift = shift - mean_of(rows)
        if not shift.any() and "norm" not in factors:
            return rows, kept
        out = np.empty((rows.n, rows.d), dtype=np.float32)
        for start, stop in rows.spans():
            block = rows.float64(start, stop) + shift
            if "norm" in factors:
                norms = np.linalg.norm(block, axis=1, keepdims=True)
                block = np.divide(block, norms, out=np.zeros_like(block), where=norms > 0.0)
            out[start:stop] = block
        return Rows(out, "float32"), kept


def mean_of(rows: Rows) -> Array:
    """Mean row (d,)."""
    total = np.zeros(rows.d)
    for start, stop in rows.spans():
        total += rows.float64(start, stop).sum(axis=0)
    return np.asarray(total / rows.n)


def strata(layer: LayerCauses) -> dict[str, Mask]:
    """Parts of the rows by frequency of the token, norm and position: name -> mask (n,)."""
    thirds = np.quantile(layer.frequency, [1 / 3, 2 / 3])
    quarters = np.quantile(layer.norms, [0.25, 0.5, 0.75])
    third = np.searchsorted(thirds, layer.frequency, side="left")
    quarter = np.searchsorted(quarters, layer.norms, side="left")
    found: dict[str, Mask] = {}
    for number, name in enumerate(("rare", "middle", "frequent")):
        found[f"frequency: {name}"] = third == number
    for number in range(4):
        found[f"norm: quarter {number + 1}"] = quarter == number
    position = layer.tokens.position
    bounds: list[tuple[str, Callable[[Int64], Mask]]] = [
        ("position: 0", lambda p: p == 0),
        ("position: 1-15", lambda p: (p > 0) & (p < 16)),
        ("position: 16-63", lambda p: (p > 15) & (p < 64)),
        ("position: 64 on", lambda p: p > 63),
    ]
    for name, inside in bounds:
        found[name] = np.asarray(inside(position))
    return found
