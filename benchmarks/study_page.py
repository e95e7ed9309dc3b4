"""Table, page and figures of the bias study, from the values that study.py found."""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastdim
from fastdim.errors import require
from fastdim.report.figure import save_figure

Key = tuple[str, str, int, int, float, str]
Table = dict[Key, tuple[float, float, int]]

# Drawn: one or two of each family. The tables and the CSV hold all.
DRAWN = (
    "twonn",
    "gride 50",
    "levina_bickel",
    "tle",
    "abide",
    "corrint",
    "ph_dimension",
    "ess",
    "fishers",
    "danco",
)
MARKERS = "osD^vPXh<>"


def summary(lines: list[dict[str, str]]) -> Table:
    """Mean and standard deviation of value / d, and the sets behind them, refusals left out."""
    found: dict[Key, list[float]] = defaultdict(list)
    for line in lines:
        d = int(line["d"])
        key = (line["factor"], line["generator"], d, int(line["n"]), float(line["level"]))
        found[(*key, line["estimator"])].append(float(line["value"]) / d)
    table: Table = {}
    for full, values in found.items():
        known = [value for value in values if value == value]
        if known:
            spread = statistics.stdev(known) if len(known) > 1 else float("nan")
            table[full] = (statistics.fmean(known), spread, len(known))
    return table


