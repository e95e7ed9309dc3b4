"""The page: self-contained, small, well-formed, escaped, and complete in what it must say."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from report_tables import FILTERS, NASTY, fail, frame, make_extras, make_rows

from fastdim.errors import InputError
from fastdim.metrics import METRICS
from fastdim.report import render, words, write_report
from fastdim.report.data import read_sample
from fastdim.report.panels import panels_of, scale_of, slot_ticks
from fastdim.report.svg import axis_number, spread

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Parses a page and refuses what a careful browser would have to repair."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value)
            if name == "aria-labelledby":
                self.targets += value.split()
            if name == "href" and value.startswith("#"):
                self.targets.append(value[1:])
            elif name in {"href", "src", "srcset", "action", "data", "xlink:href", "poster"}:
                self.addresses.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def two_models() -> str:
    encoder = make_rows("enc", blocks=6, final_norm=False, massive=False, scale=0.6)
    fail(encoder, "7 values are not finite, the first in row 12", layer=3)
    extras = make_extras() + make_extras("enc", blocks=6, final_norm=False)
    definition = {"versions": {"numpy": "2.0.0"}, "filters": list(FILTERS), "runs": [{"seed": 7}]}
    return render(frame(make_rows(), encoder), extras, definition)


def test_page_is_well_formed_and_loads_nothing(two_models):
    page = Page(two_models)
    assert page.addresses == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    style = re.search(r"<style>(.*?)</style>", two_models, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style
    found = set(re.findall(r"https?://[^\s\"'<>]+", two_models))
    assert found == {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


def test_every_svg_is_valid_xml_with_title_and_description(two_models):
    charts = re.findall(r'<svg class="panel".*?</svg>', two_models, re.S)
    assert len(charts) == 2 * len(METRICS)
    space = "{http://www.w3.org/2000/svg}"
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.find(f"{space}title").text
        assert root.find(f"{space}desc").text
        numbers = re.findall(
            r"[-\d.]+", " ".join(p.get("d", "") for p in root.iter(f"{space}path"))
        )
        assert all(-1 <= float(number) <= 470 for number in numbers)
        assert "nan" not in chart.replace("finance", "")


def test_page_tells_what_was_measured(two_models):
    text = Page(two_models).text
    for info in METRICS.values():
        assert info.title in text
        assert " ".join(info.sentence.split()) in text
        assert " ".join(info.formula.split()) in text
    assert "read 20,000 tokens of 79 documents from “docstrings”" in text
    assert "embedding, blocks 0–29, final norm" in text
    assert "packed:256" in text
    assert "ab" * 32 in text
    assert "runs[0].seed7" in text  # two cells of one line
    assert "rule of the filter" in text
    assert "prefers-color-scheme:dark" in two_models
    assert "@media print" in two_models
    for word in ("bell", "plateau"):
        assert word not in text.lower()


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("packed:256", "a document is 256 tokens of consecutive text: packed:256, seed 0"),
        ("text:64", "a document is one text, up to 64 tokens of it: text:64, seed 0"),
        ("<mine>", "&lt;mine&gt;, seed 0"),
    ],
)
def test_the_document_rule_is_told_in_words(rule: str, told: str) -> None:
    rows = make_rows(blocks=1)
    for row in rows:
        row["document_rule"] = rule
    page = render(frame(rows), make_extras(blocks=1), {})
    assert told in page
    assert "s₁² carry" not in page


def test_failures_stand_at_the_top_with_their_reason(two_models):
    page = Page(two_models).text
    told = "enc, block 2 (every filter; every metric): 7 values are not finite, the first in row 12"
    assert told in page
    assert page.index(told) < page.index("What the numbers say", page.index("What could not"))
    clean = render(frame(make_rows(blocks=3)), [], {})
    assert "could not be measured" not in clean


def test_partly_failed_metric_is_named():
    rows = make_rows(blocks=4)
    fail(rows, "fewer than 3 distinct rows", metric="id_twonn", filter="all")
    text = Page(render(frame(rows), [], {})).text
    assert "smollm2, embedding, blocks 0–3, final norm (all; id_twonn): fewer than 3" in text


def test_model_and_token_text_is_escaped():
    name = "a<b>&\"'</title><script>alert(1)</script>"
    rows = make_rows(name, blocks=2)
    # A table column cannot hold a lone surrogate; a token's text can.
    fail(rows, NASTY.replace("\ud800", ""), layer=1, metric="anisotropy")
    html = render(frame(rows), make_extras(name, blocks=2), {"option": NASTY})
    page = Page(html)
    assert "script" not in page.tags
    assert "alert(1)" in page.text
    assert "\\u0000" in page.text  # control characters of tokens are spelled out
    assert "\\u202e" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff\u202e]", html)
    html.encode("utf-8")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" the", "␣the"),
        ("\n\t", "\\n\\t"),
        ("\x07", "\\u0007"),
        ("<&>", "<&>"),
        ("é漢", "é漢"),
        ("x" * 40, "x" * 32 + "…"),
    ],
)
def test_token_text_is_made_visible(raw, shown):
    assert words.visible(raw) == shown


def test_size_of_a_large_sweep():
    html = render(frame(make_rows(blocks=30)), make_extras(blocks=30), {})
    assert len(html.encode()) < 1_000_000
    assert "leaves out" not in html


def test_size_and_content_of_many_checkpoints():
    names = [f"step{10 * 2**i}" for i in range(20)]
    rows = [make_rows("pythia", name, 31, scale=0.5 + 0.1 * i) for i, name in enumerate(names)]
    extras = [entry for name in names for entry in make_extras("pythia", name, 31)]
    html = render(frame(*reversed(rows)), extras, {})
    assert len(html.encode()) < 1_000_000
    charts = re.findall(r'<svg class="panel".*?</svg>', html, re.S)
    assert len(charts) == len(METRICS) * len(FILTERS)
    drawn = re.findall(r'<g class="s r\d+"><title>(.*?)</title>', charts[0])
    assert drawn == names  # by number, not by spelling and not by the order of the table
    text = Page(html).text
    assert "To stay under 1 MB this page leaves out: " in text
    assert "From step10 to step5242880 the intrinsic dimension (all tokens) is higher at" in text


def test_single_layer():
    rows = [row for row in make_rows(blocks=1) if row["layer"] == 1]
    html = render(frame(rows), [], {})
    chart = re.search(r'<svg class="panel".*?</svg>', html, re.S).group(0)
    assert 'class="d"' in chart
    assert 'class="e"' in chart
    assert 'class="l"' not in chart


def test_metric_without_any_value():
    rows = make_rows(blocks=2)
    for row in rows:
        if row["metric"] == "effective_rank":
            row.update(value=math.nan, lower=math.nan, upper=math.nan)
    html = render(frame(rows), [], {})
    assert html.count("No value: every cell") == 1
    assert html.count('<svg class="panel"') == len(METRICS) - 1
    assert "nan" not in Page(html).text


def test_all_rows_failed():
    rows = make_rows(blocks=2)
    fail(rows, "all rows are equal")
    text = Page(render(frame(rows), [], {})).text
    assert (
        "smollm2, embedding, blocks 0–1, final norm (every filter; every metric): all rows" in text
    )
    assert "None of the rules below found anything" in text


def test_activations_from_elsewhere():
    rows = make_rows("audio", blocks=0)
    for row in rows:
        site = {0: "conv1", 1: "conv2"}[row["layer"]]
        row.update(site="module", module=site, block=None, corpus="", document_rule="")
        row.update(context=None, n_documents=None, max_tokens=None)
    rows = [row for row in rows if row["filter"] != "no_special"]
    text = Page(render(frame(rows), [], {})).text
    assert "audio is a set of 20,000 rows" in text
    assert "2 sites: conv1, conv2" in text


def test_bad_tables_raise():
    table = frame(make_rows(blocks=1))
    with pytest.raises(InputError, match="lacks the columns value"):
        render(table.drop(columns="value"), [], {})
    with pytest.raises(InputError, match="nothing to report"):
        render(table.iloc[:0], [], {})
    with pytest.raises(InputError, match="two rows"):
        render(frame(make_rows(blocks=1), make_rows(blocks=1)), [], {})


def test_scales_are_shared_and_logarithmic_only_beyond_two_decades():
    sample = read_sample(frame(make_rows(), make_rows("enc", blocks=6, massive=False)))
    for metric, log in [("id_twonn", False), ("anisotropy", False), ("participation_ratio", True)]:
        panels = panels_of(sample, metric)
        scale = scale_of(panels, metric)
        assert scale.log is log
        assert len(scale.ticks) >= 3
        values = [c.value for p in panels for s in p.series for c in s.cells if c is not None]
        assert scale.place(min(values)) >= 0
        assert scale.place(max(values)) <= 1
    html = render(frame(make_rows()), [], {})
    assert "values on a log scale" in html


def test_one_wild_interval_does_not_flatten_the_chart():
    rows = make_rows(blocks=4)
    wild = next(row for row in rows if row["metric"] == "id_twonn" and row["layer"] == 3)
    wild["upper"] = 1e6
    sample = read_sample(frame(rows))
    assert scale_of(panels_of(sample, "id_twonn"), "id_twonn").high < 50


def test_embedding_and_norm_are_no_part_of_the_line():
    sample = read_sample(frame(make_rows(blocks=12)))
    panel = panels_of(sample, "anisotropy")[0]
    ticks = [text for _, text in slot_ticks(panel.slots)]
    assert ticks[0] == "emb"
    assert ticks[1] == "0"
    assert ticks[-2:] == ["11", "norm"]


def test_labels_are_spread_inside_the_chart():
    placed = spread([100.0, 100.0, 100.0, 100.0], 13.0, 10.0, 110.0)
    assert placed == [71.0, 84.0, 97.0, 110.0]
    assert spread([20.0, 60.0], 13.0, 10.0, 110.0) == [20.0, 60.0]


@pytest.mark.parametrize(
    ("value", "lower", "upper", "shown"),
    [
        (25.61, 24.93, 26.32, ("25.6", "24.9 to 26.3")),
        (0.98312, 0.98210, 0.98401, ("0.9831", "0.9821 to 0.9840")),
        (-0.05, -0.06, -0.04, ("−0.0500", "−0.0600 to −0.0400")),
        (12345.6, 12000.0, 13000.0, ("12,346", "12,000 to 13,000")),
        (3.0, math.nan, math.nan, ("3.00", "")),
        (math.nan, 1.0, 2.0, ("–", "")),
    ],
)
def test_numbers_are_written_with_the_digits_of_their_interval(value, lower, upper, shown):
    assert words.interval(value, lower, upper) == shown


def test_write_report_leaves_no_partial_file(tmp_path):
    sweep = SimpleNamespace(table=frame(make_rows(blocks=2)), layers=[], definition={})
    page, twin = write_report(sweep, tmp_path / "new" / "report.html")
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    assert twin.name in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.25, "0.25"), (-0.5, "−0.5"), (3000.0, "3,000"), (20000.0, "20k"),
        (12500.0, "12.5k"), (500000.0, "500k"), (2e6, "2e6"), (1e-5, "1e-05".replace("-", "−")),
    ],
)  # fmt: skip
def test_numbers_of_an_axis_fit_its_margin(value: float, text: str) -> None:
    assert axis_number(value) == text
    assert len(text) <= 5
