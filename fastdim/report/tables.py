"""The tables of the page: numbers a site, tokens that carry most, failures, the definition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastdim.report import words
from fastdim.report.data import Cell, Run, Sample, Site, site_ranges
from fastdim.report.panels import MANY_REVISIONS, thin
from fastdim.report.words import escape

MOST_FAILURES = 100


def scroll(table: str, label: str) -> str:
    """A table in a box that scrolls by itself, also with the keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'
    )


def _head(cells: Iterable[str], caption: str = "") -> str:
    row = "".join(f'<th scope="col">{cell}</th>' for cell in cells)
    return f"<caption>{caption}</caption><thead><tr>{row}</tr></thead>"


def _row_head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _number_cell(cell: Cell | None, with_interval: bool) -> str:
    if cell is None:
        return "<td></td>"
    if cell.status != "ok":
        return '<td class="x">failed</td>'
    if not with_interval:
        return f"<td>{words.number(cell.value)}</td>"
    value, bounds = words.interval(cell.value, cell.lower, cell.upper)
    return f"<td>{value}{f'<small>{bounds}</small>' if bounds else ''}</td>"


def metric_tables(sample: Sample, metric: str, title: str, with_intervals: bool) -> str:
    """A line a site: the filters as columns, or the revisions where these are many."""
    out = []
    for model in sample.models:
        runs = sample.revisions(model)
        if len(runs) > MANY_REVISIONS:
            name = escape(sample.name(model))
            for filter_name in sample.filters:
                label = f"{name}, {escape(words.filter_title(filter_name))}"
                columns = [escape(run.revision) for run in runs]
                keys = [(run, filter_name) for run in runs]
                sites = sorted({s for run in runs for s in run.sites}, key=lambda s: s.layer)
                out.append(_numbers(sites, columns, keys, metric, label, title, False))
        else:
            for run in runs:
                names = [f for f in sample.filters if any(key[1] == f for key in run.cells)]
                columns = [escape(words.filter_title(name)) for name in names]
                keys = [(run, name) for name in names]
                label = escape(run.label)
                out.append(_numbers(run.sites, columns, keys, metric, label, title, with_intervals))
    return "".join(out)


def _numbers(
    sites: Sequence[Site],
    columns: Sequence[str],
    keys: Sequence[tuple[Run, str]],
    metric: str,
    label: str,
    title: str,
    with_intervals: bool,
) -> str:
    rows = []
    for site in sites:
        cells = "".join(
            _number_cell(run.cells.get((site.layer, name, metric)), with_intervals)
            for run, name in keys
        )
        rows.append(f"<tr>{_row_head(site.label)}{cells}</tr>")
    head = _head(["site", *columns], label)
    return scroll(f"<table>{head}<tbody>{''.join(rows)}</tbody></table>", f"{title}: {label}")


def number_of(value: Any) -> float:
    """A float of the extras; None (not a number) and the words for infinities are read back."""
    return math.nan if value is None else float(value)


def _token(row: Mapping[str, Any]) -> str:
    place = []
    if row.get("document") is not None:
        place.append(f"doc {int(row['document'])}")
    if row.get("position") is not None:
        place.append(f"pos {int(row['position'])}")
    if not place and row.get("row") is not None:
        place.append(f"row {int(row['row'])}")
    token = row.get("token")
    shown = (
        "" if token is None else f'<span class="tok">{escape(words.visible(str(token)))}</span> '
    )
    part = words.share(number_of(row.get("share")), 1.0)
    return f'<span class="chip">{shown}{part} <i>{", ".join(place)}</i></span>'


