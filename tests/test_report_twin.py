"""The JSON twin holds the table exactly, and refuses what is not a twin."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest
from report_tables import NASTY, fail, frame, make_extras, make_rows

from fastdim.errors import StoreError
from fastdim.metrics import METRICS
from fastdim.report import read_twin, write_report


def write(tmp_path, table, extras=(), definition=None):
    sweep = SimpleNamespace(table=table, layers=list(extras), definition=definition or {})
    return write_report(sweep, tmp_path / "report.html")[1]


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_table_comes_back_exactly(tmp_path):
    rows = make_rows(blocks=3)
    fail(rows, NASTY.replace("\ud800", ""), layer=2)
    rows[0]["upper"] = math.inf
    rows[1]["value"] = 0.1 + 0.2
    table = frame(rows)
    extras = make_extras(blocks=3)
    for entry in extras:
        entry["top_rows"] = entry["top_rows"][:3]
    back, layers, definition = read_twin(write(tmp_path, table, extras, {"seed": 0, "x": None}))
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert layers == extras
    assert definition == {"seed": 0, "x": None}


def test_twin_is_strict_json_with_metrics_rules_and_findings(tmp_path):
    twin = strict(write(tmp_path, frame(make_rows(blocks=3)), make_extras(blocks=3)))
    assert twin["format"] == "fastdim-report"
    assert twin["format_version"] == 1
    assert twin["metrics"]["anisotropy"]["sentence"] == METRICS["anisotropy"].sentence
    assert twin["constant"]["seed"] == 0
    assert {item["rule"] for item in twin["findings"]} <= set(twin["rules"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert twin["findings"]
    for item in twin["findings"]:
        assert item["text"] in page


def test_page_and_twin_hold_the_same_numbers(tmp_path):
    rows = make_rows(blocks=2)
    target = next(r for r in rows if r["metric"] == "id_twonn" and r["filter"] == "all")
    target.update(value=17.654321, lower=17.1, upper=18.3)
    path = write(tmp_path, frame(rows))
    twin = strict(path)
    place = twin["columns"].index("value")
    assert 17.654321 in [row[place] for row in twin["rows"]]
    assert "<td>17.7<small>17.1 to 18.3</small></td>" in path.with_suffix(".html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not the JSON twin"),
        ('{"format": "fastdim-report", "format_version": 99}', "upgrade fastdim"),
    ],
)
def test_other_files_are_refused(tmp_path, text, reason):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=reason):
        read_twin(path)
    with pytest.raises(StoreError, match="cannot be read"):
        read_twin(tmp_path / "none.json")
