"""One sweep by the ranks of a process group: documents and rows are shared out, one table comes.

Rank 0 owns the run folder. Each rank runs the model on its batches, the very batches one process
would run, and keeps their rows in a folder of its own below the output: on one file system or on
several. Layers are then measured one by one by all ranks together.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fastdim.distributed.ranks import Ranks
from fastdim.errors import InputError, ModelError
from fastdim.extract.shards import storage_errors
from fastdim.extract.store import Store, TokenTable, read_manifest
from fastdim.sweeps.definition import installed_versions
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.folder import RunFolder, open_run, write_json
from fastdim.sweeps.inputs import ModelInput, torch_threads, write_sample
from fastdim.sweeps.jobs import Job
from fastdim.sweeps.pieces import compute_piece, is_ok
from fastdim.sweeps.plan import check_space
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import Sweep
from fastdim.sweeps.run import all_finished
from fastdim.sweeps.source import Source
from fastdim.sweeps.spread import LayerTogether, all_tokens


def run_together(
    job: Job, path: Path, formats: Sequence[str], progress: Progress, ranks: Ranks
) -> RunRecord:
    """`run_job` on all ranks of a group; every rank gets the record.

    path: the folder of the run, on each machine. What is finished is kept whatever happens to a
    rank, and the same command goes on from there. progress: events of rank 0 alone.

    Raises what `run_job` raises, on every rank, and InputError on approximate neighbours; RankError
    where ranks differ in versions, options, model or texts, or where another rank is lost.
    """
    if not isinstance(job.input, ModelInput):
        raise InputError("several ranks sweep a model; matrices from elsewhere take one process")
    facts = {f"version of {name}": told for name, told in installed_versions().items()}
    options = {name: repr(value) for name, value in job.definition.to_json().items()}
    ranks.agree({**facts, **options})
    if job.definition.backend is not None:
        raise InputError(
            f"backend={job.definition.backend!r} searches in one process: leave it out, several "
            "ranks search exactly"
        )
    if not ranks.first:
        progress = Progress()
    folder = RunFolder(path)
    with contextlib.ExitStack() as opened:

        def start() -> bool:
            """On rank 0: lock the folder. Whether all pieces are there."""
            opened.enter_context(open_run(path, job.definition))
            return all_finished(folder, job.definition)

        if not ranks.from_first(start):
            source = _open(job, job.input, folder, progress, ranks)
            _analyse(source, job, folder, progress, ranks)
        record = ranks.from_first(partial(_finish, folder, formats))
        if not job.keep_activations and record.n_failed == 0:
            ranks.each(partial(_remove, folder.part(ranks.rank, ranks.size)))
        # The folder stays locked until every rank is done with it.
        ranks.settle(None)
    return record


def _finish(folder: RunFolder, formats: Sequence[str]) -> RunRecord:
    record = RunRecord.read(folder.path)
    with folder.timed("report"):
        Sweep([record]).write_results(folder.path, formats)
    record.seconds = folder.timings()
    return record


def _remove(path: Path) -> None:
    if path.exists():
        with storage_errors(path):
            shutil.rmtree(path)


def _open(
    job: Job, given: ModelInput, folder: RunFolder, progress: Progress, ranks: Ranks
) -> Source:
    """Load the model on every rank, run it on this rank's batches, gather what stands beside."""
    from fastdim.extract.facts import evaluating
    from fastdim.extract.naming import model_title
    from fastdim.extract.run import extract
    from fastdim.extract.sites import architecture_of

    definition = job.definition
    begun = time.perf_counter()
    with torch_threads(job.threads):
        loaded, documents, sites = ranks.each(lambda: given.prepare(definition))
        ranks.agree(
            {
                "tokens of the texts": documents.sha256,
                "sites of the model": repr([asdict(site) for site in sites]),
                "commit of the model": repr(loaded.commit),
                "dtype of the model": loaded.dtype,
            }
        )
        in_step = ranks.each(lambda: runs_in_step(loaded.model))
        own = folder.part(ranks.rank, ranks.size)

        def planned() -> None:
            plan = given.plan(definition, own, ranks=ranks.size, threads=job.threads)
            progress.plan(plan)
            already = sum(item.stat().st_size for item in folder.path.rglob("*") if item.is_file())
            check_space(plan, folder.path, already)

        if ranks.first:
            folder.add_seconds("load", time.perf_counter() - begun)
        ranks.from_first(planned)
        size = definition.batch_size or 1
        batches = -(-len(documents) // size)
        part = batches * ranks.rank // ranks.size, batches * (ranks.rank + 1) // ranks.size
        progress.start("forward", part[1] - part[0], "batches of rank 0")
        begun = time.perf_counter()
        with evaluating(loaded.model):
            run = partial(
                extract,
                loaded,
                documents,
                own,
                sites,
                batch_size=size,
                store_dtype=definition.store_dtype,
                progress=lambda done, total: progress.advance(),
                part=part,
                passes=most_passes(own, part, ranks) if in_step else None,
            )
            store: Store = ranks.each(run)
            progress.finish()
            store.threads = job.threads
            architecture = architecture_of(loaded.model)
    given.release()
    tokens = all_tokens(ranks, ranks.each(store.tokens))

    def noted() -> None:
        folder.add_seconds("forward", time.perf_counter() - begun)
        write_sample(
            folder,
            definition,
            store.sites,
            len(tokens.document),
            model_name=model_title(definition.model) if given.module is None else "",
            architecture=architecture,
            dtype=loaded.dtype,
            store_dtype=store.dtype,
            document_rule=documents.rule,
            n_documents=len(documents),
            tokens_sha256=documents.sha256,
        )

    ranks.from_first(noted)

    def beside(layer: int) -> TokenTable:
        return tokens

    return Source.of_store(store, beside)


def _analyse(source: Source, job: Job, folder: RunFolder, progress: Progress, ranks: Ranks) -> None:
    """Compute the pieces that rank 0 has not on disk; it writes them."""
    definition = job.definition

    def missing() -> list[tuple[int, list[str]]]:
        return [
            (
                place,
                [
                    name
                    for name in definition.filters
                    if (piece := folder.piece(site.layer, name, definition.sha256)) is None
                    or not is_ok(piece)
                ],
            )
            for place, site in enumerate(source.sites)
        ]

    todo = ranks.from_first(missing)
    total = len(source.sites) * len(definition.filters)
    progress.start("analysis", total, "pieces", total - sum(len(names) for _, names in todo))
    for place, names in todo:
        if not names:
            continue
        begun = time.perf_counter()
        site = source.sites[place]
        layer = LayerTogether(source, site, definition, job.threads, ranks)
        for name in names:
            piece = compute_piece(layer, FILTERS[name])
            # A rank on which a metric failed alone (memory) would have left the others' path.
            ranks.agree({m["metric"]: f"{m['status']} {m['reason']}" for m in piece["metrics"]})
            ranks.from_first(partial(write_json, folder.piece_path(site.layer, name), piece))
            progress.advance()
        ranks.from_first(partial(folder.add_seconds, "analysis", time.perf_counter() - begun))
    progress.finish()


def most_passes(own: Path, part: tuple[int, int], ranks: Ranks) -> int:
    """Passes that the rank with most of them has still to make."""

    def left() -> int:
        manifest = read_manifest(own) if own.exists() else None
        listed = [] if manifest is None else manifest["shards"]
        there = [shard for shard in listed if (own / shard["file"]).is_file()]
        return part[1] - part[0] - len(there)

    return max(ranks.gather(ranks.each(left)))


def runs_in_step(model: Any) -> bool:
    """Whether a pass of this model takes all ranks at once (FSDP).

    Raises ModelError for one whose layers are cut over ranks that must read the same documents.
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return True
    if any(isinstance(value, DTensor) for value in model.parameters()):
        raise ModelError(
            "the model is tensor-parallel: all its ranks must read the same documents, and a sweep "
            "gives each rank others. Shard it with FSDP, or run one process with device_map"
        )
    return False
