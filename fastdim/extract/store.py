"""Activations on disk, read without torch: one layer at a time, each shard checked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastdim.arrays import Empty, Rows
from fastdim.backends.cpu import resolve_threads
from fastdim.errors import ModelError, StoreError
from fastdim.extract.shards import Entry, file_sha256, read_header, read_into, storage_type

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT = "fastdim-activations"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENS = "tokens.json"
TOKEN_COLUMNS = {"document": "int64", "position": "int64", "token": "int64", "special": "uint8"}


@dataclass(frozen=True)
class Site:
    """One place of a model whose rows are taken.

    layer: number of the row in a profile, from 0: the embedding, the blocks, the final norm, and
           for an encoder-decoder the same again for the decoder.
    site: "embedding" (what block 0 reads), "block" (what a block returns), "final_norm", "module".
    block: 0-based index of the block, as PEFT counts; None where there is none.
    module: path of the module in the model that was run; "<block 0>:input" if what block 0 reads
            is no single module's output.
    stack: "encoder" or "decoder" in an encoder-decoder, else "".
    width: columns of a row.
    """

    layer: int
    site: str
    block: int | None
    module: str
    stack: str = ""
    width: int = 0

    @property
    def label(self) -> str:
        """In words, e.g. "layer 13 (block 12, layers.12)"."""
        name = self.site if self.block is None else f"{self.site} {self.block}"
        stack = f"{self.stack} " if self.stack else ""
        return f"layer {self.layer} ({stack}{name}, {self.module})"


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What stands beside the rows of a layer, one entry a row: (n,) arrays.

    document: number of the document; position: within the document, from 0 at its first token;
    token: id, or -1 where the input has no tokens; special: put there by the tokenizer, or a mark
    it keeps for itself ([CLS], an end of text) written out in the text; no unknown word.
    """

    document: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    special: NDArray[np.bool_]


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if it has none. Raises StoreError if it is not readable."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path} is not the manifest of fastdim activations")
    if manifest["format_version"] != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {manifest['format_version']}, this fastdim reads "
            f"{FORMAT_VERSION}: extract again, or use the fastdim that wrote it"
        )
    return manifest


