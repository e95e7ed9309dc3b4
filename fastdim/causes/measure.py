"""`causes`: how much of anisotropy and dimension each cause explains, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_rows, whole_number
from fastdim.backends import cpu
from fastdim.causes.factors import FACTORS, LEAST_ROWS, LayerCauses, mean_of, strata
from fastdim.causes.shapley import (
    Coalition,
    Weights,
    coalitions,
    combine,
    interaction_weights,
    share_weights,
)
from fastdim.covariance import spectrum_of
from fastdim.diagnose.curves import scale_of
from fastdim.errors import FastdimError, InputError, StoreError, require
from fastdim.estimate import (
    check_confidence,
    group_sums,
    normal_quantile,
    transformed_interval,
)
from fastdim.estimators import twonn
from fastdim.extract.store import Site, Store
from fastdim.layer import audited
from fastdim.neighbors import find_distinct, knn
from fastdim.query_error import query_count
from fastdim.sweeps.jobs import check_approximate
from fastdim.sweeps.record import RunRecord

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]
Int64 = NDArray[np.int64]

METRICS = ("anisotropy", "id_twonn")
COLUMNS: dict[str, str] = {
    "model": "string", "revision": "string", "layer": "Int64", "site": "string", "block": "Int64",
    "metric": "string", "kind": "string", "name": "string", "value": "float64",
    "lower": "float64", "upper": "float64", "stderr": "float64", "n_rows": "Int64",
    "status": "string", "reason": "string",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A metric under an ablation, and what each document adds to it (documents,); told: what is to
    be said of it in the table.
    """

    value: float
    parts: Array
    n_rows: int
    told: str = ""


def causes(
    folder: str | Path,
    *,
    factors: Sequence[str] = tuple(FACTORS),
    metrics: Sequence[str] = METRICS,
    sites: Sequence[str] = ("block",),
    queries: int | str | None = 1000,
    confidence: float = 0.95,
    threads: int | None = None,
    backend: str | None = None,
    index: str | None = None,
    target_recall: float | None = None,
) -> pandas.DataFrame:
    """What each factor (see FACTORS) explains of a metric: v(nothing ablated) less v(ablated).

    folder: a sweep with its activations. queries: rows TwoNN looks at, against all (None: all;
    "1%": as many as keep that relative error, as in `fastdim.sweep`). sites: kinds of places.
    backend, index, target_recall: of TwoNN's neighbours, as in `fastdim.sweep`; what the audit says
    stands in the column `reason` of each ablation.

    Rows of the table, by `kind`: "ablation": the metric without the factors named (joined by +,
    "nothing" for none); "share": Shapley value of a factor, how much the metric falls by it over
    all orders of taking factors away, in units of the metric, summing to what all together take;
    "interaction": Shapley interaction index of a pair; "stratum": the metric within rows of one
    frequency, norm or position; "control": rows normalized after a random vector as long as the
    mean was added. Errors are first order by documents, for shares of all ablations together;
    intervals of the metric itself stay in its range.
    Anisotropy subtracts the mean, and distances do not see it, so "mean" acts together with "norm"
    alone.

    Raises InputError on unknown names, bad numbers or activations without tokens; StoreError
    without activations; BackendError and DependencyError as `fastdim.sweep`. What fails for a layer
    has rows with its reason.
    """
    frames = require("pandas", "report")
    check_confidence(confidence)
    if isinstance(queries, str):
        queries = query_count(queries)
    elif queries is not None:
        whole_number("queries", queries, 1)
    for what, given, known in (("factor", factors, FACTORS), ("metric", metrics, METRICS)):
        bad = [name for name in given if name not in known]
        if bad or not given or len(set(given)) != len(given):
            raise InputError(f"{what}s must be named once each, from: {', '.join(known)}")
    folder = Path(folder)
    record = RunRecord.read(folder)
    try:
        store = Store.open(folder / "activations")
    except StoreError as error:
        raise StoreError(f"{folder} has no activations ({error}); run it with them kept") from error
    store.threads = threads
    if not store.has_tokens:
        raise InputError(f"{folder} has no tokens beside its rows, and causes are about tokens")
    rows: list[dict[str, Any]] = []
    chosen = [site for site in store.sites if site.site in sites]
    if not chosen:
        raise InputError(f"{folder} has no sites {', '.join(sites)}")
    options = _Options(
        tuple(factors),
        queries,
        record.definition.seed,
        confidence,
        cpu.resolve_threads(threads),
        check_approximate(backend, index, target_recall),
    )
    for site in chosen:
        layer = LayerCauses(
            as_rows(store.rows(site.layer), name=site.label),
            store.tokens(site.layer),
            record.definition.outlier_factor,
        )
        for metric in metrics:
            rows += [
                {**_place(record, site), "metric": metric, **row}
                for row in _layer(layer, metric, options)
            ]
    frame: pandas.DataFrame = frames.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return frame


@dataclass(frozen=True)
class _Options:
    factors: tuple[str, ...]
    queries: int | None
    seed: int
    confidence: float
    threads: int
    search: Mapping[str, Any] = field(default_factory=dict)  # of approximate neighbours


