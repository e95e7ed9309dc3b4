"""The tidy table as the report reads it: runs (a model at a revision), sites and cells."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdim.errors import InputError
from fastdim.report import words
from fastdim.sweeps.filters import FILTERS

if TYPE_CHECKING:
    import pandas as pd

KEY = ("model", "revision", "layer", "site", "stack", "block", "module", "filter", "metric")
MEASURED = (
    "value", "lower", "upper", "n_rows", "n_distinct", "n_queries", "method", "status", "reason",
)  # fmt: skip


class Cell(NamedTuple):
    """One measured number: a metric of one site under one token filter."""

    value: float
    lower: float
    upper: float
    n_rows: float
    n_distinct: float
    n_queries: float
    method: str
    status: str
    reason: str

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.lower) and math.isfinite(self.upper)


class Site(NamedTuple):
    """A place in the network where rows were taken; `layer` numbers the sites from 0."""

    layer: int
    kind: str
    stack: str
    block: int | None
    module: str

    @property
    def label(self) -> str:
        """Full name for text and tooltips: "block 16", "embedding", "decoder block 3"."""
        if self.kind == "block" and self.block is not None:
            name = f"block {self.block}"
        elif self.kind in words.SITE_TITLES:
            name = words.SITE_TITLES[self.kind]
        else:
            name = self.module or f"{self.kind} {self.layer}"
        return f"{self.stack} {name}" if self.stack else name

    @property
    def tick(self) -> str:
        """Short name for the axis."""
        if self.kind == "block" and self.block is not None:
            return str(self.block)
        return {"embedding": "emb", "final_norm": "norm"}.get(self.kind, str(self.layer))


@dataclass
class Run:
    """One model at one revision. `extras[(layer, filter)]` holds norms and top rows."""

    model: str
    revision: str
    sites: list[Site] = field(default_factory=list)
    cells: dict[tuple[int, str, str], Cell] = field(default_factory=dict)
    extras: dict[tuple[int, str], Mapping[str, Any]] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    several_revisions: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """What the model is called for readers; `model` is the name that was given."""
        kind = _text(self.constants.get("architecture"))
        name = self.title or short_model(self.model)
        return f"{name} ({kind})" if kind else name

    @property
    def label(self) -> str:
        name = self.name
        return f"{name} @ {self.revision}" if self.revision and self.several_revisions else name

    def cell(self, layer: int, filter_name: str, metric: str) -> Cell | None:
        """The cell if it was measured successfully, else None."""
        cell = self.cells.get((layer, filter_name, metric))
        return cell if cell is not None and cell.status == "ok" else None

    def rows_of(self, layer: int, filter_name: str) -> float:
        """Number of rows used at a site under a filter, nan if nothing was measured there."""
        for (cell_layer, cell_filter, _), cell in self.cells.items():
            if cell_layer == layer and cell_filter == filter_name and cell.status == "ok":
                return cell.n_rows
        return math.nan


@dataclass(frozen=True)
class Sample:
    """Everything the report shows, in display order."""

    runs: list[Run]
    filters: list[str]
    metrics: list[str]

    def revisions(self, model: str) -> list[Run]:
        return [run for run in self.runs if run.model == model]

    def name(self, model: str) -> str:
        """What a model is called for readers."""
        return next(run.name for run in self.runs if run.model == model)

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(run.model for run in self.runs))


def short_model(model: str) -> str:
    """A model's name without the folders before it; hub names keep their owner."""
    trimmed = model.rstrip("/").removeprefix("package:")
    if trimmed.startswith(("/", ".", "~")) or trimmed.count("/") > 1:
        return trimmed.rsplit("/", 1)[-1] or model
    return trimmed or model


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing or type(value).__name__ == "NAType" else str(value)  # pandas' missing text


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # None and pandas.NA stand for "not available"
        return math.nan


def _order(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda n: (known.index(n) if n in known else len(known), n))