class Store:
    """Rows of every chosen layer and the tokens beside them, as they were extracted.

    Rows come shard by shard: documents in ascending order, positions ascending within. Layers of
    one grid (all, for a transformer) have the same rows; another grid, such as the coarser one of a
    later stage of a convolutional network, has rows and tokens of its own.

    threads: that read shards side by side; None for FASTDIM_NUM_THREADS, else all CPUs.
    """

    threads: int | None = None

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.definition: dict[str, Any] = manifest["definition"]
        self.sites = [Site(**site) for site in self.definition["sites"]]
        self._shards: list[dict[str, Any]] = manifest["shards"]
        grids = self.definition.get("grids") or [0] * len(self.sites)
        self._grids = {site.layer: grid for site, grid in zip(self.sites, grids, strict=True)}
        self._token_tables: dict[int, TokenTable] = {}
        self._verified = False

    @classmethod
    def open(cls, directory: str | Path) -> Store:
        """Open a finished store.

        Raises StoreError if there is none, it is unfinished, or it was written by another format.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if manifest is None:
            raise StoreError(f"{directory} holds no activations: there is no {MANIFEST} in it")
        if not manifest["complete"]:
            raise StoreError(
                f"the activations in {directory} are unfinished ({len(manifest['shards'])} shards "
                "so far): run the command that started them again"
            )
        return cls(directory, manifest)

    @property
    def n_rows(self) -> int:
        """Rows of each layer; of the longest, where layers differ."""
        return max(self.count(site.layer) for site in self.sites)

    def count(self, layer: int) -> int:
        """Rows of a layer."""
        return sum(rows_of_grid(shard, self._grids[layer]) for shard in self._shards)

    @property
    def has_tokens(self) -> bool:
        """Whether token ids and special marks stand beside the rows of every layer."""
        return bool(self.definition.get("tokens", True))

    @property
    def dtype(self) -> str:
        """Number type of the stored rows."""
        return str(self.definition["store_dtype"])

    @property
    def nbytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(shard["nbytes"] for shard in self._shards)

    def site(self, layer: int) -> Site:
        """The site with this layer number. Raises ModelError if it is not in the store."""
        for site in self.sites:
            if site.layer == layer:
                return site
        raise ModelError(
            f"no layer {layer} in {self.directory}; it holds "
            + ", ".join(str(site.layer) for site in self.sites)
        )

    def verify(self) -> None:
        """Compare each shard with its checksum. Raises StoreError naming the first that differs."""
        self._in_threads(self._verify, self._shards)
        self._verified = True

    def _verify(self, shard: dict[str, Any]) -> None:
        path = self.directory / shard["file"]
        try:
            found = file_sha256(path)
        except OSError as error:
            raise StoreError(f"shard {path} cannot be read ({error.strerror}): {_AGAIN}") from error
        if found != shard["sha256"]:
            raise StoreError(
                f"shard {path} is corrupted: its sha256 is {found[:12]}..., the manifest says "
                f"{shard['sha256'][:12]}...; {_AGAIN}"
            )

    def _in_threads(self, do: Callable[[Item], Result], items: list[Item]) -> list[Result]:
        """Of each item, in order; what the first that fails raises. Reading holds no lock."""
        workers = min(resolve_threads(self.threads), len(items))
        if workers < 2:
            return [do(item) for item in items]
        pool = ThreadPoolExecutor(workers)
        try:
            return list(pool.map(do, items))
        finally:
            pool.shutdown(cancel_futures=True)

    def rows(self, layer: int, empty: Empty = np.empty) -> Rows:
        """All rows of a layer (n, width), in the stored precision.

        empty: makes the array that they are read into.

        Reads the bytes of that layer alone (and, the first time, all shards for their checksums).
        NaN and Inf are returned as the model gave them.

        Raises ModelError on an unknown layer, StoreError on a corrupted shard.
        """
        site = self.site(layer)
        data = self._column(f"site/{layer}", self.dtype, (site.width,), layer, empty)
        return Rows(data, self.dtype)

    def mapped(self, layer: int) -> list[tuple[Path, Entry]]:
        """Where the rows of a layer lie: shard by shard, file and place in it. Nothing is read.

        Checksums are not compared: that reads every byte, which `verify` does.

        Raises ModelError on an unknown layer, StoreError on a shard that is not as it should be.
        """
        site = self.site(layer)
        return list(self._entries(f"site/{layer}", self.dtype, (site.width,), layer))

    def tokens(self, layer: int | None = None) -> TokenTable:
        """Document, position, token id and special mark of each row of a layer (None: the first).

        Raises ModelError on an unknown layer, StoreError on a corrupted shard.
        """
        layer = self.sites[0].layer if layer is None else self.site(layer).layer
        grid = self._grids[layer]
        if grid not in self._token_tables:
            columns = {
                name: self._column(grid_column(grid, name), dtype, (), layer)
                for name, dtype in TOKEN_COLUMNS.items()
            }
            columns["special"] = columns["special"].astype(bool)
            self._token_tables[grid] = TokenTable(**columns)
        return self._token_tables[grid]

    def token_text(self, token: int) -> str:
        """Text of a token id that occurs in the store; "" where rows belong to no token."""
        return self._texts.get(str(token), "")

    @cached_property
    def _texts(self) -> dict[str, str]:
        path = self.directory / TOKENS
        try:
            texts: dict[str, str] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        return texts

    def _column(
        self,
        key: str,
        dtype: str,
        shape: tuple[int, ...],
        layer: int,
        empty: Empty = np.empty,
    ) -> NDArray[Any]:
        if not self._verified:
            self.verify()
        out = empty((self.count(layer), *shape), dtype=storage_type(dtype))
        places: list[tuple[Path, Entry, int]] = []
        start = 0
        for path, entry in self._entries(key, dtype, shape, layer):
            places.append((path, entry, start))
            start += entry.shape[0]

        def read(place: tuple[Path, Entry, int]) -> None:
            path, entry, first = place
            read_into(path, entry, out[first : first + entry.shape[0]])

        self._in_threads(read, places)
        return out

    def _entries(
        self, key: str, dtype: str, shape: tuple[int, ...], layer: int
    ) -> Iterator[tuple[Path, Entry]]:
        """Where the shards hold a column of a layer's grid."""
        for shard in self._shards:
            path = self.directory / shard["file"]
            entry = read_header(path).get(key)
            rows = rows_of_grid(shard, self._grids[layer])
            if entry is None or (entry.dtype, entry.shape) != (dtype, (rows, *shape)):
                raise StoreError(f"shard {path} does not hold {key!r} as its manifest says")
            yield path, entry


def rows_of_grid(shard: dict[str, Any], grid: int) -> int:
    """Rows that a shard of the manifest holds for each layer of a grid."""
    return int(shard["grid_rows"][grid] if "grid_rows" in shard else shard["rows"])


def grid_column(grid: int, name: str) -> str:
    """Name of a token column in a shard."""
    return name if grid == 0 else f"grid/{grid}/{name}"


_AGAIN = "delete it and run the same command again to write it anew"


def site_records(sites: list[Site]) -> list[dict[str, Any]]:
    """Sites as JSON objects; `Site(**record)` gives them back."""
    return [asdict(site) for site in sites]
