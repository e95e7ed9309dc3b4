"""Decompositions that ranks take in turn: one that fails is the failure of its filter alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
from conftest import in_dtype, token_like
from gloo_ranks import run_ranks
from sweep_cases import settings_of

from fastdim import Rows
from fastdim.sweeps.filters import FILTERS, LayerRows

N, D = 900, 24


def rank_main(rank: int, folder: str) -> None:
    """One of two processes."""
    import torch
    import torch.distributed as dist

    from fastdim.distributed import moments
    from fastdim.distributed.ranks import Ranks
    from fastdim.distributed.shard import open_shard
    from fastdim.sweeps.spread import Extent, SpreadLayer

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    own = in_dtype(token_like(N, D)[rank * N // 2 : (rank + 1) * N // 2], "float32")
    shard = open_shard(own, Ranks(), min_rows=1, name="x")
    layer = LayerRows(
        cast(Rows, Extent(N, D)), shard.norms(), np.arange(N) % 30, np.arange(N) % 97 == 5
    )
    filters = [FILTERS[name] for name in ("all", "no_special", "normalized")]
    shared = SpreadLayer(shard, layer, filters, settings_of(tuple(FILTERS)), 1)
    decompose_sums, calls = moments.decompose_sums, [0]

    def too_large(parts: Any, *more: Any) -> Any:
        calls[0] += 1
        if parts.count < N:
            raise MemoryError
        return decompose_sums(parts, *more)

    moments.decompose_sums = too_large
    some = np.flatnonzero(FILTERS["no_special"].keep(layer, 5.0))
    every = np.arange(N)
    told = {}
    for name, kept, unit in (
        ("all", every, False),
        ("no_special", some, False),
        ("normalized", every, True),
        ("again", some, False),
    ):
        try:
            told[name] = len(shared.decomposition(kept, unit).eigenvalues)
        except MemoryError as error:
            told[name] = str(error)
    told["calls"] = calls[0]
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_one_filter_fails(tmp_path: Path) -> None:
    run_ranks(rank_main, tmp_path, 2)
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        # In turn, then each alone on the first rank, and not once more for the last question.
        assert told.pop("calls") == (2 + 3, 1)[rank]
        assert told["all"] == told["normalized"] == D
        assert told["no_special"] == told["again"] == "rank 0: out of memory"
