"""Shards thinned to a number of rows: those of lowest hash among all that were seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.extract.sampling import Quota, token_hash
from fastdim.extract.shards import read_header, read_into, storage_type
from fastdim.extract.store import grid_column, rows_of_grid
from fastdim.extract.writer import ShardWriter


class Thinning:
    """Keeps the `count` rows of lowest (document, position, seed) hash of every grid.

    While shards are written, `bounds` say which rows can still be among them; at the end `finish`
    writes those shards anew that hold others.
    """

    def __init__(self, writer: ShardWriter, grids: dict[int, int], count: int, seed: int) -> None:
        self.writer = writer
        self.grids = grids  # by layer
        self.seed = seed
        self.quotas = {grid: Quota(count) for grid in set(grids.values())}

    @property
    def bounds(self) -> dict[int, np.uint64]:
        """By grid, the highest hash a row may have to be kept yet."""
        return {grid: quota.bound for grid, quota in self.quotas.items()}

    def add(self, number: int) -> None:
        """Take a written shard into account."""
        for grid, quota in self.quotas.items():
            quota.add(self._hashes(number, grid))

    def finish(self) -> None:
        """Write the shards without the rows beyond the bounds. May be interrupted and repeated."""
        for number in sorted(self.writer.shards):
            keep = {
                grid: self._hashes(number, grid) <= bound for grid, bound in self.bounds.items()
            }
            if all(mask.all() for mask in keep.values()):
                continue
            shard = self.writer.shards[number]
            owners = {f"site/{layer}": grid for layer, grid in self.grids.items()}
            tensors = {}
            for key, entry in read_header(self.writer.directory / shard["file"]).items():
                grid = owners[key] if key in owners else _grid_of_column(key)
                tensors[key] = (entry.dtype, self._read(number, key)[keep[grid]])
            counts = [int(keep[grid].sum()) for grid in sorted(keep)]
            beside = {name: shard[name] for name in ("batch_sha256", "samples")}
            self.writer.write(number, tensors, counts, kind="kept", **beside)

    def _hashes(self, number: int, grid: int) -> NDArray[np.uint64]:
        if rows_of_grid(self.writer.shards[number], grid) == 0:
            return np.empty(0, dtype=np.uint64)
        document = self._read(number, grid_column(grid, "document"))
        return token_hash(document, self._read(number, grid_column(grid, "position")), self.seed)

    def _read(self, number: int, key: str) -> NDArray[Any]:
        path = self.writer.directory / self.writer.shards[number]["file"]
        entry = read_header(path)[key]
        out = np.empty(entry.shape, dtype=storage_type(entry.dtype))
        read_into(path, entry, out)
        return out


def _grid_of_column(key: str) -> int:
    return int(key.split("/")[1]) if key.startswith("grid/") else 0