def outlier_table(run: Run, most: int) -> str:
    """For each site: rows, outlier rows, norms, and the rows with the largest share of s1^2."""
    rows = []
    for site in run.sites:
        entry = run.extras.get((site.layer, "all"))
        if entry is None:
            continue
        removed = run.extras.get((site.layer, "no_outliers"), {}).get("n_removed")
        used = number_of(entry.get("n_rows"))
        left_out = "" if removed is None else f"{words.count(number_of(removed))}"
        percent = "" if removed is None else f"<small>{words.share(removed, used)}</small>"
        median, largest = number_of(entry.get("norm_median")), number_of(entry.get("norm_max"))
        top = list(entry.get("top_rows") or [])[:most]
        share = words.share(math.fsum(number_of(row.get("share")) for row in top), 1.0)
        rows.append(
            f"<tr>{_row_head(site.label)}<td>{words.count(used)}</td><td>{left_out}{percent}</td>"
            f"<td>{words.number(median)}</td><td>{words.number(largest)}</td>"
            f"<td>{share if top else ''}</td>"
            f'<td class="wrap">{"".join(_token(row) for row in top)}</td></tr>'
        )
    if not rows:
        return ""
    columns = [
        "site", "rows", "outlier rows", "median norm", "largest norm", f"top {most} together",
    ]  # fmt: skip
    head = _head(columns, escape(run.label)).replace(
        "</tr>", '<th scope="col" class="wrap">rows with the largest share of s₁²</th></tr>'
    )
    body = f'<table class="wide">{head}<tbody>{"".join(rows)}</tbody></table>'
    return scroll(body, f"Tokens: {run.label}")


def outlier_tables(sample: Sample, most: int, revisions: int | None) -> str:
    """The outlier table of every run, of at most `revisions` runs of a model."""
    out = []
    for model in sample.models:
        runs = sample.revisions(model)
        chosen = runs[-1:] if revisions == 1 else thin(runs, revisions)
        for run in chosen:
            table = outlier_table(run, most)
            if table:
                name = escape(run.label)
                out.append(f"<details><summary>Layer by layer: {name}</summary>{table}</details>")
    return "".join(out)


def failures(sample: Sample) -> list[tuple[str, str, str, str, str]]:
    """(run, sites, filters, metrics, reason), equal reasons of one run joined."""
    sites: dict[tuple[str, str], dict[int, Site]] = {}
    names: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for run in sample.runs:
        places = {site.layer: site for site in run.sites}
        for (layer, filter_name, metric), cell in run.cells.items():
            if cell.status == "ok":
                continue
            key = (run.label, cell.reason or f"status {cell.status!r} without a reason")
            sites.setdefault(key, {})[layer] = places[layer]
            filters, metrics = names.setdefault(key, ({}, {}))
            filters[filter_name] = None
            metrics[metric] = None
    out = []
    for key, found in sites.items():
        filters, metrics = names[key]
        shown = site_ranges([site for _, site in sorted(found.items())])
        out.append(
            (
                key[0],
                shown,
                _all_or(list(filters), sample.filters, "every filter"),
                _all_or(list(metrics), sample.metrics, "every metric"),
                key[1],
            )
        )
    return out


def _all_or(names: list[str], there: Sequence[str], every: str) -> str:
    return every if len(there) > 1 and set(names) == set(there) else ", ".join(names)


def failure_list(sample: Sample) -> str:
    """What failed, where and why, a line a reason; "" if nothing did."""
    listed = failures(sample)
    if not listed:
        return ""
    items = "".join(
        f"<li><b>{escape(run)}, {escape(sites)}</b> ({escape(filters)}; {escape(metrics)}): "
        f"{escape(words.clean(reason, 400))}</li>"
        for run, sites, filters, metrics, reason in listed[:MOST_FAILURES]
    )
    left = len(listed) - MOST_FAILURES
    note = f'<p class="note">{left} further reasons are in the JSON file.</p>' if left > 0 else ""
    return f'<ul class="facts">{items}</ul>{note}'


def flatten(definition: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested definition as (dotted name, text) lines."""
    lines: list[tuple[str, str]] = []
    for name, value in definition.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            lines += flatten(value, f"{full}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
            for index, item in enumerate(value):
                lines += flatten(
                    item if isinstance(item, Mapping) else {"": item}, f"{full}[{index}]."
                )
        elif isinstance(value, (list, tuple)):
            lines.append((full, ", ".join(str(item) for item in value)))
        else:
            lines.append((full, "not set" if value is None or value == "" else str(value)))
    return lines


def definition_table(lines: Sequence[tuple[str, str]], label: str) -> str:
    """Name and value, everything that was recorded about a sample."""
    rows = "".join(
        f"<tr>{_row_head(name)}<td>{escape(words.clean(text, 600))}</td></tr>"
        for name, text in lines
    )
    table = f'<table class="def"><tbody>{rows}</tbody></table>'
    return scroll(table, label)
