"""A sweep over checkpoints of trainings: the same tokens in each, one model in memory at a time.

Each checkpoint is a run folder of its own below the output, so a stopped track goes on at its last
finished piece. A checkpoint that cannot be measured has rows with its reason, and the rest goes on.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdim.arrays import one_of, whole_number
from fastdim.diagnose.training import steps_of
from fastdim.errors import FastdimError, InputError, ModelError, StoreError
from fastdim.extract.shards import storage_errors
from fastdim.extract.texts import Corpus, load_texts
from fastdim.sweeps.definition import APPROXIMATE
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.inputs import ModelInput
from fastdim.sweeps.jobs import Job, check_approximate, prepare_model, run_job
from fastdim.sweeps.options import FORMATS, Defaults
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import require_formats, run_folders
from fastdim.sweeps.run import all_finished
from fastdim.track_result import (
    FAILED,
    Checkpoint,
    Track,
    check_output,
    failed_record,
    run_path,
)

KEEP = ("none", "stats", "rows")
# In a pattern of checkpoints: the name of a model.
MODEL = "{model}"
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class RayOptions:
    """How checkpoints become Ray tasks.

    address: of a running cluster ("auto": that of this machine), None to start Ray here. gpus,
    memory: of each task, in GPUs (0.5: two share one) and bytes; its CPUs are its threads.
    retries: how often a task is started again whose worker ended; it goes on at its last piece.
    """

    address: str | None = None
    gpus: float = 0.0
    memory: int = 0
    retries: int = 3


def expand(pattern: str | Path) -> list[str]:
    """Paths that a pattern names, sorted; a part that is there as it is written means itself.

    So `run[1]/checkpoint-*` finds the checkpoints of a folder called run[1].
    """
    parts = Path(pattern).parts
    found = [""] if parts else []
    for part in parts:
        found = [
            path
            for base in found
            for path in (
                [os.path.join(base, part)]
                if os.path.lexists(os.path.join(base, part))
                else sorted(glob.glob(os.path.join(glob.escape(base), part)))
            )
        ]
    return sorted(found)


def find_checkpoints(
    model: str | None,
    revisions: Sequence[str] | None,
    checkpoints: Sequence[str | Path] | None,
    steps: Sequence[int] | None = None,
) -> list[Checkpoint]:
    """The checkpoints asked for, by step. steps: one each, where their names tell none.

    Raises InputError unless they are at least two revisions of a model, or two folders, each with a
    step of its own; ModelError where a pattern finds nothing.
    """
    if (revisions is None) == (checkpoints is None):
        raise InputError(
            "say which checkpoints: a hub model with revisions=, or local folders with checkpoints="
        )
    for what, values in (("revisions", revisions), ("checkpoints", checkpoints), ("steps", steps)):
        if values is not None and (
            isinstance(values, (str, Path)) or not isinstance(values, Collection)
        ):
            raise InputError(f"{what} must be a list, got {values!r}: put what stands alone in one")
    if revisions is not None:
        if model is None:
            raise InputError("revisions belong to a model: name it")
        places = [(name, model, name) for name in revisions]
    else:
        folders: list[str] = []
        for pattern in checkpoints or ():
            found = expand(pattern)
            if not found:
                raise ModelError(f"there is no checkpoint at {pattern}: check the path")
            folders += found
        places = [(Path(folder).name, folder, "") for folder in folders]
    names = [name for name, _, _ in places]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two checkpoints are called {twice!r}: each needs a name of its own")
    _check_folders(names)
    if len(places) < 2:
        raise InputError(
            f"a track needs at least 2 checkpoints, got {len(places)} ({', '.join(names)}); "
            "one alone is measured by a sweep"
        )
    if steps is not None and len(steps) != len(places):
        raise InputError(f"{len(steps)} steps for {len(places)} checkpoints: give one each")
    given = None
    if steps is not None:
        numbers = [whole_number("steps", step, 0) for step in steps]
        given = dict(zip(names, numbers, strict=True))
    known = steps_of(names, given)
    made = [Checkpoint(name, source, rev or None, known[name]) for name, source, rev in places]
    return sorted(made, key=lambda item: item.step)


def _check_folders(names: Sequence[str]) -> None:
    """Raise InputError where two names would make one folder of the output."""
    taken: dict[Path, str] = {}
    for name in names:
        other = taken.setdefault(run_path(Path(), name), name)
        if other != name:
            raise InputError(
                f"checkpoints {other!r} and {name!r} would share the folder "
                f"{run_path(Path(), name)} of the output: rename one"
            )


def track(
    model: str | Sequence[str] | None,
    texts: str | Path | Sequence[str] | Corpus,
    output: str | Path,
    *,
    revisions: Sequence[str] | None = None,
    checkpoints: Sequence[str | Path] | None = None,
    steps: Sequence[int] | None = None,
    keep: str = "stats",
    formats: Sequence[str] = FORMATS,
    progress: Progress | None = None,
    engine: str = "local",
    ray: RayOptions | None = None,
    **options: Any,
) -> Track:
    """Measure every checkpoint of a training, or of several, on the same tokens.

    model: hub name of the revisions; with checkpoints, what the table calls the model (None: the
        folder above them). Several names: each has these revisions, or the checkpoints whose
        patterns have its name in place of "{model}"; each gets a folder below the output.
    revisions: "step1000", ...; checkpoints: folders or patterns. steps: of each model's.
    keep: "none": the metrics alone; "stats": also what each document adds and the strongest rows;
        "rows": also the activations of every checkpoint. Those of one are on disk at any time.
    engine: "local" measures one checkpoint after another here; "ray" each as a task of a Ray
        cluster, all of whose machines must see the output folder, as `ray` says.
    options: as `fastdim.sweep`, but revision, output and keep_activations.

    A checkpoint of another architecture, with NaN or infinite weights, with a tokenizer that makes
    other tokens, or that does not load, gives rows with status "failed" and the reason; the first
    of its model that can be measured sets what the others must be. A model of several none of whose
    checkpoints can be measured has no rows, and stands in `failed` of the result.

    Raises InputError and ModelError as `find_checkpoints`, on an unknown `keep`, and the first
    checkpoint's own error if none can be measured; StoreError as a sweep, where the activations
    that are to be kept are gone, and where the folder holds a track of one model and this is of
    several, or the other way round; with Ray BackendError where the cluster lacks what a task
    needs, and rows with status "failed" of a checkpoint whose worker ended more often than `ray`
    allows.
    """
    one_of("keep", keep, KEEP)
    one_of("engine", engine, ENGINES)
    if ray is not None and engine != "ray":
        raise InputError("ray= belongs to engine='ray'")
    if not (model is None or isinstance(model, Collection)):
        raise InputError(f"model must be a name, or a list of names, got {model!r}")
    names = [model] if model is None or isinstance(model, str) else list(model)
    found = [
        find_checkpoints(name, revisions, _filled(checkpoints, name, len(names)), steps)
        for name in _once(names)
    ]
    require_formats(formats, [chosen[0].source for chosen in found])
    settings = _defaults() | options
    # Before any model is opened, and not first on a worker.
    check_approximate(*(settings.get(name) for name in APPROXIMATE))
    corpus = texts if isinstance(texts, Corpus) else load_texts(texts)
    output = Path(output)
    check_output(output, several=len(names) > 1)
    named = [
        name or Path(chosen[0].source).resolve().parent.name
        for name, chosen in zip(names, found, strict=True)
    ]
    trainings = [
        Training(Work(corpus, folder.absolute(), name, keep, settings), chosen)
        for folder, name, chosen in zip(run_folders(output, named), named, found, strict=True)
    ]
    progress = progress or Progress()
    measured: Iterable[list[Measured]]
    if engine == "ray":
        from fastdim.track_ray import measure_all

        measured = measure_all(trainings, ray or RayOptions(), progress)
    else:
        measured = (_one_by_one(training, progress) for training in trainings)
    results = [
        _finish(training, pairs, formats, alone=len(trainings) == 1)
        for training, pairs in zip(trainings, measured, strict=True)
    ]
    runs = [run for result, _ in results for run in result]
    failures = [pair for _, failures in results for pair in failures]
    if not runs:
        raise failures[0][1]
    failed = [(name, str(reason)) for name, reason in failures]
    whole = Track(runs, failed)
    whole.write_results(output, formats)
    return whole


def _once(names: Sequence[str | None]) -> Sequence[str | None]:
    """The names of the models. Raises InputError where there is none, or one twice."""
    if not names or len(set(names)) < len(names):
        raise InputError(f"each model is named once, at least one, got {list(names)!r}")
    return names


def _filled(
    patterns: Sequence[str | Path] | None, name: str | None, models: int
) -> list[str] | None:
    """Patterns with a model's name in place of {model}."""
    if patterns is None:
        return None
    if models > 1 and not all(MODEL in str(pattern) for pattern in patterns):
        raise InputError(
            f"{models} models need checkpoints of their own: write {MODEL} where their names stand "
            "in the path, as in training/{model}/checkpoint-*"
        )
    return [str(pattern).replace(MODEL, name or MODEL) for pattern in patterns]


