"""TLE: tight local estimator, distances between the neighbours of a row as further evidence."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, whole_number
from fastdim.backends import cpu
from fastdim.backends.blas import one_blas_thread
from fastdim.estimate import Estimate
from fastdim.estimators.inputs import Sharing, average_of, falling, rows_and_neighbors
from fastdim.neighbors import Neighbors

Array = NDArray[np.float64]

# Measurements below this share of the radius are dropped, with their number.
SMALLEST = 1e-4
# On flat tori of 2, 5, 10 dimensions: harmonic mean 2.5, 2.2, 2.1, mean 2.0, 1.7, 1.8, signs 1.8,
# 1.7, 1.7.
SHARING = Sharing(harmonic=partial(falling, level=2.05, rise=0.85), mean=1.9, signs=1.75)
# Values of a block of neighbourhoods. Smaller blocks stay in a nearer cache, but threads wait for
# the interpreter between their many short calls: at 768 columns 2^16 takes three times as long.
BLOCK_VALUES = 1 << 19
# Products of pairs that `tle` looks at together: a dozen arrays of them stay in the second cache.
BLOCK_PAIRS = 1 << 16


def tle(
    x: Any,
    k: int = 20,
    *,
    average: str = "mean",
    neighbors: Neighbors | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by the tight local estimator (Amsaleg et al., SDM 2019).

    Around each row q with radius r = r_k, every neighbour v_i serves as a further center: s_ij is
    the distance at which v_j would lie from v_i were the ball moved onto it, t_ij the same for the
    reflection of v_i in q. The local dimension is minus the inverse mean of log(s/r), log(t/r) and
    log(d_i/r) (twice). Measurements below 1e-4 r are dropped in pairs and not counted.

    x: rows (n, d); reduced to distinct rows. neighbors: of the same x with at least k columns,
        where known. k >= number of distinct rows is refused. average: as in `levina_bickel`.

    Assumes a locally uniform density around q and around its neighbours. Bias: lower variance than
    `levina_bickel` at the same k, low where the neighbourhood is curved or at a border. Interval:
    influence of the query rows. Cost: one search, then O(m k^2 d).
    """
    k = whole_number("k", k, 3)
    rows, found = rows_and_neighbors(x, k, "tle", neighbors, queries, seed, threads)
    local = tle_local(rows, found, cpu.resolve_threads(threads))
    return average_of(local, average, found, f"TLE, k = {k}", confidence, SHARING)


def tle_local(rows: Rows, found: Neighbors, threads: int = 1) -> Array:
    """Local dimensions (m,) of the query rows; infinite where all neighbours are equally far."""

    def local(near: NDArray[Any]) -> Array:
        gram = np.asarray(near @ near.transpose(0, 2, 1))
        size = max(1, BLOCK_PAIRS // gram[0].size)
        parts = [gram[start : start + size] for start in range(0, len(gram), size)]
        return np.concatenate([_block(part.astype(np.float64)) for part in parts])

    return of_neighborhoods(rows, found, local, threads)


def of_neighborhoods(
    rows: Rows, found: Neighbors, local: Callable[[NDArray[Any]], Array], threads: int
) -> Array:
    """`local` (b, ...) of the neighbours less their query row (b, k, d), for all m query rows.

    Differences are as exact as the rows, in float64 for float64 rows, else float32. Where products
    of them would vanish or overflow they are multiplied by a power of two, one a neighbourhood:
    `local` must not depend on the unit of length. Blocks of neighbourhoods are independent, so the
    answer is the same for any number of threads.
    """
    k = found.indices.shape[1]
    size = max(1, BLOCK_VALUES // (k * max(rows.d, k)))

    def block(start: int) -> Array:
        indices = found.indices[start : start + size]
        count = len(indices)
        near = rows.take(indices.ravel()).block(0, count * k).reshape(count, k, rows.d)
        near = near - rows.take(found.queries[start : start + size]).block(0, count)[:, None]
        _scale(near, found.distances[start : start + size, k - 1])
        return local(near)

    starts = range(0, len(found.queries), size)
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(block, starts)))


def _scale(near: NDArray[Any], radius: NDArray[Any]) -> None:
    """Brings neighbourhoods (b, k, d) of a radius (b,) out of reach to about 1, exactly, in place.

    Within reach are 2^-31 to 2^31 in float32, 2^-255 to 2^255 in float64: differences down to 2^-31
    of such a radius have squares that lose no digit, and sums of squares are far from overflow.
    """
    reach = -np.finfo(near.dtype).minexp // 4
    exponents = np.frexp(radius)[1]
    far = np.flatnonzero(np.abs(exponents) > reach)
    if len(far):
        near[far] = np.ldexp(near[far], -exponents[far, None, None])


def _block(gram: Array) -> Array:
    k = gram.shape[1]
    # In units of the squared radius.
    gram = gram / np.einsum("bii->bi", gram).max(axis=1)[:, None, None]
    own = np.einsum("bii->bi", gram)
    di, dj = own[:, :, None], own[:, None, :]
    apart = np.maximum(di + dj - 2.0 * gram, 0.0)
    mirrored = np.maximum(di + dj + 2.0 * gram, 0.0)
    s, t = _moved(di, dj, apart), _moved(di, dj, mirrored)
    off = ~np.eye(k, dtype=bool)
    used = off & (s >= SMALLEST) & (t >= SMALLEST)
    close = own >= SMALLEST**2
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = np.where(used, np.log(s) + np.log(t), 0.0).sum(axis=(1, 2))
        centers = np.where(close, np.log(own), 0.0).sum(axis=1)  # log d^2 = 2 log d
        count = 2.0 * (used.sum(axis=(1, 2)) + close.sum(axis=1))
        return np.asarray(count / np.maximum(-(pairs + centers), 0.0))


def _moved(di: Array, dj: Array, apart: Array) -> Array:
    """Distance, in radii, of v_j from v_i in the ball moved onto v_i; arguments are squares."""
    a = di + apart - dj
    room = np.maximum(1.0 - di, 0.0)
    root = np.sqrt(np.square(a) + 4.0 * apart * room)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Two forms of one root, each where it does not cancel; the first also holds at room = 0.
        return np.where(a > 0.0, 2.0 * apart / (root + a), (root - a) / (2.0 * room))
