"""Plans: the model of cost against measured runs, and its parts against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_extract_sites import FAMILIES
from tiny_model import save_tiny

from fastdim.cli import main
from fastdim.errors import InputError, ModelError
from fastdim.extract.facts import multiplied_parameters
from fastdim.plan_scale import Shape, machines_for, model_shape, scale_plan
from fastdim.plan_work import FORWARD_SHARE, Cores, forward_operations, search_gain, site_analysis
from fastdim.sweeps.plan import make_plan

# Two cores of a Zen 5 EPYC, float32 product of 188 GFLOP/s; `make demo`, idle. Per model: rows,
# columns, sites, parameters that are multiplied, blocks.
SPEED = 188e9
SMOLLM2 = (576, 32, 106_203_456, 30)
MINILM = (384, 7, 10_646_784, 6)


def demo(model: tuple[int, int, int, int], rows: int) -> tuple[float, float]:
    """Seconds of forward pass and analysis of the demo, as planned."""
    width, sites, multiplied, blocks = model
    forward = forward_operations(multiplied, rows, blocks, width, 256)
    site = site_analysis(Cores(2, SPEED), rows, width, 4000, 2**18, 4, 1)
    return FORWARD_SHARE * forward / SPEED, sites * site.seconds


@pytest.mark.parametrize(
    ("model", "forward", "analysed"), [(SMOLLM2, 67.8, 45.0), (MINILM, 7.3, 5.8)]
)
def test_the_demo_at_50000_tokens_within_30_percent(
    model: tuple[int, int, int, int], forward: float, analysed: float
) -> None:
    planned = demo(model, 50_000)
    assert planned[0] == pytest.approx(forward, rel=0.3)
    assert planned[1] == pytest.approx(analysed, rel=0.3)


def test_the_demo_at_20000_tokens_within_30_percent() -> None:
    """73 s, of which a third analysis, and 20 s to load the models and write reports."""
    planned = [
        sum(parts) for parts in zip(demo(SMOLLM2, 20_000), demo(MINILM, 20_000), strict=True)
    ]
    assert planned[1] == pytest.approx(0.33 * 73, rel=0.3)
    assert planned[0] == pytest.approx(0.67 * 73 - 20, rel=0.3)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(12_500, 0.155), (25_000, 0.300), (50_000, 0.756), (100_000, 1.85), (200_000, 5.4)],
)
def test_exact_searches_within_30_percent(rows: int, seconds: float) -> None:
    """SmolLM2-135M, blocks 10 and 20 (docs/engine.md)."""
    planned = 2.0 * rows**2 * 576 / (search_gain(rows, rows) * SPEED)
    assert planned == pytest.approx(seconds, rel=0.3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_multiplied_parameters_are_those_of_the_products(family: str) -> None:
    """Counted by hooks: 2 operations a parameter of each linear layer and row."""
    model = FAMILIES[family]().eval()
    counted = 0

    def count(module: Any, given: Any, output: Any) -> None:
        nonlocal counted
        rows = output.numel() // output.shape[-1]
        counted += rows * sum(item.numel() for item in module.parameters())

    for module in model.modules():
        if isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(input_ids=torch.ones((1, 8), dtype=torch.long))
    # Norms have no product; BERT's pooler reads one token of a document.
    assert multiplied_parameters(model) * 8 == pytest.approx(counted, rel=0.1)


def test_ranks_share_the_work_and_see_half_of_it_twice() -> None:
    cores = Cores(16, 1e12)
    alone = site_analysis(cores, 1_000_000, 1024, 4000, 2**18, 4, 1)
    shared = site_analysis(cores, 1_000_000, 1024, 4000, 2**18, 4, 1, ranks=10)
    assert shared.sums == pytest.approx(alone.sums / 10)
    assert shared.search == pytest.approx(alone.search / 10)  # few queries
    exact = [site_analysis(cores, 1e6, 1024, 1e6, 2**18, 4, 1, ranks=n).search for n in (1, 10)]
    assert exact[1] == pytest.approx(exact[0] / 10 * 1.8)
    assert (shared.eigen, shared.rows) == (alone.eigen, alone.rows)  # by one core, on every rank


def test_bytes_by_hand() -> None:
    shape = Shape("m", 1_000_000, 900_000, 4, 100, 6)
    machines = machines_for(10, "h100", 8, core_flops=50e9, network=1e9, disk=1e9)
    found = scale_plan(shape, 1e6, machines, filters=("all",))
    assert found.forward_operations == 1e6 * (2 * 900_000 + 4 * 4 * 100 * 256)
    assert found.forward_seconds == pytest.approx(
        FORWARD_SHARE * found.forward_operations / (10 * 989e12 * 0.4)
    )
    rows = 1e5 * 6 * 100 * 2  # a rank's tokens, sites, columns, bytes of bfloat16
    assert found.disk_bytes == pytest.approx(rows, rel=0.05)
    # Nine shards, half of them for pairs; the queries; 600 bytes a row; covariances.
    beside = 6 * (4000 * 200 + 6e8 + 1.28e6)
    assert found.network_bytes == pytest.approx(9 * 0.5 * rows + beside, rel=1e-9)
    exact = scale_plan(shape, 1e6, machines, filters=("all",), queries=None)
    assert exact.network_bytes == pytest.approx(9 * 1.5 * rows + beside - 6 * 8e5, rel=1e-9)
    assert found.seconds > found.forward_seconds + found.disk_seconds
    one = scale_plan(shape, 1e6, machines_for(1, "h100", 8, core_flops=50e9), filters=("all",))
    assert (one.network_bytes, one.network_seconds) == (0, 0)


def test_there_are_no_more_pairs_than_pairs() -> None:
    shape = Shape("m", 1_000_000, 900_000, 4, 100, 6)
    machines = machines_for(1, "h100", 8, core_flops=50e9)
    every = scale_plan(shape, 1000, machines, pairs=1000 * 999 // 2)
    assert scale_plan(shape, 1000, machines, pairs=10**9) == every
    assert scale_plan(shape, 1000, machines, pairs=1000).site.pairs < every.site.pairs
    options: dict[str, Any] = {
        "model": "m", "n_rows": 1000, "n_documents": 10, "columns": (64,), "filters": ("all",),
        "queries": None, "store_dtype": "float32", "parameters": 0, "parameter_bytes": 0,
        "batch_tokens": 256, "forward_tokens": 0, "extract": False, "speed": 1e11,
    }  # fmt: skip
    every_local = make_plan(**options, pairs=None)
    assert make_plan(**options, pairs=10**9) == every_local
    assert make_plan(**options, pairs=1000) != every_local


def test_the_command_reads_the_config_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    assert main(["plan", str(folder), "--tokens", "1e9", "--gpus", "64"]) == 0
    told = capsys.readouterr().out
    assert "on 64 H100, one rank each, 16 cores beside it" in told
    assert "2 blocks of 16 columns, about 4 sites" in told
    assert "1e+09 tokens" in told
    command = ["plan", str(folder), "--tokens", "1e6", "--json", "--core-gflops", "50"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machines"]["gpus"] == 1
    assert found["shape"] == vars(model_shape(str(folder)))
    assert found["seconds"] > found["forward_seconds"] > 0
    assert main([*command, "--exact"]) == 0
    exact = json.loads(capsys.readouterr().out)
    assert exact["search_operations"] == pytest.approx(250 * found["search_operations"])


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="unknown card 'abacus'; there are: a100"):
        machines_for(2, "abacus")
    with pytest.raises(ModelError, match="no model at"):
        model_shape(str(tmp_path / "none"))
    assert main(["plan", str(tmp_path), "--tokens", "1", "--gpus", "2"]) == 2
    assert "tokens must be a number of at least 2" in capsys.readouterr().err
