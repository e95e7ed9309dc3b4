"""Findings: each rule fires when its condition holds, and says nothing or the contrary if not."""

from __future__ import annotations

import math

import pytest
from report_tables import frame, make_extras, make_rows

from fastdim.report import findings_of
from fastdim.report.data import Cell, read_sample, site_ranges
from fastdim.report.findings import RULES, apart


def rules_of(rows, extras=()):
    found = findings_of(read_sample(frame(rows), extras))
    assert {item.rule for item in found} <= set(RULES)
    return {item.rule: item.text for item in found}


def put(rows, value, lower=math.nan, upper=math.nan, **where):
    changed = 0
    for row in rows:
        if all(row[key] == wanted for key, wanted in where.items()):
            row.update(value=value, lower=lower, upper=upper)
            changed += 1
    assert changed


def flat(blocks=4):
    """A model about which no rule has anything to say but the range of its dimension."""
    rows = make_rows(blocks=blocks, massive=False)
    for metric, value in [("anisotropy", 0.1), ("mean_cosine", 0.1), ("id_twonn", 10.0)]:
        put(rows, value, 0.9 * value, 1.1 * value, metric=metric)
    for row in rows:
        row["n_distinct"] = row["n_rows"]
    return rows


def test_nothing_special_says_nothing_special():
    assert set(rules_of(flat())) == {"id_range"}


def carried():
    rows = flat()
    put(rows, 0.99, 0.98, 1.0, metric="anisotropy", filter="all", layer=3)
    put(rows, 0.95, 0.94, 0.96, metric="anisotropy", filter="no_special", layer=3)
    for row in rows:
        if row["filter"] == "no_outliers":
            row["n_rows"] = 20000 - 84
    return rows


def test_few_rows_carry_the_anisotropy():
    text = rules_of(carried())["few_rows"]
    assert text == (
        "With all tokens the anisotropy is highest at block 2 (0.990); without 84 outlier rows "
        "(0.42\u00a0% of the rows) it is 0.100 there: a few rows carry it."
    )


def test_other_sites_are_counted():
    rows = carried()
    put(rows, 0.9, 0.89, 0.91, metric="anisotropy", filter="all", layer=2)
    put(rows, 0.9, 0.89, 0.91, metric="anisotropy", filter="all", layer=5)
    assert rules_of(rows)["few_rows"].endswith(
        "The same holds at 3 of 6 sites: blocks 1–2, final norm."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"value": 0.7, "lower": 0.6, "upper": 0.75},  # falls, but not to half: no verdict
        {"value": 0.4, "lower": 0.1, "upper": 0.99},  # the intervals overlap
    ],
)
def test_few_rows_needs_a_clear_fall(change):
    rows = carried()
    put(rows, metric="anisotropy", filter="no_outliers", layer=3, **change)
    assert {"few_rows", "first_position", "id_outliers"}.isdisjoint(rules_of(rows))


def test_many_removed_rows_are_not_few():
    rows = carried()
    for row in rows:
        if row["filter"] == "no_outliers":
            row["n_rows"] = 18000
    assert "few_rows" not in rules_of(rows)


def test_anisotropy_that_stays():
    rows = carried()
    put(rows, 0.97, 0.96, 0.98, metric="anisotropy", filter="no_outliers", layer=3)
    found = rules_of(rows)
    assert "few_rows" not in found
    assert found["not_few_rows"] == (
        "With all tokens the anisotropy is highest at block 2 (0.990); without 84 outlier rows "
        "(0.42\u00a0%) it is 0.970 there: it is not the work of a few rows of large norm."
    )


def test_first_position_enough_or_not():
    rows = carried()
    assert rules_of(rows)["first_position"] == (
        "Leaving out only special tokens and first positions is not enough at 1 such site "
        "(block 2); at block 2 it gives 0.950."
    )
    put(rows, 0.9, 0.89, 0.91, metric="anisotropy", filter="all", layer=2)
    assert rules_of(rows)["first_position"] == (
        "Leaving out only special tokens and first positions is enough at 1 such site (block 1) "
        "and is not enough at 1 such site (block 2); at block 2 it gives 0.950."
    )
    put(rows, 0.6, metric="anisotropy", filter="no_special", layer=2)
    put(rows, 0.6, metric="anisotropy", filter="no_special", layer=3)
    assert "first_position" not in rules_of(rows)