def write_csv(table: Table, path: Path) -> None:
    """The summary, one line a case and estimator."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["factor", "generator", "d", "n", "level", "estimator", "mean/d", "sd/d", "sets"]
        )
        for key, (mean, spread, sets) in sorted(table.items()):
            writer.writerow([*key, f"{mean:.4f}", f"{spread:.4f}", sets])


def markdown(
    table: Table, estimators: list[str], columns: list[tuple[str, tuple[str, str, int, int, float]]]
) -> str:
    """Estimators down, cases across: mean and standard deviation of value / d."""
    lines = [
        f"| estimator | {' | '.join(title for title, _ in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in estimators:
        cells = []
        for _, case in columns:
            mean, spread, _ = table.get((*case, name), (float("nan"), float("nan"), 0))
            error = f" ±{spread:.2f}".replace("±0.", "±.") if spread == spread else ""
            cells.append(f"{mean:.2f}{error}" if mean == mean else "")
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(table: Table, estimators: list[str]) -> dict[str, str]:
    """Marker in the page -> table."""
    ds = (2, 5, 10, 20, 50, 100)
    rows = (500, 2000, 10000, 50000)
    noise = (0.0, 0.1, 0.3, 1.0, 3.0)
    near = (0.01, 0.05, 0.1, 0.2)
    found = {
        f"d {name}": markdown(
            table, estimators, [(f"d = {d}", ("d", name, d, 2000, 0.0)) for d in ds]
        )
        for name in ("cube", "Gaussian", "sphere", "torus")
    }
    for d in (5, 20):
        found[f"n {d}"] = markdown(
            table, estimators, [(f"n = {n:,}", ("n", "Gaussian", d, n, 0.0)) for n in rows]
        )
        found[f"noise {d}"] = markdown(
            table,
            estimators,
            [(f"{s:g}", ("noise", "cube", d, 2000, s)) for s in noise],
        )
    clean = ("none", ("d", "cube", 5, 2000, 0.0))
    found["copies"] = markdown(
        table,
        estimators,
        [
            clean,
            ("half of the rows, exact", ("copies", "cube", 5, 2000, 0.5)),
            *((f"{share:.0%} near", ("near copies", "cube", 5, 2000, share)) for share in near),
        ],
    )
    found["density"] = markdown(
        table,
        estimators,
        [
            clean,
            *((f"e^{5 * g:g}", ("gradient", "cube", 5, 2000, g)) for g in (1.0, 2.0, 4.0)),
            ("two scales, 100 : 1", ("two scales", "cube", 5, 2000, 2.0)),
        ],
    )
    return found


def fill(page: str, found: dict[str, str]) -> str:
    """The page with each table put between its markers."""
    for name, text in found.items():
        pattern = rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)"
        parts = re.split(pattern, page, flags=re.DOTALL)
        if len(parts) > 4:
            raise ValueError(f"the page has several places for the table {name!r}")
        if len(parts) == 4:
            page = f"{parts[0]}{parts[1]}{text}\n{parts[2]}{parts[3]}"
    left = set(re.findall(r"<!-- table: (.*?) -->", page)) - set(found)
    if left:
        raise ValueError(f"the page asks for tables that there are not: {sorted(left)}")
    return page


def panels(
    table: Table,
    titles: Iterable[tuple[str, list[tuple[float, tuple[str, str, int, int, float]]]]],
    label: str,
    path: Path,
    tops: tuple[float, ...] = (2.2,),
) -> None:
    """One figure: value / d of the drawn estimators against a factor, a panel each."""
    matplotlib: Any = require("matplotlib", "report")
    titles = list(titles)
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    # Text stays text and ids do not change between runs.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "study", "font.size": 9, "axes.spines.top": False,
         "axes.spines.right": False}
    ):  # fmt: skip
        figure = require("matplotlib.figure", "report").Figure(
            figsize=(3.4 * columns, 2.7 * lines + 0.8)
        )
        grid = figure.subplots(lines, columns, sharey=len(tops) == 1, squeeze=False)
        handles = {}
        for panel, (axes, (title, points)) in enumerate(zip(grid.ravel(), titles, strict=True)):
            axes.axhline(1.0, color="0.75", linewidth=1.5, zorder=0)
            for number, name in enumerate(DRAWN):
                known = [
                    (place, *table[(*case, name)][:2])
                    for place, (_, case) in enumerate(points)
                    if (*case, name) in table
                ]
                if known:
                    x, y, spread = zip(*known, strict=True)
                    handles[name] = axes.errorbar(
                        x,
                        y,
                        yerr=[s if s == s else 0.0 for s in spread],
                        color=f"C{number}",
                        marker=MARKERS[number],
                        markersize=4,
                        linewidth=1.2,
                        elinewidth=0.8,
                    )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel(label)
            axes.set_xticks(range(len(points)), [f"{level:,g}" for level, _ in points])
            axes.set_ylim(0.0, tops[panel % len(tops)])
        for axes in grid[:, 0]:
            axes.set_ylabel("value / d")
        figure.legend(handles.values(), handles, loc="lower center", ncols=5, frameon=False)
        figure.tight_layout(rect=(0.0, 0.75 / (2.7 * lines + 0.8), 1.0, 1.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)


def figures(table: Table, folder: Path) -> None:
    """The figures of the page."""
    ds = (2, 5, 10, 20, 50, 100)
    names = ("cube", "ball", "Gaussian", "sphere", "torus", "spirals")
    panels(
        table,
        [(f"{g}, n = 2,000", [(d, ("d", g, d, 2000, 0.0)) for d in ds]) for g in names],
        "d",
        folder / "study-dimension.svg",
    )
    rows = (500, 2000, 10000, 50000)
    panels(
        table,
        [
            (f"Gaussian, d = {d}", [(n, ("n", "Gaussian", d, n, 0.0)) for n in rows])
            for d in (5, 20, 50)
        ],
        "rows n",
        folder / "study-rows.svg",
        tops=(1.3,),
    )
    clean = ("d", "cube", 5, 2000, 0.0)
    noise = [(level, ("noise", "cube", 5, 2000, level)) for level in (0.0, 0.1, 0.3, 1.0, 3.0)]
    near = [(s, ("near copies", "cube", 5, 2000, s)) for s in (0.01, 0.05, 0.1, 0.2)]
    slope = [(g, ("gradient", "cube", 5, 2000, g)) for g in (1.0, 2.0, 4.0)]
    panels(
        table,
        [
            ("noise length / nearest distance", noise),
            ("share of near copies", [(0.0, clean), *near]),
            ("log density ratio a column", [(0.0, clean), *slope]),
        ],
        "cube, d = 5, n = 2,000",
        folder / "study-disturbed.svg",
        tops=(5.6, 1.2, 1.2),
    )


def write_page(lines: list[dict[str, str]], estimators: list[str], root: Path) -> None:
    """Write the CSV, the figures, and the tables of docs/study-estimators.md."""
    table = summary(lines)
    write_csv(table, root / "benchmarks/results/study_estimators.csv")
    figures(table, root / "docs/figures")
    path = root / "docs/study-estimators.md"
    path.write_text(fill(path.read_text("utf-8"), tables(table, estimators)), encoding="utf-8")
    print(f"fastdim {fastdim.__version__}: wrote {path}", flush=True)
