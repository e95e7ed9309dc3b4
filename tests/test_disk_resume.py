"""resume=: what was finished before a process was killed is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import gaussian, token_like

import fastdim as fd
from fastdim import InputError, StoreError
from fastdim.backends import cpu
from fastdim.disk import budget, state

# Saves its work as always, and is killed before or after the n-th time, or halfway through it.
PROGRAM = """
import os, signal, sys
import fastdim
from fastdim.disk import budget, state
budget.FIXED, budget.LEAST_ROWS = 0, 4
operation, path, folder, memory, number, moment = sys.argv[1:]
left, save = [int(number)], state.State.save

def counted(self, name, arrays):
    left[0] -= 1
    if left[0] == 0 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if left[0] == 0 and moment == "half":
        (self.folder / f"{name}.safetensors.tmp").write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, name, arrays)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

state.State.save = counted
if operation == "knn":
    fastdim.knn(path, 3, duplicates="collapse", memory=int(memory), resume=folder)
else:
    pairs = {"all": "all", "sampled": 2000}[operation]
    fastdim.cosine_stats(path, pairs=pairs, memory=int(memory), resume=folder)
"""
LIMIT = {"knn": 900_000, "all": 1_150_000, "sampled": 1_350_000}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the program."""
    monkeypatch.setattr(budget, "FIXED", 0)
    monkeypatch.setattr(budget, "LEAST_ROWS", 4)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    x = token_like(900, 24)
    x[500:600] = x[4]
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def run(operation: str, path: Path, folder: Path | None) -> Any:
    if operation == "knn":
        memory = LIMIT["knn"]
        return fd.knn(path, 3, duplicates="collapse", memory=memory, resume=folder)
    pairs: Any = {"all": "all", "sampled": 2000}[operation]
    return fd.cosine_stats(path, pairs=pairs, memory=LIMIT[operation], resume=folder)


def same(operation: str, found: Any, expected: Any) -> None:
    names = ("distances", "indices", "queries") if operation == "knn" else ("histogram", "min")
    for name in names:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    if operation != "knn":
        assert (found.mean, found.std, found.max) == (expected.mean, expected.std, expected.max)


