"""Statistics of heads as pictures: a row a layer, a column a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdim.attention.heads import STATISTICS
from fastdim.errors import InputError, require
from fastdim.report.figure import save_figure

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SHOWN = ("categorical", "max_weight", "entropy", "first_key", "key_bias_std", "mean_cosine")
# What is a share has the same scale in every picture; other statistics have their own.
RANGES = {"categorical": (0, 1), "max_weight": (0, 1), "entropy": (0, 1), "first_key": (0, 1),
          "mean_cosine": (-1, 1)}  # fmt: skip
COLUMNS, CELL, DPI = 3, 0.22, 110


def plot_heads(
    table: pandas.DataFrame,
    path: str | Path | None = None,
    *,
    statistics: Sequence[str] = SHOWN,
) -> Figure:
    """Draw each statistic as a map: modules in the order of the pass from the top, heads across.

    table: `Attention.table` of one model and revision; heads without a number stay blank. path: a
    file to write (format by its suffix); None writes nothing. Shares are drawn from 0 to 1, cosines
    from -1 to 1, the rest from the lowest to the highest value. Returns the figure.

    Raises InputError for an unknown statistic, one that is of layers alone, or a table without
    heads or of several models; DependencyError without matplotlib.
    """
    figures = require("matplotlib.figure", "report")
    backend = require("matplotlib.backends.backend_agg", "report")
    heads = table[table["head"].notna()]
    if not statistics:
        raise InputError(f"name a statistic to draw; there are: {', '.join(STATISTICS)}")
    if not len(heads) or len(heads[["model", "revision"]].drop_duplicates()) > 1:
        raise InputError(
            "the picture is of the heads of one model at one revision: give the table of "
            "`fastdim.attention.attention`, or the rows of one revision"
        )
    for name in statistics:
        if name not in STATISTICS or not (heads["statistic"] == name).any():
            known = ", ".join(dict.fromkeys(heads["statistic"]))
            raise InputError(f"the table has no heads with {name!r}; it has {known}")
    modules = list(dict.fromkeys(heads["module"]))
    n_heads = int(heads["head"].max()) + 1
    rows = -(-len(statistics) // COLUMNS)
    width = max(3.2, CELL * n_heads + 1.6)
    height = max(1.8, CELL * len(modules) + 1.0)
    columns = min(COLUMNS, len(statistics))
    figure: Figure = figures.Figure(
        figsize=(columns * width, rows * height), dpi=DPI, layout="constrained"
    )
    backend.FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, statistics, strict=False):
        _draw(figure, axis, heads[heads["statistic"] == name], name, modules, n_heads)
    for axis in axes[len(statistics) :]:
        axis.axis("off")
    first = heads.iloc[0]
    revision = f", {first['revision']}" if first["revision"] else ""
    title = f"{first['model']}{revision}: attention heads, {first['n_queries']:,} queries"
    figure.suptitle(title, parse_math=False)
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def _draw(
    figure: Any, axis: Any, part: pandas.DataFrame, name: str, modules: list[str], n_heads: int
) -> None:
    grid = np.full((len(modules), n_heads), np.nan)
    places = [modules.index(module) for module in part["module"]]
    grid[places, part["head"].astype(int)] = part["value"]
    low, high = RANGES.get(name, (None, None))
    shown = axis.imshow(
        grid, cmap="coolwarm" if low == -1 else "viridis", vmin=low, vmax=high, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    figure.colorbar(shown, ax=axis, fraction=0.05)
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("head", fontsize=8)
    step = -(-len(modules) // 16)
    axis.set_yticks(range(0, len(modules), step), modules[::step], fontsize=7)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(axis="x", labelsize=7)
