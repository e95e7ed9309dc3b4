"""What neighbour-based estimators share: the neighbours they take, and the error of an average."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, one_of
from fastdim.backends import cpu, devices
from fastdim.errors import InputError
from fastdim.estimate import (
    Estimate,
    bounded_exp,
    check_confidence,
    clustered_stderr,
    normal_quantile,
    transformed_interval,
)
from fastdim.neighbors import Distinct, Neighbors, find_distinct, search, search_tensor

Array = NDArray[np.float64]

# Factor of `dependent_stderr` for an average that has none of its own.
SHARING = 1.7
AVERAGES = ("harmonic", "mean", "median")
Factor = Callable[[float], float] | float


def rows_of(x: Any, name: str, argument: str = "x") -> Rows:
    """Rows (n, d) with at least 2 columns, or one clear error where `Neighbors` cannot serve.

    argument: what the estimator `name` calls them.
    """
    if isinstance(x, Neighbors):
        raise InputError(
            f"{name} reads the rows, and distances alone are not enough: pass {argument}"
        )
    return as_rows(x, name=argument, min_rows=2, min_columns=2)


def rows_and_neighbors(
    x: Any,
    k: int,
    name: str,
    neighbors: Neighbors | None,
    queries: Any,
    seed: int,
    threads: int | None,
) -> tuple[Rows, Neighbors]:
    """Rows and their neighbours for estimators that read both; `neighbors` where known already."""
    rows = rows_of(x, name)
    if neighbors is None:
        found = neighbors_of(rows, k, name, queries=queries, seed=seed, threads=threads)
        return rows, found
    if not isinstance(neighbors, Neighbors):
        raise InputError(f"neighbors must be what knn() returns, got {type(neighbors).__name__}")
    if neighbors.n_points != rows.n:
        raise InputError(
            f"the Neighbors passed are of {neighbors.n_points} rows, and x has {rows.n}: compute "
            "them from the same x"
        )
    return rows, neighbors_of(neighbors, k, name, queries=queries)


def neighbors_of(
    x_or_neighbors: Any,
    k: int,
    name: str,
    *,
    queries: Any = None,
    seed: int = 0,
    threads: int | None = None,
) -> Neighbors:
    """k neighbours of distinct query rows with float64 distances (m, k), all above zero.

    Rows are reduced to distinct rows before the search; rows on a GPU are searched there
    (`knn(backend="auto")`). Of `Neighbors` the first k columns are taken, and a query named twice
    counts once. Raises InputError where k is not below the number of distinct rows, the Neighbors
    have fewer columns, or a distance is zero.
    """
    if isinstance(x_or_neighbors, Neighbors):
        found = check_passed(x_or_neighbors, k, name, queries)
    elif (there := neighbors_on_device(x_or_neighbors, k, queries, seed)) is not None:
        found = there
    else:
        workers = cpu.resolve_threads(threads)
        rows = as_rows(x_or_neighbors, min_columns=2, threads=workers)
        advice = "pass more rows or a smaller k"
        groups = distinct_of(rows, k + 1, f"{name} with k = {k}", workers, advice)
        found = search(rows, k, queries, groups, workers, seed)
    once: NDArray[np.int64] | slice = slice(None)  # copies nothing
    if not (found.queries[1:] > found.queries[:-1]).all():
        once = np.unique(found.queries, return_index=True)[1]
    distances = found.distances[once, :k].astype(np.float64)
    if (distances[:, 0] <= 0.0).any():
        raise InputError(
            f"{int((distances[:, 0] <= 0.0).sum())} points have a neighbour at distance zero, so "
            "ratios of distances are undefined: compute the neighbours with duplicates='collapse'"
        )
    return dataclasses.replace(
        found,
        distances=distances,
        indices=found.indices[once, :k],
        queries=found.queries[once],
    )


def neighbors_on_device(
    x: Any, k: int, queries: Any, seed: int, duplicates: str = "collapse"
) -> Neighbors | None:
    """Neighbours of rows that lie on a GPU, searched there and fetched; None for other rows."""
    tensor = devices.device_tensor(x)
    if tensor is None:
        return None
    if tensor.shape[1] < 2:
        raise InputError(f"x needs at least 2 columns, got {tensor.shape[1]}")
    on = devices.choose("auto", tensor)
    return search_tensor(tensor, k, queries, seed, duplicates, on).numpy()


def check_passed(found: Neighbors, k: int, name: str, queries: Any) -> Neighbors:
    """Neighbours that were computed before, with at least k columns; InputError otherwise, and
    where their distances are none, or do not ascend.

    Those of a GPU are fetched to host memory.
    """
    if queries is not None:
        raise InputError("queries belong to knn(): the neighbours passed are computed already")
    if found.foreign:
        raise InputError(
            f"{name} needs neighbours of rows of x, and the Neighbors passed are of another "
            "matrix's rows: compute them with knn(x)"
        )
    if found.k < k:
        raise InputError(
            f"{name} needs {k} neighbours a point, the Neighbors passed have {found.k}: compute "
            f"them with k >= {k}"
        )
    fetched = found.numpy()
    _check_distances(fetched.distances)
    return fetched


def distinct_of(
    rows: Rows, least: int, name: str, threads: int, advice: str = "pass more rows"
) -> Distinct:
    """Groups of equal rows, at least `least` of them; InputError otherwise."""
    groups = find_distinct(rows, threads)
    count = len(groups.first)
    if count < least:
        raise InputError(
            f"{name} needs at least {least} distinct rows, got {count} distinct of {rows.n} rows: "
            f"{advice}"
        )
    return groups


def _check_distances(distances: NDArray[Any]) -> None:
    """Raise InputError on what no search returns, O(m k)."""
    bad = int((~np.isfinite(distances)).sum())
    if bad:
        raise InputError(
            f"the Neighbors passed hold {bad} distances that are NaN or infinite: compute them "
            "with knn()"
        )
    negative = int((distances < 0.0).sum())
    if negative:
        raise InputError(
            f"the Neighbors passed hold {negative} distances below zero: compute them with knn(), "
            "or pass distances, not similarities"
        )
    falling = (distances[:, 1:] < distances[:, :-1]).any(axis=1)
    if falling.any():
        raise InputError(
            f"the distances of {int(falling.sum())} points in the Neighbors passed do not ascend, "
            f"first those of number {int(falling.argmax())}: compute them with knn(), or sort each "
            "row with its indices (fastdim.compat.from_arrays checks it)"
        )


@dataclass(frozen=True)
class Sample:
    """How many rows an estimate rests on."""

    n_points: int
    n_distinct: int | None
    n_queries: int


def sample_of(neighbors: Neighbors) -> Sample:
    """The counts of a search."""
    return Sample(neighbors.n_points, neighbors.n_distinct, len(neighbors.queries))


def estimate_of(
    value: float,
    stderr: float,
    sample: Sample,
    method: str,
    interval: str,
    confidence: float,
    ends: tuple[float, float] | None = None,
) -> Estimate:
    """An Estimate; without `ends` its interval is normal on the log scale."""
    value, stderr = float(value), float(stderr)
    check_confidence(confidence)
    if not math.isfinite(value) or value <= 0.0:
        raise InputError(
            f"{method} is undefined here (it comes to {value:g}): the neighbours of too many "
            "points are equally far, as on a grid"
        )
    if ends is None:
        ends = transformed_interval(value, stderr, confidence, math.log, bounded_exp, 1.0 / value)
    return Estimate(
        value=value,
        lower=float(ends[0]),
        upper=float(ends[1]),
        stderr=stderr,
        n_points=sample.n_points,
        n_distinct=sample.n_distinct,
        n_queries=sample.n_queries,
        method=method,
        interval=interval,
        confidence=float(confidence),
    )


def dependent_stderr(
    influence: Array, found: Neighbors, sharing: float, order: NDArray[np.int64] | None = None
) -> float:
    """Standard error of a mean of influence values (m,) of query rows, neighbours dependent.

    order: place of each value's query among the queries, None where they are in that order.

    Two rows that are each other's neighbours share a distance, so the variance is above that of
    independent rows, by up to 2 where every measurement is counted from both ends. `sharing` is
    that factor where every row is a query, a constant of the estimator, measured on uniform rows
    (docs/estimators.md); of m queries among n rows a pair shares with probability (m - 1)/(n - 1),
    and the excess is that share of it. Sums of products over neighbouring rows, the usual remedy,
    take a dimension that differs between regions for dependence: 2 to 5 times the true error on
    hidden states.

    Queries drawn by a count have far rows in proportion (`found.far`). Of m among n the error of
    looking at m alone is then that of a stratified sample, and what all n rows differ by from
    others like them comes on top: (1 - m/n) V + (m/n) S^2/m, V of m queries from both strata, S^2
    of all; without strata V is S^2/m, and so is the sum (Cochran, Sampling Techniques, 1977, 5.5).
    """
    plain = float(clustered_stderr(influence, None))
    if found.far is not None and len(found.far) and len(influence) > 1:
        queries = found.queries if order is None else found.queries[order]
        share = min(1.0, len(influence) / _searched(found))
        within = _of_strata(influence, np.isin(queries, found.far), found)
        plain = math.sqrt((1.0 - share) * within + share * plain**2)
    return plain * widening(found, len(influence), sharing)


def _of_strata(influence: Array, is_far: NDArray[np.bool_], found: Neighbors) -> float:
    """Variance of the mean where far rows were drawn in proportion, rounded at random."""
    assert found.far is not None
    m = len(influence)
    parts = [part for part in (influence[is_far], influence[~is_far]) if len(part)]
    # One value alone has no spread of its own: its distance from the mean of all is taken for it.
    each = [
        len(part) * float(part.var(ddof=1))
        if len(part) > 1
        else float(part[0] - influence.mean()) ** 2
        for part in parts
    ]
    if len(parts) == 2:
        rest = m * len(found.far) / _searched(found) % 1.0
        each.append(rest * (1.0 - rest) * float(parts[0].mean() - parts[1].mean()) ** 2)
    return sum(each) / m**2


def _searched(found: Neighbors) -> int:
    """Rows the queries were drawn from."""
    return found.n_points if found.n_distinct is None else found.n_distinct


def check_every_row(found: Neighbors, needs: str) -> int:
    """The number of distinct rows; InputError, beginning with `needs`, unless all are queries."""
    count = _searched(found)
    if len(found.queries) < count:
        raise InputError(
            f"{needs} every row, and {len(found.queries)} of {count} distinct rows are queries: "
            "leave queries out, or pass the Neighbors of every row"
        )
    return count


def first_drawn(
    indices: NDArray[np.int64], drawn: NDArray[np.bool_], k: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where in neighbours (m, c), nearest first, the first k stand that were drawn, and which rows
    (m,) have k of them: the others have none."""
    kept = drawn[indices]
    rank = kept.cumsum(axis=1, dtype=np.int32)
    full = rank[:, -1] >= k
    return kept & (rank <= k) & full[:, None], full


