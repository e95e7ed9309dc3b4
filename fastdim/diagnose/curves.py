"""A metric over the depth of one model, with replicates that keep what layers have in common.

Layers are measured on the same documents, so their errors go together. Replicates come from weights
on documents (a multinomial draw, the bootstrap of Efron, Ann. Stat. 7:1, 1979) applied to what each
document adds to the metric (sweeps/contributions.py), on a scale where errors are nearly normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import generator
from fastdim.errors import InputError
from fastdim.metrics import METRICS
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import Sweep

if TYPE_CHECKING:
    import pandas

Array = NDArray[np.float64]

REPLICATES = 2000
# Shares and cosines are compared by differences, everything else by ratios.
SHARES = ("anisotropy", "mean_cosine", "cosine_std", "cosine_q05", "cosine_median", "cosine_q95",
          "top_share")  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Where errors of a metric are nearly normal: forward, its derivative, and back again."""

    forward: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    backward: Callable[[Array], Array]


def _logit(p: Array) -> Array:
    return np.asarray(np.log(p) - np.log1p(-p))


_EDGE = 1e-12
SCALES = {
    "log": Scale(np.log, lambda x: 1.0 / x, np.exp),
    "logit": Scale(
        lambda p: _logit(np.clip(p, _EDGE, 1.0 - _EDGE)),
        lambda p: 1.0 / (np.clip(p, _EDGE, 1.0 - _EDGE) * (1.0 - np.clip(p, _EDGE, 1.0 - _EDGE))),
        lambda z: np.exp(-np.logaddexp(0.0, -z)),
    ),
    "plain": Scale(lambda x: x, np.ones_like, lambda x: x),
}


def scale_of(metric: str, values: Array) -> Scale:
    """Logit for shares of variance, log for dimensions and ranks, as it is for cosines."""
    if metric in ("anisotropy", "top_share"):
        return SCALES["logit"]
    return SCALES["log"] if _by_ratios(metric, values) else SCALES["plain"]


def _by_ratios(metric: str, values: Array) -> bool:
    return metric not in SHARES and bool((values > 0.0).all())


