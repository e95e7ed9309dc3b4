"""Plans: the model of cost against measured runs, and its parts against counts by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_extract_sites import FAMILIES
from tiny_model import save_tiny

import fastdim
from fastdim import plan_work
from fastdim.backends import cpu
from fastdim.cli import main
from fastdim.covariance import decomposed_at_once
from fastdim.errors import InputError, ModelError
from fastdim.extract.facts import multiplied_parameters
from fastdim.plan_scale import Shape, machines_for, model_shape, scale_plan
from fastdim.plan_work import (
    FORWARD_SHARE,
    Cores,
    forward_operations,
    forward_seconds,
    search_seconds,
    site_analysis,
    spread_search_seconds,
)
from fastdim.sweeps.plan import flops_per_second, make_plan
from fastdim.sweeps.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import plan as benchmark

# Two cores of a Zen 5 EPYC, float32 product of 250 GFLOP/s; `make demo`, idle. Per model: rows,
# columns, sites, parameters that are multiplied, blocks.
SPEED = 250e9
SMOLLM2 = (576, 32, 106_203_456, 30)
MINILM = (384, 7, 10_646_784, 6)


def demo(model: tuple[int, int, int, int], rows: int) -> tuple[float, float]:
    """Seconds of forward pass and analysis of the demo, as planned."""
    width, sites, multiplied, blocks = model
    forward = forward_operations(multiplied, rows, blocks, width, 256)
    site = site_analysis(Cores(2, SPEED), rows, width, 4000, 2**18, 4, 1)
    return forward_seconds(Cores(2, SPEED), forward), sites * site.seconds


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
    planned = search_seconds(Cores(2, SPEED), rows, 576, rows)
    assert planned == pytest.approx(seconds, rel=0.3)


@pytest.mark.parametrize("run", benchmark.runs()[1], ids=lambda run: run["what"][:60])
def test_every_measured_run_within_30_percent(run: dict[str, Any]) -> None:
    flops, _ = benchmark.runs()
    assert benchmark.planned(flops, run) == pytest.approx(run["seconds"], rel=0.3)


def test_the_measured_runs_are_of_every_kind_and_stand_on_the_page() -> None:
    flops, runs = benchmark.runs()
    assert {run["kind"] for run in runs} == {"forward", "analysis", "search"}
    assert [sum(name in run for run in runs) for name in ("tiles", "ranks")] == [2, 7]
    assert max(run["rows"] for run in runs) == 1_000_000
    page = benchmark.PAGE.read_text()
    assert benchmark.page(page, benchmark.table(flops, runs)) == page


def test_what_the_plan_knows_of_the_engine_is_as_there() -> None:
    assert [decomposed_at_once(d) for d in (4096, 5120, 8192)] == [3, 2, 1]
    assert plan_work.DIRECT_PAIRS == cpu.DIRECT_PAIRS
    assert plan_work.QUERIES_SHARE == cpu.QUERIES_SHARE


def test_the_speed_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """First products and disturbed ones are slow: thread start, clocks, other programs."""
    now, taken = [0.0], iter([0.05, 0.05, 0.05, 0.05, 0.05, 0.01, 0.05, 0.05, 0.05, 0.05])

    class Slow:
        def __matmul__(self, other: Any) -> None:
            now[0] += next(taken)

    monkeypatch.setattr("fastdim.sweeps.plan.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("fastdim.sweeps.plan.np.ones", lambda *given, **named: Slow())
    flops_per_second.cache_clear()
    try:
        assert flops_per_second() == pytest.approx(2 * 1024**3 / 0.01)
    finally:
        flops_per_second.cache_clear()


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
    spread = site_analysis(cores, 1_000_000, 1024, 4000, 2**18, 4, 1, ranks=10)
    assert spread.sums == pytest.approx(alone.sums / 10)
    assert spread.search == pytest.approx(alone.search / 10, rel=0.02)  # few queries
    assert spread.rows == alone.rows  # by one core, on every rank
    assert spread.eigen == alone.eigen  # all four at a time in both
    wide = [site_analysis(cores, 1e6, 4096, 4000, 2**18, 4, 1, ranks=n) for n in (1, 10)]
    assert wide[0].eigen == pytest.approx(2 * wide[1].eigen)  # three at a time, then the fourth
    two = site_analysis(Cores(2, 250e9), 1e5, 576, 2000, 2**18, 3, 0)
    one = site_analysis(Cores(1, 125e9), 1e5, 576, 2000, 2**18, 3, 0)
    assert one.eigen == pytest.approx(1.5 * two.eigen)  # three one by one; two, then one
    assert (alone.meetings, spread.meetings > 0) == (0.0, True)
    # All rows: nine visitors, each with a tenth of the queries among two tenths of the rows.
    visit = 1e5 * 2e5 - 1e5**2 / 2
    rows = 2e5 * (plan_work.PRUNED_ROW + plan_work.PRUNED_COLUMN * 1024)
    assert spread_search_seconds(cores, 1e6, 1024, 1e6, 10) == pytest.approx(
        9 * (visit * plan_work.PRUNED_PAIR + rows) / 1e12
    )


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


def test_a_run_that_goes_on_is_planned_by_the_batches_left(tmp_path: Path) -> None:
    """Half of the activations are there: half of the forward pass is to come, not none."""
    model = str(save_tiny(tmp_path / "tiny"))
    texts = [" ".join(f"w{number}" for number in range(i, i + 60)) for i in range(8)]
    plans: list[Any] = []

    class Kept(Progress):
        def plan(self, plan: Any) -> None:
            plans.append(plan)

    def run(output: Path) -> None:
        fastdim.sweep(
            model, texts, output=output, context=16, max_tokens=256, batch_size=2, threads=1,
            filters=["all"], pairs=100, formats=("csv",), progress=Kept(),
        )  # fmt: skip

    run(tmp_path / "out")
    for path in (*tmp_path.glob("out/pieces/*"), *tmp_path.glob("out/results*")):
        path.unlink()
    shards = sorted((tmp_path / "out" / "activations").glob("shard-*"))
    assert len(shards) == 8
    for shard in shards[:4]:
        shard.unlink()
    run(tmp_path / "out")
    for path in tmp_path.glob("out/pieces/*"):
        path.unlink()
    run(tmp_path / "out")
    whole, half, none = plans
    assert half.forward_seconds == pytest.approx(whole.forward_seconds / 2)
    assert (half.parameters, half.analysis_seconds) == (whole.parameters, whole.analysis_seconds)
    assert (none.forward_seconds, none.parameters) == (0.0, 0)


def test_a_plan_of_ranks_divides_the_forward_pass() -> None:
    options: dict[str, Any] = {
        "model": "m", "n_rows": 10_000, "n_documents": 40, "columns": (64, 64),
        "filters": ("all",), "queries": 1000, "store_dtype": "float32", "parameters": 10**6,
        "parameter_bytes": 4 * 10**6, "batch_tokens": 256, "forward_tokens": 10_000,
        "extract": True, "blocks": 2, "speed": 1e11,
    }  # fmt: skip
    one, four = make_plan(**options), make_plan(**options, ranks=4)
    assert four.forward_seconds == pytest.approx(one.forward_seconds / 4)
    assert four.disk_bytes == one.disk_bytes
    site = site_analysis(Cores(1, 1e11), 10_000, 64, 1000, 10_000 * 9_999 / 2, 1, 0, 4)
    assert four.analysis_seconds == pytest.approx(2 * site.seconds)


def test_bad_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="unknown card 'abacus'; there are: a100"):
        machines_for(2, "abacus")
    with pytest.raises(ModelError, match="no model at"):
        model_shape(str(tmp_path / "none"))
    assert main(["plan", str(tmp_path), "--tokens", "1", "--gpus", "2"]) == 2
    assert "tokens must be a number of at least 2" in capsys.readouterr().err
