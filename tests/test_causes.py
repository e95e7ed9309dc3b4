"""Ablations and their Shapley shares: on rows whose cause is known, and from a sweep's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_sweep_run import OPTIONS, TEXTS, model
from tiny_model import TEXT, save_tiny

import fastdim
from fastdim.arrays import as_rows
from fastdim.causes import FACTORS, causes
from fastdim.causes.factors import LayerCauses, mean_of, strata
from fastdim.causes.measure import _layer, _Options
from fastdim.causes.shapley import coalitions, combine, interaction_weights, share_weights
from fastdim.cli import main
from fastdim.errors import InputError, StoreError
from fastdim.extract.store import TokenTable

LENGTH, DOCUMENTS = 10, 60


def layer(kind: str, seed: int = 0) -> LayerCauses:
    """600 rows of 12 columns; one cause makes the first column strong."""
    rng = np.random.default_rng(seed)
    n = LENGTH * DOCUMENTS
    x = rng.standard_normal((n, 12))
    position = np.tile(np.arange(LENGTH), DOCUMENTS)
    # Three quarters of the rows are of frequent tokens, the rest of tokens that stand twice.
    token = np.where(np.arange(n) % 4 > 0, rng.integers(0, 5, n), 100 + np.arange(n) // 8)
    if kind == "position":
        x[position == 0, 0] += 12.0
    elif kind == "rare":
        x[token >= 100, 0] += 6.0
    elif kind == "norm":
        x *= rng.exponential(1.0, (n, 1)) ** 2
    x += 3.0
    tokens = TokenTable(
        np.repeat(np.arange(DOCUMENTS), LENGTH), position, token, np.zeros(n, dtype=bool)
    )
    return LayerCauses(as_rows(x.astype(np.float32)), tokens, 50.0)


def table_of(kind: str, metric: str = "anisotropy", factors: Iterable[str] = FACTORS) -> Any:
    options = _Options(tuple(factors), None, 0, 0.95, 1)
    return pd.DataFrame(_layer(layer(kind), metric, options)).set_index(["kind", "name"])


@pytest.mark.parametrize("kind", ["position", "rare"])
def test_the_cause_that_was_put_in_explains_most(kind: str) -> None:
    found = table_of(kind)
    shares = found.loc["share"]["value"]
    assert shares.idxmax() == kind
    whole = found.loc[("ablation", "nothing"), "value"]
    rest = found.loc[("ablation", "rare+position+sink+mean+norm"), "value"]
    assert shares.sum() == pytest.approx(whole - rest)
    assert found.loc[("share", kind), "lower"] > 0.5 * (whole - rest)
    # Alone it takes off what makes the difference, whatever the rest does.
    assert found.loc[("ablation", kind), "value"] < 0.25 < whole


def test_the_mean_acts_with_the_norm_alone() -> None:
    found = table_of("none")
    alone = found.loc[("ablation", "mean"), "value"]
    assert alone == found.loc[("ablation", "nothing"), "value"]
    both = found.loc[("ablation", "mean+norm"), "value"]
    assert both != found.loc[("ablation", "norm"), "value"]
    assert found.loc[("interaction", "mean+norm"), "value"] != 0.0
    assert np.isfinite(found.loc[("control", "norm after a random mean"), "value"])


def test_intervals_of_the_metric_stay_in_its_range() -> None:
    """An anisotropy near 1 that few documents carry."""
    x = layer("position").rows.data.copy()
    x[::LENGTH, 0] = 0.0
    x[: 3 * LENGTH : LENGTH, 0] = [4000.0, 1000.0, 500.0]
    strong = LayerCauses(as_rows(x), layer("position").tokens, 1e9)
    for metric in ("anisotropy", "id_twonn"):
        made = _layer(strong, metric, _Options(("position", "norm"), None, 0, 0.95, 1))
        found = pd.DataFrame(made).set_index(["kind", "name"])
        whole = found.loc[("ablation", "nothing")]
        own = found.loc[["ablation", "stratum", "control"]].query("status == 'ok'")
        assert (own["lower"] < own["value"]).all()
        assert (own["value"] < own["upper"]).all()
        assert (own["lower"] > 0.0).all()
        if metric == "anisotropy":
            assert whole["value"] + 1.96 * whole["stderr"] > 1.0
            assert (own["upper"] < 1.0).all()
        share = found.loc[("share", "position")]
        assert share["upper"] - share["value"] == pytest.approx(share["value"] - share["lower"])


def test_errors_of_shares_are_those_of_other_documents() -> None:
    options = _Options(("position", "norm"), None, 0, 0.95, 1)
    drawn = []
    stderr = []
    for seed in range(60):
        rows = _layer(layer("position", seed), "anisotropy", options)
        [row] = [r for r in rows if (r["kind"], r["name"]) == ("share", "position")]
        drawn.append(row["value"])
        stderr.append(row["stderr"])
    assert np.std(drawn) == pytest.approx(np.mean(stderr), rel=0.35)


def test_dimension_and_its_strata() -> None:
    found = table_of("rare", "id_twonn", ["rare", "norm"])
    assert set(found["status"]) == {"ok", "failed"}
    assert found.loc[("ablation", "nothing"), "value"] > 5.0
    failed = found[found["status"] == "failed"]
    assert set(failed.index) == {("stratum", "position: 0"), ("stratum", "position: 16-63"),
                                 ("stratum", "position: 64 on")}  # fmt: skip
    assert all("100 are needed" in reason for reason in failed["reason"])
    parts = strata(layer("rare"))
    for start in ("frequency", "norm", "position"):
        masks = [mask for name, mask in parts.items() if name.startswith(start)]
        assert (np.sum(masks, axis=0) == 1).all()


def test_zero_rows_make_no_sinks() -> None:
    made = layer("norm")
    x = made.rows.float64(0, made.rows.n).astype(np.float32)
    x[np.arange(600) % 3 > 0] = 0
    x[0] *= 1e4
    found = LayerCauses(as_rows(x), made.tokens, 50.0).keep(frozenset({"sink"}))
    assert found.tolist() == list(range(1, 600))


def test_what_ablations_leave() -> None:
    made = layer("position")
    rows, kept = made.apply(frozenset({"position", "mean", "norm"}))
    assert len(kept) == DOCUMENTS * (LENGTH - 1)
    x = made.rows.float64(0, made.rows.n)[kept]
    x = x - x.mean(axis=0)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(rows.float64(0, rows.n), expected, atol=1e-6)
    np.testing.assert_allclose(mean_of(rows), expected.mean(axis=0), atol=1e-7)
    rare = layer("rare")
    assert set(rare.tokens.token[rare.rare] >= 100) == {True}


def test_shapley_values_of_a_known_game() -> None:
    # v = 2 a + 3 b + 4 a b: the product is shared by halves, and is the pair's interaction.
    factors = ("a", "b", "c")
    value = {
        s: 2.0 * ("a" in s) + 3.0 * ("b" in s) + 4.0 * ("a" in s and "b" in s)
        for s in coalitions(factors)
    }
    assert len(value) == 8
    found = [combine(share_weights(name, factors), value) for name in factors]
    assert found == pytest.approx([4.0, 5.0, 0.0])
    assert combine(interaction_weights(("a", "b"), factors), value) == pytest.approx(4.0)
    assert combine(interaction_weights(("a", "c"), factors), value) == pytest.approx(0.0)


def test_from_a_folder_and_bad_requests(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fastdim.sweep(model(), TEXTS, output=out, formats=("csv",), filters=["all"], **OPTIONS)
    found = causes(out, factors=["rare", "norm"], threads=1)
    blocks = found["block"].drop_duplicates().tolist()
    assert blocks == [0, 1, 2]
    whole = found.query("kind == 'ablation' and name == 'nothing' and metric == 'anisotropy'")
    swept = fastdim.Sweep.load(out).table.query("metric == 'anisotropy' and site == 'block'")
    np.testing.assert_allclose(whole["value"], swept["value"], rtol=1e-9)
    np.testing.assert_allclose(whole["stderr"], swept["stderr"], rtol=1e-6)
    with pytest.raises(InputError, match="factors must be named once each"):
        causes(out, factors=["luck"])
    with pytest.raises(InputError, match="queries must be"):
        causes(out, queries=0)
    with pytest.raises(InputError, match="relative error"):
        causes(out, queries="all of them")
    with pytest.raises(InputError, match="metrics must be named"):
        causes(out, metrics=["mean_cosine"])
    with pytest.raises(InputError, match="no sites module"):
        causes(out, sites=["module"])
    fastdim.Sweep.load(out).save(tmp_path / "saved")
    with pytest.raises(StoreError, match="no activations"):
        causes(tmp_path / "saved")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["causes", str(folder), "--texts", str(tmp_path / "text.txt"), "--output"]
    command += [str(tmp_path / "out"), "--context", "16", "--max-tokens", "400", "--threads", "1"]
    command += ["--queries", "10%"]
    assert main(command) == 1  # a document of 16 tokens has no positions from 64 on
    table = pd.read_csv(tmp_path / "out" / "causes.csv")
    assert set(table["kind"]) == {"ablation", "share", "interaction", "stratum", "control"}
    told = capsys.readouterr()
    assert "anisotropy" in told.out
    assert "rows failed" in told.err


def test_neighbours_by_faiss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["causes", str(folder), "--texts", str(tmp_path / "text.txt")]
    command += ["--context", "16", "--max-tokens", "400", "--threads", "1", "--layers", "2", "-q"]
    asked = ["--backend", "faiss", "--index", "ivf", "--target-recall", "0.99"]
    tables = []
    for name, options in (("exact", []), ("faiss", asked)):
        out = tmp_path / name
        assert main([*command, "--output", str(out), *options]) == 1  # no positions from 64 on
        tables.append(pd.read_csv(out / "causes.csv").fillna({"reason": ""}))
    exact, found = (table[table["status"] == "ok"] for table in tables)
    assert fastdim.Sweep.load(tmp_path / "faiss").runs[0].definition.backend == "faiss"
    named = found["metric"].eq("id_twonn") & ~found["kind"].isin(["share", "interaction"])
    assert named.any()
    said = found["reason"].str.contains(r"approximate neighbours \(ivf, nprobe \d+\): on \d+ rows")
    assert (said == named).all()
    assert (exact["reason"] == "").all()
    both = exact.merge(found, on=["metric", "kind", "name"])
    assert len(both) == len(exact)
    np.testing.assert_allclose(both["value_x"], both["value_y"], rtol=0.05, atol=0.05)
    capsys.readouterr()
    assert main([*command, "--output", str(tmp_path / "x"), "--index", "ivf"]) == 2
    assert "index belong to an approximate search" in capsys.readouterr().err
    with pytest.raises(InputError, match="target_recall belong to an approximate search"):
        causes(tmp_path / "exact", target_recall=0.9)