@lru_cache(maxsize=8)
def _drawn(groups: int, replicates: int, seed: int) -> Array:
    rng = generator(seed)
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=replicates).astype(float)


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over L sites in the order of the forward pass.

    values: (L,). z: values on the working scale. parts: (g, L) what each document group adds to z,
    or None where only standard errors (L,) are known; then sites are taken as independent.
    positions: (L,) 0 at the first site, 1 at the last. basis: where the errors come from.
    missing: labels of sites without a value, with the reason.
    """

    model: str
    revision: str
    metric: str
    filter: str
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    positions: Array
    values: Array
    z: Array
    scale: Scale
    parts: Array | None
    stderr: Array
    basis: str
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def n_groups(self) -> int | None:
        """Document groups behind the errors; None without."""
        return None if self.parts is None else len(self.parts)

    def covariance(self) -> Array:
        """Covariance (L, L) of z."""
        if self.parts is None:
            return np.diag(np.square(self.stderr))
        g = len(self.parts)
        return np.asarray(self.parts.T @ self.parts * (g / (g - 1)))

    def deviations(self, replicates: int, seed: int) -> Array:
        """Replicates of z less z, (replicates, L)."""
        if self.parts is None:
            rng = generator(seed)
            return rng.standard_normal((replicates, len(self.z))) * self.stderr
        g = len(self.parts)
        weights = self.weights(replicates, seed)
        return np.asarray(weights @ self.parts * math.sqrt(g / (g - 1)))

    def weights(self, replicates: int, seed: int) -> Array:
        """How often each document group is drawn, (replicates, g)."""
        return _drawn(0 if self.parts is None else len(self.parts), replicates, seed)

    @property
    def relative(self) -> bool:
        """Whether changes are judged by ratios; else, as for shares and cosines, by differences."""
        return _by_ratios(self.metric, self.values)

    def difference(self, before: int, after: int) -> float:
        """Change from one site to another as it is judged: a difference, or log of the ratio."""
        if self.relative:
            return math.log(self.values[after] / self.values[before])
        return float(self.values[after] - self.values[before])


def curve_of(
    table: Sweep | pandas.DataFrame,
    metric: str,
    filter: str,
    *,
    model: str | None = None,
    revision: str | None = None,
    stack: str | None = None,
    sites: Sequence[str] = ("block",),
    least: int = 4,
) -> Curve:
    """The curve of one model from a Sweep (errors by documents) or a table (by column stderr).

    Raises InputError where nothing or more than one model fits, an argument is unknown, fewer than
    `least` sites have a value, or the metric has no error.
    """
    rows, documents = rows_of(table, metric, filter)
    for name, wanted in (("model", model), ("revision", revision), ("stack", stack)):
        rows = rows_of_one(rows, name, wanted)
    check_sites(sites)
    rows = sorted((r for r in rows if r["site"] in sites), key=lambda r: int(r["layer"]))
    layers = [int(row["layer"]) for row in rows]
    twice = next((row for row, after in pairwise(rows) if row["layer"] == after["layer"]), None)
    if twice is not None:
        raise InputError(
            f"the table has {label_of(twice)} of {twice['model']} twice: it holds two runs of one "
            "model and revision; give one of them"
        )
    # From the first place to the last, whatever has no value between them.
    span = max(1, layers[-1] - layers[0]) if layers else 1
    return build(
        rows,
        documents,
        metric,
        filter,
        labels=[label_of(row) for row in rows],
        positions=[(layer - layers[0]) / span for layer in layers],
        what=f"sites ({', '.join(sites)})",
        least=least,
    )


def check_sites(sites: Sequence[str]) -> None:
    """Raise InputError unless `sites` are names of kinds in a list: a text is one of letters."""
    if isinstance(sites, str) or not isinstance(sites, Collection):
        raise InputError(f"sites must be a list of kinds such as ('block',), got {sites!r}")


def build(
    rows: Sequence[Mapping[str, Any]],
    documents: Documents | None,
    metric: str,
    filter_name: str,
    *,
    labels: Sequence[str],
    positions: Sequence[float],
    what: str,
    least: int,
) -> Curve:
    """The curve of rows in their order; `what` they are, for messages. Failed ones are left out."""
    good = [n for n, r in enumerate(rows) if r["status"] == "ok" and math.isfinite(r["value"])]
    bad = [(labels[n], str(r["reason"])) for n, r in enumerate(rows) if n not in good]
    if len(good) < least:
        why = f"; {bad[0][0]} failed: {bad[0][1]}" if bad else ""
        raise InputError(
            f"{metric} under the filter {filter_name} has {len(good)} values over {what}, and "
            f"{least} are needed{why}"
        )
    used = [rows[n] for n in good]
    names = tuple(labels[n] for n in good)
    values = np.array([row["value"] for row in used])
    scale = scale_of(metric, values)
    slope = scale.slope(values)
    stderr = np.array([row["stderr"] for row in used]) * slope
    parts = None
    basis = "standard errors of the table, places taken as independent"
    if documents is not None:
        parts, numbers = _parts(documents, used, names, metric, filter_name)
        parts = _widened(parts * slope, stderr)
        basis = f"bootstrap over {len(numbers)} groups of documents"
    elif not np.isfinite(stderr).all():
        raise InputError(
            f"{metric} has no standard error in this table, so nothing can be tested: give a "
            "metric that has one, or fill the column stderr"
        )
    return Curve(
        str(used[0]["model"]), str(used[0]["revision"]), metric, filter_name, names,
        tuple(int(row["layer"]) for row in used), np.array([positions[n] for n in good]), values,
        scale.forward(values), scale, parts, stderr, basis, tuple(bad),
    )  # fmt: skip


def run_of(sweep: Sweep, curve: Curve) -> RunRecord:
    """The run of a sweep that a curve is of."""
    place = (curve.model, curve.revision)
    return next(r for r in sweep.runs if (r.sample["model"], r.sample["revision"]) == place)


def label_of(row: Mapping[str, Any]) -> str:
    """What a place of the network is called: "block 3", "decoder block 0", "final norm"."""
    kind = str(row["site"])
    block = row["block"]
    known = kind == "block" and block is not None and block == block
    stack = f"{row['stack']} " if row["stack"] else ""
    return f"{stack}block {int(block)}" if known else f"{stack}{kind.replace('_', ' ')}"


_COLUMNS = ("model", "revision", "stack", "site", "block", "layer", "value", "stderr", "status",
            "reason")  # fmt: skip
Documents = dict[tuple[str, str, int], dict[str, Any] | None]


def rows_of(
    table: Sweep | pandas.DataFrame, metric: str, filter_name: str
) -> tuple[list[dict[str, Any]], Documents | None]:
    """Rows of the metric and filter, and by (model, revision, layer) what documents add."""
    for what, name in (("metric", metric), ("filter", filter_name)):
        if not isinstance(name, str):
            raise InputError(f"{what} must be a name, got {name!r}")
    if isinstance(table, Sweep):
        if metric not in METRICS:
            raise InputError(f"unknown metric {metric!r}; there are: {', '.join(METRICS)}")
        rows = [row for run in table.runs for row in run.rows() if row["metric"] == metric]
        documents: Documents | None = {
            (run.sample["model"], run.sample["revision"], piece["site"]["layer"]): piece.get(
                "documents"
            )
            for run in table.runs
            for piece in run.pieces
            if piece["filter"] == filter_name
        }
    else:
        if not hasattr(table, "columns"):
            raise InputError(
                f"table must be a Sweep or a frame with the columns of Sweep.table, got a "
                f"{type(table).__name__}; Sweep.load reads a folder"
            )
        missing = [name for name in (*_COLUMNS, "metric", "filter") if name not in table.columns]
        if missing:
            raise InputError(
                f"the table lacks the columns {', '.join(missing)}: pass Sweep.table, or a frame "
                "with its columns"
            )
        chosen = table[table["metric"] == metric]
        columns = [chosen[name].tolist() for name in (*_COLUMNS, "filter")]
        rows = [
            {
                name: _plain(name, value)
                for name, value in zip((*_COLUMNS, "filter"), row, strict=True)
            }
            for row in zip(*columns, strict=True)
        ]
        documents = None
    if not rows:
        raise InputError(f"the table has no metric {metric!r}")
    filters = sorted({str(row["filter"]) for row in rows})
    rows = [row for row in rows if row["filter"] == filter_name]
    if not rows:
        raise InputError(f"the table has no filter {filter_name!r}; it has {', '.join(filters)}")
    return rows, documents


def _plain(name: str, value: Any) -> Any:
    """A cell of a frame as a row of a Sweep has it; pandas' missing value is none of Python's."""
    missing = value is None or type(value).__name__ == "NAType" or value != value
    if name in ("value", "stderr"):
        return math.nan if missing else float(value)
    if missing:
        return None if name == "block" else ""
    return value


def rows_of_one(rows: list[dict[str, Any]], name: str, wanted: str | None) -> list[dict[str, Any]]:
    """The rows of the one model, revision or stack; InputError unless it is one."""
    known = list(dict.fromkeys(str(row[name]) for row in rows))
    if wanted is None and len(known) > 1:
        raise InputError(
            f"the table holds several {name}s ({', '.join(known)}): say which with {name}="
        )
    if wanted is not None and wanted not in known:
        raise InputError(f"the table has no {name} {wanted!r}; it has {', '.join(known)}")
    return rows if wanted is None else [row for row in rows if row[name] == wanted]


def _parts(
    documents: Documents,
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    metric: str,
    filter_name: str,
) -> tuple[Array, list[int]]:
    """What each document group adds to the metric at each site (g, L), and the groups' numbers."""
    found = [documents.get((r["model"], r["revision"], int(r["layer"]))) for r in rows]
    for label, entry in zip(labels, found, strict=True):
        if entry is None or metric not in entry:
            raise InputError(
                f"{label} has no contributions of documents to {metric} under the filter "
                f"{filter_name}: the metric has none, the run has fewer than two documents, or "
                "they were not kept (track --keep none, an old run). Pass the table alone "
                "(Sweep.table) to take the sites as independent, or run the sweep again"
            )
    entries = [entry for entry in found if entry is not None]
    numbers = sorted({number for entry in entries for number in entry["numbers"]})
    place = {number: index for index, number in enumerate(numbers)}
    parts = np.zeros((len(numbers), len(rows)))
    for column, entry in enumerate(entries):
        parts[[place[number] for number in entry["numbers"]], column] = entry[metric]
    return parts, numbers


def _widened(parts: Array, stderr: Array) -> Array:
    """Parts made larger where the table's own error is: TwoNN's knows that rows share neighbours,
    across documents too.
    """
    g = len(parts)
    own = np.sqrt(np.square(parts).sum(axis=0) * (g / (g - 1)))
    factor = np.divide(stderr, own, out=np.ones_like(own), where=own > 0.0)
    return np.asarray(parts * np.where(np.isfinite(factor) & (factor > 1.0), factor, 1.0))
