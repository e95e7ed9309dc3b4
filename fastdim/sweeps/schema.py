"""The tidy table: its columns, and how a finished piece becomes rows.

One row is one metric of one (model, revision, layer, token filter). The set of rows depends on
the definition of the run alone: a metric that failed has a row too, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

# 2: `no_outliers` takes the median norm of the rows that are not zero, and sampled queries hold
# rows that lie far from all in proportion.
SCHEMA_VERSION = 2

# Column -> pandas dtype. "Int64" is the nullable integer: `block` is empty for embedding and norm.
COLUMNS: dict[str, str] = {
    "schema_version": "Int64",
    "model": "string",
    "model_name": "string",
    "architecture": "string",
    "revision": "string",
    "layer": "Int64",
    "site": "string",
    "stack": "string",
    "block": "Int64",
    "module": "string",
    "filter": "string",
    "metric": "string",
    "value": "float64",
    "lower": "float64",
    "upper": "float64",
    "stderr": "float64",
    "n_rows": "Int64",
    "n_distinct": "Int64",
    "n_queries": "Int64",
    "seconds": "float64",
    "backend": "string",
    "method": "string",
    "status": "string",
    "reason": "string",
    "corpus": "string",
    "corpus_sha256": "string",
    "document_rule": "string",
    "context": "Int64",
    "max_tokens": "Int64",
    "tokens_per_document": "Int64",
    "batch_size": "Int64",
    "n_documents": "Int64",
    "seed": "Int64",
    "device": "string",
    "dtype": "string",
    "store_dtype": "string",
    "outlier_factor": "float64",
    "confidence": "float64",
    "fastdim_version": "string",
    "python_version": "string",
    "numpy_version": "string",
    "torch_version": "string",
    "transformers_version": "string",
}

# What may differ between two runs of one definition.
TIMING_COLUMNS = ("seconds",)

_FLOATS = ("value", "lower", "upper", "stderr", "seconds")
_COUNTS = ("n_rows", "n_distinct", "n_queries")
_TEXTS = ("backend", "method", "status", "reason")


def encode_float(value: float) -> float | str | None:
    """A float as strict JSON holds it: NaN is null, infinities are words; the rest unrounded."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def decode_float(value: float | str | None) -> float:
    """Inverse of `encode_float`."""
    return math.nan if value is None else float(value)


def encode_metric(metric: Any) -> dict[str, Any]:
    """A `fastdim.layer.Metric` as a JSON object with full-precision floats."""
    out: dict[str, Any] = {"metric": str(metric.name)}
    out.update({name: encode_float(float(getattr(metric, name))) for name in _FLOATS})
    for name in _COUNTS:
        count = getattr(metric, name)
        out[name] = None if count is None else int(count)
    out.update({name: str(getattr(metric, name)) for name in _TEXTS})
    return out


def failed_metric(name: str, reason: str) -> dict[str, Any]:
    """The row of a metric that could not be computed because its whole piece failed."""
    out: dict[str, Any] = {"metric": name}
    out.update(dict.fromkeys(_FLOATS))
    out.update(dict.fromkeys(_COUNTS))
    out.update({"seconds": 0.0, "backend": "", "method": "", "status": "failed", "reason": reason})
    return out


def table_rows(
    common: Mapping[str, Any], pieces: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the table in the order of `pieces`; every row has every column of `COLUMNS`.

    `common` holds the columns that are the same for the whole run (model, corpus, versions).
    """
    rows = []
    for piece in pieces:
        site = {name: piece["site"][name] for name in ("layer", "site", "stack", "block", "module")}
        for metric in piece["metrics"]:
            row = {**common, **site, **metric, "filter": piece["filter"]}
            row.update({name: decode_float(metric[name]) for name in _FLOATS})
            row["schema_version"] = SCHEMA_VERSION
            rows.append({name: row[name] for name in COLUMNS})
    return rows


def to_frame(rows: list[dict[str, Any]]) -> Any:
    """The rows as a pandas DataFrame with the dtypes of `COLUMNS`."""
    from fastdim.errors import require

    pandas = require("pandas", "report")
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(COLUMNS)
