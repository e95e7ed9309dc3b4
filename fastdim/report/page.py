"""The page: one HTML file that reads from top to bottom, with nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastdim.metrics import METRICS
from fastdim.report import svg, tables, words
from fastdim.report.data import Run, Sample, read_sample, short_model
from fastdim.report.findings import RULES, Finding, findings_of
from fastdim.report.panels import MANY_REVISIONS, panels_of, scale_of, thin
from fastdim.report.style import style_sheet
from fastdim.report.words import escape
from fastdim.sweeps.filters import FILTERS

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
    Detail("value", True, True, 5, 3, None, "intervals in tooltips, tokens of most revisions"),
    Detail("none", False, True, 3, 1, None, "tooltips, intervals in tables, tokens but of the last "
           "revision"),
    Detail("none", False, False, 3, 1, None, "tooltips, number tables, tokens but of the last "
           "revision"),
    Detail("none", False, False, 3, 1, 20, "tooltips, number tables, tokens but of the last "
           "revision, and the lines of all but 20 revisions"),
)  # fmt: skip


def render(
    table: pd.DataFrame,
    extras: Sequence[Mapping[str, Any]],
    definition: Mapping[str, Any],
    *,
    twin: str = "report.json",
) -> str:
    """The report of a results table as one HTML document.

    table: tidy table of a sweep, one row a (model, revision, layer, filter, metric). extras: one
    entry a (model, layer, filter) with norms and top rows (`Sweep.layers`). definition: everything
    recorded about the sample (`Sweep.definition`). twin: name of the JSON file with all numbers.

    The document stays under 1 MB by leaving out detail, never by leaving out a curve, up to 20
    revisions a model; it says what it left out. Raises InputError for an empty table, missing
    columns, or rows that stand twice.
    """
    sample = read_sample(table, extras, tuple(METRICS))
    found = findings_of(sample)
    document = ""
    for detail in DETAILS:
        document = _document(sample, found, definition, twin, detail)
        if len(document.encode()) <= MOST_BYTES:
            break
    return document


def _document(
    sample: Sample,
    found: Sequence[Finding],
    definition: Mapping[str, Any],
    twin: str,
    detail: Detail,
) -> str:
    names = words.listing([short_model(model) for model in sample.models])
    many = [len(thin(sample.revisions(m), detail.drawn_revisions)) for m in sample.models]
    ramp = max((amount for amount in many if amount > MANY_REVISIONS), default=0)
    failed = tables.failure_table(sample)
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
        _opening(sample),
        _contents(sample, bool(failed)),
        "</header><main>",
    ]
    if failed:
        parts.append(
            '<section class="bad" id="failures"><h2>What could not be measured</h2>'
            f"<p>Everything else was measured and stands below.</p>{failed}</section>"
        )
    parts += [
        _findings(sample, found),
        '<section id="reading"><h2>How to read this</h2>',
        _reading(sample, definition),
        "</section>",
        f'<section id="metrics"><h2>Metrics over the depth</h2>{_key(sample, ramp)}{metrics}</section>',
        _tokens(sample, detail),
        _sample_section(sample, definition),
        _footer(sample, twin, detail),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _constant(run: Run, name: str) -> str:
    value = run.constants.get(name)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    text = "" if missing else str(value)
    return "" if text == "<NA>" else text


def _opening(sample: Sample) -> str:
    """What was measured, on which model, text and sample: the facts of each run."""
    out = []
    for model in sample.models:
        runs = sample.revisions(model)
        run = runs[-1]
        most = max((c.n_rows for c in run.cells.values() if c.status == "ok"), default=math.nan)
        name = f"<b>{escape(short_model(model))}</b>"
        if len(runs) > 1:
            name += (
                f" at {len(runs)} revisions ({escape(runs[0].revision)} to {escape(run.revision)})"
            )
        elif run.revision:
            name += f" (revision {escape(run.revision)})"
        corpus = _constant(run, "corpus")
        text = f"{name} was run over text" + (f" from “{escape(corpus)}”" if corpus else "")
        if not corpus and not _constant(run, "document_rule"):
            text = f"{name} is a set of activations that were computed elsewhere"
        documents = _constant(run, "n_documents")
        rows = f"{words.count(most)} rows, one a token" if corpus else f"{words.count(most)} rows"
        sampling = rows + (f", from {escape(documents)} documents" if documents else "")
        rule = _constant(run, "document_rule")
        sampling += f" (cut by the rule “{escape(rule)}”)" if rule else ""
        dtype = _constant(run, "dtype")
        sampling += f", computed in {escape(dtype)}" if dtype else ""
        text += f"; at each of {len(run.sites)} sites, from input to output, {sampling}."
        out.append(f"<li>{text}</li>")
    return (
        '<p class="lede">A language model turns every token of a text into a list of numbers, a '
        "vector, and rewrites it block after block. This page shows how those vectors lie in space "
        "at each place in the network: along how many directions they spread, whether one direction "
        "dominates, how alike they are, and how much of that is the work of a few rows.</p>"
        f'<ul class="find">{"".join(out)}</ul>'
    )


def _contents(sample: Sample, failed: bool) -> str:
    links = [("failures", "Failures")] if failed else []
    links += [("findings", "Findings"), ("reading", "How to read this")]
    links += [(f"m{i}", _title(metric)) for i, metric in enumerate(sample.metrics)]
    links += [("tokens", "Tokens that carry most"), ("sample", "The sample")]
    inner = " ".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links)
    return f'<nav aria-label="Contents">{inner}</nav>'


def _title(metric: str) -> str:
    info = METRICS.get(metric)
    return info.title if info else metric


def _findings(sample: Sample, found: Sequence[Finding]) -> str:
    out = ['<section id="findings"><h2>What the numbers say</h2>']
    if not found:
        out.append("<p>None of the rules below found anything to say about these numbers.</p>")
    for model in sample.models:
        mine = [item for item in found if item.model == model]
        if not mine:
            continue
        if len(sample.models) > 1:
            out.append(f"<h3>{escape(short_model(model))}</h3>")
        out.append('<ul class="find">')
        several = len({item.revision for item in mine if item.revision}) > 1
        many = len(sample.revisions(model)) > MANY_REVISIONS
        for item in mine:
            where = item.revision if (several or many) and item.revision else ""
            lead = f"<b>{escape(where)}</b>: " if where else ""
            out.append(f"<li>{lead}{escape(item.text)}</li>")
        out.append("</ul>")
    rules = "".join(f"<li><code>{name}</code>: {escape(rule)}</li>" for name, rule in RULES.items())
    out.append(
        "<details><summary>The rules behind these sentences</summary><p>Each sentence is written "
        "by a fixed rule from the measured values. No rule judges the shape of a curve.</p>"
        f"<ul>{rules}</ul></details></section>"
    )
    return "".join(out)


def _reading(sample: Sample, definition: Mapping[str, Any]) -> str:
    confidence = next((c for r in sample.runs if (c := _constant(r, "confidence"))), "")
    level = f"{100 * float(confidence):g} % " if confidence else ""
    factor = next((f for r in sample.runs if (f := _constant(r, "outlier_factor"))), "")
    rules = {}
    for name in sample.filters:
        stated = next((str(r.extras[k]["rule"]) for r in sample.runs for k in r.extras
                       if k[1] == name and r.extras[k].get("rule")), "")  # fmt: skip
        if not stated and name in FILTERS and factor:
            stated = FILTERS[name].stated(float(factor))
        rules[name] = stated
    listed = "".join(
        f"<li><b>{escape(words.filter_title(name))}</b>{f': {escape(rule)}.' if rule else ''}</li>"
        for name, rule in rules.items()
    )
    return (
        f"<p>Every metric is measured {len(sample.filters)} times at every site, each time on "
        "another choice of rows. Where the lines part, the choice matters more than the model:"
        f'</p><ul class="find">{listed}</ul>'
        "<details><summary>Axes, bands, sites and missing values</summary>"
        "<p>A chart reads from left to right as a token passes through the network. The "
        "<b>embedding</b> (emb) is the vector looked up for the token, a <b>block</b> (numbered "
        "from 0) is one step of computation, and the <b>final norm</b> (norm) rescales the result. "
        "Embedding and final norm are no blocks, so they stand apart as dots and no line joins "
        "them.</p>"
        f"<p>A shaded band, or an upright stroke at a single dot, is a {level}interval: with other "
        "tokens from the same texts the value would move about this much. No band means that the "
        "metric has no interval. A band that ends flat at the edge of a chart goes on beyond it. A "
        "gap in a line is a value that is missing or failed.</p>"
        "<p>All charts of one metric have the same value axis, whatever the model. It is "
        "logarithmic, and says so under the chart, where the values span more than a factor of "
        "100; shares and cosines stay on a plain scale.</p>"
        "<p>Point at a chart to read the values of a site; the same numbers stand in the fold "
        "below each metric.</p></details>"
    )


def _key(sample: Sample, ramp: int) -> str:
    swatch = '<svg viewBox="0 0 34 10" aria-hidden="true" class="s {0}"><path class="l" d="M1 5H33"/></svg>'
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
    title = _title(metric)
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
        higher = info.higher_means.strip()
        if higher:
            text.append(f'<p class="note">Higher means: {escape(higher)}</p>')
    folds = []
    if info:
        centred = "The mean of the rows is subtracted first." if info.centered else (
            "The mean of the rows is not subtracted."
        )  # fmt: skip
        text.append(
            f'<details><summary>Formula and source</summary><p class="formula">{escape(info.formula)}'
            f'</p><p class="note">{centred} Source: {escape(info.reference)}. In the table: '
            f"<code>{escape(metric)}</code>.</p></details>"
        )
    if detail.tables:
        inner = tables.metric_tables(sample, metric, title, detail.table_intervals)
        folds.append(f"<details><summary>The numbers, site by site</summary>{inner}</details>")
    layout = ' class="one"' if len(panels) == 1 else ""
    return (
        f'<article{layout}><div>{"".join(text)}</div><div class="panels">{"".join(figures)}</div>'
        f'<div class="folds">{"".join(folds)}</div></article>'
    )


def _tokens(sample: Sample, detail: Detail) -> str:
    inner = tables.outlier_tables(sample, detail.top_rows, detail.token_revisions)
    if not inner:
        inner = '<p class="note">No rows were recorded for these activations.</p>'
    return (
        '<section id="tokens"><h2>Tokens that carry most</h2><p>s₁² is the spread of all rows along '
        "their one strongest direction, and each row has a share in it. If a handful of rows hold "
        "most of it, the anisotropy describes those rows and not the text. Each token below is shown "
        "with its share of s₁² over all rows, its document and its position there; position 0 is the "
        f"first token of a document. Spaces are written ␣.</p>{inner}</section>"
    )


def _sample_section(sample: Sample, definition: Mapping[str, Any]) -> str:
    out = [
        '<section id="sample"><h2>The sample</h2><p>These settings decide the numbers: another '
        "choice of tokens or documents can move a dimension by a factor of two, and the shape of a "
        "curve with it.</p>"
    ]
    for model in sample.models:
        runs = sample.revisions(model)
        lines = [("model", model)]
        lines.append(("revision", ", ".join(r.revision or "not set" for r in runs)))
        lines += [(name, _constant(runs[-1], name) or "not set") for name in runs[-1].constants]
        table = tables.definition_table(lines, f"Sample: {short_model(model)}")
        name = escape(short_model(model))
        out.append(f"<details open><summary>{name}</summary>{table}</details>")
    if definition:
        table = tables.definition_table(tables.flatten(definition), "Definition of the run")
        out.append(
            f"<details><summary>Definition of the run, as recorded</summary>{table}</details>"
        )
    return "".join(out) + "</section>"


def _footer(sample: Sample, twin: str, detail: Detail) -> str:
    cells = sum(len(run.cells) for run in sample.runs)
    version = next((v for run in sample.runs if (v := _constant(run, "fastdim_version"))), "")
    left = (
        f" To stay under 1 MB this page leaves out: {escape(detail.left_out)}." if detail.left_out
        else ""
    )  # fmt: skip
    return (
        f'<footer class="meta">Made by fastdim {escape(version)} from {cells:,} measured values. '
        f"The same numbers, unrounded, are in <code>{escape(twin)}</code>.{left} A printed copy "
        "holds the folds that are open.</footer>"
    )
