"""The folder of an extraction: shards written whole, and the manifest that lists them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastdim.errors import StoreError
from fastdim.extract.shards import read_header, storage_errors, write_json, write_shard
from fastdim.extract.store import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    TOKEN_COLUMNS,
    TOKENS,
    Store,
    read_manifest,
)

# Names this module gives; a file of another name is somebody else's.
_SHARD = re.compile(r"(?:shard|kept)-(\d{6,})\.safetensors")
_OWN_TEMPORARY = re.compile(r"(?:shard-\d{6,}\.safetensors|manifest\.json)\.tmp")

Tensors = Mapping[str, tuple[str, NDArray[Any]]]


class ShardWriter:
    """Writes the shards of one definition, those missing alone. Made by `open_shards`.

    A shard counts once the manifest lists it: whatever a killed writer left besides is written
    over or removed.
    """

    def __init__(self, directory: Path, definition: dict[str, Any]) -> None:
        self.directory = directory
        self.definition = definition
        self.shards = self._finished()

    def _finished(self) -> dict[int, dict[str, Any]]:
        """Listed shards of this definition that are still there, by number."""
        manifest = read_manifest(self.directory)
        if manifest is None:
            # The first shard is listed before the second is written.
            foreign = sorted(
                path.name
                for path in self.directory.iterdir()
                if not (_OWN_TEMPORARY.fullmatch(path.name) or _is_first_shard(path))
            )
            if foreign:
                raise StoreError(
                    f"{self.directory} is not empty and holds no activations ({foreign[0]}): "
                    "choose another folder"
                )
            return {}
        there = manifest["definition"]
        if there != self.definition:
            keys = sorted({*there, *self.definition})
            differ = [key for key in keys if there.get(key) != self.definition.get(key)]
            raise StoreError(
                f"{self.directory} holds other activations (they differ in {', '.join(differ)}): "
                "choose another folder, or the options they were made with"
            )
        return _listed(self.directory, manifest)

    def write(
        self, number: int, tensors: Tensors, rows: list[int], *, kind: str = "shard", **beside: Any
    ) -> None:
        """Write a shard and list it; `rows` counts the rows of each grid, `beside` goes with it."""
        before = self.shards.get(number)
        name = f"{kind}-{number:06d}.safetensors"
        if before is not None and before["file"] == name:
            # Beside it: a listed file that changed would not be what the manifest says.
            name = f"{'shard' if kind == 'kept' else 'kept'}-{number:06d}.safetensors"
        digest = write_shard(self.directory / name, tensors)
        self.shards[number] = {
            "file": name,
            "rows": rows[0],
            **({"grid_rows": rows} if len(rows) > 1 else {}),
            "nbytes": (self.directory / name).stat().st_size,
            "sha256": digest,
            **beside,
        }
        self._list(complete=False)
        if before is not None:
            with storage_errors(self.directory):
                (self.directory / before["file"]).unlink()

    def listed(self) -> list[dict[str, Any]]:
        """The shards as the manifest lists them, in order of their numbers."""
        return [self.shards[number] for number in sorted(self.shards)]

    def finish(self, token_text: Mapping[int, str]) -> Store:
        """Write the texts of the tokens, mark the folder complete and open it."""
        write_json(
            self.directory / TOKENS, {str(token): text for token, text in token_text.items()}
        )
        self._list(complete=True)
        listed = {shard["file"] for shard in self.listed()}
        with storage_errors(self.directory):
            for path in self.directory.iterdir():
                if _SHARD.fullmatch(path.name) and path.name not in listed:
                    path.unlink()
        return Store.open(self.directory)

    def _list(self, *, complete: bool) -> None:
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": complete,
            "definition": self.definition,
            "shards": self.listed(),
        }
        write_json(self.directory / MANIFEST, content)


def _listed(directory: Path, manifest: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Shards of the manifest that are still there, by number."""
    return {
        int(named[1]): shard
        for shard in manifest["shards"]
        if (named := _SHARD.fullmatch(shard["file"])) and (directory / shard["file"]).is_file()
    }


def finished_shards(directory: Path) -> set[int]:
    """Numbers of the shards that need not be made again; none where there is no folder yet.

    Raises StoreError if the manifest is not readable.
    """
    manifest = read_manifest(directory)
    return set() if manifest is None else set(_listed(directory, manifest))


def _is_first_shard(path: Path) -> bool:
    """Whether this is a shard that a killed writer finished and could not list any more."""
    if path.name != "shard-000000.safetensors":
        return False
    return read_header(path).keys() >= TOKEN_COLUMNS.keys()


@contextlib.contextmanager
def open_shards(directory: Path, definition: dict[str, Any]) -> Iterator[ShardWriter]:
    """Lock a folder of shards for writing; it must hold this definition or no activations.

    The lock is the kernel's (flock) and ends with the process. Raises StoreError if the folder is
    locked, holds other activations or cannot be written.
    """
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another process is writing activations to {directory}: wait for it to end, or "
                "choose another folder"
            ) from error
        yield ShardWriter(directory, definition)
    finally:
        os.close(descriptor)
