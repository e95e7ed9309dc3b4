"""open_rows: what lies on disk as one matrix, and what is refused."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import gaussian, in_dtype, token_like

import fastdim as fd
from fastdim import InputError, ModelError, StoreError, open_rows
from fastdim.arrays import as_unchecked_rows
from fastdim.disk import groups
from fastdim.disk.tiles import Matrix, Tiles, touch
from fastdim.extract.shards import write_shard


def values(rows: fd.DiskRows) -> np.ndarray:
    out = rows.empty(rows.n)
    rows.copy(0, rows.n, out)
    return out


@pytest.fixture
def x() -> np.ndarray:
    return token_like(120, 9)


def test_files_folders_and_lists(tmp_path: Path, x: np.ndarray) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    np.save(folder / "a.npy", x[:50])
    write_shard(folder / "b.safetensors", {"x": ("float32", x[50:51])})
    np.save(folder / "c.npy", x[51:51])
    np.save(folder / "d.npy", x[51:])
    np.save(tmp_path / "whole.npy", x)
    whole = np.load(tmp_path / "whole.npy", mmap_mode="r")
    cases: list[tuple[Any, np.ndarray]] = [
        (folder, x),
        (str(folder), x),
        (tmp_path / "whole.npy", x),
        (whole, x),
        ([x[:7], folder / "d.npy"], np.concatenate([x[:7], x[51:]])),
        ((tmp_path / "whole.npy", whole), np.concatenate([x, x])),
        (whole[10:90:3], x[10:90:3]),
        (whole[:, 2:5], x[:, 2:5]),
    ]
    for given, expected in cases:
        rows = open_rows(given)
        np.testing.assert_array_equal(values(rows), expected)
        assert open_rows(rows) is rows
        ids = np.array([0, 1, rows.n // 2, rows.n - 1])
        np.testing.assert_array_equal(rows.take(ids).data, expected[ids])


def test_the_code_of_the_page_runs() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "large-sets.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/large-sets.md", "exec"), {})


def test_copies_of_any_range(x: np.ndarray) -> None:
    rows = open_rows([x[:50], x[50:51], x[51:53], x[53:]])
    for start in range(0, 120, 7):
        for stop in range(start, 121, 5):
            out = rows.empty(stop - start)
            rows.copy(start, stop, out)
            np.testing.assert_array_equal(out, x[start:stop])


def test_the_shards_of_a_sweep(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
    batches = [torch.from_numpy(gaussian(20, 4, seed).astype(np.float32)) for seed in range(3)]
    store = fd.extract_modules(model, batches, ["0", "1"], tmp_path / "store", max_rows=60)
    for layer in (0, 1):
        rows = open_rows(tmp_path / "store", layer=layer)
        np.testing.assert_array_equal(values(rows), store.rows(layer).data)
        found = fd.knn(rows, memory="1GB")
        np.testing.assert_array_equal(found.indices, fd.knn(store.rows(layer)).indices)
    with pytest.raises(InputError, match="holds the layers 0, 1: name one"):
        open_rows(tmp_path / "store")
    with pytest.raises(ModelError, match="no layer 7"):
        open_rows(tmp_path / "store", layer=7)
    shard = sorted((tmp_path / "store").glob("shard*"))[0]
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match="no readable safetensors"):
        open_rows(tmp_path / "store", layer=1)


def test_bfloat16_of_a_file(tmp_path: Path, x: np.ndarray) -> None:
    rows = in_dtype(x, "bfloat16")
    write_shard(tmp_path / "x.safetensors", {"x": ("bfloat16", rows.data)})
    found = fd.knn(tmp_path / "x.safetensors", memory="1GB")
    np.testing.assert_array_equal(found.distances, fd.knn(rows).distances)


def refused(tmp_path: Path, x: np.ndarray) -> dict[str, tuple[Any, type[Exception], str]]:
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    np.save(tmp_path / "i.npy", x.astype(int))
    np.save(tmp_path / "one.npy", x[0])
    np.savez(tmp_path / "z.npz", x=x)
    np.save(tmp_path / "cut.npy", x)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    two = {"a": ("float32", x), "b": ("float32", x)}
    write_shard(tmp_path / "two.safetensors", two)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("rows")
    return {
        "nothing": (tmp_path / "none.npy", InputError, "there is no file or folder"),
        "column by column": (tmp_path / "f.npy", InputError, "column by column"),
        "integers": (tmp_path / "i.npy", InputError, "holds no matrix"),
        "one axis": (tmp_path / "one.npy", InputError, "holds no matrix"),
        "archive": (tmp_path / "z.npz", InputError, "cannot be mapped"),
        "cut off": (tmp_path / "cut.npy", StoreError, "ends early"),
        "two matrices": (tmp_path / "two.safetensors", InputError, "2 matrices"),
        "empty folder": (tmp_path / "empty", InputError, "holds no .npy"),
        "text": (tmp_path / "text.txt", InputError, "is read, not '.txt'"),
        "no list": ([], InputError, "empty list"),
        "no rows": (x[:0], InputError, "no rows"),
        "other columns": ([x, x[:, :3]], InputError, "part 1 of x has 3 columns"),
        "other type": ([x, x.astype("float64")], InputError, "part 1 of x has 9 columns of float"),
        "transposed": (x.T, InputError, "column by column"),
        "tensor": (torch.ones(4, 4), InputError, "leave memory out"),
        "masked": (np.ma.masked_array(x), InputError, "leave memory out"),
        "layer of no sweep": ([x, tmp_path / "f.npy"], InputError, "column by column"),
    }


def test_what_is_no_matrix_on_disk(tmp_path: Path, x: np.ndarray) -> None:
    for given, kind, message in refused(tmp_path, x).values():
        with pytest.raises(kind, match=message):
            open_rows(given)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match="it has no layer 2"):
        open_rows(tmp_path / "x.npy", layer=2)
    for given in (x, open_rows(x)):
        with pytest.raises(InputError, match="an array has no layer 2"):
            open_rows(given, layer=2)


def test_foreign_byte_order_is_not_copied(x: np.ndarray) -> None:
    with pytest.raises(InputError, match="foreign byte order"):
        as_unchecked_rows(x.astype(">f4"), "x")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_groups_are_those_of_the_kernel(dtype: str) -> None:
    x = np.random.default_rng(2).integers(-1, 2, (900, 4)).astype(np.float32)
    x[5], x[6] = 0.0, -0.0
    rows = in_dtype(x, dtype)
    first, inverse = groups.find(open_rows(rows), 2)
    expected = fd.neighbors.find_distinct(rows, 2)
    np.testing.assert_array_equal(first, expected.first)
    np.testing.assert_array_equal(inverse, expected.inverse)
    assert len(first) < 82  # of 3^4


def test_reading_ahead_touches_every_row_and_stops(x: np.ndarray) -> None:
    matrix = Matrix(open_rows([x[:50], x[50:]]))
    event = threading.Event()
    assert touch(matrix, 10, 115, event) == 105
    assert touch(Matrix(matrix.source, np.array([3, 40, 90])), 1, 3, event) == 51
    event.set()
    assert touch(matrix, 10, 115, event) == 0


def test_tiles_keep_what_they_hold(x: np.ndarray) -> None:
    tiles = Tiles(Matrix(open_rows(x)), 60, 2)
    try:
        tiles.load([(0, 20), (20, 50)])
        tiles.buffer[:20] = -1.0  # would be lost if it were read again
        rows = tiles.load([(0, 20), (60, 100)])
        assert (rows.data[:20] == -1.0).all()
        np.testing.assert_array_equal(rows.data[20:], x[60:100])
        rows = tiles.load([(100, 120), (60, 100)])
        np.testing.assert_array_equal(rows.data, np.concatenate([x[100:], x[60:100]]))
    finally:
        tiles.close()


def test_an_error_while_reading_ahead_comes_out(
    monkeypatch: pytest.MonkeyPatch, x: np.ndarray
) -> None:
    def fail(*_: Any) -> int:
        raise OSError("the disk is gone")

    monkeypatch.setattr("fastdim.disk.tiles.touch", fail)
    tiles = Tiles(Matrix(open_rows(x)), 60, 1)
    try:
        tiles.ahead(0, 60)
        with pytest.raises(OSError, match="the disk is gone"):
            tiles.load([(0, 60)])
    finally:
        tiles.close()
