"""fastdim.distributed over 2, 3 and 4 gloo processes: the numbers of one process on all rows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import gaussian, token_like
from gloo_ranks import run_ranks

import fastdim
from fastdim.distributed.ranks import Ranks

N = 700
# Where the rows are cut between ranks: even, uneven, and with ranks that hold none.
CUTS = {
    "2 ranks": (0, 350, N),
    "2 ranks, one empty": (0, 0, N),
    "3 ranks, uneven": (0, 100, 650, N),
    "3 ranks, the middle one empty": (0, 300, 300, N),
    "4 ranks": (0, 1, 200, 450, N),
    "4 ranks, two empty": (0, 0, 400, 400, N),
}


def matrix(name: str) -> Any:
    """Rows with what makes layers hard: massive rows, equal ones (-0 for 0, too), a zero row."""
    x = token_like(N, 24).astype(np.float32)
    x[5::7] = x[2]
    x[90] = 0.0
    x[300], x[650] = 0.0, x[100]
    x[300, 3] = -0.0
    if name == "bfloat16":
        return fastdim.Rows((x.view(np.uint32) >> 16).astype(np.uint16), name)
    if name == "wide":  # more columns than rows that DIRECT_ROWS visits one by one
        return gaussian(N, 900)
    return x.astype(name)


# One cut each; float32 in all of them.
DTYPES = ("float32", "float16", "bfloat16", "float64", "wide")
CASES = [("float32", cut) for cut in CUTS]
CASES += [(name, "3 ranks, uneven") for name in DTYPES[1:]]


def part(x: Any, low: int, high: int) -> Any:
    """This rank's rows."""
    if isinstance(x, fastdim.Rows):
        return fastdim.Rows(x.data[low:high], x.dtype)
    return x[low:high]


def labels() -> Any:
    return np.repeat(np.arange(N // 20), 20)[:N]


def everything(lib: Any, x: Any, groups: Any, **more: Any) -> dict[str, Any]:
    """What is compared; `lib` is fastdim itself or fastdim.distributed."""
    found = {}
    for duplicates in ("keep", "collapse"):
        for queries in (None, 100):
            found[f"knn {duplicates} {queries}"] = lib.knn(
                x, 5, duplicates=duplicates, queries=queries, threads=1, seed=3, **more
            )
    options: dict[str, Any] = {"groups": groups, "threads": 1, **more}
    found["cosine all"] = lib.cosine_stats(x, pairs="all", **options)
    found["cosine sampled"] = lib.cosine_stats(x, pairs=5000, seed=4, **options)
    found["spectrum"] = lib.spectrum(x, **options)
    return found


def failures(x: Any, low: int, high: int, rank: int, group: Any) -> list[str]:
    """The messages of bad requests, each raised on this rank too."""
    from fastdim import distributed

    spoilt = np.array(x[low:high], dtype=np.float64)
    if rank == 1 and len(spoilt):
        spoilt[0, 1] = np.nan
    # The label 1 of rank 0 and "1" of rank 1; numbers that only float64 could hold together.
    mixed = np.arange(high - low).astype(str if rank == 1 else np.int64)
    signs = np.arange(high - low).astype(np.uint64 if rank == 1 else np.int64)
    short = mixed[: len(mixed) - (rank == 1)]
    requests: list[Callable[[], Any]] = [
        lambda: distributed.knn(spoilt, group=group),
        lambda: distributed.knn(x[low:high], k=N, group=group),
        lambda: distributed.knn(x[low:high], 2 + rank, group=group),
        lambda: distributed.knn(x[low:high, : 3 + (rank == 1)], group=group),
        lambda: distributed.knn(x[low:high], duplicates="raise", group=group),
        lambda: distributed.knn(x[low:high], queries=np.arange(3), group=group),
        lambda: distributed.cosine_stats(0 * x[low:high], group=group),
        lambda: distributed.spectrum(np.ones((high - low, 3)), group=group),
        lambda: distributed.knn(x[low:high][:0], group=group),
        lambda: distributed.spectrum(x[low:high], groups=mixed, group=group),
        lambda: distributed.cosine_stats(x[low:high], groups=signs, group=group),
        lambda: distributed.spectrum(x[low:high], groups=short, group=group),
    ]
    told = []
    for request in requests:
        try:
            request()
        except fastdim.FastdimError as error:
            told.append(f"{type(error).__name__}: {error}")
        else:
            told.append("nothing was raised")
    return told


def rank_main(rank: int, folder: str) -> None:
    """One of four processes: in groups of 2, 3 and 4, every matrix cut every way."""
    import torch
    import torch.distributed as dist

    from fastdim import distributed

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4
    )
    found: dict[Any, Any] = {}
    for size in (2, 3, 4):
        group = dist.new_group(list(range(size)))
        if rank >= size:
            continue
        for name, cut in CASES:
            ends = CUTS[cut]
            if len(ends) == size + 1:
                low, high = ends[rank : rank + 2]
                own, groups = part(matrix(name), low, high), labels()[low:high]
                kinds = everything(distributed, own, groups, group=group)
                found[name, cut] = {"cut": (low, high), **kinds}
        low, high = next(ends for ends in CUTS.values() if len(ends) == size + 1)[rank : rank + 2]
        found["failures", size] = failures(matrix("float32"), low, high, rank, group)
    own = part(matrix("float32"), *CUTS["4 ranks"][rank : rank + 2])
    found["everywhere"] = distributed.knn(own, duplicates="collapse", everywhere=True, threads=1)
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of four processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    run_ranks(rank_main, folder)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(4)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: everything(fastdim, matrix(name), labels()) for name in DTYPES}


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_ranks_give_what_one_process_gives(ranks: Any, alone: Any, name: str, cut: str) -> None:
    told = [found[name, cut] for found in ranks if (name, cut) in found]
    assert len(told) == len(CUTS[cut]) - 1
    for kind, expected in alone[name].items():
        if kind.startswith("knn"):
            for part_name in ("distances", "indices", "queries"):
                joined = np.concatenate([getattr(found[kind], part_name) for found in told])
                whole = getattr(expected, part_name)
                assert joined.dtype == whole.dtype
                np.testing.assert_array_equal(joined, whole)
            assert {found[kind].n_points for found in told} == {N}
            assert {found[kind].n_distinct for found in told} == {expected.n_distinct}
            for found in told:
                np.testing.assert_array_equal(found[kind].far, expected.far)
                low, high = found["cut"]
                assert ((found[kind].queries >= low) & (found[kind].queries < high)).all()
        elif kind == "spectrum":
            for found in told:
                np.testing.assert_allclose(
                    found[kind].eigenvalues,
                    expected.eigenvalues,
                    rtol=1e-12,
                    atol=1e-13 * expected.eigenvalues[0],
                )
                for item, estimate in expected.estimates.items():
                    other = found[kind].estimate(item)
                    close(
                        (other.value, other.lower, other.upper, other.stderr),
                        (estimate.value, estimate.lower, estimate.upper, estimate.stderr),
                    )
                np.testing.assert_allclose(found[kind].row_share, expected.row_share, atol=1e-12)
        else:
            for found in told:
                np.testing.assert_array_equal(found[kind].histogram, expected.histogram)
                assert (found[kind].min, found[kind].max) == (expected.min, expected.max)
                assert found[kind].n_pairs == expected.n_pairs
                close(
                    [found[kind].mean, found[kind].std, found[kind].mean_estimate.stderr],
                    [expected.mean, expected.std, expected.mean_estimate.stderr],
                )


