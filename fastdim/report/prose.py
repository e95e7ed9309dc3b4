"""The text of the page around the charts: opening, findings, how to read, tokens, sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastdim.metrics import METRICS
from fastdim.report import tables, words
from fastdim.report.data import Run, Sample, site_ranges
from fastdim.report.findings import RULES, Finding
from fastdim.report.panels import MANY_REVISIONS
from fastdim.report.words import escape
from fastdim.sweeps.filters import FILTERS


def constant(run: Run, name: str) -> str:
    """What is the same in all rows of a run, as text; "" if it is not set or differs."""
    value = run.constants.get(name)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    text = "" if missing else str(value)
    return "" if text == "<NA>" else text


def opening(sample: Sample) -> str:
    """What was measured, on which model, text and sample: the facts of each model."""
    facts = "".join(f"<li>{_facts(sample.revisions(model))}</li>" for model in sample.models)
    return (
        '<p class="lede">A network turns each piece of its input, such as a token of a text, into '
        "a list of numbers, a vector, and rewrites it block after block. This page shows how those "
        "vectors lie in space at each place in the network: in how many directions they vary, "
        "whether one direction dominates, how alike they are, and how much of that is the work of "
        f'a few of them.</p><ul class="facts">{facts}</ul>'
    )


def _facts(runs: Sequence[Run]) -> str:
    run = runs[-1]
    rows = max((c.n_rows for c in run.cells.values() if c.status == "ok"), default=math.nan)
    name = f"<b>{escape(run.name)}</b>"
    if len(runs) > 1:
        first, last = escape(runs[0].revision), escape(run.revision)
        name += f" at {len(runs)} revisions, {first} to {last},"
    elif run.revision:
        name += f" (revision {escape(run.revision)})"
    corpus, documents = constant(run, "corpus"), constant(run, "n_documents")
    if corpus:
        text = f"{name} read {words.count(rows)} tokens"
        text += f" of {escape(documents)} documents from “{escape(corpus)}”"
    else:
        text = f"{name} is a set of {words.count(rows)} rows"
    settings = [_rule(constant(run, "document_rule"))]
    settings += [
        f"{label} {escape(value)}"
        for label, key in (("seed", "seed"), ("computed in", "dtype"))
        if (value := constant(run, key))
    ]
    settings = [text for text in settings if text]
    text += f" ({', '.join(settings)})" if settings else ""
    places = words.plural(len(run.sites), "site")
    return (
        f"{text}. Vectors, the rows of this page, were taken at {places}: "
        f"{escape(site_ranges(run.sites))}."
    )


def _rule(rule: str) -> str:
    """What a document is, in words, with the table's own term: "packed:256"."""
    kind, _, context = rule.partition(":")
    known = {
        "packed": f"a document is {escape(context)} tokens of consecutive text",
        "text": f"a document is one text, up to {escape(context)} tokens of it",
    }
    return f"{known[kind]}: {escape(rule)}" if kind in known and context else escape(rule)


def contents(sample: Sample, failed: bool, shapes: bool = False) -> str:
    """Links to the sections and metrics."""
    links = [("failures", "Failures")] if failed else []
    links += [("findings", "Findings")]
    links += [("shapes", "Shapes")] if shapes else []
    links += [("reading", "How to read this")]
    links += [(f"m{i}", title_of(metric)) for i, metric in enumerate(sample.metrics)]
    links += [("tokens", "Tokens that carry most"), ("sample", "The sample")]
    inner = " ".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links)
    return f'<nav aria-label="Contents">{inner}</nav>'


def title_of(metric: str) -> str:
    """Human name of a metric; a metric that fastdim does not know keeps its name."""
    info = METRICS.get(metric)
    return info.title if info else metric


