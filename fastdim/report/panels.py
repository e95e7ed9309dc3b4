"""What is drawn, apart from how: panels, series, slots along the depth, and one scale a metric.

The page (SVG) and profiles.png (matplotlib) draw the same panels.

A model with few revisions gets one panel a revision with a line a filter. A model with more than
`MANY_REVISIONS` gets one panel a filter with a line a revision: that is the shape of a training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastdim.report import words
from fastdim.report.data import Cell, Run, Sample, Site

MANY_REVISIONS = 3
LOG_DECADES = 2.0

# Shares and cosines live on a fixed linear scale whatever their range: on a logarithmic one the
# difference between 0.98 and 0.99 and that between 0.01 and 0.0101 would look the same.
BOUNDED = frozenset(
    {"anisotropy", "top_share", "mean_cosine", "cosine_std",
     "cosine_q05", "cosine_median", "cosine_q95"}
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One line: `cells[i]` belongs to `slots[i]` of the panel; None where nothing is known."""

    label: str
    style: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class Panel:
    """One small chart. `ramp`: the series are revisions in order, coloured along a ramp."""

    title: str
    run: Run
    slots: list[Site]
    series: list[Series]
    ramp: bool


@dataclass(frozen=True)
class Scale:
    """A value axis shared by all panels of a metric."""

    low: float
    high: float
    log: bool
    ticks: list[float]

    def place(self, value: float) -> float:
        """Position of a value, 0 at the bottom and 1 at the top (outside if beyond the axis)."""
        if self.log:
            if value <= 0:
                return -1.0
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)


def panels_of(sample: Sample, metric: str, max_revisions: int | None = None) -> list[Panel]:
    """The panels of a metric, in page order; a panel without any value is kept, empty."""
    panels: list[Panel] = []
    for model in sample.models:
        runs = sample.revisions(model)
        if len(runs) > MANY_REVISIONS:
            panels += _revision_panels(sample, thin(runs, max_revisions), metric)
        else:
            panels += [_filter_panel(sample, run, metric) for run in runs]
    return panels


def thin(runs: Sequence[Run], limit: int | None) -> list[Run]:
    """At most `limit` runs, evenly spaced, the first and last among them."""
    if limit is None or len(runs) <= limit:
        return list(runs)
    step = (len(runs) - 1) / (limit - 1)
    return [runs[round(index * step)] for index in range(limit)]


def _filter_panel(sample: Sample, run: Run, metric: str) -> Panel:
    series = [
        Series(name, style, [run.cell(site.layer, name, metric) for site in run.sites])
        for style, name in enumerate(sample.filters)
        if any(key[1] == name for key in run.cells)
    ]
    return Panel(run.label, run, run.sites, series, ramp=False)


def _revision_panels(sample: Sample, runs: Sequence[Run], metric: str) -> list[Panel]:
    slots = sorted({site for run in runs for site in run.sites}, key=lambda site: site.layer)
    panels = []
    for name in sample.filters:
        series = [
            Series(run.revision, style, [run.cell(site.layer, name, metric) for site in slots])
            for style, run in enumerate(runs)
        ]
        title = f"{runs[0].label.split(' @ ')[0]} · {words.filter_title(name)}"
        panels.append(Panel(title, runs[0], slots, series, ramp=True))
    return panels


def segments(slots: Sequence[Site]) -> list[range]:
    """Index ranges that a line may join: blocks of one stack; other sites stand alone."""
    parts: list[range] = []
    start = 0
    for index in range(1, len(slots) + 1):
        if index < len(slots):
            before, here = slots[index - 1], slots[index]
            joined = before.kind == here.kind and before.stack == here.stack
            if joined and here.kind not in words.SITE_TITLES:
                continue
        parts.append(range(start, index))
        start = index
    return parts


def scale_of(panels: Iterable[Panel], metric: str) -> Scale | None:
    """The shared scale of a metric; None if there is no finite value at all.

    Intervals may widen the axis by at most a quarter of the range of the values on each side;
    wider ones are cut at the edge, so that one uncertain point cannot flatten all others.
    """
    values: list[float] = []
    ends: list[float] = []
    for panel in panels:
        for series in panel.series:
            for cell in series.cells:
                if cell is not None and math.isfinite(cell.value):
                    values.append(cell.value)
                    if cell.has_interval:
                        ends += [cell.lower, cell.upper]
    if not values:
        return None
    low, high = min(values), max(values)
    if metric not in BOUNDED and low > 0 and math.log10(high / low) > LOG_DECADES:
        return _log_scale(low, high)
    slack = (high - low) / 4 if high > low else math.inf
    low = max(min([low, *ends]), low - slack)
    high = min(max([high, *ends]), high + slack)
    if metric in BOUNDED or 0 < low < high / 2:
        low = min(low, 0.0)
    if metric in BOUNDED and high > 0.9:
        high = 1.0
    if high - low < 1e-12 * max(abs(high), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        low, high = (0.0, high + pad) if low > 0 else (low - pad, high + pad)
    return _linear_scale(low, high)


def _linear_scale(low: float, high: float) -> Scale:
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [0.0 if i == 0 else round(i * step, 12) for i in range(first, last + 1)]
    return Scale(first * step, last * step, False, ticks)


def _log_scale(low: float, high: float) -> Scale:
    low, high = low / 1.2, high * 1.2
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    every = max(1, math.ceil((last - first) / 6))
    ticks = [10.0**power for power in range(first, last + 1, every)]
    if last - first < 3:
        ticks += [3 * 10.0**power for power in range(first - 1, last + 1)]
    return Scale(low, high, True, sorted(tick for tick in ticks if low <= tick <= high))


def slot_positions(slots: Sequence[Site]) -> list[float]:
    """x of each slot in units of one block, with a wider gap between segments."""
    places: list[float] = []
    here = 0.0
    gap = 0.6 + 0.06 * len(slots)
    for part in segments(slots):
        for _ in part:
            places.append(here)
            here += 1.0
        here += gap
    return places


def slot_ticks(slots: Sequence[Site], most: int = 8) -> list[tuple[int, str]]:
    """(slot index, text) of the labels on the depth axis: single sites, first and last block."""
    ticks: list[tuple[int, str]] = []
    longest = max((len(part) for part in segments(slots)), default=1)
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if longest / s <= most), 200)
    for part in segments(slots):
        for offset, index in enumerate(part):
            near_end = 0 < part[-1] - index < 0.6 * step
            on_grid = offset % step == 0 and not near_end
            if on_grid or index == part[-1]:
                ticks.append((index, slots[index].tick))
    return ticks