def test_every_rank_can_have_all_neighbours_for_an_estimator(ranks: Any) -> None:
    expected = fastdim.twonn(matrix("float32"), threads=1)
    for found in ranks:
        assert fastdim.twonn(found["everywhere"]) == expected


@pytest.mark.parametrize("cut", CUTS)
def test_all_ranks_hold_the_same_bits(ranks: Any, cut: str) -> None:
    told = [found["float32", cut] for found in ranks if ("float32", cut) in found]
    for found in told[1:]:
        np.testing.assert_array_equal(
            found["spectrum"].eigenvalues, told[0]["spectrum"].eigenvalues
        )
        assert found["cosine all"].std == told[0]["cosine all"].std


@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_one_rank_cannot_use_is_one_error_on_all(ranks: Any, size: int) -> None:
    told = [found["failures", size] for found in ranks[:size]]
    assert all(messages == told[0] for messages in told)
    expected = [
        "InputError: rank 1: x holds 1 NaN",
        f"InputError: k = {N} neighbours need at least {N + 1} rows, got {N}",
        "RankMismatchError: the processes do not run the same thing",
        "InputError: rank 0 has 3 columns of float32, and rank 1 4",
        "rows equal an earlier row",
        "InputError: queries over several ranks are None",
        "InputError: cosines need at least two rows that are not zero, got 0",
        "InputError: all 700 rows are equal",
        "InputError: at least 2 rows are needed, got 0 on all ranks",
        "InputError: the groups of rank 0 are of type int64, and those of rank 1 str",
        "InputError: the groups of rank 0 are of type int64, and those of rank 1 uint64",
        "InputError: rank 1: groups must hold one label a row",
    ]
    for message, text in zip(told[0], expected, strict=True):
        assert text in message


def test_without_a_process_group() -> None:
    from fastdim import distributed

    with pytest.raises(fastdim.InputError, match="there is no process group"):
        distributed.knn(np.ones((3, 2)))


def on_a_device(rank: int, folder: str) -> None:
    """What ranks exchange where arrays are copied to a device and back, as for nccl."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    made = []
    # The CPU stands in for a GPU: what is received lies in memory of its own until copied back.
    for device in (None, torch.device("cpu")):
        ranks = Ranks()
        ranks._device = device
        x = np.random.default_rng(rank).standard_normal((3 + rank, 4))
        seen: list[Any] = []
        ranks.ring(x, 1, lambda owner, rows, seen=seen: seen.append((owner, rows.copy())))
        made.append((ranks.concatenate(x), ranks.total(x[:3]), *seen[0], ranks.from_first(str)))
    first, second = [np.random.default_rng(r).standard_normal((3 + r, 4)) for r in (0, 1)]
    for whole, total, owner, rows, told in made:
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))
        np.testing.assert_array_equal(total, first[:3] + second[:3])
        assert (owner, told) == (1 - rank, "")
        np.testing.assert_array_equal(rows, (first, second)[owner])
    dist.destroy_process_group()


def test_arrays_that_travel_over_a_device(tmp_path: Path) -> None:
    run_ranks(on_a_device, tmp_path, 2)
