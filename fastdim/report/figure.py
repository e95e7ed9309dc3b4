"""profiles.png: the curves of the page as one matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdim.errors import InputError, require
from fastdim.extract.shards import replace_file
from fastdim.metrics import METRICS
from fastdim.report import words
from fastdim.report.data import read_sample
from fastdim.report.panels import (
    Panel,
    Scale,
    Series,
    panels_of,
    scale_of,
    segments,
    slot_positions,
    slot_ticks,
)
from fastdim.report.style import COLORS, ramp_color

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = (
    "solid", (0, (5, 2)), "solid", (0, (1, 1.5)), (0, (7, 2, 2, 2)), (0, (3, 2)), (0, (9, 3)),
    (0, (2, 2)),
)  # fmt: skip
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")

# One model needs no second column, so its metrics fill rows of this many panels.
WRAP = 3
# Beyond this a PNG is too wide to look at; the page has no such limit.
MOST_COLUMNS = 40
PANEL_WIDTH, PANEL_HEIGHT, DPI = 3.6, 2.0, 110


def plot_profiles(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    metrics: Sequence[str] | None = None,
) -> Figure:
    """Draw every metric over the depth: metric rows by model columns, a line a token filter.

    A model with more than three revisions gets a column a filter, with a line a revision. One
    model alone wraps its metrics over three columns. Bands are the intervals of the table.

    path: a file to write (format by its suffix); None writes nothing. metrics: names to draw, in
    this order; None draws all in the table. Returns the figure. Raises InputError for an unknown
    metric, a bad table or more than 40 columns; DependencyError without matplotlib.
    """
    figures = require("matplotlib.figure", "report")
    backend = require("matplotlib.backends.backend_agg", "report")
    sample = read_sample(table, (), tuple(METRICS))
    chosen = list(sample.metrics if metrics is None else metrics)
    unknown = [name for name in chosen if name not in sample.metrics]
    if unknown or not chosen:
        raise InputError(
            f"unknown metric {', '.join(unknown) or '(none given)'}; "
            f"the table has: {', '.join(sample.metrics)}"
        )
    grid = [(name, panels_of(sample, name)) for name in chosen]
    width = len(grid[0][1])
    if width > MOST_COLUMNS:
        raise InputError(
            f"{width} models and revisions are too many columns for one picture (at most "
            f"{MOST_COLUMNS}); select rows of the table, or use the HTML report"
        )
    columns = min(WRAP, len(grid)) if width == 1 else width
    rows = math.ceil(len(grid) / columns) if width == 1 else len(grid)
    head = 0.85
    height = head + rows * PANEL_HEIGHT + 0.25
    # No pyplot: its global state would leave a figure open and pick a display backend.
    figure: Figure = figures.Figure(figsize=(0.6 + columns * PANEL_WIDTH, height), dpi=DPI)
    backend.FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(grid) :] if width == 1 else ():
        ax.set_visible(False)
    for row, (metric, panels) in enumerate(grid):
        scale = scale_of(panels, metric)
        info = METRICS.get(metric)
        title = info.title if info else metric
        for column, panel in enumerate(panels):
            ax = axes.flat[row] if width == 1 else axes[row][column]
            _draw(ax, panel, scale)
            log = " (log scale)" if scale is not None and scale.log else ""
            if width == 1:
                ax.set_title(title + log, fontsize=8.5, loc="left")
            elif column == 0:
                ax.set_ylabel(_wrapped(title + log), fontsize=8)
            else:
                ax.tick_params(labelleft=False)
            if width > 1 and row == 0:
                ax.set_title(words.clean(panel.title, 48), fontsize=9, loc="left", weight="bold")
    figure.subplots_adjust(
        left=(0.95 if width > 1 else 0.42) / figure.get_figwidth(),
        right=1 - 0.1 / figure.get_figwidth(),
        top=1 - head / height,
        bottom=0.45 / height,
        hspace=0.42 if width == 1 else 0.2,
        wspace=0.2 if width == 1 else 0.06,
    )
    models = words.listing([words.clean(run.label, 60) for run in sample.runs[:1]])
    name = models if width == 1 else "Representation profiles"
    left = 0.1 / figure.get_figwidth()
    figure.text(left, 1 - 0.2 / height, name, fontsize=11, weight="bold", va="center")
    handles, labels = _legend(grid[0][1])
    figure.legend(
        handles, labels, loc="center left", ncols=len(handles), frameon=False, fontsize=8.5,
        bbox_to_anchor=(0.0, 1 - 0.45 / height), handlelength=2.4, columnspacing=1.6,
    )  # fmt: skip
    confidence = table["confidence"].tolist()[0] if "confidence" in table.columns else None
    level = f"{100 * float(confidence):g} % " if confidence is not None else ""
    note = "Left to right: blocks from input to output; emb = embedding, norm = final norm. "
    note += f"Bands: {level}intervals."
    figure.text(left, 0.12 / height, note, fontsize=7.5, color="#555555", va="center")
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, as the suffix of `path` says; PNG without one.

    Raises StoreError if the file cannot be written.
    """
    kind = path.suffix.removeprefix(".") or "png"
    replace_file(path, lambda file: figure.savefig(file, format=kind))


