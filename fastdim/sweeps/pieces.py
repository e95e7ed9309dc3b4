"""One piece of a sweep: all metrics of one layer under one filter, as a JSON object."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_groups, as_rows
from fastdim.errors import InputError, StoreError
from fastdim.extract.store import Site, TokenTable
from fastdim.layer import METRICS, measure_job
from fastdim.sweeps.contributions import contributions
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS, Filter, LayerRows, apply
from fastdim.sweeps.reused import Reused
from fastdim.sweeps.schema import encode_float, encode_metric, failed_metric
from fastdim.sweeps.shared import SharedLayer
from fastdim.sweeps.source import Source


class Layer:
    """One layer loaded for its pieces: read once, and what the filters share computed once.

    changed: where a filter's copy of the rows is put; one layer, and one such filter, at a time.
    """

    def __init__(
        self,
        source: Source,
        site: Site,
        definition: Definition,
        threads: int,
        changed: Reused | None = None,
    ) -> None:
        self.changed = Reused() if changed is None else changed
        self.site = site
        self.source = source
        self.failure = ""
        self.definition = definition
        self.shared: SharedLayer | None = None
        self.tokens: TokenTable | None = None
        try:
            filters = [FILTERS[name] for name in definition.filters]
            self.shared = self._share(filters, threads)
        except StoreError:
            raise  # the store is not to be trusted: no layer of it is
        except (InputError, MemoryError) as error:
            self.failure = _words(error)

    def _share(self, filters: list[Filter], threads: int) -> SharedLayer:
        """Read rows and tokens."""
        found = self.source.rows(self.site.layer)
        rows = as_rows(found, name=self.site.label, threads=threads)
        self.tokens = self.source.tokens(self.site.layer)
        norms = rows.norms(threads)
        layer = replace(layer_rows(rows, norms, self.tokens), empty=self.changed.empty)
        return SharedLayer(layer, filters, self.definition, threads)


def layer_rows(rows: Rows, norms: NDArray[np.float64], tokens: TokenTable | None) -> LayerRows:
    """What a filter may look at."""
    if tokens is None:
        return LayerRows(rows, norms)
    return LayerRows(rows, norms, tokens.position, tokens.special, tokens.document)


def _words(error: BaseException) -> str:
    return "out of memory" if isinstance(error, MemoryError) else str(error)


def compute_piece(layer: Layer, item: Filter) -> dict[str, Any]:
    """The piece as it is written to disk.

    A failure of the whole piece (NaN in the layer, too few distinct rows) gives one failed row a
    metric with the reason. Errors of the store are raised: they concern more than this piece.
    """
    definition = layer.definition
    piece: dict[str, Any] = {
        "definition": definition.sha256,
        "site": asdict(layer.site),
        "filter": item.name,
        "rule": item.stated(definition.outlier_factor),
    }
    if layer.shared is None:
        return {**piece, **_failed(layer.failure)}
    try:
        return {**piece, **_measured(layer.shared, layer, item)}
    except (InputError, MemoryError, np.linalg.LinAlgError) as error:
        return {**piece, **_failed(f"{layer.site.label}: {_words(error)}")}


def is_ok(piece: dict[str, Any]) -> bool:
    """Whether every metric of the piece was computed."""
    return all(metric["status"] == "ok" for metric in piece["metrics"])


def _failed(reason: str) -> dict[str, Any]:
    return {"metrics": [failed_metric(name, reason) for name in METRICS], "extras": None}


def _measured(shared: SharedLayer, loaded: Layer, item: Filter) -> dict[str, Any]:
    layer, tokens = shared.layer, loaded.tokens
    filtered = apply(item, layer, shared.definition.outlier_factor, shared.threads)
    documents = None if tokens is None else tokens.document[filtered.kept]
    groups = as_groups(documents, len(filtered.kept))
    job = shared.job(filtered, groups)
    measured = measure_job(job)
    by_name = {metric.name: metric for metric in measured.metrics}
    norms = np.sort(layer.norms[filtered.kept])
    indices, shares = measured.top_rows
    extras = {
        "n_rows": len(filtered.kept),
        "n_removed": filtered.n_removed,
        "norm_median": encode_float(float(np.median(norms))),
        "norm_max": encode_float(float(norms[-1])),
        "top_rows": [
            _top_row(int(filtered.kept[index]), float(share), loaded, layer.norms)
            for index, share in zip(indices, shares, strict=True)
        ],
    }
    metrics = [encode_metric(by_name[name]) for name in METRICS]
    computed = [metric.name for metric in measured.metrics if metric.status == "ok"]
    numbers = None if tokens is None else tokens.document
    beside = contributions(job, numbers, filtered.kept, computed)
    return {"metrics": metrics, "extras": extras, "documents": beside}


def _top_row(row: int, share: float, layer: Layer, norms: NDArray[np.float64]) -> dict[str, Any]:
    """A row that carries much of s1^2: its share, norm and, where known, its place and token."""
    out: dict[str, Any] = {
        "row": row,
        "share": encode_float(share),
        "norm": encode_float(float(norms[row])),
    }
    tokens = layer.tokens
    if tokens is not None:
        token = int(tokens.token[row])
        if token >= 0:
            out["token_id"] = token
            out["token"] = layer.source.token_text(token)
            out["special"] = bool(tokens.special[row])
        out["document"] = int(tokens.document[row])
        out["position"] = int(tokens.position[row])
    return out
