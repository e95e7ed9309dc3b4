"""One panel as inline SVG: axes, bands, lines, markers, direct labels, hover columns.

All coordinates are in units of the viewBox (`WIDTH` x `HEIGHT`); colours are CSS classes of
`style.py`, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastdim.report import words
from fastdim.report.data import Cell
from fastdim.report.panels import (
    Panel,
    Scale,
    Series,
    segments,
    slot_positions,
    slot_ticks,
)

WIDTH, HEIGHT = 460, 232
LEFT, RIGHT, TOP, BOTTOM = 44, 92, 10, 34
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LABEL_STEP = 13.0


def coordinate(value: float) -> str:
    """One decimal, without a trailing ".0": a tenth of a unit is finer than a pixel."""
    return f"{value:.1f}".removesuffix(".0")


class Frame:
    """Maps slots and values of one panel to coordinates."""

    def __init__(self, panel: Panel, scale: Scale) -> None:
        places = slot_positions(panel.slots)
        span = places[-1] if places and places[-1] > 0 else 1.0
        inner = PLOT_W - 16
        single = len(places) == 1
        self.x = [LEFT + 8 + (inner / 2 if single else inner * place / span) for place in places]
        self.scale = scale

    def y(self, value: float) -> float:
        """Coordinate of a value, held inside the plot so that a cut interval ends at its edge."""
        return TOP + PLOT_H * (1.0 - min(max(self.scale.place(value), 0.0), 1.0))


def draw(panel: Panel, scale: Scale, *, ident: str, title: str, tips: str = "interval") -> str:
    """The panel as an <svg> element.

    `ident` is unique on the page; `tips` is "interval", "value" or "none": how much each hover
    column tells.
    """
    frame = Frame(panel, scale)
    parts = [
        f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{ident}t {ident}d" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{ident}t">{words.escape(title)}</title>',
        f'<desc id="{ident}d">{words.escape(describe(panel))}</desc>',
        _axes(panel, frame),
    ]
    total = len(panel.series)
    for series in panel.series:
        style = f"r{series.style}" if panel.ramp else f"f{series.style % 8}"
        parts.append(f'<g class="s {style}">')
        if panel.ramp:
            parts.append(f"<title>{words.escape(series.label)}</title>")
        else:
            parts.append(_bands(panel, series, frame))
        parts.append(_lines(panel, series, frame))
        parts.append("</g>")
    named = [s for i, s in enumerate(panel.series) if not panel.ramp or i in (0, total - 1)]
    parts.append(_labels(panel, named, frame))
    if tips != "none" and not panel.ramp:
        parts.append(_hover(panel, frame, with_interval=tips == "interval"))
    parts.append("</svg>")
    return "".join(parts)


def describe(panel: Panel) -> str:
    """The panel in words, for a reader who does not see it: lowest and highest value a line."""
    told = []
    for series in panel.series:
        known = [
            (cell.value, site)
            for cell, site in zip(series.cells, panel.slots, strict=True)
            if cell is not None and math.isfinite(cell.value)
        ]
        if not known:
            told.append(f"{_name(panel, series)}: no value")
            continue
        low, high = min(known), max(known)
        told.append(
            f"{_name(panel, series)}: from {words.number(low[0])} at {low[1].label} "
            f"to {words.number(high[0])} at {high[1].label}"
        )
    if panel.ramp and len(told) > 2:
        told = [told[0], told[-1]]
    return "; ".join(told) + "."


def _name(panel: Panel, series: Series) -> str:
    return series.label if panel.ramp else words.filter_title(series.label)


def _axes(panel: Panel, frame: Frame) -> str:
    out = ['<g class="ax">']
    right = LEFT + PLOT_W
    for tick in frame.scale.ticks:
        y = coordinate(frame.y(tick))
        zero = ' class="zero"' if tick == 0 else ""
        out.append(f'<path{zero} d="M{LEFT} {y}H{right}"/>')
        out.append(f'<text class="v" x="{LEFT - 6}" y="{y}">{axis_number(tick)}</text>')
    base = TOP + PLOT_H
    for index, text in slot_ticks(panel.slots):
        x = coordinate(frame.x[index])
        out.append(f'<path class="tick" d="M{x} {base}v4"/>')
        out.append(f'<text class="h" x="{x}" y="{base + 15}">{words.escape(text)}</text>')
    blocks = any(site.kind == "block" for site in panel.slots)
    caption = "block, from input to output" if blocks else "site, in order"
    if frame.scale.log:
        caption += " · values on a log scale"
    out.append(f'<text class="h c" x="{LEFT + PLOT_W / 2:g}" y="{base + 29}">{caption}</text>')
    out.append("</g>")
    return "".join(out)


def axis_number(value: float) -> str:
    """A tick label without needless digits, short enough for the margin: "0.25", "3,000", "20k"."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("-", "−")
    if abs(value) >= 1e4:
        return f"{value / 1e3:,.4g}k".replace("-", "−")
    return f"{value:,.6g}".replace("-", "−") if abs(value) < 1000 else f"{value:,.0f}"


