"""Block analysis: TwoNN of disjoint blocks of rows, the dimension against the scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import as_rows, generator, several, whole_number
from fastdim.backends import cpu
from fastdim.errors import InputError, require
from fastdim.estimators.twonn import (
    DISCARD_FRACTION,
    METHOD,
    mean_centered_norm,
    point,
    resolve,
    search_pairs,
)
from fastdim.neighbors import find_distinct

Array = NDArray[np.float64]

# TwoNN of fewer rows than this says little: its relative error is a quarter.
SMALLEST_BLOCK = 16


@dataclass(frozen=True, eq=False)
class BlockAnalysis:
    """TwoNN in b disjoint blocks, for each b of `blocks` (s,).

    sizes: (s,) rows a block. means, spreads: (s,) mean and standard deviation over the blocks;
    spreads are nan for a single block. stderrs: (s,) spread / sqrt(b), an honest error, since
    blocks share no row. values: the b estimates of each.
    """

    blocks: NDArray[np.int64]
    sizes: NDArray[np.int64]
    means: Array
    spreads: Array
    stderrs: Array
    values: tuple[Array, ...]

    def plot(self, path: str | Path) -> Path:
        """Write mean and spread against the rows a block, as the suffix of `path` says (.png,
        .svg).

        Raises DependencyError where matplotlib is not installed, StoreError if the file cannot be
        written.
        """
        from fastdim.report.figure import save_figure

        figure = require("matplotlib.figure", "report").Figure(figsize=(5, 3.5))
        axes = figure.subplots()
        axes.errorbar(self.sizes, self.means, yerr=np.nan_to_num(self.spreads), fmt="o-", capsize=3)
        axes.set(xscale="log", xlabel="rows a block", ylabel="intrinsic dimension (TwoNN)")
        figure.tight_layout()
        save_figure(figure, Path(path))
        return Path(path)


def block_analysis(
    x: Any,
    blocks: Any = None,
    *,
    discard_fraction: float | None = DISCARD_FRACTION,
    method: str | None = METHOD,
    compat: str | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> BlockAnalysis:
    """TwoNN at growing distances (Facco et al., Sci. Rep. 7:12140, 2017, "block analysis").

    The distinct rows of x (n, d) are shuffled by `seed` and cut into b disjoint blocks of n // b
    rows; TwoNN is computed in each. Fewer rows a block means larger distances: the plateau of the
    mean is the dimension, a rise towards large blocks is noise, a fall the known deficit of
    neighbour estimators at high dimension.

    blocks: numbers of blocks; None for 1, 2, 4, ... while a block keeps 16 rows. discard_fraction,
    method, compat: as in `twonn`; k is 2.

    Assumes independent rows, and in each block a density that is constant up to the second
    neighbour. Formula and bias of each block as `twonn` of n / b rows: mu = r2/r1, F = 1 - mu^-d;
    low at high dimension, the more the smaller the block. Duplicates count once; a block of fewer
    than 3 rows is refused, and what `twonn` refuses. No interval, but the errors of blocks that
    share no row: standard deviation over sqrt(b), nan for one. Cost: one search with 2 neighbours
    for each block, b of n/b rows, together less than one among n.
    """
    rows = as_rows(x, min_rows=2, min_columns=2)
    workers = cpu.resolve_threads(threads)
    plan = resolve(method, compat, discard_fraction)
    groups = find_distinct(rows, workers)
    count = len(groups.first)
    if blocks is None:
        chosen = [1]
        while count // (2 * chosen[-1]) >= SMALLEST_BLOCK:
            chosen.append(2 * chosen[-1])
    else:
        one = isinstance(blocks, (int, np.integer))
        given = [blocks] if one else several("blocks", blocks)
        chosen = [whole_number("each of blocks", b, 1) for b in given]
    if not chosen or count // max(chosen) < 3:
        raise InputError(
            f"{count} distinct rows do not fill blocks={chosen} with 3 rows each: pass fewer blocks"
        )
    order = groups.first[generator(seed).permutation(count)]
    values = []
    for b in chosen:
        size = count // b
        found = []
        for part in range(b):
            block = rows.take(np.sort(order[part * size : (part + 1) * size]))
            near = search_pairs(block, None, None, workers, seed)
            scale = mean_centered_norm(block) if plan.zeros == "microscope" else 1.0
            found.append(point(near, plan, seed, scale)[0])
        values.append(np.array(found))
    numbers = np.array(chosen, dtype=np.int64)
    spreads = np.array([v.std(ddof=1) if len(v) > 1 else np.nan for v in values])
    return BlockAnalysis(
        blocks=numbers,
        sizes=count // numbers,
        means=np.array([v.mean() for v in values]),
        spreads=spreads,
        stderrs=spreads / np.sqrt(numbers),
        values=tuple(values),
    )