def _finish(
    training: Training, pairs: Sequence[Measured], formats: Sequence[str], alone: bool
) -> tuple[list[RunRecord], list[tuple[str, FastdimError]]]:
    """The runs of one training with those that failed, as its folder keeps them, and why they did.

    alone: its results are those of the whole track, which its caller writes.
    """
    work = training.work
    records = [found for _, found in pairs if isinstance(found, RunRecord)]
    failures = [(item, found) for item, found in pairs if not isinstance(found, RunRecord)]
    start = "" if alone else f"{work.name} "
    failed = [(f"{start}{item.name}", reason) for item, reason in failures]
    if not records and alone:
        return [], failed
    told = [
        {**asdict(item), "reason": str(reason), "model": work.name} for item, reason in failures
    ]
    with storage_errors(work.output):
        work.output.mkdir(parents=True, exist_ok=True)
    write_json(work.output / FAILED, told)
    if not records:
        return [], failed
    first = records[0]
    records += [failed_record(first, item, str(reason)) for item, reason in failures]
    if not alone:
        Track(records).write_results(work.output, formats)
    return records, failed


@dataclass(frozen=True)
class Work:
    """What is done with every checkpoint. name: what the table calls the model."""

    corpus: Corpus
    output: Path
    name: str
    keep: str
    settings: dict[str, Any]

    def measure(
        self, checkpoint: Checkpoint, first: RunRecord | None, progress: Progress
    ) -> RunRecord | FastdimError:
        """The finished run, or why this checkpoint has none. first: what it must be like.

        Raises StoreError: it concerns more than this checkpoint.
        """
        folder = run_path(self.output, checkpoint.name)
        try:
            job = prepare_model(
                checkpoint.source,
                self.corpus,
                revision=checkpoint.revision,
                keep_activations=True,
                **self.settings,
            )
            job.check(folder)
            run = RunFolder(folder)
            finished = all_finished(run, job.definition)
            if finished and self.keep == "rows" and not run.activations.exists():
                raise StoreError(
                    f"{folder} is finished and its activations are removed, so keep='rows' (--keep "
                    "rows) has none to keep: choose another output folder"
                )
            parameters = None if finished else _check_alike(job, first)
            record = run_job(job, folder, (), progress)
        except (InputError, ModelError) as error:
            return error
        record.sample |= {
            "model": self.name,
            "revision": checkpoint.name,
            "step": checkpoint.step,
        }
        if parameters is not None:
            record.sample["parameters_sha256"] = parameters
        _settle(record, run, self.keep)
        return record


