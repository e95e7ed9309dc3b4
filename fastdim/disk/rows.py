"""A matrix on disk: mapped, never read whole. Memmaps, .npy and .safetensors files, folders."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Rows, as_unchecked_rows, check_finite
from fastdim.errors import InputError, StoreError
from fastdim.extract.files import FLOATS, open_activations
from fastdim.extract.shards import Entry, read_header, storage_type
from fastdim.extract.store import MANIFEST, Store

Int64 = NDArray[np.int64]

# Rows that tell two data sets with the same files, sizes and times apart.
SAMPLED_ROWS = 256


@dataclass(frozen=True, eq=False)
class DiskRows:
    """Rows (n, d) of one dtype in consecutive parts, which lie on disk or in memory.

    parts: at least one. files: (path, bytes, time of change) of each file they lie in; "" and zeros
    for an array that belongs to no known file, or can be written.
    """

    parts: tuple[Rows, ...]
    files: tuple[tuple[str, int, int], ...]
    starts: Int64 = field(init=False)

    def __post_init__(self) -> None:
        first = self.parts[0]
        for number, part in enumerate(self.parts):
            if part.d != first.d or part.dtype != first.dtype:
                raise InputError(
                    f"part {number} of x has {part.d} columns of {part.dtype}, and the first has "
                    f"{first.d} of {first.dtype}: give parts of one matrix"
                )
        ends = np.cumsum([0] + [part.n for part in self.parts])
        object.__setattr__(self, "starts", ends.astype(np.int64))

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    @property
    def d(self) -> int:
        """Number of columns."""
        return self.parts[0].d

    @property
    def dtype(self) -> str:
        """Number type, as of `Rows`."""
        return self.parts[0].dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without what may lie between rows."""
        return self.d * self.parts[0].data.itemsize

    def empty(self, count: int) -> NDArray[Any]:
        """An array for so many rows."""
        return np.empty((count, self.d), dtype=self.parts[0].data.dtype)

    def pieces(self, start: int, stop: int) -> list[tuple[NDArray[Any], int]]:
        """Rows start..stop as they lie: array and place of its first row counted from `start`."""
        found = []
        part = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            begin, end = int(self.starts[part]), min(stop, int(self.starts[part + 1]))
            if end > start:
                found.append((self.parts[part].data[start - begin : end - begin], start))
            start, part = max(start, end), part + 1
        offset = found[0][1] if found else 0
        return [(data, place - offset) for data, place in found]

    def copy(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Rows start..stop into `out`."""
        for data, place in self.pieces(start, stop):
            out[place : place + len(data)] = data

    def gather(self, ids: Int64, out: NDArray[Any]) -> None:
        """The rows with these ascending numbers into `out`."""
        owners = np.searchsorted(self.starts, ids, side="right") - 1
        for part in np.unique(owners):
            first, last = np.searchsorted(owners, [part, part + 1])
            out[first:last] = self.parts[part].data[ids[first:last] - self.starts[part]]

    def take(self, ids: Int64) -> Rows:
        """A copy of the rows with these ascending numbers."""
        out = self.empty(len(ids))
        self.gather(ids, out)
        return Rows(out, self.dtype)

    def check_finite(self) -> None:
        """Raise the InputError of `as_rows` on NaN, Inf, or values whose squares overflow."""
        check_finite(self.parts, "x")

    def identity(self) -> dict[str, Any]:
        """What a search that goes on compares: shape; of files sizes, times and some of the rows;
        of arrays that lie in no file all of them.
        """
        chosen = np.unique(np.linspace(0, self.n - 1, SAMPLED_ROWS).astype(np.int64))
        digest = hashlib.sha256(self.take(chosen).data.tobytes())
        for part, file in zip(self.parts, self.files, strict=True):
            if not file[0]:
                for start, stop in part.spans():
                    digest.update(np.ascontiguousarray(part.data[start:stop]).data)
        return {
            "n": self.n,
            "d": self.d,
            "dtype": self.dtype,
            "files": [list(file) for file in self.files],
            "rows_sha256": digest.hexdigest(),
        }


def open_rows(x: Any, layer: int | None = None) -> DiskRows:
    """The matrix that lies in x, mapped.

    x: an array or memmap (n, d); the path of a .npy or .safetensors file with one matrix; a folder
        of such files, taken in the order of their names; the activations of a sweep; or a list of
        arrays and paths, one under the other. layer: number of the layer, of a sweep's activations.

    Raises InputError on anything else, on parts that do not fit together, and on arrays that would
    have to be copied; StoreError on a file that is damaged or cut off.
    """
    if isinstance(x, DiskRows) and layer is None:
        return x
    items = list(x) if isinstance(x, (list, tuple)) else [x]
    if not items:
        raise InputError("x is an empty list: give arrays or paths of at least one row")
    found = [part for item in items for part in _open(item, layer)]
    filled = [part for part in found if part[0].n]
    if not filled or filled[0][0].d < 1:
        raise InputError("x holds no rows")
    return DiskRows(tuple(part for part, _ in filled), tuple(file for _, file in filled))


_Part = tuple[Rows, tuple[str, int, int]]


def _open(item: Any, layer: int | None) -> list[_Part]:
    if isinstance(item, (str, Path)):
        return _open_path(Path(item), layer)
    if layer is not None:
        raise InputError(
            f"an array has no layer {layer}: leave layer out, or give a sweep's folder"
        )
    if isinstance(item, Rows):
        return [(item, ("", 0, 0))]
    if isinstance(item, np.ndarray) and not isinstance(item, np.ma.MaskedArray):
        return [(as_unchecked_rows(item, "x"), _file_behind(item))]
    raise InputError(
        f"memory= reads numpy arrays, memmaps and paths, not {type(item).__name__}: other arrays "
        "lie in memory already, so leave memory out"
    )


def _open_path(path: Path, layer: int | None) -> list[_Part]:
    if (path / MANIFEST).is_file():
        store = Store.open(path)
        if layer is None:
            if len(store.sites) > 1:
                numbers = ", ".join(str(site.layer) for site in store.sites)
                raise InputError(
                    f"{path} holds the layers {numbers}: name one, open_rows(path, layer=...)"
                )
            layer = store.sites[0].layer
        return [_map(file, entry) for file, entry in store.mapped(layer)]
    if layer is not None:
        raise InputError(f"{path} holds no activations of a sweep, so it has no layer {layer}")
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix in (".npy", ".safetensors"))
        if not files:
            raise InputError(f"{path} holds no .npy or .safetensors file")
        return [part for file in files for part in _open_path(file, None)]
    if path.suffix == ".npz":
        raise InputError(f"{path} is an archive, which cannot be mapped: save .npy files instead")
    matrices = open_activations(path)  # the errors for what is no matrix
    if path.suffix == ".safetensors":
        entries = read_header(path)
        names = [name for name, entry in entries.items() if _is_matrix(entry)]
        if len(names) > 1:
            raise InputError(f"{path} holds {len(names)} matrices ({', '.join(names)}), not one")
        return [_map(path, entries[names[0]])]
    (matrix,) = matrices.values()
    array = matrix.load()
    _read_on(array)
    return [(as_unchecked_rows(array, str(path)), _file_of(path))]


def _is_matrix(entry: Entry) -> bool:
    return len(entry.shape) == 2 and entry.dtype in FLOATS


def _map(path: Path, entry: Entry) -> _Part:
    n, d = entry.shape
    if math.prod(entry.shape) == 0:  # nothing can be mapped
        return Rows(np.empty((n, d), storage_type(entry.dtype)), entry.dtype), _file_of(path)
    try:
        data = np.memmap(path, storage_type(entry.dtype), "r", entry.offset, (n, d))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be mapped: {error}") from error
    if not data.flags.aligned:
        raise StoreError(f"{path} holds its matrix at an odd address: save it again")
    _read_on(data)
    return Rows(np.asarray(data), entry.dtype), _file_of(path)


def _read_on(array: NDArray[Any]) -> None:
    """Tell the system that a map made here is read in order."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_SEQUENTIAL"):
        mapping.madvise(mmap.MADV_SEQUENTIAL)


def _file_behind(array: NDArray[Any]) -> tuple[str, int, int]:
    """The file that a memmap shows: none of one that can be written (a copy-on-write map differs
    from its file, and tmpfs keeps no time of what is written through a map), or whose file is gone.
    """
    name = getattr(array, "filename", None)
    if not name or getattr(array, "mode", "") != "r" or not Path(name).is_file():
        return "", 0, 0
    return _file_of(Path(name))


def _file_of(path: Path) -> tuple[str, int, int]:
    found = os.stat(path)
    return str(path.resolve()), found.st_size, found.st_mtime_ns