def findings_section(sample: Sample, found: Sequence[Finding]) -> str:
    """What the rules found, model by model, and the rules themselves in a fold."""
    columns = ' class="columns"' if len(sample.models) > 1 else ""
    out = [f'<section id="findings"><h2>What the numbers say</h2><div{columns}>']
    if not found:
        out.append("<p>None of the rules below found anything to say about these numbers.</p>")
    for model in sample.models:
        mine = [item for item in found if item.model == model]
        if not mine:
            continue
        if len(sample.models) > 1:
            out.append(f"<div><h3>{escape(sample.name(model))}</h3>")
        out.append('<ul class="find">')
        several = len({item.revision for item in mine if item.revision}) > 1
        many = len(sample.revisions(model)) > MANY_REVISIONS
        told = ""
        for item in mine:
            where = item.revision if several or many else ""
            lead = f"<b>At {escape(where)}</b><br>" if where and where != told else ""
            told = where
            out.append(f"<li>{lead}{escape(item.text)}</li>")
        out.append("</ul></div>" if len(sample.models) > 1 else "</ul>")
    out.append("</div>")
    rules = "".join(f"<li><code>{name}</code>: {escape(rule)}</li>" for name, rule in RULES.items())
    out.append(
        "<details><summary>The rules behind these sentences</summary><p>Each sentence is written "
        "by a fixed rule from the measured values. No rule judges the shape of a curve.</p>"
        f"<ul>{rules}</ul></details></section>"
    )
    return "".join(out)


def reading(sample: Sample) -> str:
    """The filters, and in a fold what the charts show."""
    confidence = next((c for r in sample.runs if (c := constant(r, "confidence"))), "")
    level = f"{100 * float(confidence):g} % " if confidence else ""
    factor = next((f for r in sample.runs if (f := constant(r, "outlier_factor"))), "")
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
        f'</p><ul class="facts">{listed}</ul>'
        "<details><summary>Axes, bands, sites and missing values</summary>"
        "<p>A chart reads from left to right as a token passes through the network. The "
        "<b>embedding</b> (emb) is the vector looked up for the token, a <b>block</b> (numbered "
        "from 0) is one step of computation, and the <b>final norm</b> (norm) rescales the result. "
        "Embedding and final norm are no blocks, so they stand apart as dots and no line joins "
        f"them.{_kinds(sample)}</p>"
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


def _kinds(sample: Sample) -> str:
    """What the words behind the models' names mean, where they stand there."""
    if not any(constant(run, "architecture") for run in sample.runs):
        return ""
    return (
        " In a <b>decoder</b>, a model that writes text, a token knows only those before it; in an "
        "<b>encoder</b> each token knows the whole document."
    )


def tokens_section(sample: Sample, most: int, revisions: int | None) -> str:
    """Which tokens carry s1^2: `most` rows a site, `revisions` runs a model (None: all)."""
    inner = tables.outlier_tables(sample, most, revisions)
    if not inner:
        inner = '<p class="note">No rows were recorded for these activations.</p>'
    return (
        '<section id="tokens"><h2>Tokens that carry most</h2><p>s₁² is the spread of all rows '
        "along their one strongest direction, and each row has a share in it. If a handful of rows "
        "hold most of it, the anisotropy describes those rows and not the text. Each token below "
        "is shown with its share of s₁² over all rows, its document and its position there; "
        "position 0 is the first token of a document. Spaces are written ␣.</p>"
        f"{inner}</section>"
    )


def sample_section(sample: Sample, definition: Mapping[str, Any]) -> str:
    """Everything recorded about the sample."""
    out = [
        '<section id="sample"><h2>The sample</h2><p>These settings decide the numbers: another '
        "choice of tokens or documents can change a dimension and the shape of its curve.</p>"
    ]
    for model in sample.models:
        runs = sample.revisions(model)
        lines = [("model", model)]
        lines.append(("revision", ", ".join(r.revision or "not set" for r in runs)))
        lines += [(name, constant(runs[-1], name) or "not set") for name in runs[-1].constants]
        table = tables.definition_table(lines, f"Sample: {sample.name(model)}")
        name = escape(sample.name(model))
        out.append(f"<details open><summary>{name}</summary>{table}</details>")
    if definition:
        table = tables.definition_table(tables.flatten(definition), "Definition of the run")
        out.append(
            f"<details><summary>Definition of the run, as recorded</summary>{table}</details>"
        )
    return "".join(out) + "</section>"


def footer(sample: Sample, twin: str, left_out: str) -> str:
    """Where the numbers lie, and what the page leaves out for its size."""
    cells = sum(len(run.cells) for run in sample.runs)
    version = next((v for run in sample.runs if (v := constant(run, "fastdim_version"))), "")
    left = (
        f" To stay under 1 MB this page leaves out: {escape(left_out)}." if left_out
        else ""
    )  # fmt: skip
    return (
        f'<footer class="meta">Made by fastdim {escape(version)} from {cells:,} measured values. '
        f"The same numbers, unrounded, are in <code>{escape(twin)}</code>.{left} A printed copy "
        "holds the folds that are open.</footer>"
    )
