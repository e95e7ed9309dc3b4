"""Verdicts on shapes in the page and its twin."""

from __future__ import annotations

import json
from pathlib import Path

from report_tables import frame, make_rows
from test_profile_shape import sweep_of_pieces
from test_sweep_run import OPTIONS, TEXTS, model

import fastdim
from fastdim.report.shapes import section, shapes_of

BELL = [0.0, 0.8, 1.0, 1.0, 1.0, 0.8, 0.0]


def test_a_claim_is_judged_with_all_tokens_and_without_outliers() -> None:
    sweep = sweep_of_pieces([1.0, 1.5, 2.5, 3.0, 2.5, 1.5, 1.0])
    sweep.runs[0].sample["architecture"] = "decoder"
    [found] = shapes_of(sweep)
    assert found.untested == ()
    assert "all tokens: holds; without outlier rows: holds." in found.claim()
    sweep.runs[0].sample["architecture"] = "encoder"
    assert "all tokens: does not hold (bell)" in shapes_of(sweep)[0].claim()


def test_the_page_says_where_a_filter_changes_a_shape() -> None:
    sweep = sweep_of_pieces(BELL, massive=True)
    sweep.runs[0].sample["architecture"] = "decoder"
    found = shapes_of(sweep)
    html = section(found, {"m": "Model <M>"})
    assert "Model &lt;M&gt;" in html
    assert "without outlier rows: does not hold (flat)" in html
    assert "position 0" in html
    assert html.count("<td") == 4 * 4


def test_page_and_twin_of_a_sweep_hold_the_verdicts(tmp_path: Path) -> None:
    sweep = sweep_of_pieces(BELL)
    sweep.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert 'href="#shapes"' in page
    assert 'id="shapes"' in page
    [told] = json.loads((tmp_path / "report.json").read_text("utf-8"))["shapes"]
    shapes = {(item["metric"], item["filter"]): item for item in told["verdicts"]}
    assert len(shapes) == 16
    assert "documents" in shapes["anisotropy", "all"]["basis"]
    assert 0.0 < shapes["anisotropy", "all"]["p_flat"] <= 1.0


def test_what_cannot_be_tested_says_why() -> None:
    [found] = shapes_of(fastdim.sweep(model(), TEXTS, **OPTIONS))
    assert found.shapes == {}
    html = section([found], {})
    assert html.count("3 values over sites (block), and 4 are needed") == 1
    assert shapes_of(frame(make_rows())) == []
    assert section([], {}) == ""
