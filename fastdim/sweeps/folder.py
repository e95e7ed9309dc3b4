"""A run's folder on disk: one definition, one writer at a time, every file written whole.

run.json       the definition and its hash          pieces/*.json  one layer x filter each
sample.json    sites, documents, dtype as extracted  timings.json   seconds a stage
activations/   the store of hidden states            results.*      report.*  profiles.png
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastdim.errors import FastdimError, StoreError
from fastdim.extract.shards import storage_errors, write_bytes
from fastdim.extract.store import MANIFEST
from fastdim.sweeps.definition import Definition, python_version, require_same

_KNOWN = ("run.json", "lock")
# What `write_bytes` leaves of a run's own files where it is killed.
_TEMPORARY = tuple(
    f"{name}.tmp"
    for name in (
        *("run.json", "sample.json", "timings.json", "results.csv", "results.parquet"),
        *("report.html", "report.json", "profiles.png", "causes.csv"),
    )
)
# Activations that a rank of several made, and how many there were.
_PART = re.compile(r"activations-(\d+)-of-(\d+)")


def write_json(path: Path, data: Any) -> None:
    """Write strict JSON (NaN refused) atomically; floats keep every digit."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; a damaged one raises StoreError naming it."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}). Delete it and start the same command again."
        ) from error


class RunFolder:
    """Paths and files of one run. Create with `open_run` (writer) or directly (reader)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces = path / "pieces"
        self.activations = path / "activations"

    def definition(self) -> Definition:
        """The definition the folder was made for."""
        try:
            return Definition.from_json(self.run()["definition"])
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{self.path / 'run.json'} was written by another version of fastdim ({error!r});"
                " read it with that version, or run the sweep again into another folder."
            ) from error

    def run(self) -> dict[str, Any]:
        """Content of run.json."""
        if not (self.path / "run.json").is_file():
            raise StoreError(
                f"{self.path} holds no fastdim run (no run.json). Give the folder that was the"
                " --output of `fastdim sweep` or `fastdim profile`."
            )
        data: dict[str, Any] = read_json(self.path / "run.json")
        return data

    def write_run(self, definition: Definition, python: str) -> None:
        """Write run.json: the definition, its hash, and the Python it was started with."""
        data = {"definition": definition.to_json(), "sha256": definition.sha256}
        write_json(self.path / "run.json", {**data, "python_version": python})

    def sample(self) -> dict[str, Any] | None:
        """Content of sample.json, or None before the sample was fixed."""
        path = self.path / "sample.json"
        return read_json(path) if path.is_file() else None

    def piece_path(self, layer: int, filter_name: str) -> Path:
        """Where the finished piece of one layer and filter lies."""
        return self.pieces / f"{layer:04d}-{filter_name}.json"

    def piece(self, layer: int, filter_name: str, sha256: str) -> dict[str, Any] | None:
        """The finished piece, or None. One that another definition wrote raises StoreError."""
        path = self.piece_path(layer, filter_name)
        if not path.is_file():
            return None
        piece: dict[str, Any] = read_json(path)
        if piece.get("definition") != sha256:
            raise StoreError(f"{path} belongs to another run. Delete it and start again.")
        return piece

    def timings(self) -> dict[str, float]:
        """Seconds a stage, summed over every start of this run."""
        path = self.path / "timings.json"
        return read_json(path) if path.is_file() else {}

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to a stage's time."""
        timings = self.timings()
        timings[stage] = timings.get(stage, 0.0) + seconds
        write_json(self.path / "timings.json", timings)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage, also when it is interrupted."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - start)

    def discard(self, made: Sequence[Path]) -> None:
        """Take back a run that has computed nothing, and of the folders `made` those left empty."""
        for path in self._activation_folders():  # without a manifest: not one batch was finished
            with storage_errors(path):
                shutil.rmtree(path)
        with storage_errors(self.path):
            self.pieces.rmdir()
            for name in ("timings.json", "run.json", "lock"):
                (self.path / name).unlink(missing_ok=True)
            for path in made:
                if any(path.iterdir()):
                    break
                path.rmdir()

    def part(self, rank: int, size: int) -> Path:
        """Where one of several processes keeps the hidden states that it made."""
        return self.path / f"activations-{rank}-of-{size}"

    def _activation_folders(self) -> list[Path]:
        inside = [path for path in self.path.iterdir() if _PART.fullmatch(path.name)]
        return [path for path in (self.activations, *inside) if path.exists()]

    def has_activations(self) -> bool:
        """Whether a batch of the model was finished, here or by one of several processes."""
        return any((path / MANIFEST).is_file() for path in self._activation_folders())

    def remove_activations(self) -> None:
        """Delete the hidden states; pieces and results stay."""
        if self.activations.exists():  # a run that is called again has none any more
            with storage_errors(self.activations):
                shutil.rmtree(self.activations)


def check_output(path: Path, definition: Definition | None = None) -> None:
    """Raise StoreError unless `path` can hold this run: new, empty, or the same run's folder.

    Changes nothing on disk, so it can be called before anything expensive.
    """
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise StoreError(f"{parent} is a file; the output must be a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write into {parent}: permission denied. Choose another output.")
    if not path.exists():
        return
    if (path / "run.json").is_file():
        if definition is not None:
            require_same(RunFolder(path).run()["definition"], definition, path)
        return
    others = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name not in _KNOWN
        and entry.name not in _TEMPORARY
        and not _PART.fullmatch(entry.name)
    )
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise StoreError(
            f"{path} is not empty and holds no fastdim run ({shown}). Choose another output folder"
            " or empty this one."
        )


def lock_folder(path: Path) -> int:
    """The descriptor of the folder's lock file, locked; both are made if they are not there."""
    while True:
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreError(
                f"another process ({owner or 'unknown'}) is writing to {path}. Wait for it to end,"
                " or choose another output folder."
            ) from error
        # A run that was taken back since the file was opened has removed it: another's file of
        # this name would be another lock.
        if os.fstat(descriptor).st_nlink:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}".encode(), 0)
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def open_run(path: Path, definition: Definition) -> Iterator[RunFolder]:
    """Lock the folder for writing and make sure that it holds this definition or nothing.

    The lock is the kernel's (flock): it ends with the process, however that ends.
    """
    check_output(path, definition)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    descriptor = lock_folder(path)
    try:
        check_output(path, definition)
        folder = RunFolder(path)
        if not (path / "run.json").is_file():
            folder.write_run(definition, python_version())
        with storage_errors(path):
            folder.pieces.mkdir(exist_ok=True)
            # Of a writer that was killed: the lock says that there is no other.
            for name in _TEMPORARY:
                (path / name).unlink(missing_ok=True)
            for leftover in folder.pieces.glob("*.tmp"):
                leftover.unlink()
        try:
            yield folder
        except FastdimError:
            # Nothing was computed (unknown layer, no model): the corrected command may have it.
            if folder.sample() is None and not folder.has_activations():
                folder.discard(made)
            raise
    finally:
        os.close(descriptor)
