"""Approximate neighbours in sweeps and profiles: audited, said, tuned, and refused where wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

import fastdim as fd
from fastdim import BackendError, InputError
from fastdim.backends import faiss_search
from fastdim.cli import main
from fastdim.layer import audited
from fastdim.sweeps.definition import APPROXIMATE
from fastdim.sweeps.jobs import check_approximate


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 6)) @ rng.standard_normal((6, 20))
    x[40:60] = x[0]
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    return tmp_path / "x.npy"


def run(rows: Path, output: Path, *options: str) -> Any:
    code = main(["profile", str(rows), "--output", str(output), "-q", *options])
    assert code == 0
    return fd.Sweep.load(output).table


def test_the_audit_stands_beside_the_dimension(rows: Path, tmp_path: Path) -> None:
    exact = run(rows, tmp_path / "exact", "--exact")
    found = run(
        rows, tmp_path / "faiss", "--exact", "--backend", "faiss", "--index", "ivf",
        "--target-recall", "0.99",
    )  # fmt: skip
    for kind in ("all", "normalized"):
        one, other = (
            table[(table["metric"] == "id_twonn") & (table["filter"] == kind)].iloc[0]
            for table in (found, exact)
        )
        assert one["backend"] == "faiss"
        assert one["value"] == pytest.approx(other["value"], rel=0.02)
        assert one["n_distinct"] == other["n_distinct"] == 2980
        assert "approximate neighbours (ivf, nprobe " in one["reason"]
        assert "on 500 rows searched exactly recall@1 " in one["reason"]
        assert "TwoNN off by " in one["reason"]
    # Nothing else is searched, so nothing else differs.
    others = [table[table["metric"] != "id_twonn"] for table in (found, exact)]
    assert len(others[0]) > 10
    for column in ("metric", "filter", "value", "reason"):
        assert others[0][column].equals(others[1][column])


def test_sampled_queries_are_the_same_rows(rows: Path, tmp_path: Path) -> None:
    tables = [
        run(rows, tmp_path / name, "--queries", "300", *options)
        for name, options in (("cpu", []), ("faiss", ["--backend", "faiss"]))
    ]
    values = [table[table["metric"] == "id_twonn"]["value"].to_numpy() for table in tables]
    assert len(values[0]) >= 2
    np.testing.assert_allclose(*values, rtol=1e-6)  # "flat" below 10^6 rows: every neighbour


def test_a_recall_too_low_fails_the_metric_alone(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_search, "LEAST_RECALL", 1.1)
    options = ["--output", str(tmp_path / "out"), "-q", "--backend", "faiss"]
    assert main(["profile", str(rows), *options]) == 1
    table = fd.Sweep.load(tmp_path / "out").table
    failed = table[table["status"] == "failed"]
    assert set(failed["metric"]) == {"id_twonn"}
    assert failed["reason"].str.contains("below 1.1").all()


def test_a_run_without_faiss_is_named_as_before(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(rows, tmp_path / "a", "--backend", "cpu")
    stored = json.loads((tmp_path / "a" / "run.json").read_text())
    assert not set(APPROXIMATE) & set(stored["definition"])
    run(rows, tmp_path / "a")  # the default is the same run
    options = ["--output", str(tmp_path / "a"), "-q", "--backend", "faiss"]
    assert main(["profile", str(rows), *options]) == 3
    assert "--backend: None there, 'faiss' now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("cpu", "ivf", None), InputError, "index belong to an approximate search"),
        ((None, None, 0.9), InputError, "target_recall belong to an approximate search"),
        (("faiss", "tree", None), InputError, "index must be one of flat"),
        (("faiss", None, 1.2), InputError, "target_recall must be a share"),
        (("cuda", None, None), InputError, "backend must be 'cpu' or one of faiss"),
        (("faiss-gpu", None, None), BackendError, "needs a GPU, and FAISS sees none"),
    ],
)
def test_options_that_cannot_be_met(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_approximate(*options)


def test_without_faiss_the_extra_is_named_at_once(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["profile", str(rows), "-q", "--backend", "faiss"]) == 2
    assert "fastdim[faiss]" in capsys.readouterr().err


def test_nothing_is_said_of_an_exact_search() -> None:
    assert audited(fd.knn(gaussian(50, 3))) == ""
    said = audited(fd.knn(gaussian(500, 3), 1, backend="faiss"))
    assert "recall@1 1.000" in said
    assert "recall@2" not in said
