"""fastdim.sweep on 2, 3 and 4 gloo processes: the table of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gloo_ranks import run_ranks
from test_sweep_run import TEXTS, model

import fastdim

OPTIONS: dict[str, Any] = {
    "context": 16,
    "max_tokens": 640,
    "batch_size": 4,
    "threads": 1,
    "formats": ("parquet",),
    "layers": "0,2,final_norm",
}
# Name -> what is swept, and on how many ranks. 10 batches of 64 tokens, or 3 for "empty shard".
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "2 ranks": (2, OPTIONS),
    "3 ranks, every pair": (3, OPTIONS | {"exact": True, "filters": ["all", "normalized"]}),
    "4 ranks, one empty": (4, OPTIONS | {"max_tokens": 192, "layers": "0,3"}),
}
EXACT = ("id_twonn", "norm_median", "norm_ratio", "distinct_rows")
EXACT += ("cosine_q05", "cosine_median", "cosine_q95")
NUMBERS = ["value", "lower", "upper", "stderr"]


def sharded(kind: str) -> tuple[Any, Any]:
    """The model, its parameters spread over all ranks."""
    module, tokenizer = model()
    if kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for block in module.layers:
            fully_shard(block)
        fully_shard(module)
    return module, tokenizer


def rank_main(rank: int, folder: str) -> None:
    """One of four processes."""
    import torch
    import torch.distributed as dist

    from fastdim.distributed.ranks import Ranks
    from fastdim.errors import FastdimError
    from fastdim.extract.documents import Documents
    from fastdim.sweeps import definition

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4
    )

    def run(name: str, pair: Any, options: dict[str, Any], group: Any) -> None:
        given = {"texts": TEXTS, "output": Path(folder, name), **options}
        result = fastdim.sweep(pair, group=group, **given)
        assert result.complete
        result.table.to_pickle(Path(folder, f"{name}-{rank}.table"))

    def refused(name: str, pair: Any, **options: Any) -> None:
        try:
            run(name, pair, OPTIONS | options, dist.group.WORLD)
        except FastdimError as error:
            Path(folder, f"{name}-{rank}.txt").write_text(f"{type(error).__name__}: {error}")

    for name, (size, options) in RUNS.items():
        group = dist.new_group(list(range(size)))
        if rank < size:
            run(name, model(), options, group)
    # Three batches on four ranks: the first has none, and must take part in the others' passes.
    run("fsdp", sharded("fsdp2"), OPTIONS | {"max_tokens": 192, "layers": "0,3"}, dist.group.WORLD)

    refused("options", model(), seed=rank // 3)
    module, tokenizer = model()
    with torch.no_grad():
        module.layers[0].mlp.up_proj.weight[0, 0] += float(rank == 2)
    refused("weights", (module, tokenizer))
    installed = definition.VERSIONED
    definition.VERSIONED = installed[: 3 if rank == 1 else None]
    refused("versions", model())
    definition.VERSIONED = installed
    refused("unknown layer", model(), layers="99")
    refused("approximate", model(), backend="faiss")
    # What one rank alone meets before it has begun, and while the others work.
    refused("bad option", model(), outlier_factor=0.5 if rank == 1 else 5.0)
    refused("no texts", model(), texts=[] if rank == 2 else TEXTS)
    refused("no folder", model(), output=None if rank == 3 else Path(folder, "no folder"))
    sha256 = Documents.sha256
    if rank == 3:
        Documents.sha256 = property(lambda documents: "other tokens")  # type: ignore[assignment]
    refused("tokens", model())
    Documents.sha256 = sha256  # type: ignore[method-assign]
    spoilt, tokenizer = model()
    calls = [0]

    def overflow(block: Any, args: Any, output: Any) -> Any:
        calls[0] += 1
        return output + (1e6 if rank == 1 and calls[0] > 3 else 0)

    spoilt.layers[0].register_forward_hook(overflow)
    refused("one rank fails", (spoilt, tokenizer), store_dtype="float16")
    assert Ranks().size == 4
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes left."""
    place: Path = tmp_path_factory.mktemp("ranks")
    run_ranks(rank_main, place)
    return place


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal but for times; numbers by sums within 1e-12, all others bit for bit."""
    others = [name for name in expected if name not in (*NUMBERS, "seconds")]
    pd.testing.assert_frame_equal(found[others], expected[others])
    exact = expected["metric"].isin(EXACT)
    pd.testing.assert_frame_equal(found[exact][NUMBERS], expected[exact][NUMBERS], check_exact=True)
    np.testing.assert_allclose(
        found[~exact][NUMBERS].to_numpy(), expected[~exact][NUMBERS].to_numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("name", RUNS)
def test_ranks_make_the_table_of_one_process(folder: Path, name: str) -> None:
    size, options = RUNS[name]
    expected = fastdim.sweep(model(), TEXTS, **options).table
    assert set(expected["status"]) == {"ok"}
    for rank in range(size):
        same(pd.read_pickle(folder / f"{name}-{rank}.table"), expected)
    same(pd.read_parquet(folder / name / "results.parquet"), expected)
    parts = {path.name for path in (folder / name).glob("activations*")}
    assert parts == {f"activations-{rank}-of-{size}" for rank in range(size)}
    rows = [fastdim.Store.open(folder / name / part).n_rows for part in sorted(parts)]
    assert sum(rows) == options["max_tokens"]
    assert (min(rows) == 0) == ("empty" in name)
    # What another run needs of documents is there too.
    pieces = fastdim.Sweep.load(folder / name).runs[0].pieces
    assert all(piece["documents"]["numbers"] for piece in pieces)


def test_a_model_sharded_by_fsdp(folder: Path) -> None:
    expected = fastdim.sweep(model(), TEXTS, **RUNS["4 ranks, one empty"][1]).table
    for rank in range(4):
        found = pd.read_pickle(folder / f"fsdp-{rank}.table")
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "options",
            "RankMismatchError: the processes do not run the same thing; these differ:\n  seed: 0",
        ),
        ("weights", "model_sha256: "),
        ("versions", "version of transformers: "),
        ("unknown layer", "ModelError: rank 0: unknown layer '99'"),
        ("approximate", "InputError: backend='faiss' searches in one process"),
        ("tokens", "tokens of the texts: "),
        ("one rank fails", "InputError: rank 1: "),
        ("bad option", "InputError: rank 1: outlier_factor must be a number above 1"),
        ("no texts", "InputError: rank 2: "),
        ("no folder", "InputError: rank 3: a sweep of several ranks needs output="),
    ],
)
def test_one_error_on_every_rank(folder: Path, name: str, message: str) -> None:
    told = [(folder / f"{name}-{rank}.txt").read_text() for rank in range(4)]
    assert len(set(told)) == 1
    assert message in told[0]


def test_what_was_computed_before_one_rank_failed_is_kept(folder: Path) -> None:
    out = folder / "one rank fails"
    assert (out / "run.json").is_file()
    assert (out / "activations-0-of-4" / "manifest.json").is_file()
    assert not (folder / "unknown layer").exists()


def test_a_group_needs_its_processes(tmp_path: Path) -> None:
    with pytest.raises(fastdim.InputError, match="there is no process group"):
        fastdim.sweep(model(), TEXTS, group=object(), output=tmp_path / "run", **OPTIONS)


@pytest.mark.parametrize("kind", ["dispatched", "offloaded"])
def test_a_model_that_accelerate_has_spread_out(kind: str) -> None:
    import accelerate
    import torch

    options = OPTIONS | {"max_tokens": 192, "layers": "0,3"}
    module, tokenizer = model()
    if kind == "offloaded":
        module = accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    else:
        places = dict.fromkeys((name for name, _ in module.named_children()), "cpu")
        module = accelerate.dispatch_model(module, places, main_device="cpu", force_hooks=True)
    found = fastdim.sweep((module, tokenizer), TEXTS, **options).table
    same(found, fastdim.sweep(model(), TEXTS, **options).table)


def test_the_older_fsdp_is_refused() -> None:
    import torch

    class FullyShardedDataParallel(torch.nn.Module):
        pass

    with pytest.raises(fastdim.ModelError, match="fully_shard in its place"):
        fastdim.sweep((FullyShardedDataParallel(), None), TEXTS, **OPTIONS)
