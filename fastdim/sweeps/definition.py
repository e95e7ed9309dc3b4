"""What a run computes: every option that can change a number, and the hash that names it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastdim.errors import StoreError
from fastdim.extract.shards import file_sha256
from fastdim.sweeps.schema import SCHEMA_VERSION

# Packages whose version can change a number. Python's own version is recorded, not compared.
VERSIONED = ("fastdim", "numpy", "torch", "transformers")

# Fields of an approximate search of neighbours.
APPROXIMATE = ("backend", "index", "target_recall")


def installed_version(package: str) -> str:
    """Version from the package's metadata, without importing it; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def installed_versions() -> dict[str, str]:
    """Version of each package in `VERSIONED`."""
    return {name: installed_version(name) for name in VERSIONED}


@dataclass(frozen=True)
class Definition:
    """Everything that decides the numbers of a run.

    Left out on purpose: threads, formats, progress and whether activations are kept. They change
    the time and the files, not the table. The batch size stays in: a matrix product over another
    batch shape may round differently.
    """

    kind: str  # "sweep" (activations of a model) or "profile" (activations from elsewhere)
    model: str  # as it was given
    model_sha256: str  # of the local files or of the weights in memory; "" for a hub name
    filters: tuple[str, ...]
    queries: int | None  # None: every distinct row
    pairs: int | None  # None: every pair
    seed: int
    confidence: float
    outlier_factor: float
    revision: str | None = None
    layers: str = "all"
    corpus: str = ""
    corpus_sha256: str = ""
    context: int | None = None
    pack: bool | None = None
    max_tokens: int | None = None
    tokens_per_document: int | None = None
    batch_size: int | None = None
    device: str = ""
    dtype: str | None = None
    store_dtype: str | None = None
    trust_remote_code: bool = False
    backend: str | None = None  # of the neighbours; None: the exact search on the CPU
    index: str | None = None  # with "faiss" and "faiss-gpu", as the next
    target_recall: float | None = None
    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str] = field(default_factory=installed_versions)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` gives an equal definition back.

        Options of an approximate search stand in it where they are used: the hash of other runs is
        what it was before there were any.
        """
        found = {**asdict(self), "filters": list(self.filters)}
        for name in APPROXIMATE:
            if found[name] is None:
                del found[name]
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Definition:
        """Inverse of `to_json`."""
        return cls(**{**data, "filters": tuple(data["filters"])})

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON form: the name of the run."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


# The option that sets a field, where its name differs from the field's.
_OPTION = {"corpus": "--texts", "corpus_sha256": "the texts' content"}
_OPTION.update({"model": "MODEL", "model_sha256": "the model's files", "filters": "--filter"})
_OPTION.update({"schema_version": "fastdim's table format", "pack": "--pack / --no-pack"})


def require_same(stored: dict[str, Any], wanted: Definition, folder: Path) -> None:
    """Raise StoreError naming each field in which the folder's run differs from `wanted`."""
    new = wanted.to_json()
    if stored.get("kind") != new["kind"]:
        raise StoreError(
            f"{folder} holds a run of `fastdim {stored.get('kind')}`, this is `fastdim"
            f" {new['kind']}`. Use another output folder."
        )
    lines = []
    for name in sorted(set(stored) | set(new)):
        if name == "versions":
            before, now = stored.get(name) or {}, new[name]
            for package in sorted(set(before) | set(now)):
                if before.get(package) != now.get(package):
                    lines.append(
                        f"version of {package}: {before.get(package) or 'none'} there,"
                        f" {now.get(package) or 'none'} now"
                    )
        elif stored.get(name) != new.get(name) and name.endswith("_sha256"):
            lines.append(f"{_OPTION[name]} changed")
        elif stored.get(name) != new.get(name):
            option = _OPTION.get(name, "--" + name.replace("_", "-"))
            lines.append(f"{option}: {stored.get(name)!r} there, {new.get(name)!r} now")
    if lines:
        raise StoreError(
            f"{folder} holds another run; these differ:\n  "
            + "\n  ".join(lines)
            + "\nUse another output folder, or the options the run was started with."
        )


def sha256_of_files(paths: Iterable[Path], root: Path) -> str:
    """Hash over the relative names and the contents of files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(file_sha256(path).encode())
    return digest.hexdigest()


def python_version() -> str:
    """Version of the running interpreter."""
    return platform.python_version()
