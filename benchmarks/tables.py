"""The results of the benchmarks on disk: JSON lines, one table a processor, a picture."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from worker import today

HEADER = (
    "\n| case | rows | program | median s | range s (runs) | peer's time / this | peak / input |"
    " commit | plan |\n|---|---|---|---|---|---|---|---|---|"
)
NOTES = """
Programs of a case take turns in one run; results are validated before anything is timed. Everything
is counted: grouping equal rows, centering, axes, order, search. faiss.knn runs with the fastest
kernels that the OpenBLAS inside its wheel has for this processor, and with those of a processor
without AVX-512: which it takes unless it is told depends on the processor's age. Peak: the highest
resident memory of a run less that before it and what it returned. Plan: strategy, arithmetic and
axes of the first filter, all axes, pairs that reached the filter between, arithmetic of the second
filter, pairs that reached it, pairs measured on the original rows.
"""
GROWTH_NAME = "block 20, growth, "
OTHER_BLAS = "faiss.knn, AVX2 BLAS"
DRAWN = {"fastdim": "#0b6e75", "faiss.knn": "#b4552d", OTHER_BLAS: "#8a6d1a"}


@dataclass
class Line:
    """One program on one case: seconds, the peers' times over its own, memory in inputs."""

    case: str
    program: str
    rows: int
    columns: int
    runs: int
    median: float
    least: float
    most: float
    ratios: dict[str, float]
    peak: float | None
    commit: str
    plan: str = ""
    date: str = ""


def printed(line: Line) -> str:
    """A row of the table."""
    ratios = ", ".join(f"{peer} {ratio:.1f}" for peer, ratio in line.ratios.items())
    peak = "" if line.peak is None else f"{line.peak:.2f}"
    return (
        f"| {line.case} | {line.rows:,} x {line.columns:,} | {line.program} | {line.median:.3f} |"
        f" {line.least:.3f}-{line.most:.3f} ({line.runs}) | {ratios} | {peak} | {line.commit} |"
        f" {line.plan} |"
    )


def keep(lines: list[Line], folder: Path, device: str, threads: int) -> None:
    """Put the lines of a case in place of its old ones, and write table and picture again."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / re.sub(r"[^a-z0-9]+", "-", device.split(",")[0].lower()).strip("-")
    path = stem.with_suffix(".json")
    kept = [Line(**line) for line in json.loads(path.read_text())] if path.exists() else []
    for line in lines:
        line.date = today()
    name = lines[0].case
    places = [i for i, line in enumerate(kept) if line.case == name]
    at = places[0] if places else len(kept)
    kept = [line for line in kept if line.case != name]
    kept[at:at] = lines
    path.write_text(json.dumps([asdict(line) for line in kept], indent=1) + "\n")
    dates = sorted({line.date for line in kept})
    stem.with_suffix(".md").write_text(
        f"{device}, {threads} threads, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}.\n"
        + HEADER
        + "\n"
        + "\n".join(map(printed, kept))
        + "\n"
        + NOTES
    )
    draw(kept, stem.with_suffix(".svg"))


def draw(lines: list[Line], path: Path) -> None:
    """Seconds against rows, both logarithmic, of the lines about block 20; none if too few."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [line for line in lines if line.case == "block 20" or GROWTH_NAME in line.case]
    if len({line.rows for line in shown}) < 2:
        return
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for program, color in DRAWN.items():
        points = sorted((line.rows, line.median) for line in shown if line.program == program)
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), "o-", color=color)
        rows, seconds = points[-1]
        axes.annotate(
            f"{program}, {seconds:.3g} s",
            (rows, seconds),
            xytext=(8, -4),
            textcoords="offset points",
            color=color,
        )
    # Names stand beside the last points.
    axes.set(xlim=(0.9 * min(line.rows for line in shown), 4.5 * max(line.rows for line in shown)))
    axes.set(xscale="log", yscale="log", xlabel="rows, 576 columns, k = 2", ylabel="seconds")
    ticks = sorted({line.rows for line in shown})
    axes.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
