"""The benchmark of GPU engines in its dry mode, and the tiles that it tunes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import gaussian

from fastdim.backends import cuda, devices
from fastdim.backends.triton import search, tiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import gpu  # noqa: E402


def test_the_dry_mode_checks_times_and_tunes(tmp_path: Path) -> None:
    table = tiles.TUNED.read_text()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry", "--tune", "--output", str(tmp_path)],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    facts = json.loads((tmp_path / "gpu-interpreter.json").read_text())
    assert {check["set"] for check in facts["checks"]} >= {"tokens", "offset 1e6", "repeated"}
    assert all(check["error"] <= 1e-6 for check in facts["checks"])
    assert facts["times"][0]["what"] == "fastdim triton"
    assert facts["times"][1]["what"] == "cosines triton"
    assert "torch.cdist + topk" in [row["what"] for row in facts["times"]]
    assert {check["what"] for check in facts["checks"]} == {"k = 2", "cosines"}
    assert len(facts["tiles"]) == 2
    assert "| tokens | triton | k = 2 |" in (tmp_path / "gpu-interpreter.md").read_text()
    assert tiles.TUNED.read_text() == table, "a dry run tunes nothing"


def test_a_tuned_tile_is_used_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(gaussian(150, 20))
    first = search.knn_tensor(x, 2)
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"interpreter": {"BLOCK_ROWS": 64, "num_warps": 4}}))
    monkeypatch.setattr(tiles, "TUNED", tuned)
    tile, options = tiles.filter_launch("", "interpreter")
    assert (tile["BLOCK_ROWS"], options["num_warps"]) == (64, 4)
    second = search.knn_tensor(x, 2)
    assert (first[2]["tiles"], second[2]["tiles"]) == (2, 4)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_the_faster_backend_is_kept_and_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [
        {"what": "fastdim cuda", "seconds": 3.0},
        {"what": "fastdim triton", "seconds": 1.0},
        {"what": "fastdim triton", "seconds": 1.5},
        {"what": "cosines triton", "seconds": 1.0},
        {"what": "torch.cdist + topk", "seconds": 0.1},
    ]
    assert gpu.faster(times) == {"knn": "triton"}, "what ran on one backend alone is not judged"
    table = tmp_path / "faster.json"
    table.write_text("{}")
    monkeypatch.setattr(devices, "MEASURED", table)
    assert devices.faster("H100", "knn") == "cuda"
    gpu.keep(table, "H100", gpu.faster(times))
    assert devices.faster("H100", "knn") == "triton"
    assert (devices.faster("H100", "cosine_stats"), devices.faster("A100", "knn")) == ("cuda",) * 2
    monkeypatch.setattr(cuda, "device", lambda number: cuda.Device(0, "H100", 132, 1, "large"))
    x = torch.zeros(3, 2)
    assert (devices.choose("auto", x), devices.choose("auto", None)) == ("triton", "cpu")
    assert devices.choose("auto", x, "cosine_stats") == "cuda"