@dataclass(frozen=True)
class Training:
    """The checkpoints of one model, by step, and what is done with each."""

    work: Work
    chosen: Sequence[Checkpoint]


Measured = tuple[Checkpoint, RunRecord | FastdimError]


def _one_by_one(training: Training, progress: Progress) -> list[Measured]:
    first: RunRecord | None = None
    found: list[Measured] = []
    for checkpoint in training.chosen:
        result = training.work.measure(checkpoint, first, progress)
        if first is None and isinstance(result, RunRecord):
            first = result
        found.append((checkpoint, result))
    return found


def _defaults() -> dict[str, Any]:
    """What a sweep takes where nothing is said."""
    names = ("layers", "context", "pack", "max_tokens", "batch_size", "device", "queries", "pairs",
             "outlier_factor")  # fmt: skip
    others: dict[str, Any] = {
        "filters": None, "tokens_per_document": None, "dtype": None, "store_dtype": None,
        "seed": 0, "exact": False, "confidence": 0.95, "threads": None,
        "trust_remote_code": False,
    }  # fmt: skip
    return {name: getattr(Defaults, name) for name in names} | others


def _check_alike(job: Job, first: RunRecord | None) -> str:
    """Its `_digest`. Raises ModelError where it is not to be compared with the first."""
    assert isinstance(job.input, ModelInput)
    found = job.input.describe(job.definition)
    if found.bad_parameters:
        raise ModelError(
            f"{len(found.bad_parameters)} parameters hold NaN or infinite weights, the first "
            f"{found.bad_parameters[0]}: the training diverged, or the file is damaged"
        )
    loaded, *_ = job.input.prepare(job.definition)
    parameters = _digest(loaded.model)
    if first is None:
        return parameters
    sites = [asdict(site) for site in found.sites]
    if sites != first.sample["sites"]:
        here, there = _told(sites, first.sample["sites"]), _told(first.sample["sites"], sites)
        raise ModelError(
            f"another architecture than {first.sample['revision']}: {here}; there {there}"
        )
    # A track of before has no digest.
    if first.sample.get("parameters_sha256", parameters) != parameters:
        raise ModelError(
            f"another architecture than {first.sample['revision']}: the same sites, but this is a "
            f"{type(loaded.model).__name__}, and its class or the shapes of its parameters differ"
        )
    if found.tokens_sha256 != first.sample["tokens_sha256"]:
        raise ModelError(
            f"its tokenizer makes other tokens of the texts than that of "
            f"{first.sample['revision']}: a vocabulary of its own, so no row can be compared"
        )
    return parameters


