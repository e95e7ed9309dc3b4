"""Rank correlation of a statistic of attention with a metric of a sweep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.attention.heads import STATISTICS
from fastdim.errors import InputError, require
from fastdim.estimate import check_confidence, normal_quantile

if TYPE_CHECKING:
    import pandas

LEAST = 4


def correlate(
    attention: pandas.DataFrame,
    sweep: pandas.DataFrame,
    statistic: str = "categorical",
    metric: str = "anisotropy",
    filter: str = "all",
    *,
    over: str = "layers",
    confidence: float = 0.95,
) -> pandas.DataFrame:
    """Spearman's correlation over the layers of each model, or over the steps of each layer.

    attention: `Attention.table`, of several revisions one after another for over="steps". sweep:
    `Sweep.table` of the same models. What a block's heads do is set beside the block's output, each
    stack and each attention of a block by itself.

    Columns model, revision (or block), stack, module (the path with * for numbers), correlation,
    lower, upper, n. The interval is Fisher's with
    the variance of ranks (1 + r^2 / 2)/(n - 3) (Bonett & Wright, Psychometrika 65:23, 2000), as if
    places were independent: neighbouring layers and steps are not, so it is too narrow.

    Raises InputError on unknown names, or fewer than 4 places in common.
    """
    frames = require("pandas", "report")
    check_confidence(confidence)
    if over not in ("layers", "steps"):
        raise InputError(f"over must be 'layers' or 'steps', got {over!r}")
    if statistic not in STATISTICS:
        raise InputError(f"unknown statistic {statistic!r}; there are: {', '.join(STATISTICS)}")
    left = attention[attention["head"].isna() & (attention["statistic"] == statistic)]
    right = sweep[(sweep["metric"] == metric) & (sweep["filter"] == filter)]
    right = right[(right["site"] == "block") & (right["status"] == "ok")]
    left = left.assign(module=left["module"].str.replace(r"\d+", "*", regex=True))
    keys = ["model", "revision", "stack", "block"]
    both = left[[*keys, "module", "value"]].merge(
        right[[*keys, "value"]], on=keys, suffixes=("_a", "_s")
    )
    place = "revision" if over == "layers" else "block"
    fixed = ["model", place, "stack", "module"]
    rows: list[dict[str, Any]] = []
    for names, part in both.groupby(fixed):
        if len(part) < LEAST:
            continue
        x, y = part["value_a"].to_numpy(float), part["value_s"].to_numpy(float)
        found = dict(zip(fixed, names, strict=True))
        rows.append({**found, **_spearman(x, y, confidence), "n": len(part)})
    if not rows:
        raise InputError(
            f"{statistic} and {metric} have no {LEAST} places in common over {over}: give tables of"
            " the same model (and revisions), with the metric and filter asked for"
        )
    frame: pandas.DataFrame = frames.DataFrame(rows)
    return frame


def _spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], confidence: float
) -> dict[str, float]:
    ranks = [_ranks(values) for values in (x, y)]
    spread = [values.std() for values in ranks]
    if min(spread) == 0.0:
        return dict.fromkeys(("correlation", "lower", "upper"), math.nan)
    centered = [values - values.mean() for values in ranks]
    r = float((centered[0] * centered[1]).mean() / (spread[0] * spread[1]))
    r = min(1.0, max(-1.0, r))
    half = normal_quantile(confidence) * math.sqrt((1.0 + r * r / 2.0) / (len(x) - 3))
    z = math.atanh(min(max(r, -1.0 + 1e-12), 1.0 - 1e-12))
    return {"correlation": r, "lower": math.tanh(z - half), "upper": math.tanh(z + half)}


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, equal values sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse])
