"""What a track has measured: the runs of its checkpoints, read from its folder or just made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fastdim.errors import InputError, StoreError
from fastdim.layer import METRICS
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.folder import RunFolder, read_json
from fastdim.sweeps.record import RunRecord, find_runs
from fastdim.sweeps.result import Sweep
from fastdim.sweeps.schema import failed_metric

if TYPE_CHECKING:
    import pandas

# Checkpoints that could not be measured, and why; they have no run of their own.
FAILED = "failed.json"


@dataclass(frozen=True)
class Checkpoint:
    """name: revision or folder name; source, revision: as a sweep takes them; step of training."""

    name: str
    source: str
    revision: str | None
    step: int


class Track(Sweep):
    """The runs of all checkpoints in the order of their steps; `table` has a column `step`.

    failed: (checkpoint, reason) of those that could not be measured, of several models with the
        model's name before; their rows say the same.
    unfinished: folders of checkpoints that are not measured to their end; they have no rows.

    Raises InputError where two trainings of one model name have a checkpoint of one name: nothing
    in the table would tell them apart.
    """

    def __init__(
        self,
        runs: Sequence[RunRecord],
        failed: Sequence[tuple[str, str]] = (),
        unfinished: Sequence[Path] = (),
    ) -> None:
        super().__init__(sorted(runs, key=lambda run: int(run.sample["step"])))
        names = Counter((run.sample["model"], run.sample["revision"]) for run in runs)
        (model, revision), count = names.most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{count} trainings are called {model!r} and have a checkpoint {revision!r}, so "
                "their rows could not be told apart: load them one at a time, or measure them "
                "under names of their own (fastdim track NAME --checkpoints ..., Tracker(name=))"
            )
        self.failed = list(failed)
        self.unfinished = list(unfinished)

    @classmethod
    def load(cls, *folders: str | Path, partial: bool = False) -> Track:
        """Read the folder of a track, of one model or several, failed checkpoints too. partial:
        leave out those that are not finished, which `unfinished` names. Raises StoreError where its
        runs are not of a track, and without `partial` where a checkpoint is not finished;
        InputError where two trainings cannot be told apart.
        """
        runs: list[RunRecord] = []
        failed: list[tuple[str, str]] = []
        unfinished: list[Path] = []
        places = [inner for folder in folders for inner in trainings(Path(folder))]
        for place in places:
            listed = read_json(place / FAILED) if (place / FAILED).is_file() else []
            # What a worker left that was killed too often is no run.
            left = {run_path(place, entry["name"]) for entry in listed}
            settled = {path: _is_settled(path) for path in runs_in(place)}
            unfinished += [path for path in settled if not settled[path] and path not in left]
            measured = [RunRecord.read(path) for path in settled if settled[path]]
            measured.sort(key=lambda run: int(run.sample["step"]))
            names = {run.sample["revision"] for run in measured}
            runs += measured
            for entry in listed:
                if entry["name"] in names:
                    continue  # measured since, as a track that goes on writes its list last
                reason, model = str(entry.pop("reason")), entry.pop("model", place.name)
                start = f"{model} " if len(places) > 1 else ""
                failed.append((f"{start}{entry['name']}", reason))
                if measured:
                    runs.append(failed_record(measured[0], Checkpoint(**entry), reason))
        if unfinished and not (partial and runs):
            raise StoreError(
                f"{unfinished[0]} is a run of `fastdim sweep`, not of `fastdim track`, or a "
                "checkpoint that is not finished: start the track again"
            )
        if failed and not runs:
            raise StoreError(f"no checkpoint could be measured; {failed[0][0]}: {failed[0][1]}")
        return cls(runs, failed, unfinished)

    @property
    def complete(self) -> bool:
        """Whether every checkpoint was measured to its end, or failed."""
        return not self.unfinished and super().complete

    @property
    def steps(self) -> dict[str, int]:
        """Step of each checkpoint, by its name in the column `revision`; of several models with the
        model's name before, as in `failed`: "MODEL step1000".
        """
        samples = [run.sample for run in self.runs]
        several = len({sample["model"] for sample in samples}) > 1
        start = {sample["model"]: f"{sample['model']} " if several else "" for sample in samples}
        return {f"{start[one['model']]}{one['revision']}": int(one["step"]) for one in samples}

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


def trainings(folder: Path) -> list[Path]:
    """Folders of trainings in that of a track: itself where it has runs, and those right inside."""
    inside = trainings_inside(folder)
    return [folder, *inside] if is_training(folder) or not inside else inside


def is_training(folder: Path) -> bool:
    """Whether runs lie right inside, or a list of checkpoints that failed."""
    return (folder / FAILED).is_file() or any(folder.glob("*/run.json"))


def trainings_inside(folder: Path) -> list[Path]:
    """Folders of trainings right inside: of a track of several models."""
    inside = {path.parent.parent for path in folder.glob("*/*/run.json")}
    return sorted(inside | {path.parent for path in folder.glob(f"*/{FAILED}")})


def check_output(folder: Path, several: bool) -> None:
    """Raise StoreError where the folder holds a track of one model, and this one is of several, or
    the other way round: their results have one place.
    """
    held = trainings_inside(folder) if not several else []
    if held or (several and is_training(folder)):
        there, now = ("several models", "one") if held else ("one model", "several")
        raise StoreError(
            f"{folder} holds a track or runs of {there}, and this is a track of {now}, whose "
            "results would take their place: choose another output folder"
        )


def runs_in(training: Path) -> list[Path]:
    """Run folders of one of `trainings`; none where all of its checkpoints failed at once."""
    if (training / FAILED).is_file() and not any(training.glob("*/run.json")):
        return []
    return find_runs([training])


def load_runs(*folders: str | Path) -> Sweep:
    """What `fastdim report` shows of folders of sweeps and tracks, finished or not.

    A `Track` if all are of tracks: with the column `step`, failed checkpoints, and without those
    that are not finished. Raises StoreError as `Sweep.load`.
    """
    places = [inner for folder in folders for inner in trainings(Path(folder))]
    within = {path: runs_in(path) for path in places}
    tracks = [path for path in places if not within[path] or any(map(_is_settled, within[path]))]
    if not tracks:
        return Sweep.load(*places)
    found = Track.load(*tracks, partial=True)
    if len(tracks) == len(places):
        return found
    others = Sweep.load(*(path for path in places if path not in tracks))
    return Sweep([*found.runs, *others.runs])


def failed_record(first: RunRecord, checkpoint: Checkpoint, reason: str) -> RunRecord:
    """Rows of a checkpoint that could not be measured, as the first one has them."""
    definition = replace(
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
