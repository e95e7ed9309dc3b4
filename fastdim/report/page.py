"""The page: one HTML file that reads from top to bottom, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastdim.metrics import METRICS
from fastdim.report import prose, svg, tables, words
from fastdim.report.data import Sample, read_sample
from fastdim.report.findings import Finding, findings_of
from fastdim.report.panels import MANY_REVISIONS, panels_of, scale_of, thin
from fastdim.report.shapes import ModelShapes, section
from fastdim.report.style import style_sheet
from fastdim.report.words import escape

if TYPE_CHECKING:
    import pandas as pd

# The promise is 1 MB; a browser that re-encodes the page on saving needs a little room.
MOST_BYTES = 950_000


@dataclass(frozen=True)
class Detail:
    """How much the page shows; what is left out at a level is said on the page in `left_out`."""

    tips: str
    table_intervals: bool
    tables: bool
    top_rows: int
    token_revisions: int | None
    drawn_revisions: int | None
    left_out: str


# From everything to little: the first level that fits is written.
DETAILS = (
    Detail("interval", True, True, 10, None, None, ""),
    Detail("value", True, True, 5, 3, None, "intervals in tooltips, the tokens of most revisions"),
    Detail("none", False, True, 3, 1, None,
           "tooltips, intervals in tables, the tokens of all but the last revision"),
    Detail("none", False, False, 3, 1, None,
           "tooltips, tables of numbers, the tokens of all but the last revision"),
    Detail("none", False, False, 3, 1, 20,
           "tooltips, tables of numbers, the tokens of all but the last revision, and the lines of "
           "all but 20 revisions"),
)  # fmt: skip


def render(
    table: pd.DataFrame,
    extras: Sequence[Mapping[str, Any]],
    definition: Mapping[str, Any],
    *,
    twin: str = "report.json",
    shapes: Sequence[ModelShapes] = (),
) -> str:
    """The report of a results table as one HTML document.

    table: tidy table of a sweep, one row a (model, revision, layer, filter, metric). extras: one
    entry a (model, layer, filter) with norms and top rows (`Sweep.layers`). definition: everything
    recorded about the sample (`Sweep.definition`). twin: name of the JSON file with all numbers.
    shapes: verdicts on the profiles (`fastdim.report.shapes`).

    The document stays under 1 MB by leaving out detail, never by leaving out a curve, up to 20
    revisions a model; it says what it left out. Raises InputError for an empty table, missing
    columns, or rows that stand twice.
    """
    sample = read_sample(table, extras, tuple(METRICS))
    found = findings_of(sample)
    document = ""
    for detail in DETAILS:
        document = _document(sample, found, definition, twin, detail, shapes)
        if len(document.encode()) <= MOST_BYTES:
            break
    return document


def _document(
    sample: Sample,
    found: Sequence[Finding],
    definition: Mapping[str, Any],
    twin: str,
    detail: Detail,
    shapes: Sequence[ModelShapes],
) -> str:
    names = words.listing([sample.name(model) for model in sample.models])
    many = [len(thin(sample.revisions(m), detail.drawn_revisions)) for m in sample.models]
    ramp = max((amount for amount in many if amount > MANY_REVISIONS), default=0)
    failed = tables.failure_list(sample)
    metrics = "".join(
        _metric(sample, metric, index, detail) for index, metric in enumerate(sample.metrics)
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Representation profile: {escape(names)}</title>",
        f"<style>{style_sheet(ramp)}</style></head><body>",
        '<a class="skip" href="#findings">Skip to the findings</a>',
        f"<header><h1>Representation profile of {escape(names)}</h1>",
        prose.opening(sample),
        prose.contents(sample, bool(failed), bool(shapes)),
        "</header><main>",
    ]
    if failed:
        parts.append(
            '<section class="bad" id="failures"><h2>What could not be measured</h2>'
            f"<p>Everything else was measured and stands below.</p>{failed}</section>"
        )
    parts += [
        prose.findings_section(sample, found),
        section(shapes, {model: sample.name(model) for model in sample.models}),
        '<section id="reading"><h2>How to read this</h2>',
        prose.reading(sample),
        "</section>",
        f'<section id="metrics"><h2>Metrics over the depth</h2>{_key(sample, ramp)}',
        f"{metrics}</section>",
        prose.tokens_section(sample, detail.top_rows, detail.token_revisions),
        prose.sample_section(sample, definition),
        prose.footer(sample, twin, detail.left_out),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _key(sample: Sample, ramp: int) -> str:
    swatch = (
        '<svg viewBox="0 0 34 10" aria-hidden="true" class="s {0}">'
        '<path class="l" d="M1 5H33"/></svg>'
    )
    items = []
    if any(len(sample.revisions(model)) <= MANY_REVISIONS for model in sample.models):
        items += [
            f"<li>{swatch.format(f'f{i % 8}')}{escape(words.filter_title(name))}</li>"
            for i, name in enumerate(sample.filters)
        ]
    if ramp:
        items += [f"<li>{swatch.format('r0')}first revision</li>"]
        items += [f"<li>{swatch.format(f'r{ramp - 1}')}last revision</li>"]
    return f'<ul class="key">{"".join(items)}</ul>'


def _metric(sample: Sample, metric: str, index: int, detail: Detail) -> str:
    info = METRICS.get(metric)
    title = prose.title_of(metric)
    panels = panels_of(sample, metric, detail.drawn_revisions)
    scale = scale_of(panels, metric)
    figures = []
    for number, panel in enumerate(panels):
        caption = f"<figcaption>{escape(panel.title)}</figcaption>" if len(panels) > 1 else ""
        if scale is None:
            body = '<p class="note">No value: every cell is missing, failed or not a number.</p>'
        else:
            name = f"{title}, {panel.title}"
            body = svg.draw(panel, scale, ident=f"m{index}p{number}", title=name, tips=detail.tips)
        figures.append(f"<figure>{caption}{body}</figure>")
        if scale is None:
            break
    text = [f'<h3 id="m{index}">{escape(title)}</h3>']
    if info:
        text.append(f"<p>{escape(info.sentence)}</p>")
        text.append(f'<p class="note">Higher means: {escape(info.higher_means)}.</p>')
        centred = f"The mean of the rows is {'' if info.centered else 'not '}subtracted first."
        text.append(
            "<details><summary>Formula and source</summary>"
            f'<p class="formula">{escape(info.formula)}</p><p class="note">{centred} '
            f"Source: {escape(info.reference)}. In the table: <code>{escape(metric)}</code>.</p>"
            "</details>"
        )
    folds = ""
    if detail.tables:
        inner = tables.metric_tables(sample, metric, title, detail.table_intervals)
        folds = f"<details><summary>The numbers, site by site</summary>{inner}</details>"
    layout = ' class="one"' if len(panels) == 1 else ""
    return (
        f'<article{layout}><div>{"".join(text)}</div><div class="panels">{"".join(figures)}</div>'
        f'<div class="folds">{folds}</div></article>'
    )
