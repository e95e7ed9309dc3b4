"""Activations made elsewhere: .npy, .npz and .safetensors files, or a folder of them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastdim.arrays import Rows
from fastdim.errors import InputError, StoreError
from fastdim.extract.shards import read_header, read_into, storage_type
from fastdim.extract.store import MANIFEST

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Matrix:
    """A matrix (n, d) in a file, known by its header alone.

    load: reads it, as `as_rows` takes it; values are not looked at before.
    """

    n: int
    d: int
    dtype: str
    load: Callable[[], Any]


# Shape, number type and reader of an array in a file.
Found = tuple[tuple[int, ...], str, Callable[[], Any]]


def open_activations(path: Path) -> dict[str, Matrix]:
    """The matrices (rows, columns) of a file or folder, by name.

    .npy is mapped, not read; of .npz and .safetensors every two-dimensional floating-point tensor
    counts; a folder stands for the files of these kinds in it, in order of their names.

    Raises InputError if the path is not there, of another kind, or holds no matrix; StoreError on
    a damaged file.
    """
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    if path.is_dir():
        if (path / MANIFEST).is_file():
            raise InputError(f"{path} was written by a sweep: open it as a store")
        files = sorted(item for item in path.iterdir() if item.suffix in _OPENERS)
        if not files:
            raise InputError(f"{path} holds no {', '.join(_OPENERS)} file")
        return {
            f"{file.stem}/{name}" if len(files) > 1 else name: matrix
            for file in files
            for name, matrix in open_activations(file).items()
        }
    if path.suffix not in _OPENERS:
        raise InputError(f"{path}: one of {', '.join(_OPENERS)} is read, not {path.suffix!r}")
    try:
        found = _OPENERS[path.suffix](path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is no readable {path.suffix} file: {error}") from error
    matrices = {
        name: Matrix(shape[0], shape[1], dtype, load)
        for name, (shape, dtype, load) in found.items()
        if len(shape) == 2 and dtype in FLOATS
    }
    if not matrices:
        there = "; ".join(
            f"{name}: {' x '.join(map(str, shape)) or 'one value'}, {dtype}"
            for name, (shape, dtype, _) in found.items()
        )
        raise InputError(
            f"{path} holds no matrix (rows, columns) of {', '.join(FLOATS)} (it holds "
            f"{there or 'nothing'}): reshape to two axes, convert integers, save again"
        )
    return matrices


def _npy(path: Path) -> dict[str, Found]:
    with path.open("rb") as file:
        shape, dtype = _npy_header(file)
        held = path.stat().st_size - file.tell()
    if dtype in FLOATS and held < (wanted := math.prod(shape) * np.dtype(dtype).itemsize):
        raise ValueError(f"it ends early: {held} of {wanted} bytes of data are there")

    def load() -> Any:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    return {path.stem: (shape, dtype, load)}


def _npz(path: Path) -> dict[str, Found]:
    def loader(name: str) -> Callable[[], Any]:
        def load() -> Any:
            with np.load(path, allow_pickle=False) as archive:
                return archive[name]

        return load

    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                found[name] = (*_npy_header(file), loader(name))
    return found


def _safetensors(path: Path) -> dict[str, Found]:
    def loader(name: str) -> Callable[[], Any]:
        def load() -> Any:
            entry = read_header(path)[name]
            data = np.empty(entry.shape, dtype=storage_type(entry.dtype))
            read_into(path, entry, data)
            return Rows(data, entry.dtype)

        return load

    entries = read_header(path).items()
    return {name: (entry.shape, entry.dtype, loader(name)) for name, entry in entries}


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], str]:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    return shape, dtype.name


_OPENERS: dict[str, Callable[[Path], dict[str, Found]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
