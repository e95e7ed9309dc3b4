"""Synthetic sweeps for the tests of the report: the columns and extras of a real one, no model.

The numbers follow what is known of SmolLM2-135M (a few rows of large norm carry the anisotropy of
the middle blocks) and of a small encoder without final norm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from fastdim.metrics import METRICS
from fastdim.sweeps.schema import to_frame

FILTERS = ("all", "no_special", "no_outliers", "normalized")
NASTY = "</script><b>&\"'\n\x00\u202e\ud800"
COMMON: dict[str, Any] = {
    "schema_version": 1, "model_name": "", "stack": "", "seconds": 0.01, "backend": "cpu-avx2",
    "status": "ok", "reason": "", "corpus": "docstrings", "corpus_sha256": "ab" * 32,
    "document_rule": "packed:256", "context": 256, "max_tokens": 20000, "batch_size": 8,
    "n_documents": 79, "seed": 0, "device": "cpu", "dtype": "float32", "store_dtype": "float32",
    "outlier_factor": 5.0, "confidence": 0.95, "fastdim_version": "0.1.0",
    "python_version": "3.11.2", "numpy_version": "2.0.0", "torch_version": "2.4.0",
    "transformers_version": "4.50.0",
}  # fmt: skip


def sites(blocks: int, final_norm: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"layer": 0, "site": "embedding", "block": None, "module": "model.embed_tokens"}
    ]
    for block in range(blocks):
        found.append(
            {"layer": block + 1, "site": "block", "block": block, "module": f"layers.{block}"}
        )
    if final_norm:
        found.append(
            {"layer": blocks + 1, "site": "final_norm", "block": None, "module": "model.norm"}
        )
    return found


def _values(depth: float, name: str, kind: str, massive: bool, scale: float) -> dict[str, float]:
    hump = math.exp(-(((depth - 0.55) / 0.28) ** 2))
    carried = massive and 0.25 < depth < 0.85
    aniso = 0.08 + 0.06 * hump
    if carried and name in ("all", "no_special"):
        aniso = 0.96 + 0.02 * hump if name == "all" else 0.93
    if kind == "embedding":
        aniso = 0.02
    ident = scale * (9 + 14 * hump * (0.8 if name == "normalized" else 1.0))
    cosine = 0.1 + 0.5 * hump - (0.1 if name == "no_outliers" else 0.0)
    rank = 300.0 * (1 - aniso) ** 1.5 + 1.02
    return {
        "id_twonn": ident, "anisotropy": aniso, "participation_ratio": 1 / aniso**2,
        "effective_rank": rank, "stable_rank": 1 / aniso, "mean_cosine": cosine,
        "cosine_std": 0.1, "cosine_q05": cosine - 0.2, "cosine_median": cosine,
        "cosine_q95": cosine + 0.2, "norm_median": 1.0 if name == "normalized" else 2 + 90 * depth,
        "norm_ratio": 1.0 if name == "normalized" else (260.0 if carried and name != "no_outliers"
                                                        else 2.0),
        "top_share": 0.95 if aniso > 0.9 else 0.01, "distinct_rows": 19000.0,
    }  # fmt: skip


def make_rows(
    model: str = "smollm2",
    revision: str = "",
    blocks: int = 30,
    *,
    final_norm: bool = True,
    massive: bool = True,
    scale: float = 1.0,
    n: int = 20000,
) -> list[dict[str, Any]]:
    """Rows of the tidy table of one run."""
    rng = np.random.default_rng(blocks)
    rows = []
    places = sites(blocks, final_norm)
    for place in places:
        depth = place["layer"] / max(len(places) - 1, 1)
        for name in FILTERS:
            values = _values(depth, name, place["site"], massive, scale)
            removed = {"no_special": 79, "no_outliers": 84 if massive else 0}.get(name, 0)
            for metric in METRICS:
                value = values[metric] * (1 + 0.005 * rng.standard_normal())
                spread = 0.03 * abs(value)
                whole = metric.startswith("norm") or metric == "distinct_rows"
                rows.append(
                    {
                        **COMMON, **place, "model": model, "revision": revision, "filter": name,
                        "metric": metric, "value": value,
                        "lower": math.nan if whole else value - spread,
                        "upper": math.nan if whole else value + spread,
                        "stderr": math.nan if whole else spread / 1.96, "n_rows": n - removed,
                        "n_distinct": 3210 if place["layer"] == 0 else n - removed,
                        "n_queries": 4000, "method": "censored",
                    }
                )  # fmt: skip
    return rows


def make_extras(
    model: str = "smollm2", revision: str = "", blocks: int = 30, *, final_norm: bool = True
) -> list[dict[str, Any]]:
    """What `Sweep.layers` holds for one run."""
    tokens = ["The", "\n", " def", "<|endoftext|>", "&amp;", '"', "<b>", "é", ".", NASTY]
    entries = []
    for place in sites(blocks, final_norm):
        for name in FILTERS:
            entries.append(
                {
                    "model": model, "revision": revision, "stack": "", **place, "filter": name,
                    "rule": "rule of the filter", "n_rows": 20000,
                    "n_removed": 84 if name == "no_outliers" else 0,
                    "norm_median": 12.5, "norm_max": 3200.0,
                    "top_rows": [
                        {"row": 256 * i, "share": 0.3 / (i + 1), "norm": 3200.0 / (i + 1),
                         "token_id": i, "token": token, "document": i,
                         "position": 0 if i < 6 else i,
                         "special": False}
                        for i, token in enumerate(tokens)
                    ],
                }
            )  # fmt: skip
    return entries


def fail(rows: list[dict[str, Any]], reason: str, **where: Any) -> None:
    """Turn the rows that match `where` into failed ones."""
    for row in rows:
        if all(row[key] == value for key, value in where.items()):
            row.update(value=math.nan, lower=math.nan, upper=math.nan, stderr=math.nan)
            row.update(n_rows=None, n_distinct=None, n_queries=None, status="failed", reason=reason)


def frame(*runs: list[dict[str, Any]]) -> pd.DataFrame:
    """The runs as one table with the dtypes of a sweep's."""
    table: pd.DataFrame = to_frame([row for rows in runs for row in rows])
    return table