def _finite(cell: Cell | None) -> bool:
    return cell is not None and math.isfinite(cell.value)


def _stretches(series: Series, part: range) -> list[list[int]]:
    """Slot indices of a segment, split where a value is missing."""
    stretches: list[list[int]] = [[]]
    for index in part:
        if _finite(series.cells[index]):
            stretches[-1].append(index)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _bands(panel: Panel, series: Series, frame: Frame) -> str:
    out = []
    for part in segments(panel.slots):
        stretches: list[list[tuple[int, Cell]]] = [[]]
        for index in part:
            cell = series.cells[index]
            if cell is not None and cell.has_interval:
                stretches[-1].append((index, cell))
            elif stretches[-1]:
                stretches.append([])
        for stretch in stretches:
            ups = [f"{coordinate(frame.x[i])} {coordinate(frame.y(c.upper))}" for i, c in stretch]
            downs = [f"{coordinate(frame.x[i])} {coordinate(frame.y(c.lower))}" for i, c in stretch]
            if len(stretch) == 1:
                out.append(f'<path class="e" d="M{ups[0]}L{downs[0]}"/>')
            elif stretch:
                out.append(f'<path class="b" d="M{"L".join([*ups, *reversed(downs)])}Z"/>')
    return "".join(out)


def _lines(panel: Panel, series: Series, frame: Frame) -> str:
    line: list[str] = []
    dots: list[str] = []
    for part in segments(panel.slots):
        for stretch in _stretches(series, part):
            points = []
            for index in stretch:
                cell = series.cells[index]
                assert cell is not None
                points.append(f"{coordinate(frame.x[index])} {coordinate(frame.y(cell.value))}")
            if len(points) > 1:
                line.append("M" + "L".join(points))
            else:
                dots.append(f"M{points[0]}h0")
    out = f'<path class="l" d="{"".join(line)}"/>' if line else ""
    # A zero-length stroke with round caps is a dot: sites that stand alone cost 8 bytes each.
    return out + (f'<path class="d" d="{"".join(dots)}"/>' if dots else "")


def _labels(panel: Panel, named: Sequence[Series], frame: Frame) -> str:
    """Names at the right end of the lines, pushed apart where they would overlap."""
    wanted: list[tuple[float, Series]] = []
    for series in named:
        last = [cell for cell in series.cells if _finite(cell)]
        if last and last[-1] is not None:
            wanted.append((frame.y(last[-1].value), series))
    wanted.sort(key=lambda item: item[0])
    places = spread([y for y, _ in wanted], LABEL_STEP, TOP + 4, TOP + PLOT_H)
    out = []
    for (y, series), place in zip(wanted, places, strict=True):
        style = f"r{series.style}" if panel.ramp else f"f{series.style % 8}"
        x = LEFT + PLOT_W
        text = words.escape(words.clean(_name(panel, series), 16))
        out.append(
            f'<path class="lead {style}" d="M{x - 4} {coordinate(y)}L{x + 5} {coordinate(place)}"/>'
            f'<text class="n {style}" x="{x + 8}" y="{coordinate(place)}">{text}</text>'
        )
    return "".join(out)


def spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Ascending positions at least `step` apart, near the wanted ones, inside [low, high]."""
    placed: list[float] = []
    for place in wanted:
        placed.append(max(place, low, placed[-1] + step if placed else low))
    overflow = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], overflow)
        overflow = placed[index] - step
    return placed


def _hover(panel: Panel, frame: Frame, with_interval: bool) -> str:
    out = ['<g class="hov">']
    for index, site in enumerate(panel.slots):
        before = frame.x[index - 1] if index else frame.x[index] - 16
        after = frame.x[index + 1] if index + 1 < len(frame.x) else frame.x[index] + 16
        left = max((before + frame.x[index]) / 2, LEFT)
        width = min((after + frame.x[index]) / 2, LEFT + PLOT_W) - left
        lines = [site.label]
        for series in panel.series:
            cell = series.cells[index]
            if cell is None:
                continue
            value, bounds = words.interval(cell.value, cell.lower, cell.upper)
            told = f"{_name(panel, series)}: {value if with_interval else words.number(cell.value)}"
            lines.append(told + (f" ({bounds})" if bounds and with_interval else ""))
        if len(lines) == 1:
            lines.append("no value")
        out.append(
            f'<rect x="{coordinate(left)}" y="{TOP}" width="{coordinate(width)}" '
            f'height="{PLOT_H}"><title>{words.escape(chr(10).join(lines))}</title></rect>'
        )
    out.append("</g>")
    return "".join(out)