def test_dimension_moves_or_not():
    rows = carried()
    put(rows, 10.5, metric="id_twonn", filter="no_outliers", layer=2)
    assert "hardly moves" in rules_of(rows)["id_outliers"]
    put(rows, 15.0, metric="id_twonn", filter="no_outliers", layer=2)
    assert "moves too" in rules_of(rows)["id_outliers"]
    assert "10.0 to 15.0 at block 1" in rules_of(rows)["id_outliers"]


def test_range_of_the_dimension():
    rows = flat()
    assert "overlap" in rules_of(rows)["id_range"]
    put(rows, 30.0, 29.0, 31.0, metric="id_twonn", filter="all", layer=4)
    text = rules_of(rows)["id_range"]
    assert "highest at block 3, 30.0 (29.0 to 31.0)" in text
    assert "lowest at the embedding, 10.0 (9.0 to 11.0)" in text


def test_repeated_rows():
    rows = flat()
    for row in rows:
        if row["layer"] == 0:
            row["n_distinct"] = 1638
    assert rules_of(rows)["repeated_rows"].startswith("At the embedding only 1,638 of 20,000 rows")


def test_norms_with_the_positions_of_the_top_rows():
    rows = flat()
    assert "norms" not in rules_of(rows)
    put(rows, 260.0, metric="norm_ratio", filter="all", layer=3)
    text = rules_of(rows, make_extras(blocks=4))["norms"]
    assert "260 times the median norm at block 2" in text
    assert "6 of them at position\u00a00" in text


def test_common_direction_needs_the_whole_interval():
    rows = flat()
    put(rows, 0.52, 0.48, 0.56, metric="mean_cosine", filter="all", layer=3)
    assert "common_direction" not in rules_of(rows)
    put(rows, 0.62, 0.58, 0.66, metric="mean_cosine", filter="all", layer=3)
    assert "at 1 of 6 sites (block 2)" in rules_of(rows)["common_direction"]


def test_first_to_last_revision():
    tables = []
    for step in range(5):
        rows = flat()
        for row in rows:
            row["revision"] = f"step{step}"
        tables.append(rows)
    put(tables[-1], 30.0, 29.0, 31.0, metric="id_twonn", filter="all", layer=1)
    put(tables[-1], 2.0, 1.9, 2.1, metric="id_twonn", filter="all", layer=2)
    found = findings_of(read_sample(frame(*tables)))
    text = next(item.text for item in found if item.rule == "first_to_last")
    assert "higher at 1 of 6 sites (block 0) and lower at 1 of 6 sites (block 1)" in text
    still = findings_of(read_sample(frame(*tables[:-1])))
    text = next(item.text for item in still if item.rule == "first_to_last")
    assert "not measurably different at any of 6 sites" in text


def test_missing_metrics_and_filters_are_no_error():
    rows = [row for row in carried() if row["filter"] == "all" and row["metric"] == "norm_median"]
    assert rules_of(rows) == {}


def test_apart():
    def cell(value, lower=math.nan, upper=math.nan):
        return Cell(value, lower, upper, 1, 1, 1, "", "ok", "")

    assert apart(cell(1, 0.9, 1.1), cell(2, 1.9, 2.1))
    assert not apart(cell(1, 0.9, 1.95), cell(2, 1.9, 2.1))
    assert apart(cell(1), cell(2, 1.9, 2.1))
    assert not apart(cell(1), cell(1))


def test_site_ranges():
    sites = read_sample(frame(make_rows(blocks=6))).runs[0].sites
    assert site_ranges(sites) == "embedding, blocks 0–5, final norm"
    assert site_ranges([sites[1], sites[3], sites[4]]) == "blocks 0, 2–3"
    assert site_ranges([sites[2]]) == "block 1"