@pytest.mark.parametrize(
    ("operation", "number", "moment"),
    [
        ("knn", 1, "after"),  # the groups are known, no tile is searched
        ("knn", 3, "half"),
        ("knn", 4, "before"),
        ("all", 2, "after"),
        ("all", 4, "half"),
        ("all", 6, "after"),
        ("sampled", 7, "after"),
    ],
)
def test_a_killed_process_goes_on(
    rows: Path,
    tmp_path: Path,
    operation: str,
    number: int,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[int] = []
    search = cpu.Index.knn

    def counted(self: cpu.Index, *arguments: Any, **options: Any) -> Any:
        searches.append(1)
        return search(self, *arguments, **options)

    monkeypatch.setattr(cpu.Index, "knn", counted)
    folder = tmp_path / "state"
    command = [sys.executable, "-c", PROGRAM, operation, rows, folder, LIMIT[operation], number]
    done = subprocess.run([*map(str, command), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    saved = number if moment == "after" else number - 1
    found = run(operation, rows, folder)
    if operation == "knn":
        assert found.plan["tiles"] > 3
        assert found.plan["tiles_resumed"] == saved - 1
        assert len(searches) == found.plan["tiles"] - (saved - 1)  # what was finished is not again
    assert not list(folder.glob("*.tmp"))
    same(operation, found, run(operation, rows, None))


@pytest.mark.parametrize("operation", ["knn", "all", "sampled"])
def test_nothing_is_done_again(
    rows: Path, tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(operation, rows, tmp_path / "state")

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a tile was searched again")

    monkeypatch.setattr("fastdim.backends.cpu.Index.knn", fail)
    monkeypatch.setattr("fastdim.backends.cpu.cosine_histogram", fail)
    monkeypatch.setattr("fastdim.backends.cpu.cosine_pairs", fail)
    monkeypatch.setattr("fastdim.backends.cpu.second_moments", fail)
    monkeypatch.setattr("fastdim.disk.groups.digests", fail)
    again = run(operation, rows, tmp_path / "state")
    same(operation, again, first)


def test_another_call_is_refused(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    fd.knn(rows, memory="1GB", resume=folder)
    for changed, name in (
        ({"k": 5}, "k"),
        ({"queries": 10}, "queries"),
        ({"queries": [3, 4]}, "queries"),
        ({"memory": "2GB"}, "memory"),
        ({"duplicates": "collapse"}, "duplicates"),
    ):
        with pytest.raises(StoreError, match=f"made for another call: {name} differ"):
            fd.knn(rows, **{"memory": "1GB", "resume": folder, **changed})
    with pytest.raises(StoreError, match="made for another call"):
        fd.cosine_stats(rows, memory="1GB", resume=folder)


def test_other_rows_are_refused(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    fd.knn(rows, memory="1GB", resume=folder)
    found = os.stat(rows)
    os.utime(rows, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(StoreError, match="made for another call: x differ"):
        fd.knn(rows, memory="1GB", resume=folder)
    # The same files by their size and time, with another first row.
    x = np.load(rows)
    x[0] += 1
    np.save(rows, x)
    os.utime(rows, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(StoreError, match="made for another call: x differ"):
        fd.knn(rows, memory="1GB", resume=folder)


def test_another_array_is_refused(tmp_path: Path) -> None:
    x = token_like(2000, 5)
    fd.knn(x, memory="1GB", resume=tmp_path / "state")
    assert fd.knn(x, memory="1GB", resume=tmp_path / "state").plan["tiles_resumed"] == 1
    x[3, 2] += 1.0  # a row that is not sampled
    with pytest.raises(StoreError, match="made for another call: x differ"):
        fd.knn(x, memory="1GB", resume=tmp_path / "state")


def test_a_refused_call_leaves_the_folder_free(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for _ in range(2):
        with pytest.raises(InputError, match="k = 900"):
            fd.knn(rows, 900, memory="1GB", resume=folder)
    queries = np.int64(30)
    found = fd.knn(rows, 2, queries=queries, seed=np.int64(4), memory="1GB", resume=folder)
    same("knn", found, fd.knn(rows, 2, queries=30, seed=4, memory="1GB", resume=folder))


def test_folders_that_are_something_else(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not empty and holds no unfinished operation"):
        fd.knn(rows, memory="1GB", resume=tmp_path)
    folder = tmp_path / "state"
    fd.knn(rows, memory="1GB", resume=folder)
    saved = (folder / "search.safetensors").read_bytes()
    (folder / "search.safetensors").write_bytes(saved[:-9])
    with pytest.raises(StoreError, match="no readable safetensors"):
        fd.knn(rows, memory="1GB", resume=folder)
    (folder / "operation.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        fd.knn(rows, memory="1GB", resume=folder)


def test_one_writer_at_a_time(rows: Path, tmp_path: Path) -> None:
    with (
        state.opened(tmp_path / "state", {"operation": "another"}),
        pytest.raises(StoreError, match="another process"),
        state.opened(tmp_path / "state", {"operation": "another"}),
    ):
        pytest.fail("two writers at once")


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_what_was_written_through_a_map_is_another_matrix(
    rows: Path, tmp_path: Path, mode: Any
) -> None:
    mapped = np.load(rows, mmap_mode=mode)
    before = os.stat(rows)
    fd.knn(mapped, memory="1GB", resume=tmp_path / "state")
    mapped[5] = mapped[8]  # none of the rows that are compared of a file
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tmpfs has it
    with pytest.raises(StoreError, match="another call: x differ"):
        fd.knn(mapped, memory="1GB", resume=tmp_path / "state")


def test_a_map_whose_file_is_gone(rows: Path, tmp_path: Path) -> None:
    mapped = np.load(rows, mmap_mode="r")
    expected = fd.knn(rows, memory="1GB")
    rows.unlink()
    found = fd.knn(mapped, memory="1GB", resume=tmp_path / "state")
    same("knn", found, expected)


def test_a_folder_of_others_is_left_alone(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.tmp").write_text("mine")
    with pytest.raises(StoreError, match=r"no unfinished operation \(notes.tmp\)"):
        fd.knn(rows, memory="1GB", resume=tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.tmp").read_text() == "mine"
    state = tmp_path / "state"
    expected = fd.knn(rows, memory="1GB", resume=state)
    (state / "notes.tmp").write_text("mine")
    (state / "found.safetensors.tmp").write_text("half of it")
    same("knn", fd.knn(rows, memory="1GB", resume=state), expected)
    assert [path.name for path in state.glob("*.tmp")] == ["notes.tmp"]


@pytest.mark.parametrize("queries", [None, 50])
def test_a_refused_limit_leaves_nothing_behind(
    rows: Path, tmp_path: Path, queries: int | None
) -> None:
    folder = tmp_path / "state"
    with pytest.raises(InputError, match="less than one tile needs"):
        fd.knn(rows, 3, queries=queries, memory=5_000, resume=folder)
    assert not list(folder.glob("*.safetensors"))
    found = fd.knn(rows, 3, queries=queries, memory=LIMIT["knn"], resume=folder)
    np.testing.assert_array_equal(found.indices, fd.knn(np.load(rows), 3, queries=queries).indices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 200, "memory": 1_500_000}, "less than one tile needs"),
        ({"k": 550, "memory": "1GB"}, "k = 550"),
    ],
)
def test_a_call_refused_once_equal_rows_are_grouped_leaves_nothing_behind(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    path, folder = tmp_path / "x.npy", tmp_path / "state"
    x = gaussian(600, 8)
    x[500:] = x[:100]
    np.save(path, x)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            fd.knn(path, **arguments, duplicates="collapse", resume=folder)
        assert [kept.name for kept in folder.iterdir()] == ["lock"]
    found = fd.knn(path, 3, duplicates="collapse", memory="1GB", resume=folder)
    np.testing.assert_array_equal(found.indices, fd.knn(x, 3, duplicates="collapse").indices)


def test_zero_rows_alone_leave_nothing_behind(tmp_path: Path) -> None:
    path, folder = tmp_path / "x.npy", tmp_path / "state"
    np.save(path, np.zeros((50, 4), dtype=np.float32))
    with pytest.raises(InputError, match="two rows that are not zero"):
        fd.cosine_stats(path, memory="1GB", resume=folder)
    assert [kept.name for kept in folder.iterdir()] == ["lock"]


def test_far_rows_are_read_once(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "queries": 50,
        "memory": LIMIT["knn"],
        "resume": tmp_path / "state",
    }
    found = fd.knn(rows, 3, **arguments)
    monkeypatch.setattr("fastdim.arrays.Rows.distances_from", None)
    again = fd.knn(rows, 3, **arguments)
    assert found.far is not None
    np.testing.assert_array_equal(again.far, found.far)
    np.testing.assert_array_equal(again.queries, found.queries)
