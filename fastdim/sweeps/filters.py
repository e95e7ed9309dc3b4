"""Token filters: which rows of a layer are looked at. A filtered row is no query, no reference.

A filter is a function of the layer's rows, their norms and their tokens. The same metrics under
several filters, side by side, show what a few massive rows do to a profile (Sun et al.,
arXiv 2402.17762).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Empty, Rows
from fastdim.backends import cpu
from fastdim.errors import InputError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LayerRows:
    """All rows of one layer: what a filter may look at. All arrays have one entry a row."""

    rows: Rows
    norms: NDArray[np.float64]
    position: NDArray[np.int64] | None = None  # position in the document, 0 = first token
    special: Mask | None = None  # tokens added by the tokenizer
    document: NDArray[np.int64] | None = None  # number of the document
    empty: Empty = np.empty  # makes the array of changed rows


@dataclass(frozen=True)
class Filtered:
    """The rows a filter keeps."""

    layer: LayerRows
    kept: NDArray[np.int64]  # row numbers of the layer, ascending
    normalize: bool
    threads: int = 1  # that dividing rows by their norms may take

    @cached_property
    def rows(self) -> Rows:
        """The rows themselves: those of the layer, or a copy where some are left out or changed."""
        rows = self.layer.rows
        if self.normalize:
            return cpu.divided(rows, self.kept, self.layer.norms, self.threads, self.layer.empty)
        return rows.take(self.kept) if self.n_removed else rows

    @property
    def n_removed(self) -> int:
        """Rows left out."""
        return self.layer.rows.n - len(self.kept)


@dataclass(frozen=True)
class Filter:
    """A named choice of rows.

    `keep(layer, outlier_factor)` gives a bool mask (n,); `rule` states it in words, with
    `{factor}` where the outlier factor belongs; `normalize` divides each kept row by its norm.
    """

    name: str
    title: str
    rule: str
    keep: Callable[[LayerRows, float], Mask]
    needs_tokens: bool = False
    normalize: bool = False

    def stated(self, outlier_factor: float) -> str:
        """The rule in words, with its numbers."""
        return self.rule.format(factor=f"{outlier_factor:g}")


def _keep_all(layer: LayerRows, factor: float) -> Mask:
    return np.ones(layer.rows.n, dtype=bool)


def _keep_no_special(layer: LayerRows, factor: float) -> Mask:
    if layer.position is None or layer.special is None:
        raise InputError("filter no_special needs tokens, and these activations have none")
    return np.asarray(~layer.special & (layer.position != 0))


def outlier_limit(norms: NDArray[np.float64], factor: float) -> float:
    """The largest norm that is no outlier's: `factor` times the median of norms (n,) above 0.

    Rows that are zero have no say: were half of them zero, every other row would be an outlier.
    """
    above = norms[norms > 0]
    return factor * float(np.median(above)) if len(above) else 0.0


def _keep_no_outliers(layer: LayerRows, factor: float) -> Mask:
    return np.asarray(layer.norms <= outlier_limit(layer.norms, factor))


def _keep_nonzero(layer: LayerRows, factor: float) -> Mask:
    return np.asarray(layer.norms > 0)


FILTERS: dict[str, Filter] = {
    item.name: item
    for item in (
        Filter("all", "all tokens", "every row", _keep_all),
        Filter(
            "no_special",
            "without special tokens and position 0",
            "rows of special tokens and of the first token of each document left out",
            _keep_no_special,
            needs_tokens=True,
        ),
        Filter(
            "no_outliers",
            "without outlier rows",
            "rows with a norm over {factor} x the median norm of all rows of the layer that are not"
            " zero left out",
            _keep_no_outliers,
        ),
        Filter(
            "normalized",
            "row-normalized",
            "every row divided by its norm (float32); rows that are zero left out",
            _keep_nonzero,
            normalize=True,
        ),
    )
}


def resolve_filters(names: list[str] | tuple[str, ...] | None, *, tokens: bool) -> list[Filter]:
    """The filters asked for, in that order; None means all that the data can answer.

    Raises InputError for an unknown or repeated name, and for one that needs tokens where the
    activations have none (`tokens` False).
    """
    if names is None:
        return [item for item in FILTERS.values() if tokens or not item.needs_tokens]
    unknown = [name for name in names if name not in FILTERS]
    if unknown:
        raise InputError(f"unknown filter {unknown[0]!r}; there are: {', '.join(FILTERS)}")
    if not names or len(set(names)) != len(names):
        raise InputError("filters must be named once each, at least one")
    chosen = [FILTERS[name] for name in names]
    for item in chosen:
        if item.needs_tokens and not tokens:
            raise InputError(
                f"filter {item.name} needs token ids and positions, and these activations have"
                " none; leave it out"
            )
    return chosen


def apply(item: Filter, layer: LayerRows, outlier_factor: float, threads: int = 1) -> Filtered:
    """Rows of `layer` that `item` keeps; InputError if none is left."""
    mask = item.keep(layer, outlier_factor)
    kept = np.flatnonzero(mask)
    if not len(kept):
        raise InputError(f"filter {item.name} leaves no row of {layer.rows.n:,}")
    return Filtered(layer, kept, item.normalize, threads)
