"""What of an operation is finished, in a folder: a process that was killed goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import FastdimError, InputError, StoreError
from fastdim.extract.shards import (
    read_header,
    read_into,
    storage_type,
    write_json,
    write_shard,
)

DEFINITION = "operation.json"
# What a process may leave that was killed before it had written a definition.
EMPTY = ("lock", f"{DEFINITION}.tmp")
# What is saved before the first tile: equal rows, far ones, norms.
PREPARED = {f"{name}.safetensors" for name in ("groups", "far", "norms")}


class State:
    """Named groups of arrays. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What was saved under a name; None if nothing was. Raises StoreError if it is damaged."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        found = {}
        for key, entry in read_header(path).items():
            found[key] = np.empty(entry.shape, dtype=storage_type(entry.dtype))
            read_into(path, entry, found[key])
        return found

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was saved under a name, in one step. Raises StoreError on a full disk."""
        if self.folder is not None:
            tensors = {key: (array.dtype.name, array) for key, array in arrays.items()}
            write_shard(self.folder / f"{name}.safetensors", tensors)


def plain(argument: Any) -> Any:
    """An argument as JSON holds it: numpy's numbers as Python's, arrays by their SHA-256."""
    if np.ndim(argument):
        array = np.asarray(argument)
        return f"{array.dtype} {hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}"
    return argument.item() if isinstance(argument, np.generic) else argument


@contextmanager
def opened(folder: str | Path | None, definition: Mapping[str, Any]) -> Iterator[State]:
    """The state of this operation, locked for writing; made if it is not there.

    A call that is refused before any tile is finished leaves nothing behind. Raises StoreError if
    the folder holds another operation or something else, or another process writes to it.
    """
    if folder is None:
        yield State(None)
        return
    from fastdim.sweeps.definition import installed_version
    from fastdim.sweeps.folder import lock_folder

    path = Path(folder)
    wanted = {**json.loads(json.dumps(definition)), "version": installed_version("fastdim")}
    if path.is_dir():
        _check(path, wanted)
    descriptor = lock_folder(path)
    try:
        _check(path, wanted)
        # Of a process that was killed: the lock says that there is no other.
        for leftover in [path / f"{DEFINITION}.tmp", *path.glob("*.safetensors.tmp")]:
            leftover.unlink(missing_ok=True)
        if not (path / DEFINITION).is_file():
            write_json(path / DEFINITION, wanted)
        try:
            yield State(path)
        except FastdimError as error:
            kept = {file.name for file in path.glob("*.safetensors")}
            # A call that is refused is so again, and what it prepared serves no other.
            if isinstance(error, InputError) and kept <= PREPARED:
                for name in kept:
                    (path / name).unlink()
                kept = set()
            if not kept:
                (path / DEFINITION).unlink()
            raise
    finally:
        os.close(descriptor)


def _check(path: Path, wanted: dict[str, Any]) -> None:
    """Raise StoreError unless the folder is empty or holds this operation."""
    file = path / DEFINITION
    if not file.is_file():
        others = [p.name for p in path.iterdir() if p.name not in EMPTY]
        if others:
            raise StoreError(
                f"{path} is not empty and holds no unfinished operation ({sorted(others)[0]}): "
                "pass another folder as resume"
            )
        return
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}): delete the folder") from error
    if found != wanted:
        keys = [
            key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]
        ]
        raise StoreError(
            f"{path} was made for another call: {', '.join(keys)} differ; call as "
            "before, or pass another folder as resume"
        )
