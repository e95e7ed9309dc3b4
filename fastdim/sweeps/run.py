"""Running one job: extraction (resumable), then layer by layer x filter, each piece a file."""

from __future__ import annotations

import time
from functools import partial

from fastdim.extract.store import Site
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS, Filter
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.pieces import Layer, compute_piece, is_ok
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.reused import Reused
from fastdim.sweeps.source import Source
from fastdim.sweeps.writing import Writer


def analyse(
    source: Source,
    definition: Definition,
    folder: RunFolder,
    *,
    threads: int,
    progress: Progress,
) -> None:
    """Compute and write the pieces that are not on disk yet; their time goes to "analysis".

    A piece with a failed metric is computed again: what failed it (memory) may have gone.
    """
    todo: list[tuple[Site, list[Filter]]] = []
    for site in source.sites:
        missing = []
        for name in definition.filters:
            piece = folder.piece(site.layer, name, definition.sha256)
            if piece is None or not is_ok(piece):
                missing.append(FILTERS[name])
        todo.append((site, missing))
    total = len(source.sites) * len(definition.filters)
    progress.start("analysis", total, "pieces", total - sum(len(missing) for _, missing in todo))
    changed = Reused()
    with Writer() as writer:
        for site, missing in todo:
            if not missing:
                continue
            start = time.perf_counter()
            layer = Layer(source, site, definition, threads, changed)
            for item in missing:
                piece = compute_piece(layer, item)
                path = folder.piece_path(site.layer, item.name)
                writer.add(partial(write_json, path, piece))
                progress.advance()
            del layer  # before the next is read: not both at a time
            seconds = time.perf_counter() - start
            writer.add(partial(folder.add_seconds, "analysis", seconds))
        start = time.perf_counter()
        writer.wait()
        if any(missing for _, missing in todo):
            folder.add_seconds("analysis", time.perf_counter() - start)
    progress.finish()


def all_finished(folder: RunFolder, definition: Definition) -> bool:
    """Whether every piece is on disk without a failed metric, so that no row is needed again."""
    sample = folder.sample()
    if sample is None:
        return False
    pieces = (
        folder.piece(site["layer"], name, definition.sha256)
        for site in sample["sites"]
        for name in definition.filters
    )
    return all(piece is not None and is_ok(piece) for piece in pieces)
