"""TwoNN: intrinsic dimension from the ratio of the first two neighbour distances."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_rows, one_of, real_number, several
from fastdim.backends import cpu
from fastdim.errors import InputError
from fastdim.estimate import Estimate, bounded_exp, check_confidence, normal_quantile
from fastdim.estimators import twonn_fits as fits
from fastdim.estimators.gamma import gamma_quantile
from fastdim.estimators.inputs import (
    check_passed,
    dependent_stderr,
    neighbors_on_device,
)
from fastdim.estimators.twonn_influence import influence
from fastdim.neighbors import Distinct, Neighbors, find_distinct, search

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Factor of `dependent_stderr`: 1.8, 1.5, 1.4 on flat tori of 2, 5, 10 dimensions.
SHARING = 1.7
METHODS = ("censored", "mle", "linear", "bayes")
# Relative accuracy of distances, as `knn` states it.
ROUNDING = 1e-6


class DefaultFraction(float):
    """A number that was not asked for: `compat` may have another, "mle" uses every ratio."""


class DefaultName(str):
    """A method that was not asked for: `compat` has its own."""

    __slots__ = ()


DISCARD_FRACTION = DefaultFraction(0.1)
METHOD = DefaultName("censored")
INTERVALS = ("robust", "ideal")


@dataclass(frozen=True)
class Plan:
    """A resolved request: name, discarded share, treatment of zero distances, fit and prior."""

    method: str
    discard: float
    zeros: str
    fit: fits.Fit
    prior: tuple[float, float] = (fits.PRIOR_SHAPE, fits.PRIOR_RATE)

    def kept(self, count: int) -> int:
        """How many of so many ratios are kept."""
        return fits.kept_count(count, self.discard, self.method.partition(":")[0])


def twonn(
    x_or_neighbors: Any,
    *,
    discard_fraction: float | None = DISCARD_FRACTION,
    method: str | None = METHOD,
    compat: str | None = None,
    prior: tuple[float, float] | None = None,
    confidence: float = 0.95,
    queries: Any = None,
    seed: int = 0,
    interval: str = "robust",
    threads: int | None = None,
) -> Estimate:
    """Intrinsic dimension by TwoNN (Facco et al., Sci. Rep. 7:12140, 2017).

    mu = r2/r1, the distances to a row's second and first neighbour, is Pareto: F = 1 - mu^-d.

    x_or_neighbors: rows (n, d), reduced to distinct rows before the search; or `Neighbors` with
        k >= 2, best from knn(..., duplicates="collapse").
    discard_fraction: share of the largest ratios left out; not for "mle".
    method: "censored": unbiased maximum likelihood, the discarded ratios known only to
        exceed the largest kept one: (r - 1)/T, T the sum of the r smallest log mu and N - r times
        the largest of them. "mle": (N - 1)/sum(log mu) over all. "linear": least squares
        through the origin, F = i/N. "bayes": posterior mean, censored likelihood, Gamma prior.
    prior: shape and rate of that prior, (0.001, 0.001) if None. With r and T as above the posterior
        is Gamma(shape + r, rate + T): interval="ideal" gives its quantiles and its standard
        deviation.
    compat: the exact definition of another code, zero distances included: "facco", "skdim",
        "dadapy", "torchid", "intrinsic" (R), "llm-microscope". Only "intrinsic" reduces to
        distinct rows. "dadapy" and "intrinsic" also take method= "mle", "linear" or "bayes".
        Method and discarded share are then that code's own, where they are left out (or None).
        Where the value is 0 its interval is nan; "facco" moves zero distances by 5e-6 at random, so
        that even equal rows have a value; "torchid" raises them to the least normal number of the
        rows' type, float64 or else float32, and of `Neighbors` that of their distances. "dadapy"
        and "llm-microscope" keep a share, of 0.8 discarded 0.2 as it is written.
    interval: "robust": the spread of log d when the query rows are resampled with the references
        fixed, in the limit of many resamples, and widened where queries share neighbours
        (`dependent_stderr`); normal on the log scale. "ideal": the exact Gamma interval for
        independent Pareto ratios, too narrow on real rows; not of "linear" nor "intrinsic".
    queries, seed, threads: as in `knn`.

    Refused are ratios at the level of rounding, as of an equally spaced line: of those above 1 more
    than half exceed it by less than 1e-6, the accuracy of distances that `knn` promises (a
    dimension of 690,000). Equal distances of rows on a lattice are no rounding and count; that of
    float32 rows themselves may be larger and is not seen.

    Assumes a density that is constant up to the second neighbour. Bias: low at high dimension and
    finite n (20 reads as 16 from 2,500 points); noise raises it, near copies of rows lower it. k is
    2, and fewer than 3 distinct rows are refused. Cost: one search with 2 neighbours, then a sort.

    Raises InputError on contradictory arguments, fewer than 3 distinct rows, a single column,
    ratios that are all 1, or an undefined fit.
    """
    confidence = check_confidence(confidence)
    one_of("interval", interval, INTERVALS)
    plan = resolve(method, compat, discard_fraction, prior)
    scale = 1.0
    if isinstance(x_or_neighbors, Neighbors):
        neighbors = check_passed(x_or_neighbors, 2, "twonn", queries)
        if plan.zeros == "microscope":
            raise InputError("compat='llm-microscope' scales by the rows' norms: pass the rows")
        return estimate(neighbors, plan, interval, confidence, seed, scale)
    distinct = plan.zeros in ("reject", "collapse")
    there = neighbors_on_device(
        x_or_neighbors, 2, queries, seed, "collapse" if distinct else "keep"
    )
    if there is not None:
        if plan.zeros == "microscope":
            raise InputError("compat='llm-microscope' reads the rows in host memory: pass x.cpu()")
        neighbors = there
    else:
        workers = cpu.resolve_threads(threads)
        rows = as_rows(x_or_neighbors, min_columns=2, threads=workers)
        groups = find_distinct(rows, workers) if distinct else None
        neighbors = search_pairs(rows, queries, groups, workers, seed)
        if plan.zeros == "microscope":
            scale = mean_centered_norm(rows)
    return estimate(neighbors, plan, interval, confidence, seed, scale)


def search_pairs(
    rows: Rows, queries: Any, groups: Distinct | None, threads: int, seed: int
) -> Neighbors:
    """The two nearest neighbours, or one clear error when there are too few rows."""
    check_distinct(rows.n if groups is None else len(groups.first), rows.n)
    return search(rows, 2, queries, groups, threads, seed)


def check_distinct(count: int, n: int) -> None:
    """Raise InputError on too few distinct rows for two neighbours of each."""
    if count < 3:
        raise InputError(f"TwoNN needs at least 3 distinct rows, got {count} distinct of {n} rows")


def estimate(
    neighbors: Neighbors,
    plan: Plan,
    interval: str,
    confidence: float,
    seed: int,
    scale: float = 1.0,
) -> Estimate:
    """Value and interval from neighbours, all arguments resolved."""
    value, log_mu = point(neighbors, plan, seed, scale)
    if interval == "ideal":
        lower, upper, stderr = _ideal(log_mu, plan, value, confidence)
    else:
        lower, upper, stderr = _robust(neighbors, log_mu, plan, value, confidence)
    return Estimate(
        value=value,
        lower=lower,
        upper=upper,
        stderr=stderr,
        n_points=neighbors.n_points,
        n_distinct=neighbors.n_distinct,
        n_queries=len(log_mu),
        method=plan.method,
        interval=interval,
        confidence=confidence,
    )


def point(neighbors: Neighbors, plan: Plan, seed: int, scale: float = 1.0) -> tuple[float, Array]:
    """The value and the sorted log ratios behind it, or one clear error."""
    # A row asked for twice, or by two equal rows, is one observation.
    once = np.unique(neighbors.queries, return_index=True)[1]
    log_mu = fits.log_ratios(neighbors.distances[once], plan.zeros, seed, scale)
    count = len(log_mu)
    if plan.kept(count) < 2:
        raise InputError(
            f"TwoNN needs at least 2 ratios after discarding {plan.discard:g} of {count}: "
            "pass more queries or a smaller discard_fraction"
        )
    if not (log_mu > 0.0).any():
        raise InputError(
            "every second neighbour is as far as the first (all ratios are 1), as on a grid: "
            "the intrinsic dimension is undefined"
        )
    above = log_mu[np.isfinite(log_mu) & (log_mu > 0.0)]
    rounded = int((above < ROUNDING).sum())
    if plan.zeros in ("reject", "collapse") and 2 * rounded > len(above):
        raise InputError(
            f"{rounded} of the {len(above)} ratios r2/r1 above 1 exceed it by less than "
            f"{ROUNDING:g}, which is rounding, as on an equally spaced line: the dimension is "
            "undefined; pass rows that are not equally spaced, or a random part of these"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(plan.fit(log_mu))
    if not math.isfinite(value):
        raise InputError(
            f"the {plan.method} fit is undefined on these ratios ({_count_flat(log_mu)} of {count} "
            "points have a second neighbour as far as the first, or a neighbour at distance 0)"
        )
    return value, log_mu


def resolve(
    method: str | None = METHOD,
    compat: str | None = None,
    discard: float | None = DISCARD_FRACTION,
    prior: tuple[float, float] | None = None,
) -> Plan:
    """What the arguments ask for, or one InputError on a conflict."""
    method = None if isinstance(method, DefaultName) else method
    discard = None if isinstance(discard, DefaultFraction) else discard
    discard = None if discard is None else real_number("discard_fraction", discard)
    if discard is not None and not 0.0 <= discard < 1.0:
        raise InputError(f"discard_fraction must lie in [0, 1), got {discard!r}")
    if prior is not None and (compat is not None or method != "bayes"):
        raise InputError("prior= belongs to method='bayes' without compat=: leave it out")
    if compat is not None:
        return _resolve_compat(method, compat, discard)
    method = str(METHOD) if method is None else method
    one_of("method", method, METHODS)
    if method == "mle":
        if discard:
            raise InputError(
                "method='mle' uses every ratio: leave discard_fraction out, or use 'censored'"
            )
        return Plan(method, 0.0, "reject", lambda log_mu: fits.censored(log_mu, 0.0))
    share = float(DISCARD_FRACTION if discard is None else discard)
    if method == "linear":
        if share == 0.0:
            raise InputError("method='linear' needs discard_fraction > 0: F = 1 has no logarithm")
        return Plan(method, share, "reject", lambda log_mu: fits.linear(log_mu, share))
    if method == "bayes":
        given = (fits.PRIOR_SHAPE, fits.PRIOR_RATE) if prior is None else several("prior", prior)
        if len(given) != 2:
            raise InputError(f"prior must be a shape and a rate, got {prior!r}")
        shape, rate = (real_number("each of prior", part) for part in given)
        if not (shape > 0.0 and rate >= 0.0 and math.isfinite(shape) and math.isfinite(rate)):
            raise InputError(
                f"prior must be a shape above 0 and a rate of at least 0, got {prior!r}"
            )
        fit = partial(fits.bayes, discard_fraction=share, shape=shape, rate=rate)
        return Plan(method, share, "reject", fit, (shape, rate))
    return Plan(method, share, "reject", lambda log_mu: fits.censored(log_mu, share))


def _resolve_compat(method: str | None, compat: str, discard: float | None) -> Plan:
    one_of("compat", compat, fits.COMPAT)
    definition = fits.COMPAT[compat]
    name = next(iter(definition.fits)) if method is None else method
    if not isinstance(name, str) or name not in definition.fits:
        raise InputError(
            f"compat={compat!r} has no method {name!r}: it fixes {' or '.join(definition.fits)}"
        )
    share = definition.discard_fraction if discard is None else float(discard)
    if compat in ("skdim", "dadapy") and name == "linear" and fits.kept_count(1, share, compat):
        other = ", or method='mle', which DADApy itself then takes" if compat == "dadapy" else ""
        raise InputError(
            f"compat={compat!r} needs discard_fraction > 0: F = 1 has no logarithm{other}"
        )
    if compat == "llm-microscope" and share != definition.discard_fraction:
        raise InputError(
            "compat='llm-microscope' uses the lowest fifth: leave discard_fraction out"
        )
    prior = (fits.PRIOR_SHAPE, fits.PRIOR_RATE)
    if compat == "dadapy" and name != "linear":
        share, prior = 0.0, fits.DADAPY_PRIOR  # its likelihoods take every ratio
    fit = definition.fits[name]
    return Plan(
        f"{compat}:{name}", share, definition.zeros, lambda log_mu: fit(log_mu, share), prior
    )


def query_parts(neighbors: Neighbors, plan: Plan, value: float) -> tuple[Int64, Array]:
    """What each distinct query row adds to the value of a plan without a prior, to first order.

    Where it first stands in `neighbors.queries` (m,), in the order of the ratios, and its part (m,)
    in units of the dimension: the parts sum to 0.
    """
    which, log_mu = ratio_order(neighbors)
    return which, value * influence(log_mu, plan.method, plan.discard) / len(log_mu)


def ratio_order(neighbors: Neighbors) -> tuple[Int64, Array]:
    """Where each distinct query row first stands in `neighbors.queries`, in the order of log r2/r1,
    and these logarithms; no distance is zero."""
    once = np.unique(neighbors.queries, return_index=True)[1]
    distances = neighbors.distances[once, :2].astype(np.float64)
    log_mu = np.log(distances[:, 1] / distances[:, 0])
    order = np.argsort(log_mu, kind="stable")
    return once[order], log_mu[order]


def _robust(
    neighbors: Neighbors, log_mu: Array, plan: Plan, value: float, confidence: float
) -> tuple[float, float, float]:
    """Normal interval on the log scale from the influence of query rows; nan where undefined."""
    if value <= 0.0:
        return math.nan, math.nan, math.nan
    # A prior holds the value back: -1 without one.
    step = 1e-4
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = math.log(plan.fit(log_mu * (1.0 + step)) / value) / math.log1p(step)
        moved = influence(log_mu, plan.method, plan.discard, slope)
    if plan.zeros in ("reject", "collapse"):
        spread = dependent_stderr(moved, neighbors, SHARING, ratio_order(neighbors)[0])
    else:  # zeros are treated before the ratios are put in order
        spread = dependent_stderr(moved, replace(neighbors, far=None), SHARING)
    if not math.isfinite(spread):
        return math.nan, math.nan, math.nan
    # Ratios that are 1 but for rounding tell next to nothing: the ends are then far apart, not inf.
    factor = bounded_exp(normal_quantile(confidence) * spread)
    return value / factor, min(value * factor, sys.float_info.max), value * spread


def _ideal(
    log_mu: Array, plan: Plan, value: float, confidence: float
) -> tuple[float, float, float]:
    """Exact interval: 2 d T is chi-squared with 2 r degrees of freedom (type-II censoring)."""
    compat, _, name = plan.method.rpartition(":")
    if name == "linear" or compat == "intrinsic":
        what = "is least squares" if name == "linear" else "leaves the largest ratios out of it"
        raise InputError(
            f"interval='ideal' follows from the likelihood of all ratios, and {plan.method!r} "
            f"{what}: use interval='robust'"
        )
    if value <= 0.0:
        return math.nan, math.nan, math.nan
    kept = plan.kept(len(log_mu))
    total = float(fits.censored_total(log_mu, kept))
    shape, rate = float(kept), total
    stderr = value / math.sqrt(kept - 2) if kept > 2 else math.inf
    if name == "bayes":
        shape, rate = shape + plan.prior[0], rate + plan.prior[1]
        stderr = math.sqrt(shape) / rate
    tail = (1.0 - confidence) / 2
    return gamma_quantile(tail, shape) / rate, gamma_quantile(1.0 - tail, shape) / rate, stderr


def mean_centered_norm(rows: Rows) -> float:
    """Mean Euclidean norm of the centered rows."""
    mean = sum((rows.float64(*span).sum(axis=0) for span in rows.spans()), np.zeros(rows.d))
    mean /= rows.n
    total = 0.0
    for span in rows.spans():
        centered = rows.float64(*span) - mean
        total += float(np.sqrt(np.einsum("ij,ij->i", centered, centered)).sum())
    return total / rows.n


def _count_flat(log_mu: Array) -> int:
    return int((~(np.isfinite(log_mu) & (log_mu > 0.0))).sum())
