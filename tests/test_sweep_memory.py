"""Layers are read into the memory of the layer before, by several threads, and nothing is mixed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import in_dtype, token_like

from fastdim.backends import cpu
from fastdim.errors import StoreError
from fastdim.extract import store as store_module
from fastdim.extract.shards import file_sha256, write_json, write_shard
from fastdim.extract.store import FORMAT, FORMAT_VERSION, MANIFEST, Store
from fastdim.sweeps.reused import Reused
from fastdim.sweeps.source import Source

WIDTHS = (6, 9, 4)
ROWS = (30, 1, 17, 52)


def rows_of(layer: int) -> np.ndarray:
    return token_like(sum(ROWS), WIDTHS[layer]).astype(np.float32) + layer


def store_of(folder: Path) -> Store:
    """Three layers in four shards, as extraction writes them."""
    shards, start = [], 0
    for number, count in enumerate(ROWS):
        stop = start + count
        tensors = {
            f"site/{layer}": ("float32", rows_of(layer)[start:stop]) for layer in range(len(WIDTHS))
        }
        tensors["document"] = ("int64", np.full(count, number))
        tensors["position"] = ("int64", np.arange(count))
        tensors["token"] = ("int64", np.arange(start, stop))
        tensors["special"] = ("uint8", np.zeros(count, dtype=np.uint8))
        name = f"shard-{number:06d}.safetensors"
        digest = write_shard(folder / name, tensors)
        shards.append(
            {
                "file": name,
                "rows": count,
                "nbytes": (folder / name).stat().st_size,
                "sha256": digest,
            }
        )
        start = stop
    sites = [
        {"layer": layer, "site": "block", "block": layer, "module": f"{layer}", "width": width}
        for layer, width in enumerate(WIDTHS)
    ]
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": True,
        "definition": {"sites": sites, "store_dtype": "float32"},
        "shards": shards,
    }
    write_json(folder / MANIFEST, manifest)
    return Store.open(folder)


@pytest.mark.parametrize("threads", [1, 2, 7, None])
def test_shards_read_by_any_number_of_threads_are_the_same(
    threads: int | None, tmp_path: Path
) -> None:
    store = store_of(tmp_path)
    store.threads = threads
    for layer in (2, 0, 1):
        np.testing.assert_array_equal(store.rows(layer).data, rows_of(layer))
    np.testing.assert_array_equal(store.tokens().token, np.arange(sum(ROWS)))


@pytest.mark.parametrize(("threads", "together"), [(1, 1), (2, 2), (7, len(ROWS))])
def test_shards_are_read_side_by_side(
    threads: int, together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path)
    store.threads = threads
    readers: set[int] = set()
    # Nobody reads before as many have come: one after the other, this waits until it fails.
    everyone = threading.Barrier(together, timeout=30)
    for name in ("file_sha256", "read_into"):
        read = getattr(store_module, name)

        def met(*arguments: object, read: Callable[..., object] = read) -> object:
            everyone.wait()
            readers.add(threading.get_ident())
            return read(*arguments)

        monkeypatch.setattr(store_module, name, met)
    np.testing.assert_array_equal(store.rows(2).data, rows_of(2))
    assert (len(readers) == 1) == (together == 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_damaged_shard_is_named(threads: int, tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.threads = threads
    for number in (3, 1):
        path = tmp_path / f"shard-{number:06d}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"shard-000001\.safetensors is corrupted"):
        store.rows(0)
    (tmp_path / "shard-000000.safetensors").unlink()
    with pytest.raises(StoreError, match=r"shard-000000\.safetensors cannot be read"):
        store.verify()


def test_the_checksum_is_that_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdim.extract.shards.HASH_BLOCK", 1000)
    tensors = {"x": ("uint8", np.arange(2500, dtype=np.uint8))}
    digest = write_shard(tmp_path / "x.safetensors", tensors)
    assert file_sha256(tmp_path / "x.safetensors") == digest
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")


def test_a_layer_lies_where_the_one_before_was(tmp_path: Path) -> None:
    source = Source.of_store(store_of(tmp_path))
    first = source.rows(1)
    np.testing.assert_array_equal(first.data, rows_of(1))
    place = first.data.ctypes.data
    for layer in (0, 2, 1):  # none is larger
        again = source.rows(layer)
        assert again.data.ctypes.data == place
        np.testing.assert_array_equal(again.data, rows_of(layer))
    np.testing.assert_array_equal(first.data, again.data)


def test_more_than_before_takes_new_memory() -> None:
    reused = Reused()
    small = reused.empty((3, 4), np.float32)
    small[:] = 1.0
    large = reused.empty((50, 4), "float64")
    large[:] = 2.0
    assert (small == 1.0).all()
    part = reused.empty((2, 2), np.uint16)
    assert (part.dtype, part.shape) == (np.dtype("uint16"), (2, 2))
    assert np.shares_memory(part, large)
    assert reused.empty((0, 5), np.float32).shape == (0, 5)


def test_changed_rows_go_where_they_are_told() -> None:
    rows = in_dtype(token_like(40, 7), "float32")
    norms, ids, reused = rows.norms(), np.arange(1, 39), Reused()
    expected = cpu.divided(rows, ids, norms, 1).data
    for _ in range(2):
        found = cpu.divided(rows, ids, norms, 2, reused.empty).data
        np.testing.assert_array_equal(found, expected)
        assert np.shares_memory(found, reused.empty((1,), np.float32))
        found[:] = np.nan