def _wrapped(title: str, width: int = 22) -> str:
    lines = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _color(panel: Panel, series: Series) -> str:
    if panel.ramp:
        return ramp_color(series.style, len(panel.series))
    return COLORS[series.style % len(COLORS)][0]


def _draw(ax: Axes, panel: Panel, scale: Scale | None) -> None:
    places = slot_positions(panel.slots)
    ticks = slot_ticks(panel.slots)
    ax.set_xticks([places[index] for index, _ in ticks], [text for _, text in ticks])
    ax.tick_params(labelsize=7, length=2, color="#888888")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#888888")
    ax.grid(axis="y", color="#e4e4e0", linewidth=0.6)
    ax.set_axisbelow(True)
    span = places[-1] or 1.0
    ax.set_xlim(-0.04 * span - 0.2, span * 1.04 + 0.2)
    if scale is None:
        ax.text(0.5, 0.5, "no value", transform=ax.transAxes, ha="center", fontsize=8)
        ax.set_yticks([])
        return
    if scale.log:
        ax.set_yscale("log")
        ax.minorticks_off()
    ax.set_yticks(scale.ticks, [f"{tick:,.6g}" for tick in scale.ticks])
    pad = 0.0 if scale.log else 0.02 * (scale.high - scale.low)
    ax.set_ylim(scale.low - pad, scale.high + pad)
    for series in panel.series:
        _draw_series(ax, panel, series, places)


def _draw_series(ax: Axes, panel: Panel, series: Series, places: Sequence[float]) -> None:
    color = _color(panel, series)
    style = series.style % len(DASHES)
    for part in segments(panel.slots):
        cells = [series.cells[index] for index in part]
        x = [places[index] for index in part]
        y = [math.nan if cell is None else cell.value for cell in cells]
        low = [math.nan if cell is None else cell.lower for cell in cells]
        high = [math.nan if cell is None else cell.upper for cell in cells]
        alone = len(part) == 1
        if not panel.ramp and any(cell is not None and cell.has_interval for cell in cells):
            if alone:
                ax.vlines(x, low, high, color=color, alpha=0.55, linewidth=1.2)
            else:
                ax.fill_between(x, low, high, color=color, alpha=0.17, linewidth=0)
        ax.plot(
            x, y, color=color, linewidth=0.9 if panel.ramp else 1.3,
            linestyle="solid" if panel.ramp else DASHES[style],
            marker=("o" if panel.ramp else MARKERS[style]) if alone else "",
            markersize=2.5 if panel.ramp else 3.5,
        )  # fmt: skip


def _legend(panels: Sequence[Panel]) -> tuple[list[Any], list[str]]:
    lines = require("matplotlib.lines", "report")
    entries: dict[str, Any] = {}
    for panel in panels:
        ends = (0, len(panel.series) - 1)
        for index, series in enumerate(panel.series):
            if panel.ramp and index not in ends:
                continue
            label = series.label if panel.ramp else words.filter_title(series.label)
            dash = "solid" if panel.ramp else DASHES[series.style % len(DASHES)]
            entries.setdefault(
                words.clean(label, 40),
                lines.Line2D([], [], color=_color(panel, series), linestyle=dash, linewidth=1.6),
            )
    return list(entries.values()), list(entries)
