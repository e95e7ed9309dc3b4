"""Activations made elsewhere: .npy, .npz and .safetensors files, or a folder of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastdim.arrays import Rows, as_rows
from fastdim.errors import InputError, StoreError
from fastdim.extract.shards import DTYPES, read_header, read_into, storage_type
from fastdim.extract.store import MANIFEST

Loader = Callable[[], Rows]
FLOATS = ("float16", "bfloat16", "float32", "float64")


def open_activations(path: Path) -> dict[str, Loader]:
    """The matrices (rows, columns) of a file or folder, by name, each read when it is called for.

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
            f"{file.stem}/{name}" if len(files) > 1 else name: loader
            for file in files
            for name, loader in open_activations(file).items()
        }
    if path.suffix not in _OPENERS:
        raise InputError(f"{path}: one of {', '.join(_OPENERS)} is read, not {path.suffix!r}")
    found = _OPENERS[path.suffix](path)
    if not found:
        raise InputError(f"{path} holds no two-dimensional matrix (rows, columns) of floats")
    return found


def _npy(path: Path) -> dict[str, Loader]:
    def load() -> Rows:
        try:
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is no readable .npy file: {error}") from error
        return as_rows(data, name=str(path))

    return {path.stem: load}


def _npz(path: Path) -> dict[str, Loader]:
    def loader(name: str) -> Loader:
        def load() -> Rows:
            with np.load(path, allow_pickle=False) as archive:
                return as_rows(archive[name], name=f"{path}:{name}")

        return load

    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if archive[name].ndim == 2]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is no readable .npz file: {error}") from error
    return {name: loader(name) for name in names}


def _safetensors(path: Path) -> dict[str, Loader]:
    def loader(name: str) -> Loader:
        def load() -> Rows:
            entry = read_header(path)[name]
            data = np.empty(entry.shape, dtype=storage_type(entry.dtype))
            read_into(path, entry, data)
            return as_rows(Rows(data, entry.dtype), name=f"{path}:{name}")

        return load

    known = {name for _, name in DTYPES.values()}
    return {
        name: loader(name)
        for name, entry in read_header(path).items()
        if len(entry.shape) == 2 and entry.dtype in known and entry.dtype in FLOATS
    }


_OPENERS: dict[str, Callable[[Path], dict[str, Loader]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