def _digest(model: Any) -> str:
    """SHA-256 of the class of a model and the names and shapes of its parameters; but a table of
    embeddings may have grown by rows that no text needs.
    """
    from torch.nn import Embedding

    tables = {id(part.weight) for part in model.modules() if isinstance(part, Embedding)}
    parts = [type(model).__name__]
    for name, value in model.named_parameters():
        fixed = value.shape[1:] if id(value) in tables else value.shape
        parts.append(f"{name} {tuple(fixed)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _told(sites: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """Sites in words, with the first that differs from the others."""
    widths = ", ".join(str(width) for width in sorted({site["width"] for site in sites}))
    apart = next((site for site, other in zip(sites, others, strict=False) if site != other), None)
    first = "" if apart is None else f", {apart['module']} of layer {apart['layer']}"
    return f"{len(sites)} sites of width {widths}{first}"


def _settle(record: RunRecord, run: RunFolder, keep: str) -> None:
    """Write what is kept of a finished checkpoint, and remove the rest."""
    write_json(run.path / "sample.json", record.sample)
    if keep != "rows" and run.activations.exists():
        run.remove_activations()
    if keep == "none":
        for piece in record.pieces:
            piece["documents"] = None
            if piece["extras"]:
                piece["extras"]["top_rows"] = []
            write_json(run.piece_path(piece["site"]["layer"], piece["filter"]), piece)