def read_sample(
    table: pd.DataFrame,
    extras: Sequence[Mapping[str, Any]] = (),
    metric_order: Sequence[str] = (),
) -> Sample:
    """Group the tidy table by run; raise InputError for an empty table or missing columns."""
    missing = [name for name in (*KEY, *MEASURED) if name not in table.columns]
    if missing:
        raise InputError(
            f"the results table lacks the columns {', '.join(missing)}; "
            "pass the table of a sweep (Sweep.table) with all its columns"
        )
    if not len(table):
        raise InputError("the results table is empty: there is nothing to report")
    runs: dict[tuple[str, str], Run] = {}
    sites: dict[tuple[str, str], dict[int, Site]] = {}
    columns = [*KEY, *MEASURED]
    # Column-wise lists give Python scalars; row objects of pandas would upcast whole rows.
    for row in zip(*(table[name].tolist() for name in columns), strict=True):
        model, revision, layer, kind, stack, block, module, filter_name, metric = row[: len(KEY)]
        value, lower, upper, n_rows, n_distinct, n_queries, method, status, reason = row[len(KEY) :]
        key = (_text(model), _text(revision))
        run = runs.setdefault(key, Run(*key))
        number = _float(block)
        sites.setdefault(key, {}).setdefault(
            int(layer),
            Site(
                int(layer),
                _text(kind),
                _text(stack),
                None if math.isnan(number) else int(number),
                _text(module),
            ),
        )
        cell_key = (int(layer), _text(filter_name), _text(metric))
        if cell_key in run.cells:
            raise InputError(
                f"the table has two rows for the model {' '.join(filter(None, key))!r}, layer "
                f"{layer}, filter {filter_name}, metric {metric}: a report shows one run of a "
                "model and revision; report them apart"
            )
        run.cells[cell_key] = Cell(
            _float(value), _float(lower), _float(upper),
            _float(n_rows), _float(n_distinct), _float(n_queries),
            _text(method), _text(status), _text(reason),
        )  # fmt: skip
    for key, run in runs.items():
        run.sites = [site for _, site in sorted(sites[key].items())]
    _add_constants(table, runs)
    _add_titles(runs)
    _add_extras(runs, extras)
    by_model: dict[str, list[Run]] = {}
    for run in runs.values():
        by_model.setdefault(run.model, []).append(run)
    ordered: list[Run] = []
    for group in by_model.values():
        group.sort(key=lambda run: words.natural_key(run.revision))
        for run in group:
            run.several_revisions = len(group) > 1
        ordered += group
    filters = {name for run in ordered for (_, name, _) in run.cells}
    metrics = {name for run in ordered for (_, _, name) in run.cells}
    return Sample(
        ordered, _order(sorted(filters), tuple(FILTERS)), _order(sorted(metrics), metric_order)
    )


def _add_constants(table: pd.DataFrame, runs: Mapping[tuple[str, str], Run]) -> None:
    """What is the same in all rows of a run defines its sample."""
    others = [name for name in table.columns if name not in (*KEY, *MEASURED)]
    keys = zip(table["model"].tolist(), table["revision"].tolist(), strict=True)
    index: dict[tuple[str, str], list[int]] = {}
    for position, (model, revision) in enumerate(keys):
        index.setdefault((_text(model), _text(revision)), []).append(position)
    for name in others:
        column = table[name].tolist()
        for key, positions in index.items():
            seen = {_text(column[position]): column[position] for position in positions}
            if len(seen) == 1:
                runs[key].constants[str(name)] = next(iter(seen.values()))


def _add_titles(runs: Mapping[tuple[str, str], Run]) -> None:
    """The names that the models' files give them, where each is of one model alone."""
    given: dict[str, set[str]] = {}
    for run in runs.values():
        given.setdefault(_text(run.constants.get("model_name")), set()).add(run.model)
    for run in runs.values():
        title = words.clean(_text(run.constants.get("model_name")), 90)
        run.title = title if len(given[_text(run.constants.get("model_name"))]) == 1 else ""


def _add_extras(runs: Mapping[tuple[str, str], Run], extras: Sequence[Mapping[str, Any]]) -> None:
    for entry in extras:
        key = (_text(entry.get("model")), _text(entry.get("revision")))
        if "model" not in entry and len(runs) == 1:
            key = next(iter(runs))
        if key in runs:
            runs[key].extras[(int(entry["layer"]), str(entry["filter"]))] = entry


def site_ranges(sites: Sequence[Site]) -> str:
    """Names of several sites with runs of blocks joined: "embedding, blocks 12–21"."""
    parts: list[str] = []
    blocks: dict[str, list[int]] = {}
    for site in sites:
        if site.kind == "block" and site.block is not None:
            blocks.setdefault(site.stack, []).append(site.block)
    told: set[str] = set()
    for site in sites:
        if site.kind == "block" and site.block is not None:
            if site.stack not in told:
                told.add(site.stack)
                numbers = blocks[site.stack]
                text = words.number_ranges(numbers)
                noun = "blocks" if re.search(r"[,–]", text) else "block"
                parts.append(f"{site.stack} {noun} {text}".strip())
        else:
            parts.append(site.label)
    return ", ".join(parts)
