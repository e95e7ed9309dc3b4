"""All metrics of one matrix: profile() raises on the first failure, measure() reports it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_rows, several
from fastdim.backends import cpu
from fastdim.backends.faiss_index import EFFORT
from fastdim.cosine import CosineStats, add_pairs, check_pairs, cosine_moments
from fastdim.covariance import STATISTICS, Spectrum, spectrum_of
from fastdim.errors import FastdimError, InputError, RankError
from fastdim.estimate import Estimate, check_confidence, clustered_stderr, normal_quantile
from fastdim.estimators.twonn import estimate, resolve, search_pairs
from fastdim.metrics import METRICS, Metric, MetricInfo
from fastdim.neighbors import Distinct, Neighbors, find_distinct

__all__ = [
    "METRICS",
    "LayerProfile",
    "Measurement",
    "Metric",
    "MetricInfo",
    "measure",
    "profile",
]

Array = NDArray[np.float64]

BINS = 200
TOP_ROWS = 10
# A near copy: a row so many times closer to its nearest than to its second nearest row. On layers
# of SmolLM2-135M at most 0.04 % of the rows are; from half a percent on TwoNN is warned of them.
NEAR_COPY = 100.0
NEAR_SHARE = 0.005

# What a metric may fail with and the others go on. Anything else is a bug and surfaces.
FAILURES = (FastdimError, np.linalg.LinAlgError, MemoryError)


@dataclass(frozen=True, eq=False)
class Measurement:
    """Every metric of one matrix, failed ones with their reason.

    metrics: in the order of METRICS. top_rows: row numbers and shares of s_1^2 of the ten rows that
    carry most of it, descending; empty if the spectrum failed or was not asked for.
    """

    metrics: list[Metric]
    top_rows: tuple[NDArray[np.int64], Array]
    n_rows: int
    n_distinct: int | None


@dataclass(frozen=True, eq=False, repr=False)
class LayerProfile:
    """All statistics of one matrix of rows; `print(layer)` lists them.

    twonn, spectrum, cosine: what those functions return. norm_median, norm_max, norm_ratio: norms
    of the rows, and the largest over the median. top_rows: row numbers and shares of s_1^2 of the
    ten rows that carry most of it, descending.
    """

    twonn: Estimate
    spectrum: Spectrum
    cosine: CosineStats
    norm_median: float
    norm_max: float
    norm_ratio: float
    n_rows: int
    n_distinct: int
    top_rows: tuple[NDArray[np.int64], Array]
    _metrics: tuple[Metric, ...]

    def metrics(self) -> list[Metric]:
        """One `Metric` for each name of METRICS."""
        return list(self._metrics)

    def __repr__(self) -> str:
        return f"LayerProfile({self.n_rows:,} rows, id_twonn={self.twonn})"

    def __str__(self) -> str:
        lines = [f"{self.n_rows:,} rows, {self.n_distinct:,} distinct"]
        for metric in self._metrics:
            known = math.isfinite(metric.lower) and math.isfinite(metric.upper)
            interval = f" [{metric.lower:.4g}, {metric.upper:.4g}]" if known else ""
            lines.append(f"{metric.name:<20} {metric.value:.4g}{interval}")
            if metric.reason:
                lines.append(f"  {metric.reason}")
        return "\n".join(lines)


def profile(
    x: Any,
    *,
    queries: Any = None,
    pairs: int | str | None = None,
    groups: Any = None,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
) -> LayerProfile:
    """Intrinsic dimension, spectrum, cosines and norms of the rows of x (n, d).

    queries: rows that TwoNN looks at, as in `knn` (distinct rows). pairs: pairs of the cosine
    histogram, as in `cosine_stats`. groups: (n,) labels, e.g. documents, within which rows may
    depend on each other. Raises what any part raises: InputError, BackendError.
    """
    job = _job(x, queries, pairs, groups, seed, confidence, threads)
    metrics = _compute(job, list(METRICS), strict=True)
    return LayerProfile(
        twonn=job.twonn,
        spectrum=job.spectrum,
        cosine=job.cosine,
        norm_median=float(np.median(job.norms)),
        norm_max=float(job.norms.max()),
        norm_ratio=float(job.norms.max() / np.median(job.norms)),
        n_rows=job.n,
        n_distinct=len(job.distinct.first),
        top_rows=job.top_rows,
        _metrics=tuple(metrics),
    )


def measure(
    x: Any,
    *,
    queries: Any = None,
    pairs: int | str | None = None,
    groups: Any = None,
    seed: int = 0,
    confidence: float = 0.95,
    threads: int | None = None,
    metrics: Iterable[str] | None = None,
) -> Measurement:
    """`profile` for tables: a metric that fails carries its reason, and the others are computed.

    metrics: names from METRICS, None for all; only what they need is computed. Errors of the
    arguments themselves, NaN in x among them, are raised.
    """
    wanted = list(METRICS) if metrics is None else several("metrics", metrics)
    unknown = [name for name in wanted if not isinstance(name, str) or name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {unknown[0]!r}; there are: {', '.join(METRICS)}")
    return measure_job(_job(x, queries, pairs, groups, seed, confidence, threads), wanted)


def measure_job(job: Job, wanted: Iterable[str] = tuple(METRICS)) -> Measurement:
    """The metrics of a job; one that fails carries its reason."""
    found = _compute(job, [name for name in METRICS if name in wanted], strict=False)
    empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
    return Measurement(
        metrics=found,
        top_rows=job.top_rows if "spectrum" in vars(job) else empty,
        n_rows=job.n,
        n_distinct=job.n_distinct,
    )


class Job:
    """One matrix and its options; each shared result is computed when first asked for."""

    def __init__(
        self,
        rows: Rows,
        queries: Any,
        pairs: int | str | None,
        groups: NDArray[np.int64] | None,
        seed: int,
        confidence: float,
        threads: int,
    ) -> None:
        self._rows = rows
        self.n, self.d = rows.n, rows.d
        self.queries = queries
        self.pairs = pairs
        self.groups = groups
        self.seed = seed
        self.confidence = confidence
        self.threads = threads

    @property
    def rows(self) -> Rows:
        """The rows that are measured."""
        return self._rows

    @property
    def n_distinct(self) -> int | None:
        """Distinct rows, if they have been counted."""
        return len(self.distinct.first) if "distinct" in vars(self) else None

    @cached_property
    def distinct(self) -> Distinct:
        return find_distinct(self.rows, self.threads)

    @cached_property
    def neighbors(self) -> Neighbors:
        if self.d < 2:
            raise InputError(f"TwoNN needs at least 2 columns, got {self.d}")
        return self._neighbors()

    def _neighbors(self) -> Neighbors:
        return search_pairs(self.rows, self.queries, self.distinct, self.threads, self.seed)

    @cached_property
    def twonn(self) -> Estimate:
        return estimate(self.neighbors, resolve(), "robust", self.confidence, self.seed)

    @cached_property
    def spectrum(self) -> Spectrum:
        return spectrum_of(self.rows, self.groups, self.confidence, self.threads)

    @cached_property
    def norms(self) -> Array:
        return self.rows.norms(self.threads)

    @cached_property
    def sorted_norms(self) -> Array:
        """Norms ascending: their median and quantiles take an eighth of the time."""
        return np.sort(self.norms)

    @cached_property
    def moments(self) -> tuple[CosineStats, Array]:
        if self.d < 2:
            raise InputError(f"cosines need at least 2 columns, got {self.d}")
        return self._moments()

    def _moments(self) -> tuple[CosineStats, Array]:
        return cosine_moments(self.rows, self.groups, self.confidence, self.norms, self.threads)

    @cached_property
    def cosine(self) -> CosineStats:
        moments, inverse = self.moments
        return add_pairs(moments, self.rows, inverse, BINS, self.pairs, self.seed, self.threads)

    @cached_property
    def top_rows(self) -> tuple[NDArray[np.int64], Array]:
        share = self.spectrum.row_share
        place = max(0, len(share) - TOP_ROWS)
        first = np.flatnonzero(share >= np.partition(share, place)[place])  # ties included
        order = first[np.argsort(-share[first], kind="stable")][:TOP_ROWS]
        return order, share[order]


def _job(
    x: Any,
    queries: Any,
    pairs: int | str | None,
    groups: Any,
    seed: int,
    confidence: float,
    threads: int | None,
) -> Job:
    workers = cpu.resolve_threads(threads)
    rows = as_rows(x, threads=workers)
    check_pairs(pairs)
    return Job(
        rows,
        queries,
        pairs,
        as_groups(groups, rows.n),
        seed,
        check_confidence(confidence),
        workers,
    )


@dataclass(frozen=True)
class _Value:
    value: float
    lower: float
    upper: float
    stderr: float
    n_queries: int
    method: str
    backend: str
    warning: str = ""


def _compute(job: Job, names: list[str], strict: bool) -> list[Metric]:
    """The named metrics, in the order given; what several need is computed and timed once."""
    found = {}
    # The count of distinct rows stands beside every other value, so it comes first.
    for name in sorted(names, key=lambda name: name != "distinct_rows"):
        start = time.perf_counter()
        status, reason = "ok", ""
        try:
            result = _FORMULAS[name](job, name)
            reason = result.warning
        except RankError:
            raise  # no metric of a run that has lost a process can be computed
        except FAILURES as error:
            if strict:
                raise
            status = "failed"
            reason = "out of memory" if isinstance(error, MemoryError) else str(error)
            result = _Value(math.nan, math.nan, math.nan, math.nan, 0, "", "")
        found[name] = Metric(
            name=name,
            value=result.value,
            lower=result.lower,
            upper=result.upper,
            stderr=result.stderr,
            n_rows=job.n,
            n_distinct=job.n_distinct,
            n_queries=result.n_queries,
            seconds=time.perf_counter() - start,
            backend=result.backend,
            method=result.method,
            status=status,
            reason=reason,
        )
    return [found[name] for name in names]


def _from_estimate(found: Estimate, backend: str, warning: str = "") -> _Value:
    return _Value(
        found.value,
        found.lower,
        found.upper,
        found.stderr,
        found.n_queries,
        found.method,
        backend,
        warning,
    )


def _twonn(job: Job, name: str) -> _Value:
    found = job.neighbors
    said = [text for text in (audited(found), near_copies(found)) if text]
    return _from_estimate(job.twonn, found.backend, "; ".join(said))


def audited(found: Neighbors) -> str:
    """What the audit of an approximate search says, as a warning; empty for an exact one."""
    audit = found.audit
    if audit is None:
        return ""
    effort = "".join(
        f", {name} {found.plan[name]}" for name in EFFORT.values() if name in found.plan
    )
    text = (
        f"warning: approximate neighbours ({found.plan['index']}{effort}): on {audit.rows} rows "
        f"searched exactly recall@1 {audit.recall_1:.3f}"
    )
    if audit.recall_2 is not None:
        text += f", recall@2 {audit.recall_2:.3f}"
    if audit.shift is not None and audit.shift_interval is not None:
        lower, upper = audit.shift_interval
        text += f", TwoNN off by {audit.shift:+.1%} ({lower:+.1%} to {upper:+.1%})"
    return text


def near_copies(found: Neighbors) -> str:
    """A warning where more rows are near copies of others than ratios of their kind explain.

    Under the model the share of ratios above t is t^-d; d here by the median, which copies of less
    than half of the rows move little, and at least 1. Empty if there is nothing to say.
    """
    ratios = found.distances[:, 1].astype(np.float64) / found.distances[:, 0]
    share = float((ratios > NEAR_COPY).mean())
    middle = math.log(float(np.median(ratios)))
    d = max(1.0, math.log(2.0) / middle) if middle > 0.0 else math.inf
    if share <= NEAR_SHARE + 3.0 * NEAR_COPY**-d:
        return ""
    return (
        f"warning: {share:.1%} of the rows are over {NEAR_COPY:g} times closer to their nearest "
        "row than to the second: near copies, equal up to rounding or noise, lower the dimension; "
        "leave them out, or compare with gride(x, 4), which looks beyond them"
    )


def _spectral(job: Job, name: str) -> _Value:
    return _from_estimate(job.spectrum.estimate(name), "numpy")


def _mean_cosine(job: Job, name: str) -> _Value:
    return _from_estimate(job.moments[0].mean_estimate, "numpy")


def _cosine_std(job: Job, name: str) -> _Value:
    return _from_estimate(job.moments[0].std_estimate, "numpy")


def _cosine_quantile(job: Job, name: str) -> _Value:
    """Bounds from binning and the sampling of pairs; they leave out the choice of rows."""
    q = {"cosine_q05": 0.05, "cosine_median": 0.5, "cosine_q95": 0.95}[name]
    found = job.cosine
    lower, upper = found.quantile_interval(q)
    method = f"histogram of {found.pairs} pairs"
    return _Value(found.quantile(q), lower, upper, math.nan, found.n_pairs, method, found.backend)


def _norm_median(job: Job, name: str) -> _Value:
    """Interval by inverting the error of the share below the median (Woodruff, JASA 1952)."""
    norms = job.norms
    median = float(np.median(job.sorted_norms))
    below = np.where(norms < median, 0.5, np.where(norms > median, -0.5, 0.0))
    half = normal_quantile(job.confidence) * float(clustered_stderr(below, job.groups))
    if math.isnan(half):
        lower = upper = math.nan
    else:
        ends = np.clip([0.5 - half, 0.5 + half], 0.0, 1.0)
        lower, upper = (float(end) for end in np.quantile(job.sorted_norms, ends))
    stderr = (upper - lower) / (2.0 * normal_quantile(job.confidence))
    return _Value(median, lower, upper, stderr, job.n, "order statistics", "numpy")


def _norm_ratio(job: Job, name: str) -> _Value:
    """No interval: rows that were not seen may be longer."""
    median = float(np.median(job.sorted_norms))
    if median == 0.0:
        raise InputError("half of the rows are zero: the largest norm over the median is undefined")
    ratio = float(job.sorted_norms[-1]) / median
    return _Value(ratio, math.nan, math.nan, math.nan, job.n, "largest row", "numpy")


def _top_share(job: Job, name: str) -> _Value:
    """No interval: it describes the very rows it was given."""
    share = float(job.top_rows[1].sum())
    return _Value(share, math.nan, math.nan, math.nan, job.n, "centered covariance", "numpy")


def _distinct_rows(job: Job, name: str) -> _Value:
    count = float(len(job.distinct.first))
    return _Value(count, count, count, 0.0, job.n, "exact comparison", "cpu")


_FORMULAS: dict[str, Callable[[Job, str], _Value]] = {
    "id_twonn": _twonn,
    **dict.fromkeys(STATISTICS, _spectral),
    "mean_cosine": _mean_cosine,
    "cosine_std": _cosine_std,
    **dict.fromkeys(("cosine_q05", "cosine_median", "cosine_q95"), _cosine_quantile),
    "norm_median": _norm_median,
    "norm_ratio": _norm_ratio,
    "top_share": _top_share,
    "distinct_rows": _distinct_rows,
}
