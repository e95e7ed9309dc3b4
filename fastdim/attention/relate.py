"""Rank correlation of a statistic of attention with a metric of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import one_of
from fastdim.attention.heads import STATISTICS
from fastdim.diagnose.training import steps_of
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
    serial: bool | None = None,
    confidence: float = 0.95,
) -> pandas.DataFrame:
    """Spearman's correlation over the layers of each model, or over the steps of each layer.

    attention: `Attention.table`, of several revisions one after another for over="steps". sweep:
    `Sweep.table` of the same models and revisions; both as they are or read back from CSV. What a
    block's heads do is set beside the block's output, each stack and each attention of a block by
    itself. Steps are those of the column `step` (`Track.table`), or in the names of revisions.

    Columns model, revision (or block), stack, module (the path with * for numbers), correlation,
    lower, upper, n, n_effective. The interval is Fisher's with the variance of ranks
    (1 + r^2 / 2)/(n_effective - 3) (Bonett & Wright, Psychometrika 65:23, 2000), and -1 to 1 where
    n_effective is 3 or less.
    serial: whether neighbouring places are taken to depend on each other: n_effective is then the
    number of independent places by the autocorrelations of both series, at lags up to n / 5
    (Pyper & Peterman, Can. J. Fish. Aquat. Sci. 55:2127, 1998); None: over steps. Without it
    n_effective is n, and the interval of neighbouring layers is too narrow.

    Raises InputError on unknown names, fewer than 4 places in common, or over="steps" a revision
    without a step in its name.
    """
    frames = require("pandas", "report")
    check_confidence(confidence)
    one_of("over", over, ("layers", "steps"))
    if not isinstance(statistic, str) or statistic not in STATISTICS:
        raise InputError(f"unknown statistic {statistic!r}; there are: {', '.join(STATISTICS)}")
    left = attention[attention["head"].isna() & (attention["statistic"] == statistic)]
    right = sweep[(sweep["metric"] == metric) & (sweep["filter"] == filter)]
    right = right[(right["site"] == "block") & (right["status"] == "ok")]
    left = left.assign(module=left["module"].str.replace(r"\d+", "*", regex=True))
    keys = ["model", "revision", "stack", "block"]
    # Read back from CSV, texts that are empty in every row are no texts.
    left, right = (_with_texts(table, keys[:3]) for table in (left, right))
    known = ["step"] if "step" in right.columns else []
    both = left[[*keys, "module", "value"]].merge(
        right[[*keys, "value", *known]], on=keys, suffixes=("_a", "_s")
    )
    if over == "steps":
        steps = {model: _steps(part) for model, part in both.groupby("model")}
        pairs = zip(both["model"], both["revision"], strict=True)
        both["order"] = [steps[model][revision] for model, revision in pairs]
    else:
        both["order"] = both["block"]
    both = both.sort_values("order", kind="stable")
    dependent = over == "steps" if serial is None else serial
    place = "revision" if over == "layers" else "block"
    fixed = ["model", place, "stack", "module"]
    rows: list[dict[str, Any]] = []
    for names, part in both.groupby(fixed):
        if len(part) < LEAST:
            continue
        x, y = part["value_a"].to_numpy(float), part["value_s"].to_numpy(float)
        found = dict(zip(fixed, names, strict=True))
        rows.append({**found, **_spearman(x, y, confidence, dependent)})
    if not rows:
        raise InputError(
            f"{statistic} and {metric} have no {LEAST} places in common over {over}: give tables of"
            " the same model (and revisions), with the metric and filter asked for"
        )
    frame: pandas.DataFrame = frames.DataFrame(rows)
    return frame


def _steps(rows: pandas.DataFrame) -> dict[str, int]:
    """Step of each revision of one model."""
    given = None
    # A table of tracks and sweeps has no step for the latter.
    if "step" in rows.columns and rows["step"].notna().all():
        given = dict(zip(rows["revision"], rows["step"].astype(int), strict=True))
    return steps_of(list(rows["revision"]), given)


def _with_texts(table: pandas.DataFrame, names: Sequence[str]) -> pandas.DataFrame:
    texts = {
        name: [str(value) for value in table[name].astype(object).fillna("")] for name in names
    }
    return table.assign(**texts)


def _spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], confidence: float, serial: bool
) -> dict[str, float]:
    n = len(x)
    ranks = [_ranks(values) for values in (x, y)]
    spread = [values.std() for values in ranks]
    if min(spread) == 0.0:
        nothing = dict.fromkeys(("correlation", "lower", "upper"), math.nan)
        return {**nothing, "n": n, "n_effective": math.nan}
    a, b = ((v - v.mean()) / s for v, s in zip(ranks, spread, strict=True))
    r = min(1.0, max(-1.0, float((a * b).mean())))
    count = _independent(a, b) if serial else float(n)
    lower, upper = -1.0, 1.0
    if count > 3.0:
        error = math.sqrt((1.0 + r * r / 2.0) / (count - 3.0))
        half = normal_quantile(confidence) * error
        z = math.atanh(min(max(r, -1.0 + 1e-12), 1.0 - 1e-12))
        lower, upper = math.tanh(z - half), math.tanh(z + half)
    return {"correlation": r, "lower": lower, "upper": upper, "n": n, "n_effective": count}


def _independent(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Number of independent places behind two standardized series; at most their length."""
    n = len(a)
    total = 1.0 / n
    for lag in range(1, n // 5 + 1):
        products = [float((v[:-lag] * v[lag:]).mean()) for v in (a, b)]
        total += 2.0 / n * (n - lag) / n * products[0] * products[1]
    return min(float(n), 1.0 / total) if total > 0.0 else float(n)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, equal values sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse])
