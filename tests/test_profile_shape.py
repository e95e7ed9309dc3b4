"""profile_shape on simulated profiles of known shape, and what it does with bad input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_tables import COMMON, sites
from test_sweep_contributions import documents_of_rows, piece

import fastdim
from fastdim.diagnose import SHAPES, id_scales, profile_shape, robust_shape
from fastdim.diagnose.curves import curve_of
from fastdim.diagnose.moves import Piece, find_moves, split
from fastdim.diagnose.shape import _measures, shape_of
from fastdim.diagnose.unimodal import stretch, unimodal
from fastdim.errors import InputError, StoreError
from fastdim.sweeps.folder import RunFolder
from fastdim.sweeps.schema import to_frame

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from profile_shapes import TRUTHS, simulate, study

BLOCKS = 12


def frame(values: Any, stderr: float = 0.01, metric: str = "id_twonn", **columns: Any) -> Any:
    """A table of one metric over blocks, embedding and final norm with values of their own."""
    rows = []
    for site in sites(len(values)):
        value = 99.0 if site["block"] is None else float(values[site["block"]])
        row = {**COMMON, **site, "model": "m", "architecture": "decoder", "revision": ""}
        row |= {"filter": "all", "metric": metric, "value": value, "lower": value, "upper": value}
        row |= {"stderr": stderr * value, "n_rows": 1000, "n_distinct": 1000, "n_queries": 1000}
        row |= {"method": "censored", "tokens_per_document": None, **columns}
        rows.append(row)
    return to_frame(rows)


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "flat"])
def test_each_shape_is_named_right_at_twelve_errors(shape: str) -> None:
    found = study(shape, 30, BLOCKS, 12.0, 80, 0.5, heavy=True, seed=1)
    assert found[shape] >= 27, found


@pytest.mark.parametrize(("n_documents", "together"), [(80, 0.0), (20, 0.8)])
def test_flat_profiles_are_called_a_shape_in_at_most_five_percent(
    n_documents: int, together: float
) -> None:
    found = study("flat", 200, BLOCKS, 0.0, n_documents, together, heavy=False, seed=2)
    # 5 % of 200 is 10; binomially more than 18 has a chance of 1 %.
    assert 200 - found["flat"] <= 18, found


def test_peak_and_width_of_a_bell_lie_in_their_intervals() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    for _ in range(25):
        curve = simulate(TRUTHS["bell"][0], 30, 20.0, 80, 0.5, False, rng)
        found = shape_of(curve, 0.0, 0.95, 0)
        assert found.shape == "bell"
        assert found.peak is not None
        assert found.width is not None
        inside[0] += found.peak.lower <= 0.5 <= found.peak.upper
        # Half height of a Gaussian lies 1.177 standard deviations from its peak.
        inside[1] += found.width.lower <= 2 * 1.177 * 0.18 <= found.width.upper
    assert inside.min() >= 20


def test_shares_near_their_ends_with_errors_larger_than_themselves() -> None:
    """On the logit scale such errors are thousands: no overflow on the way back."""
    values = np.full(BLOCKS, 1e-6)
    values[5:7] = 0.9
    table = frame(values, metric="anisotropy")
    table.loc[table["value"] < 0.1, "stderr"] = 1e-2
    found = profile_shape(table, "anisotropy")
    assert found.against_first.value == pytest.approx(0.9, abs=1e-5)


def test_the_width_of_a_peak_is_a_share_of_the_depth() -> None:
    """Replicates narrower than the curve put reflected ends beyond the depth."""
    for seed in range(20):
        values = np.full(BLOCKS, 10.0)
        width = _measures(curve_of(frame(values, 0.1), "id_twonn", "all"), 1, 0.95, seed)[1]
        assert 0.0 <= width.lower <= width.upper <= 1.0


def test_values_that_are_compared_by_differences_are_told_so() -> None:
    values = np.linspace(-0.001, 0.001, BLOCKS)
    table = frame(values, metric="skewness").assign(stderr=1e-5)
    found = profile_shape(table, "skewness")
    assert found.shape == "flat"
    assert "no pair by 0.1" in found.reason
    assert "%" not in found.reason


def test_a_table_without_documents_uses_its_standard_errors() -> None:
    depth = np.linspace(0.0, 1.0, BLOCKS)
    found = profile_shape(frame(8.0 + 10.0 * np.sin(np.pi * depth)), "id_twonn")
    assert found.shape == "bell"
    assert found.p_flat < 0.001
    assert found.p_monotone < 0.001
    assert found.peak is not None
    assert found.peak.value == pytest.approx(0.5, abs=0.05)
    assert found.against_first.value == pytest.approx(10.0, rel=0.1)
    assert "independent" in found.basis
    # The embedding and the final norm, which stand apart, would have made a valley of it.
    assert len(found.curve.values) == BLOCKS


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (np.linspace(5, 15, BLOCKS), "rising"),
        (np.linspace(15, 5, BLOCKS), "falling"),
        (np.full(BLOCKS, 8.0), "flat"),
        (np.linspace(8.0, 8.6, BLOCKS), "flat"),
        (8.0 - 4.0 * np.sin(np.pi * np.linspace(0, 1, BLOCKS)), "valley"),
        (8.0 + 4.0 * np.sin(3 * np.pi * np.linspace(0, 1, BLOCKS)), "none-of-these"),
        (np.array([2.0] + [9.0] * (BLOCKS - 2) + [2.0]), "plateau"),
    ],
)
def test_clear_profiles(values: np.ndarray, shape: str) -> None:
    assert profile_shape(frame(values, 0.001), "id_twonn").shape == shape


def test_small_differences_are_flat_unless_they_are_said_to_count() -> None:
    table = frame(np.linspace(8.0, 8.6, BLOCKS), 0.001)
    found = profile_shape(table, "id_twonn")
    assert found.p_flat < 0.001
    assert "no pair by 10 %" in found.reason
    assert profile_shape(table, "id_twonn", smallest=0.02).shape == "rising"


def test_the_fewest_pieces_that_contradict_nothing() -> None:
    z = np.array([0.0, 2.0, 1.0, 3.0, 0.0])
    signs = np.zeros((5, 5), dtype=np.int8)
    assert split(signs, z) == []
    signs[0, 3] = 1
    assert split(signs, z) == [Piece(0, 4, 1)]
    signs[3, 4] = -1
    assert split(signs, z) == [Piece(0, 3, 1), Piece(3, 4, -1)]
    signs[1, 2] = -1
    signs[2, 3] = signs[0, 1] = 1
    pieces = split(signs, z)
    assert pieces is not None
    assert [piece.direction for piece in pieces] == [1, -1, 1, -1]
    # A fall inside of a rise with no move of its own around it: nothing explains it.
    signs[:] = 0
    signs[0, 3], signs[1, 2] = 1, -1
    assert split(signs, z) is None


def test_unimodal_fit_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, weights = rng.standard_normal(7), rng.uniform(0.5, 2.0, 7)
        fit = unimodal(values, weights)
        top = int(np.argmax(fit))
        assert (np.diff(fit[: top + 1]) >= 0).all()
        assert (np.diff(fit[top:]) <= 0).all()
        error = float((weights * (values - fit) ** 2).sum())
        for _ in range(200):
            other = fit + 0.3 * rng.standard_normal(7)
            peak = int(rng.integers(7))
            other[: peak + 1] = np.maximum.accumulate(other[: peak + 1])
            other[peak:] = np.minimum.accumulate(other[peak:])
            assert float((weights * (values - other) ** 2).sum()) >= error - 1e-9


def test_stretch_of_a_triangle() -> None:
    positions = np.linspace(0.0, 1.0, 101)
    fit = 1.0 - np.abs(2.0 * positions - 1.0)
    left, right = stretch(positions, fit, 0.5)
    # The top is the mean of what lies above three quarters: 0.875.
    assert right - left == pytest.approx(1.0 - 0.5 * 0.875, abs=0.01)


def sweep_of_pieces(heights: list[float], massive: bool = False) -> fastdim.Sweep:
    """A Sweep of layers in which one direction has the given strengths, made without a model."""
    from fastdim.sweeps.definition import Definition
    from fastdim.sweeps.filters import FILTERS
    from fastdim.sweeps.record import RunRecord

    rows, document = documents_of_rows(40, d=8)
    pieces = []
    for layer, height in enumerate(heights):
        x = rows.copy()
        if massive:
            x[::8, 0] += 40.0 * height
        else:
            x[:, 0] *= height
        for name in FILTERS:
            made = piece(x, document, name)
            made["site"] |= {"layer": layer, "block": layer, "module": f"layers.{layer}"}
            pieces.append(made)
    definition = Definition("sweep", "m", "", tuple(FILTERS), None, None, 0, 0.95, 5.0)
    site = [dict(entry["site"]) for entry in pieces if entry["filter"] == "all"]
    sample = {"model": "m", "revision": "", "sites": site, "n_rows": len(rows)}
    sample |= {"dtype": "float32", "store_dtype": "float32", "document_rule": "packed:8"}
    return fastdim.Sweep([RunRecord(definition, {**sample, "n_documents": 40}, pieces)])


def test_a_shape_that_a_few_rows_make_is_told_with_the_rows() -> None:
    bell = [0.0, 0.8, 1.0, 1.0, 1.0, 0.8, 0.0]
    found = robust_shape(sweep_of_pieces(bell, massive=True), "anisotropy")
    assert found.shape.shape in ("bell", "plateau")
    assert "documents" in found.shape.basis
    assert found.by_filter["no_outliers"].shape == "flat"
    assert not found.holds
    flip = next(flip for flip in found.flips if flip.filter == "no_outliers")
    assert flip.removed == 40
    assert {row["position"] for row in flip.rows} == {0}
    assert flip.share > 0.2
    assert "s1^2" in str(found)


def test_the_rows_left_out_are_told_where_most_rows_are_zero() -> None:
    bell = [0.0, 0.8, 1.0, 1.0, 1.0, 0.8, 0.0]
    sweep = sweep_of_pieces(bell, massive=True)
    before = [flip.rows for flip in robust_shape(sweep, "anisotropy").flips if flip.removed == 40]
    for entry in sweep.runs[0].pieces:  # as half of zero rows make it; none of the others moves
        if entry["filter"] == "all":
            entry["extras"]["norm_median"] = 0.0
            entry["extras"]["top_rows"].append(
                {"row": 1, "share": 1e-9, "norm": 1.0, "document": 0, "position": 1}
            )
    after = [flip.rows for flip in robust_shape(sweep, "anisotropy").flips if flip.removed == 40]
    assert after == before
    assert all(before)


def test_none_of_these_that_move_otherwise_are_not_the_same() -> None:
    wave = np.sin(np.linspace(0, 3 * np.pi, BLOCKS))
    up = profile_shape(frame(8.0 + 4.0 * wave, 0.001), "id_twonn")
    down = profile_shape(frame(8.0 - 4.0 * wave, 0.001), "id_twonn")
    assert up.shape == down.shape == "none-of-these"
    assert up.directions == (1, -1, 1, -1)
    assert down.directions == (-1, 1, -1, 1)
    assert not up.same_as(down)


def test_a_shape_of_all_rows_holds_under_every_filter() -> None:
    bell = [1.0, 1.5, 2.5, 3.0, 2.5, 1.5, 1.0]
    found = robust_shape(sweep_of_pieces(bell), "anisotropy")
    assert found.shape.shape == "bell"
    assert {shape.shape for shape in found.by_filter.values()} == {"bell"}
    assert found.holds
    assert found.flips == ()


def test_errors_shared_by_sites_leave_more_to_see() -> None:
    rng = np.random.default_rng(0)
    curve = simulate(TRUTHS["rising"][0], 8, 3.0, 60, 0.99, False, rng)
    alone = find_moves(type(curve)(**{**vars(curve), "parts": None}), 0.0, 0.95)
    assert find_moves(curve, 0.0, 0.95).p_flat < alone.p_flat


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "no_such"}, "no metric 'no_such'"),
        ({"filter": "no_outliers"}, "no filter 'no_outliers'"),
        ({"metric": ["id_twonn"]}, "metric must be a name"),
        ({"filter": None}, "filter must be a name"),
        ({"smallest": -1.0}, "smallest must be"),
        ({"smallest": "0.1"}, "smallest must be"),
        ({"smallest": True}, "smallest must be"),
        ({"confidence": 1.0}, "confidence must lie"),
        ({"model": "other"}, "no model 'other'; it has m"),
        ({"sites": ("embedding",)}, "has 1 values"),
        ({"sites": "block"}, "sites must be a list of kinds"),
        ({"sites": None}, "sites must be a list of kinds"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    options = {"metric": "id_twonn", "filter": "all", **change}
    with pytest.raises(InputError, match=message):
        profile_shape(frame(np.arange(1, 9)), **options)


def test_bad_tables() -> None:
    table = frame(np.arange(1, 9))
    with pytest.raises(InputError, match="lacks the columns stderr"):
        profile_shape(table.drop(columns="stderr"), "id_twonn")
    with pytest.raises(InputError, match="several models"):
        profile_shape(pd.concat([table, frame(np.arange(1, 9), model="n")]), "id_twonn")
    with pytest.raises(InputError, match="no standard error"):
        profile_shape(table.assign(stderr=float("nan")), "id_twonn")
    with pytest.raises(InputError, match="block 0 of m twice"):
        profile_shape(pd.concat([table, table]), "id_twonn")
    sweep = sweep_of_pieces([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(InputError, match="two runs of one model and revision"):
        profile_shape(fastdim.Sweep([*sweep.runs, *sweep.runs]), "anisotropy")
    with pytest.raises(InputError, match="scales must be what id_scales gives"):
        robust_shape(sweep, "id_twonn", scales=[4.0])  # type: ignore[arg-type]
    for wrong in ("out", None, table["value"]):
        with pytest.raises(InputError, match="table must be a Sweep or a frame"):
            profile_shape(wrong, "id_twonn")  # type: ignore[arg-type]
    failed = table.assign(
        status=["failed" if block == 3 else "ok" for block in table["block"].fillna(-1)],
        reason="NaN in the rows",
    )
    found = profile_shape(failed, "id_twonn")
    assert found.missing == (("block 3", "NaN in the rows"),)
    assert found.curve.positions[-1] == 1.0
    with pytest.raises(InputError, match="needs a Sweep"):
        robust_shape(table, "id_twonn")
    with pytest.raises(InputError, match="contributions"):
        curve_of(sweep_of_pieces([1.0, 2.0, 3.0, 4.0]), "cosine_median", "all")


def test_scales_of_the_dimension_from_kept_activations(tmp_path: Path) -> None:
    from test_sweep_run import OPTIONS, TEXTS, model

    out = tmp_path / "run"
    sweep = fastdim.sweep(model(), TEXTS, output=out, formats=("csv",), **OPTIONS)
    scales = id_scales(out, largest=4, sites=("embedding", "block", "final_norm"))
    assert set(scales["metric"]) == {"id_gride_1", "id_gride_2", "id_gride_4"}
    assert set(scales["status"]) == {"ok"}
    rows = fastdim.Store.open(out / "activations").rows(2)
    first = scales.query("layer == 2 and metric == 'id_gride_1'")
    assert first["value"].item() == pytest.approx(fastdim.gride(rows, 1, 2).value)
    # Of all tokens, whatever filter the run's last rows are of.
    assert set(scales["n_rows"]) == {rows.n}
    places = ("embedding", "block", "final_norm")
    found = robust_shape(sweep, "id_twonn", sites=places, scales=scales)
    assert set(found.by_scale) == set(scales["metric"])
    with pytest.raises(InputError, match="scales belong"):
        robust_shape(sweep, "anisotropy", sites=places, scales=scales)
    sweep.save(tmp_path / "saved")
    with pytest.raises(StoreError, match="no activations"):
        id_scales(tmp_path / "saved")
    RunFolder(out).piece_path(2, "all").unlink()
    with pytest.raises(InputError, match="no row of layer 2"):
        id_scales(out)
