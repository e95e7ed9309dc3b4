"""fastdim.torchmetrics over two gloo processes: the value of one that has seen all rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from test_torchmetrics import METRICS, N, fed, rows, same_states

from fastdim import InputError

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Rows of rank 0; rank 1 has the others, in the last case none.
CUTS = (150, 510, N)


def after_errors(name: str, mine: torch.Tensor, rank: int) -> torch.Tensor:
    """Value over both ranks, after a forward that fails on one and a value refused on both."""
    metric = fed(name, [mine])
    if rank == 0:
        with pytest.raises(InputError):
            metric(rows()[:1])
    before = metric.compute()
    metric.reset()
    metric.update(rows()[:1])  # the same row on both ranks: no dimension, no variance, one cosine
    if name != "mean_cosine":
        with pytest.raises(InputError):
            metric.compute()
    same_states(metric, fed(name, [rows()[:1]]))
    metric.reset()
    metric.update(mine)
    assert metric.compute() == before
    return before


def rank_main(rank: int, folder: str) -> None:
    """One process: for each metric and cut the synced states and value, saved to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    found: dict[tuple[str, int], Any] = {}
    x = rows()
    for cut in CUTS:
        for name in METRICS:
            mine = x[:cut] if rank == 0 else x[cut:]
            metric = fed(name, [mine[:100], mine[100:]])
            alone = {key: state.clone() for key, state in metric.metric_state.items()}
            value = metric.compute()
            estimate = metric.estimate()
            for key, state in alone.items():  # after compute each rank has its own rows again
                assert torch.equal(state.nan_to_num(), metric.metric_state[key].nan_to_num())
            metric.sync()
            states = {key: state.clone() for key, state in metric.metric_state.items()}
            metric.unsync()
            found[name, cut] = (value, states, estimate.n_points, after_errors(name, mine, rank))
    torch.save(found, Path(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int], Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        multiprocessing.spawn(rank_main, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", METRICS)
def test_two_processes_agree_with_one(ranks: Any, name: str, cut: int) -> None:
    whole = fed(name, [rows()])
    expected = whole.compute()
    for found in ranks:
        value, states, n_points, after = found[name, cut]
        assert after.item() == pytest.approx(value.item(), rel=1e-12)
        assert n_points == N
        synced = METRICS[name]()
        for key, state in states.items():
            setattr(synced, key, state)
        same_states(synced, whole)
        if name in ("all rows", "sample"):
            assert value == expected
            assert torch.equal(states["keys"], whole.keys)
        else:
            assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert ranks[0][name, cut][0] == ranks[1][name, cut][0]
