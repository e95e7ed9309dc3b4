"""A sweep over checkpoints of one training: the same tokens in each, one model in memory at a time.

Each checkpoint is a run folder of its own below the output, so a stopped track goes on at its last
finished piece. A checkpoint that cannot be measured has rows with its reason, and the rest goes on.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdim.diagnose.training import steps_of
from fastdim.errors import FastdimError, InputError, ModelError, StoreError
from fastdim.extract.texts import Corpus, load_texts
from fastdim.layer import METRICS
from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.folder import RunFolder, read_json, write_json
from fastdim.sweeps.inputs import ModelInput
from fastdim.sweeps.jobs import Job, prepare_model, run_job
from fastdim.sweeps.options import FORMATS, Defaults
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord, find_runs
from fastdim.sweeps.result import Sweep, require_formats
from fastdim.sweeps.run import all_finished
from fastdim.sweeps.schema import failed_metric

if TYPE_CHECKING:
    import pandas

KEEP = ("none", "stats", "rows")
ENGINES = ("local", "ray")
# Checkpoints that could not be measured, and why; they have no run of their own.
FAILED = "failed.json"


@dataclass(frozen=True)
class Checkpoint:
    """name: revision or folder name; source, revision: as a sweep takes them; step of training."""

    name: str
    source: str
    revision: str | None
    step: int


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


class Track(Sweep):
    """The runs of all checkpoints in the order of their steps; `table` has a column `step`.

    failed: (checkpoint, reason) of those that could not be measured; their rows say the same.
    unfinished: folders of checkpoints that are not measured to their end; they have no rows.
    """

    def __init__(
        self,
        runs: Sequence[RunRecord],
        failed: Sequence[tuple[str, str]] = (),
        unfinished: Sequence[Path] = (),
    ) -> None:
        super().__init__(sorted(runs, key=lambda run: int(run.sample["step"])))
        self.failed = list(failed)
        self.unfinished = list(unfinished)

    @classmethod
    def load(cls, *folders: str | Path, partial: bool = False) -> Track:
        """Read the folder of a track, failed checkpoints too. partial: leave out those that are
        not finished, which `unfinished` names. Raises StoreError where its runs are not of a track,
        and without `partial` where a checkpoint is not finished.
        """
        places = [Path(folder) for folder in folders]
        listed = [
            (place, entry)
            for place in places
            if (place / FAILED).is_file()
            for entry in read_json(place / FAILED)
        ]
        # What a worker left that was killed too often is no run.
        left = {run_path(place, entry["name"]) for place, entry in listed}
        settled = {path: _is_settled(path) for path in find_runs(places)}
        unfinished = [path for path in settled if not settled[path] and path not in left]
        if unfinished and not (partial and any(settled.values())):
            raise StoreError(
                f"{unfinished[0]} is a run of `fastdim sweep`, not of `fastdim track`, or a "
                "checkpoint that is not finished: start the track again"
            )
        runs = [RunRecord.read(path) for path in settled if settled[path]]
        runs.sort(key=lambda run: int(run.sample["step"]))
        failed = []
        measured = {run.sample["revision"] for run in runs}
        for _, entry in listed:
            if entry["name"] in measured:
                continue  # since the list was written; a track that goes on writes it last
            reason = str(entry.pop("reason"))
            failed.append((str(entry["name"]), reason))
            runs.append(_failed(runs[0], Checkpoint(**entry), reason))
        return cls(runs, failed, unfinished)

    @property
    def complete(self) -> bool:
        """Whether every checkpoint was measured to its end, or failed."""
        return not self.unfinished and super().complete

    @property
    def steps(self) -> dict[str, int]:
        """Step of each checkpoint, by its name in the column `revision`."""
        return {run.sample["revision"]: int(run.sample["step"]) for run in self.runs}

    @cached_property
    def table(self) -> pandas.DataFrame:
        """The tidy table of all checkpoints, with the column `step` after `revision`."""
        frame = Sweep(self.runs).table
        import pandas

        # Of two trainings in one table, checkpoints of one name may be of other steps.
        known = {
            (run.sample["model"], run.sample["revision"]): int(run.sample["step"])
            for run in self.runs
        }
        named = zip(frame["model"], frame["revision"], strict=True)
        steps = pandas.Series([known[pair] for pair in named], dtype="Int64")
        frame.insert(list(frame.columns).index("revision") + 1, "step", steps)
        return frame


def run_path(output: Path, name: str) -> Path:
    """The run folder of a checkpoint."""
    return output / re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _is_settled(path: Path) -> bool:
    return "step" in (RunFolder(path).sample() or {})


def load_runs(*folders: str | Path) -> Sweep:
    """What `fastdim report` shows of folders of sweeps and tracks, finished or not.

    A `Track` if all are of tracks: with the column `step`, failed checkpoints, and without those
    that are not finished. Raises StoreError as `Sweep.load`.
    """
    places = [Path(folder) for folder in folders]
    tracks = [path for path in places if any(_is_settled(run) for run in find_runs([path]))]
    if not tracks:
        return Sweep.load(*places)
    found = Track.load(*tracks, partial=True)
    if len(tracks) == len(places):
        return found
    others = Sweep.load(*(path for path in places if path not in tracks))
    return Sweep([*found.runs, *others.runs])


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
    given = None if steps is None else {n: int(s) for n, s in zip(names, steps, strict=True)}
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
    model: str | None,
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
    """Measure every checkpoint of a training on the same tokens.

    model: hub name of the revisions; with checkpoints, what the table calls the model (None: the
        folder above them). revisions: "step1000", ...; checkpoints: folders or patterns.
    keep: "none": the metrics alone; "stats": also what each document adds and the strongest rows;
        "rows": also the activations of every checkpoint. Those of one are on disk at any time.
    engine: "local" measures one checkpoint after another here; "ray" each as a task of a Ray
        cluster, all of whose machines must see the output folder, as `ray` says.
    options: as `fastdim.sweep`, but revision, output and keep_activations.

    A checkpoint of another architecture, with NaN or infinite weights, with a tokenizer that makes
    other tokens, or that does not load, gives rows with status "failed" and the reason; the first
    one that can be measured sets what the others must be.

    Raises InputError and ModelError as `find_checkpoints`, on an unknown `keep`, and the first
    checkpoint's own error if none can be measured; StoreError as a sweep, and where the activations
    that are to be kept are gone; with Ray BackendError where the cluster lacks what a task needs,
    and rows with status "failed" of a checkpoint whose worker ended more often than `ray` allows.
    """
    if keep not in KEEP:
        raise InputError(f"keep must be one of {', '.join(KEEP)}, got {keep!r}")
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if ray is not None and engine != "ray":
        raise InputError("ray= belongs to engine='ray'")
    chosen = find_checkpoints(model, revisions, checkpoints, steps)
    require_formats(formats, [chosen[0].source])
    corpus = texts if isinstance(texts, Corpus) else load_texts(texts)
    output = Path(output)
    name = model or Path(chosen[0].source).resolve().parent.name
    progress = progress or Progress()
    work = Work(corpus, output.absolute(), name, keep, _defaults() | options)
    measured: Iterable[tuple[Checkpoint, RunRecord | FastdimError]]
    if engine == "ray":
        from fastdim.track_ray import measure_all

        measured = measure_all(work, chosen, ray or RayOptions(), progress)
    else:
        measured = _one_by_one(work, chosen, progress)
    records: list[RunRecord] = []
    failures: list[tuple[Checkpoint, FastdimError]] = []
    for checkpoint, found in measured:
        if isinstance(found, RunRecord):
            records.append(found)
        else:
            failures.append((checkpoint, found))
    if not records:
        raise failures[0][1]
    failed = [(checkpoint.name, str(reason)) for checkpoint, reason in failures]
    first = records[0]
    records += [_failed(first, checkpoint, str(reason)) for checkpoint, reason in failures]
    told = [{**asdict(checkpoint), "reason": str(reason)} for checkpoint, reason in failures]
    write_json(output / FAILED, told)
    result = Track(records, failed)
    result.write_results(output, formats)
    return result


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
            if not finished:
                _check_alike(job, first)
            record = run_job(job, folder, (), progress)
        except (InputError, ModelError) as error:
            return error
        record.sample |= {
            "model": self.name,
            "revision": checkpoint.name,
            "step": checkpoint.step,
        }
        _settle(record, run, self.keep)
        return record


def _one_by_one(
    work: Work, chosen: Sequence[Checkpoint], progress: Progress
) -> Iterator[tuple[Checkpoint, RunRecord | FastdimError]]:
    first: RunRecord | None = None
    for checkpoint in chosen:
        result = work.measure(checkpoint, first, progress)
        if first is None and isinstance(result, RunRecord):
            first = result
        yield checkpoint, result


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


def _check_alike(job: Job, first: RunRecord | None) -> None:
    """Raise ModelError where a checkpoint is not to be compared with the first."""
    assert isinstance(job.input, ModelInput)
    found = job.input.describe(job.definition)
    if found.bad_parameters:
        raise ModelError(
            f"{len(found.bad_parameters)} parameters hold NaN or infinite weights, the first "
            f"{found.bad_parameters[0]}: the training diverged, or the file is damaged"
        )
    if first is None:
        return
    sites = [asdict(site) for site in found.sites]
    if sites != first.sample["sites"]:
        raise ModelError(
            f"another architecture than {first.sample['revision']}: {len(sites)} sites of widths "
            f"{sorted({site['width'] for site in sites})}, there {len(first.sample['sites'])} of "
            f"{sorted({site['width'] for site in first.sample['sites']})}"
        )
    if found.tokens_sha256 != first.sample["tokens_sha256"]:
        raise ModelError(
            f"its tokenizer makes other tokens of the texts than that of "
            f"{first.sample['revision']}: a vocabulary of its own, so no row can be compared"
        )


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


def _failed(first: RunRecord, checkpoint: Checkpoint, reason: str) -> RunRecord:
    """Rows of a checkpoint that could not be measured, as the first one has them."""
    definition: Definition = replace(
        first.definition,
        model=checkpoint.source,
        revision=checkpoint.revision,
        model_sha256="",
    )
    pieces = [
        {
            "definition": definition.sha256,
            "site": site,
            "filter": name,
            "rule": FILTERS[name].stated(definition.outlier_factor),
            "metrics": [failed_metric(metric, reason) for metric in METRICS],
            "extras": None,
            "documents": None,
        }
        for site in first.sample["sites"]
        for name in definition.filters
    ]
    sample = {**first.sample, "revision": checkpoint.name, "step": checkpoint.step}
    return RunRecord(definition, sample, pieces)