def _place(record: RunRecord, site: Site) -> dict[str, Any]:
    return {
        "model": record.sample["model"], "revision": record.sample["revision"],
        "layer": site.layer, "site": site.site, "block": site.block,
    }  # fmt: skip


def _layer(layer: LayerCauses, metric: str, options: _Options) -> list[dict[str, Any]]:
    """All rows of one layer and metric."""
    documents = as_groups(layer.tokens.document, layer.rows.n)
    assert documents is not None
    count = int(documents.max()) + 1
    known: dict[Coalition, Value] = {}
    out: list[dict[str, Any]] = []

    def note(kind: str, name: str, found: Value | str) -> None:
        row: dict[str, Any] = {"kind": kind, "name": name, "status": "ok", "reason": ""}
        if isinstance(found, str):
            row |= {"status": "failed", "reason": found}
        else:
            factor = math.sqrt(count / (count - 1)) if count > 1 else math.nan
            stderr = factor * math.sqrt(float(np.square(found.parts).sum()))
            lower, upper = _ends(metric, kind, found.value, stderr, options.confidence)
            row |= {"value": found.value, "stderr": stderr, "lower": lower, "upper": upper}
            row |= {"n_rows": found.n_rows, "reason": found.told}
        out.append(row)

    def value(rows: Rows, kept: Int64) -> Value:
        return _value(rows, documents[kept], count, metric, options)

    for chosen in coalitions(options.factors):
        name = "+".join(f for f in options.factors if f in chosen) or "nothing"
        same = chosen - {"mean"} if "norm" not in chosen else chosen
        try:
            known[chosen] = known[same] if same in known else value(*layer.apply(same))
            note("ablation", name, known[chosen])
        except FastdimError as error:
            note("ablation", name, str(error))
    weighed: list[tuple[str, str, Weights]] = [
        ("share", name, share_weights(name, options.factors)) for name in options.factors
    ]
    weighed += [
        ("interaction", "+".join(pair), interaction_weights(pair, options.factors))
        for pair in combinations(options.factors, 2)
    ]
    for kind, name, weights in weighed:
        if all(chosen in known for chosen in weights):
            # What a cause explains is what goes with it: the values are of what is left.
            lost = {chosen: -known[chosen].value for chosen in weights}
            parts = -sum(weight * known[chosen].parts for chosen, weight in weights.items())
            note(kind, name, Value(combine(weights, lost), np.asarray(parts), layer.rows.n))
        else:
            note(kind, name, "an ablation it needs failed")
    for name, mask in strata(layer).items():
        inside = np.flatnonzero(mask)
        try:
            if len(inside) < LEAST_ROWS:
                raise InputError(f"{len(inside)} rows, and {LEAST_ROWS} are needed")
            note("stratum", name, value(layer.rows.take(inside), inside))
        except FastdimError as error:
            note("stratum", name, str(error))
    random = np.random.default_rng(options.seed).standard_normal(layer.rows.d)
    random *= np.linalg.norm(mean_of(layer.rows)) / np.linalg.norm(random)
    try:
        note(
            "control", "norm after a random mean", value(*layer.apply(frozenset({"norm"}), random))
        )
    except FastdimError as error:
        note("control", "norm after a random mean", str(error))
    return out


def _ends(
    metric: str, kind: str, value: float, stderr: float, confidence: float
) -> tuple[float, float]:
    """Interval of a value on the scale that keeps the metric in range; shares may have any sign."""
    if kind in ("share", "interaction") or not value > 0.0:
        half = normal_quantile(confidence) * stderr
        return value - half, value + half
    scale = scale_of(metric, np.array([value]))

    def forward(x: float) -> float:
        return float(scale.forward(np.array(x)))

    def backward(z: float) -> float:
        return float(scale.backward(np.array(min(z, 700.0))))

    slope = float(scale.slope(np.array(value)))
    return transformed_interval(value, stderr, confidence, forward, backward, slope)


def _value(rows: Rows, documents: Int64, count: int, metric: str, options: _Options) -> Value:
    """The metric with what each of `count` documents adds to it."""
    if metric == "anisotropy":
        groups = as_groups(documents, rows.n)
        found = spectrum_of(rows, groups, options.confidence, options.threads).estimate(metric)
        parts = np.zeros(count)
        assert found.by_group is not None
        parts[np.unique(documents)] = found.by_group
        return Value(found.value, parts, rows.n)
    distinct = find_distinct(rows, options.threads)
    queries, threads, seed = options.queries, options.threads, options.seed
    if options.search.get("backend") is None:
        neighbors = twonn.search_pairs(rows, queries, distinct, threads, seed)
    else:
        twonn.check_distinct(len(distinct.first), rows.n)
        how: dict[str, Any] = {"threads": threads, "seed": seed, **options.search}
        neighbors = knn(rows, 2, queries=queries, duplicates="collapse", **how)
    plan = twonn.resolve()
    value, _ = twonn.point(neighbors, plan, options.seed)
    which, parts = twonn.query_parts(neighbors, plan, value)
    moved = group_sums(parts, documents[neighbors.queries[which]], count)
    return Value(value, moved, rows.n, audited(neighbors))
