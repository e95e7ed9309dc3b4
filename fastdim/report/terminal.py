"""The results on a terminal: a line a site, `all` and `no_outliers` side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdim.errors import InputError
from fastdim.metrics import METRICS
from fastdim.report import words
from fastdim.report.data import Cell, Run, read_sample

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

# Shown under both filters, and under the first alone: the last two are about what is filtered.
METRIC_CHOICE = ("id_twonn", "anisotropy")
SINGLE_CHOICE = ("mean_cosine", "norm_ratio", "top_share")
FILTER_CHOICE = ("all", "no_outliers")
SHORT_HEADS = {"norm_ratio": "max/med\nnorm", "top_share": "top 10\nrows"}
LEGEND = (
    "id_twonn: intrinsic dimension. anisotropy: share of all variance along one direction.",
    "mean_cosine: over all pairs of rows. max/med norm: largest row norm over the median.",
    "top 10 rows: share of s1^2 (the spread along that direction) that ten rows carry.",
    "outlier rows: of a norm over {factor:g} medians. ±: longer side of the {level:.0%} interval.",
    "Which tokens these are, and every metric with its formula: see the report.",
)
# Narrower terminals get the values without their intervals.
WIDE = 96
MOST_RUNS = 4


def print_table(
    table: pd.DataFrame,
    console: Console | None = None,
    *,
    metrics: Sequence[str] | None = None,
    filters: Sequence[str] | None = None,
) -> None:
    """Print a table a model: a line a site, each metric under each filter beside the other.

    "25.6 ±0.8" is the value and the longer side of its interval, rounded up. Of more than
    four revisions of a model the last is printed. Fits 100 columns with the default choice; plain
    text without colour when the console is no terminal.

    metrics, filters: names to show; None takes intrinsic dimension and anisotropy under `all` and
    `no_outliers`, and under `all` the mean cosine, the largest norm over the median and the share
    of the ten strongest rows, as far as the table has them. Raises InputError for a name that the
    table lacks.
    """
    from rich.console import Console

    console = Console() if console is None else console
    sample = read_sample(table, (), tuple(METRICS))
    shown = _choose("metric", metrics, METRIC_CHOICE, sample.metrics)
    kept = _choose("filter", filters, FILTER_CHOICE, sample.filters)
    columns = [(metric, name) for metric in shown for name in kept]
    if metrics is None:
        columns += [(metric, kept[0]) for metric in SINGLE_CHOICE if metric in sample.metrics]
    for model in sample.models:
        runs = sample.revisions(model)
        for run in runs if len(runs) <= MOST_RUNS else runs[-1:]:
            _print_run(run, console, columns)
        if len(runs) > MOST_RUNS:
            console.print(f"{len(runs) - 1} further revisions of this model are in the report.")


def print_legend(table: pd.DataFrame, console: Console) -> None:
    """What the columns of `print_table` mean, in a few lines."""
    first = table.iloc[0]
    for line in LEGEND:
        text = line.format(factor=float(first["outlier_factor"]), level=float(first["confidence"]))
        console.print(text, highlight=False, soft_wrap=True)


def _choose(
    kind: str, asked: Sequence[str] | None, default: Sequence[str], there: Sequence[str]
) -> list[str]:
    if asked is None:
        return [name for name in default if name in there] or list(there[:3])
    unknown = [name for name in asked if name not in there]
    if unknown or not asked:
        raise InputError(
            f"unknown {kind} {', '.join(unknown) or '(none given)'}; "
            f"the table has: {', '.join(there)}"
        )
    return list(asked)


def cell_text(cell: Cell | None, with_interval: bool) -> str:
    """ "25.6 ±0.8", "0.983 ±.003", "failed", or "" for a cell that does not exist."""
    if cell is None:
        return ""
    if cell.status != "ok":
        return "failed"
    size = abs(cell.value)
    if not math.isfinite(size) or size >= 1e5 or 0 < size < 5e-4:
        return words.number(cell.value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    value = f"{cell.value:,.{decimals}f}"
    if not (with_interval and cell.has_interval):
        return value
    half = max(cell.upper - cell.value, cell.value - cell.lower, 0.0)
    # Rounded up, so that an interval never looks narrower than it is.
    unit = 10.0**-decimals
    shown = f"{math.ceil(half / unit - 1e-9) * unit:,.{decimals}f}"
    return f"{value} ±{shown.removeprefix('0') if decimals == 3 else shown}"


def _print_run(run: Run, console: Console, columns: Sequence[tuple[str, str]]) -> None:
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    terminal = console.is_terminal
    wide = console.width >= WIDE or not terminal
    grid = Table(
        title=Text(words.clean(run.label, 90)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if terminal else box.ASCII2,
        padding=(0, 1) if not terminal else (0, 0, 0, 1) if wide else 0,
        show_edge=not terminal,
        pad_edge=False,
    )
    grid.add_column("site", no_wrap=True, max_width=24)
    for metric, name in columns:
        title = f"{metric}\n{words.filter_title(name)}"
        if name == "all":
            title = SHORT_HEADS.get(metric, title)
        head = Text(title if wide else re.sub("[_ ]", "\n", title))
        style = "" if name == "all" else "cyan"
        grid.add_column(head, justify="right", no_wrap=True, style=style)
    counted = {"no_outliers", "all"} <= {name for _, name in columns}
    if counted:
        grid.add_column("outlier\nrows", justify="right", no_wrap=True)
    failed = 0
    for site in run.sites:
        line = [Text(words.clean(site.label, 40))]
        for metric, name in columns:
            cell = run.cells.get((site.layer, name, metric))
            bad = cell is not None and cell.status != "ok"
            failed += bad
            text = cell_text(cell, wide and metric not in SHORT_HEADS)
            line.append(Text(text, style="red" if bad else ""))
        if counted:
            removed = run.rows_of(site.layer, "all") - run.rows_of(site.layer, "no_outliers")
            line.append(Text(words.count(removed)))
        grid.add_row(*line)
    if not terminal:
        # A log file has no width: nothing may be cut or folded there.
        grid.width = Measurement.get(
            console, console.options.update(max_width=10_000), grid
        ).maximum
    console.print(grid, crop=terminal, soft_wrap=not terminal)
    if failed:
        console.print(f"{failed} values of this table failed.")
