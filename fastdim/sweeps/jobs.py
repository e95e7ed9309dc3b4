"""A job: one model (or set of files) with everything that defines its numbers, checked early.

`prepare_*` makes every check that is cheap; `run_job` does the work, resumable at any point.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdim.arrays import whole_number
from fastdim.backends import faiss_index, faiss_search
from fastdim.backends.cpu import active_isa, resolve_threads
from fastdim.errors import InputError, require
from fastdim.estimate import check_confidence
from fastdim.extract.facts import module_sha256
from fastdim.extract.files import open_activations
from fastdim.extract.hooks import check_store_dtype
from fastdim.extract.model import check_pair, check_source, local_path
from fastdim.extract.store import MANIFEST, Store
from fastdim.extract.texts import Corpus
from fastdim.query_error import query_count
from fastdim.sweeps.definition import APPROXIMATE, Definition, sha256_of_files
from fastdim.sweeps.filters import resolve_filters
from fastdim.sweeps.folder import check_output, open_run
from fastdim.sweeps.inputs import FileInput, Input, ModelInput
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import Sweep
from fastdim.sweeps.run import all_finished, analyse


@dataclass(frozen=True)
class Job:
    """What `run_job` needs. `threads` and `keep_activations` change no number."""

    definition: Definition
    input: Input
    threads: int
    keep_activations: bool = True

    def check(self, folder: Path | None) -> None:
        """Raise StoreError if the folder cannot hold this run."""
        if folder is not None:
            check_output(folder, self.definition)


def analysis_options(
    *,
    filters: Sequence[str] | None,
    tokens: bool,
    queries: int | str | None,
    pairs: int | None,
    exact: bool,
    seed: int,
    confidence: float,
    outlier_factor: float,
    backend: str | None = None,
    index: str | None = None,
    target_recall: float | None = None,
) -> dict[str, Any]:
    """The part of a Definition that belongs to the analysis; InputError on a bad value."""
    if isinstance(filters, str):
        raise InputError(f"filters must be a list of names, got the text {filters!r}")
    if isinstance(queries, str):
        queries = query_count(queries)
    for name, value in (("queries", queries), ("pairs", pairs)):
        if value is not None:
            whole_number(name, value, 1)
    if not 1.0 < outlier_factor < float("inf"):
        raise InputError(f"outlier_factor must be a number above 1, got {outlier_factor!r}")
    chosen = resolve_filters(None if filters is None else list(filters), tokens=tokens)
    return {
        "filters": tuple(item.name for item in chosen),
        "queries": None if exact or queries is None else int(queries),
        "pairs": None if exact or pairs is None else int(pairs),
        "seed": whole_number("seed", seed, 0),
        "confidence": check_confidence(confidence),
        "outlier_factor": float(outlier_factor),
        **check_approximate(backend, index, target_recall),
    }


def check_approximate(
    backend: str | None, index: str | None, target_recall: float | None
) -> dict[str, Any]:
    """The part of a Definition that belongs to the search of neighbours; None for the exact one.

    Raises InputError on a bad value, BackendError on a GPU that FAISS does not see,
    DependencyError without FAISS.
    """
    named = backend is None or isinstance(backend, str)
    if not named or backend not in (None, "cpu", *faiss_index.BACKENDS):
        raise InputError(
            f"backend must be 'cpu' or one of {', '.join(faiss_index.BACKENDS)} in a sweep, got "
            f"{backend!r}"
        )
    faiss_search.Options(index, target_recall).check(backend or "cpu")
    if backend in (None, "cpu"):
        return dict.fromkeys(APPROXIMATE)
    if index is not None and index not in ("auto", *faiss_index.KINDS):
        raise InputError(f"index must be one of {', '.join(faiss_index.KINDS)}, got {index!r}")
    require("faiss", "faiss-gpu" if backend == "faiss-gpu" else "faiss")
    return {"backend": backend, "index": index, "target_recall": target_recall}


def prepare_model(
    model: Any,
    corpus: Corpus,
    *,
    revision: str | None,
    layers: str,
    context: int,
    pack: bool,
    max_tokens: int,
    tokens_per_document: int | None,
    batch_size: int,
    device: str,
    dtype: str | None,
    store_dtype: str | None,
    threads: int | None,
    trust_remote_code: bool,
    keep_activations: bool,
    **analysis: Any,
) -> Job:
    """The job of sweeping one model over a corpus; `model` is a name or (module, tokenizer).

    Raises ModelError if the model is not there, InputError on a bad option.
    """
    check_store_dtype(store_dtype)
    module = tokenizer = None
    digest = ""
    if isinstance(model, str):
        name = model
        check_source(model, revision)
        path = local_path(model)
        if path is not None:
            files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
            weights = [f for f in files if f.suffix not in (".py", ".pyc")]
            digest = sha256_of_files(weights, path if path.is_dir() else path.parent)
    else:
        module, tokenizer = check_pair(model, revision, dtype)
        name = type(module).__name__
        digest = module_sha256(module)
    definition = Definition(
        kind="sweep",
        model=name,
        model_sha256=digest,
        revision=revision,
        layers=layers,
        corpus=corpus.name,
        corpus_sha256=corpus.sha256,
        context=context,
        pack=pack,
        max_tokens=max_tokens,
        tokens_per_document=tokens_per_document,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        store_dtype=store_dtype,
        trust_remote_code=trust_remote_code,
        **analysis_options(tokens=True, **analysis),
    )
    job_input = ModelInput(corpus, module, tokenizer)
    return Job(definition, job_input, check_machine(threads), keep_activations)


def prepare_files(
    files: Sequence[str | Path], *, name: str | None, threads: int | None, **analysis: Any
) -> Job:
    """The job of measuring matrices from elsewhere. Raises InputError if one is not there."""
    paths = tuple(Path(file) for file in files)
    members: list[Path] = []
    tokens = False
    for path in paths:
        if (path / MANIFEST).is_file():
            tokens = Store.open(path).has_tokens
        else:
            open_activations(path)
        members += [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    root = Path(os.path.commonpath([member.resolve().parent for member in members]))
    definition = Definition(
        kind="profile",
        model=name or paths[0].stem,
        model_sha256=sha256_of_files([member.resolve() for member in members], root),
        **analysis_options(tokens=tokens, **analysis),
    )
    return Job(definition, FileInput(paths), check_machine(threads))


def check_machine(threads: int | None) -> int:
    """Resolve the thread count, and fail now if the CPU level asked for cannot run."""
    active_isa()
    return resolve_threads(threads)


def plan_job(job: Job, progress: Progress) -> None:
    """Everything up to the plan, which goes to `progress`; nothing is written."""
    progress.plan(job.input.plan(job.definition, None))


def run_job(job: Job, path: Path | None, formats: Sequence[str], progress: Progress) -> RunRecord:
    """Run what is not done yet and write the files of `formats`; None works in a scratch folder.

    Raises StoreError (folder locked, damaged, full) with everything finished so far on disk.
    """
    with _folder(path) as place, open_run(place, job.definition) as run:
        if not all_finished(run, job.definition):
            source = job.input.open(job.definition, run, job.threads, progress)
            analyse(source, job.definition, run, threads=job.threads, progress=progress)
        record = RunRecord.read(place)
        if path is not None:
            with run.timed("report"):
                Sweep([record]).write_results(place, formats)
            record.seconds = run.timings()
        if not job.keep_activations and record.n_failed == 0:
            run.remove_activations()
        return record


@contextlib.contextmanager
def _folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fastdim-") as scratch:
        yield Path(scratch)
