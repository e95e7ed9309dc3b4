"""One SVG a model: losses, geometry and attention over the steps, a line a site."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import pandas
from matplotlib.figure import Figure

PANELS: tuple[tuple[str, str, str, bool], ...] = (
    ("id_twonn", "all", "intrinsic dimension, all tokens", True),
    ("anisotropy", "all", "anisotropy, all tokens", False),
    ("mean_cosine", "all", "mean cosine, all tokens", False),
    ("norm_ratio", "all", "largest norm over median", False),
    ("id_twonn", "no_outliers", "intrinsic dimension, no outlier rows", True),
    ("anisotropy", "no_outliers", "anisotropy, no outlier rows", False),
    ("mean_cosine", "no_outliers", "mean cosine, no outlier rows", False),
)
HEADS = (
    ("max_weight", "largest attention weight, mean"),
    ("categorical", "share of queries over 0.9"),
    ("first_key", "share of the first key"),
)


def draw(
    geometry: pandas.DataFrame,
    heads: pandas.DataFrame,
    losses: pandas.DataFrame,
    path: Path,
    kind: str,
) -> None:
    """Write the figure. Bands are the 95 % intervals of the intrinsic dimension."""
    # Same bytes each time; letters stay text.
    with matplotlib.rc_context({"svg.hashsalt": kind, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(13, 8.2), layout="constrained")
        axes = figure.subplots(3, 4).ravel()
        axes[0].plot(losses["step"], losses["held_out_loss"], color="#1f1f1f", label="held out")
        axes[0].plot(
            losses["step"], losses["training_loss"], color="#d55e00", lw=0.8, label="a batch"
        )
        axes[0].set_title("loss, nats a token")
        axes[0].legend(frameon=False)
        sites = list(dict.fromkeys(geometry.sort_values("layer")["site"]))
        ramp = matplotlib.colormaps["viridis"]
        colors = {site: ramp(0.95 * n / max(1, len(sites) - 1)) for n, site in enumerate(sites)}
        for axis, (metric, name, title, logarithmic) in zip(axes[1:8], PANELS, strict=True):
            part = geometry[(geometry["metric"] == metric) & (geometry["filter"] == name)]
            for site, line in part.groupby("site", sort=False):
                _line(axis, line.sort_values("step"), colors[site], metric == "id_twonn")
            axis.set_title(title)
            if logarithmic:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.yaxis.set_major_formatter("{x:g}")
        for axis, (statistic, title) in zip(axes[8:11], HEADS, strict=True):
            part = heads[heads["statistic"] == statistic]
            for block, line in part.groupby("block"):
                _line(axis, line.sort_values("step"), colors[f"block {int(block)}"])
            axis.set_title(title)
        axes[11].axis("off")
        for site in sites:
            axes[11].plot([], [], color=colors[site], label=site, ls=_dash(site))
        axes[11].legend(frameon=False, loc="center", ncols=2, title=f"{kind}: sites")
        for axis in axes[:11]:
            axis.set_xscale("log")
            axis.minorticks_off()
            axis.grid(alpha=0.2)
        for axis in axes[7:11]:
            axis.set_xlabel("step")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    # Hundredths of a point are finer than any screen, and half of the bytes; labels stay whole.
    path.write_text(re.sub(r' d="[^"]*"', _rounded, text.getvalue()))


def _rounded(path: re.Match[str]) -> str:
    return re.sub(r"(\d\.\d\d)\d+", r"\1", path[0])


def _line(axis: Any, line: pandas.DataFrame, color: Any, band: bool = False) -> None:
    site = str(line["site"].iloc[0]) if "site" in line else ""
    axis.plot(line["step"], line["value"].astype(float), color=color, lw=1.1, ls=_dash(site))
    if band:
        low, high = (line[end].astype(float) for end in ("lower", "upper"))
        axis.fill_between(line["step"], low, high, color=color, alpha=0.15, lw=0)


def _dash(site: str) -> str:
    return "-" if site.startswith("block") or not site else (0, (3, 2))  # type: ignore[return-value]
