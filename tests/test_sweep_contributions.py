"""What each document adds to a metric: against errors of the table and metrics of other weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_sweep_run import OPTIONS, TEXTS, model

import fastdim
from fastdim.covariance import STATISTICS
from fastdim.extract.store import Site, TokenTable
from fastdim.sweeps.contributions import METRICS, MOST_GROUPS
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.pieces import Layer, compute_piece
from fastdim.sweeps.source import Source

LENGTH = 8


def documents_of_rows(count: int, d: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows in documents that depend on each other: a common part within each document."""
    rng = np.random.default_rng(seed)
    scales = np.linspace(2.0, 0.5, d)
    rows = rng.standard_normal((count * LENGTH, d)) * scales + 1.0
    rows += np.repeat(rng.standard_normal((count, d)) * scales, LENGTH, axis=0)
    return rows.astype(np.float32), np.repeat(np.arange(count), LENGTH)


def piece(rows: np.ndarray, document: np.ndarray, filter_name: str = "all") -> dict[str, Any]:
    n = len(rows)
    tokens = TokenTable(
        document, np.arange(n) % LENGTH, np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    )
    site = Site(0, "block", 0, "layers.0", "", rows.shape[1])
    source = Source([site], lambda layer: rows, lambda layer: tokens)
    definition = Definition("sweep", "m", "", tuple(FILTERS), None, None, 0, 0.95, 5.0)
    return compute_piece(Layer(source, site, definition, 1), FILTERS[filter_name])


def value_of(found: dict[str, Any], metric: str) -> dict[str, Any]:
    return next(item for item in found["metrics"] if item["metric"] == metric)


@pytest.mark.parametrize("filter_name", list(FILTERS))
def test_the_spread_of_contributions_is_the_error_in_the_table(filter_name: str) -> None:
    found = piece(*documents_of_rows(60), filter_name)
    parts = found["documents"]
    assert set(parts) == {"numbers", *METRICS}
    for metric in (*STATISTICS, "mean_cosine", "cosine_std"):
        values = np.array(parts[metric])
        assert abs(values.sum()) < 1e-6 * np.abs(values).sum()
        stderr = math.sqrt(60 / 59 * float(np.square(values).sum()))
        assert stderr == pytest.approx(value_of(found, metric)["stderr"], rel=1e-5)


@pytest.mark.parametrize("metric", ["anisotropy", "effective_rank", "mean_cosine", "cosine_std"])
def test_contributions_predict_the_metric_without_a_document(metric: str) -> None:
    rows, document = documents_of_rows(400)
    whole = piece(rows, document)
    base = value_of(whole, metric)["value"]
    errors = []
    for left_out in range(20):
        without = piece(rows[document != left_out], document[document != left_out])
        change = value_of(without, metric)["value"] - base
        errors.append(change + whole["documents"][metric][left_out])
    changes = np.array(whole["documents"][metric])
    # Second-order terms, one part in 400 of the change or a few, are all that may be left.
    assert np.abs(errors).max() < 0.1 * np.abs(changes).max()


def test_contributions_of_twonn_follow_weights_on_query_rows() -> None:
    rows, document = documents_of_rows(150, d=5)
    found = piece(rows, document)
    neighbors = fastdim.knn(rows, k=2)
    distances = neighbors.distances.astype(np.float64)
    log_mu = np.log(distances[:, 1] / distances[:, 0])

    def censored(weights: np.ndarray) -> float:
        order = np.argsort(log_mu)
        x, w = log_mu[order], weights[document[order]]
        place = int(np.searchsorted(np.cumsum(w), 0.9 * w.sum()))
        total = float((w[:place] * x[:place]).sum()) + (w.sum() - w[:place].sum()) * x[place]
        return float(0.9 * w.sum() / total)

    parts = np.array(found["documents"]["id_twonn"])
    rng = np.random.default_rng(1)
    exact, linear = [], []
    for _ in range(300):
        weights = rng.multinomial(150, np.full(150, 1 / 150)).astype(float)
        exact.append(censored(weights))
        linear.append(value_of(found, "id_twonn")["value"] + float((weights - 1) @ parts))
    assert np.std(linear) == pytest.approx(np.std(exact), rel=0.1)
    assert np.corrcoef(exact, linear)[0, 1] > 0.97


def test_groups_are_the_same_under_every_filter_and_bounded() -> None:
    rows, document = documents_of_rows(MOST_GROUPS + 40, d=6)
    massive = rows.copy()
    massive[document == 3] *= 100.0
    for name in ("all", "no_outliers"):
        found = piece(massive, document, name)
        assert found["documents"]["numbers"] == list(range(MOST_GROUPS))
    # Document 3 is gone under no_outliers; the one dealt into its group is not.
    one = piece(massive[:480], document[:480], "no_outliers")["documents"]
    assert one["numbers"] == list(range(60))
    assert one["anisotropy"][3] == 0.0


def test_a_sweep_keeps_contributions_through_save_and_load(tmp_path: Any) -> None:
    result = fastdim.sweep(model(), TEXTS, **OPTIONS)
    result.save(tmp_path / "saved")
    again = fastdim.Sweep.load(tmp_path / "saved")
    for before, after in zip(result.runs[0].pieces, again.runs[0].pieces, strict=True):
        assert len(before["documents"]["numbers"]) == 25
        assert before["documents"] == after["documents"]
