"""profiles.png and the terminal table."""

from __future__ import annotations

import io
import math
import struct

import pytest
from report_tables import fail, frame, make_rows
from rich.console import Console

from fastdim.errors import InputError
from fastdim.metrics import METRICS
from fastdim.report import plot_profiles, print_legend, print_table
from fastdim.report.data import Cell
from fastdim.report.figure import DPI
from fastdim.report.terminal import cell_text


def size_of(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_two_models_make_two_columns(tmp_path):
    encoder = make_rows("enc", blocks=3, final_norm=False)
    fail(encoder, "reason", layer=2)
    path = tmp_path / "profiles.png"
    figure = plot_profiles(frame(make_rows(blocks=6), encoder), path)
    axes = figure.get_axes()
    assert len(axes) == 2 * len(METRICS)
    assert len(figure.legends) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "all tokens", "no special", "no outliers", "normalized",
    ]  # fmt: skip
    for left, right in zip(axes[::2], axes[1::2], strict=True):
        assert left.get_ylim() == right.get_ylim()
    width, height = size_of(path)
    assert width == pytest.approx(figure.get_figwidth() * DPI, abs=2)
    assert height == pytest.approx(figure.get_figheight() * DPI, abs=2)
    assert path.stat().st_size > 20_000
    image = figure.canvas.buffer_rgba()
    assert len(set(bytes(image)[::401])) > 20  # something other than a blank sheet


def test_lines_hold_the_values_and_bands_the_intervals():
    table = frame(make_rows(blocks=5))
    figure = plot_profiles(table, metrics=["anisotropy"])
    (ax,) = figure.get_axes()
    chosen = (table["metric"] == "anisotropy") & (table["filter"] == "all")
    wanted = table[chosen & (table["site"] == "block")]["value"].tolist()
    lines = [line for line in ax.lines if len(line.get_ydata()) == 5]
    assert len(lines) == 4
    assert list(lines[0].get_ydata()) == wanted
    assert sum(len(line.get_ydata()) == 1 for line in ax.lines) == 8  # embedding and norm
    assert len(ax.collections) == 4 * 3


def test_log_axis_is_stated():
    table = frame(make_rows(blocks=8))
    figure = plot_profiles(table, metrics=["norm_ratio", "anisotropy"])
    ratio, share = figure.get_axes()
    assert ratio.get_yscale() == "log"
    assert "log scale" in ratio.get_title(loc="left")
    assert share.get_yscale() == "linear"
    assert "log" not in share.get_title(loc="left")


def test_many_revisions_are_lines_of_one_panel_a_filter():
    rows = [make_rows("m", f"step{i}", 3) for i in range(6)]
    figure = plot_profiles(frame(*rows), metrics=["id_twonn"])
    axes = figure.get_axes()
    assert len(axes) == 4
    assert sum(len(line.get_ydata()) == 3 for line in axes[0].lines) == 6
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["step0", "step5"]


def test_metric_without_values_and_single_layer(tmp_path):
    rows = [row for row in make_rows(blocks=1) if row["layer"] == 1]
    for row in rows:
        if row["metric"] == "id_twonn":
            row.update(value=math.nan, lower=math.nan, upper=math.nan)
    figure = plot_profiles(frame(rows), tmp_path / "p.png")
    assert [text.get_text() for text in figure.get_axes()[0].texts] == ["no value"]


def test_unknown_metric_and_too_many_columns():
    with pytest.raises(InputError, match="unknown metric nothing"):
        plot_profiles(frame(make_rows(blocks=1)), metrics=["nothing"])
    crowd = [make_rows(f"m{i}", blocks=1) for i in range(41)]
    with pytest.raises(InputError, match="too many columns"):
        plot_profiles(frame(*crowd))


def printed(table, width=100, terminal=True, **options):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_table(table, console, **options)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_table_fits_a_hundred_columns():
    lines = printed(frame(make_rows(blocks=30)))
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)
    sites = [line.split("  ")[0] for line in lines]
    assert [f"block {i}" for i in range(30)] == [s for s in sites if s.startswith("block")]
    assert any(line.startswith("embedding") for line in lines)
    assert any(line.startswith("final norm") for line in lines)
    assert sum(line.count("±") for line in lines) == 32 * 5
    assert sum(line.endswith(" 84") for line in lines) == 32


def test_narrow_terminal_drops_the_intervals():
    lines = printed(frame(make_rows(blocks=3)), width=80)
    assert max(map(len, lines)) <= 80
    assert not any("±" in line or "…" in line for line in lines)


def test_no_terminal_means_plain_and_uncut():
    lines = printed(frame(make_rows(blocks=3)), width=40, terminal=False)
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "…" not in text
    assert text.count("±") == 5 * 5
    assert all(ord(char) < 256 for char in text)


def test_norms_and_strongest_rows_stand_beside_the_metrics():
    rows = make_rows(blocks=3)
    for row in rows:
        if row["metric"] in ("norm_ratio", "top_share") and row["filter"] == "all":
            row.update(value={"norm_ratio": 123.4, "top_share": 0.567}[row["metric"]])
    lines = printed(frame(rows))
    head = " ".join(" ".join(lines[1:3]).split())
    assert "max/med top 10 outlier" in head
    assert sum(line.split()[-3:-1] == ["123", "0.567"] for line in lines) == 5


def test_legend_explains_every_column_with_the_run_s_settings():
    rows = make_rows(blocks=1)
    for row in rows:
        row.update(outlier_factor=7.5, confidence=0.9)
    out = io.StringIO()
    print_legend(frame(rows), Console(file=out, width=40))
    text = out.getvalue()
    for name in ("id_twonn", "anisotropy", "mean_cosine", "max/med norm", "top 10 rows"):
        assert f"{name}: " in text
    assert "a norm over 7.5 medians" in text
    assert "the 90% interval" in text
    assert max(map(len, text.splitlines())) <= 100


def test_failed_cells_and_models_without_norm():
    rows = make_rows("enc [bold]x", blocks=3, final_norm=False)
    fail(rows, "reason", layer=2, metric="id_twonn")
    lines = printed(frame(rows))
    assert lines[0] == "enc [bold]x"  # names are text, not markup
    assert sum(line.count("failed") for line in lines) == 3
    assert lines[-1].startswith("2 values of this table failed")


def test_many_revisions_print_the_last():
    lines = printed(frame(*(make_rows("m", f"step{i}", 2) for i in range(12))))
    assert lines[0] == "m @ step11"
    assert lines[-1] == "11 further revisions of this model are in the report."


def test_chosen_metrics_and_filters():
    table = frame(make_rows(blocks=2))
    lines = printed(table, metrics=["norm_ratio"], filters=["normalized"])
    assert "norm_ratio" in "\n".join(lines)
    assert "anisotropy" not in "\n".join(lines)
    with pytest.raises(InputError, match="unknown filter none"):
        printed(table, filters=["none"])


@pytest.mark.parametrize(
    ("value", "lower", "upper", "text"),
    [
        (25.61, 24.9, 26.3, "25.6 ±0.8"),
        (0.98312, 0.9821, 0.9835, "0.983 ±.002"),
        (0.5, 0.5, 0.5, "0.500 ±.000"),
        (1234.5, 1200, 1300, "1,234 ±66"),
        (3.2, math.nan, math.nan, "3.20"),
        (math.nan, math.nan, math.nan, "–"),
    ],
)
def test_cell_text(value, lower, upper, text):
    assert cell_text(Cell(value, lower, upper, 1, 1, 1, "", "ok", ""), True) == text