def widening(found: Neighbors, count: int, sharing: float) -> float:
    """What `dependent_stderr` multiplies the error of `count` independent query rows by."""
    share = min(1.0, (count - 1) / max(1, _searched(found) - 1))
    return math.sqrt(1.0 + (sharing - 1.0) * share)


def sharing_at(d: float, loss: float) -> float:
    """2 - loss / d, at least 1: every distance counts twice but where many neighbours overlap."""
    return max(1.0, 2.0 - loss / d) if d > 0.0 else 1.0


@dataclass(frozen=True)
class Sharing:
    """Factors of `dependent_stderr` for averages of local dimensions, a number or a function of the
    value each; signs: for being above or below the median."""

    harmonic: Factor
    mean: Factor
    signs: Factor


def falling(d: float, level: float, rise: float) -> float:
    """level + rise / d, of d at least 1."""
    return level + rise / max(d, 1.0)


def check_average(average: str) -> None:
    """Raise InputError unless this is the name of an average."""
    one_of("average", average, AVERAGES)


def average_of(
    local: Array,
    average: str,
    found: Neighbors,
    method: str,
    confidence: float,
    sharing: Sharing,
) -> Estimate:
    """One number from the local dimensions (m,) of the query rows.

    "harmonic": 1 / mean(1/d) (MacKay & Ghahramani, 2005); "mean"; "median". The error is that of
    the average over query rows by `dependent_stderr`, for the median order statistics (Woodruff,
    JASA 1952).
    """
    check_average(average)
    sample = sample_of(found)
    label = f"{method}, {average}"
    if average == "median":
        value = float(np.median(local))
        z = normal_quantile(confidence)
        # The share below the median has the error of half a sign.
        signs = 0.5 * ((local > value).astype(np.float64) - (local < value))
        half = z * dependent_stderr(signs, found, _factor(sharing.signs, value))
        shares = [max(0.0, 0.5 - half), min(1.0, 0.5 + half)]
        lower, upper = (float(end) for end in np.quantile(local, shares, method="nearest"))
        spread = (upper - lower) / (2.0 * z)
        return estimate_of(value, spread, sample, label, "query rows", confidence, (lower, upper))
    with np.errstate(divide="ignore", invalid="ignore"):
        if average == "mean":
            value = float(local.mean())
            influence, factor = local - value, sharing.mean
        else:
            inverse = 1.0 / local
            value = float(1.0 / inverse.mean())
            influence, factor = value * (1.0 - value * inverse), sharing.harmonic
        stderr = dependent_stderr(influence, found, _factor(factor, value))
    return estimate_of(value, stderr, sample, label, "query rows", confidence)


def _factor(factor: Factor, value: float) -> float:
    return factor(value) if callable(factor) else factor
