"""Running one job: extraction (resumable), then layer by layer x filter, each piece a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.pieces import Layer, compute_piece, is_ok
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.source import Source


def analyse(
    source: Source,
    definition: Definition,
    folder: RunFolder,
    *,
    threads: int | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """All pieces in order, computing those that are not on disk yet; time goes to "analysis".

    A piece with a failed metric is computed again: what failed it (memory) may have gone.
    """
    filters = [FILTERS[name] for name in definition.filters]
    found = {
        (site["layer"], item.name): folder.piece(site["layer"], item.name, definition.sha256)
        for site in source.sites
        for item in filters
    }
    finished = {key: piece for key, piece in found.items() if piece is not None and is_ok(piece)}
    progress.start("analysis", len(found), "pieces", len(finished))
    for site in source.sites:
        missing = [item for item in filters if (site["layer"], item.name) not in finished]
        if not missing:
            continue
        start = time.perf_counter()
        layer = Layer(source, site)
        for item in missing:
            piece = compute_piece(layer, item, definition, threads)
            write_json(folder.piece_path(site["layer"], item.name), piece)
            finished[site["layer"], item.name] = piece
            progress.advance()
        folder.add_seconds("analysis", time.perf_counter() - start)
    progress.finish()
    return [finished[key] for key in found]


def expected_pieces(sites: list[dict[str, Any]], definition: Definition) -> list[tuple[int, str]]:
    """(layer, filter) of every piece of a run, in the order of the table."""
    return [(site["layer"], name) for site in sites for name in definition.filters]


def run_bytes(path: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
