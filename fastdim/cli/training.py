"""`fastdim track`: measure checkpoints, say which phases their layers went through."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastdim.cli import FAILED_ROWS, OK
from fastdim.cli.given import ANALYSIS, SAMPLE, SEARCH, check_named, chosen, texts_of
from fastdim.diagnose.training import phases
from fastdim.errors import InputError
from fastdim.sweeps.progress import Progress
from fastdim.track import RayOptions
from fastdim.track import track as run_track
from fastdim.track_result import Track

PHASED = ("id_twonn", "anisotropy")


def track(options: argparse.Namespace, progress: Progress) -> int:
    """Run the command; 1 if a checkpoint or a row of the table failed."""
    check_named(options)
    engine: dict[str, Any] = {"engine": options.engine}
    if options.engine == "ray":
        engine["ray"] = RayOptions(
            options.ray_address,
            options.gpus_per_checkpoint,
            int(options.memory_per_checkpoint * 1e9),
            options.retries,
        )
    elif options.ray_address or options.gpus_per_checkpoint or options.memory_per_checkpoint:
        raise InputError(
            "--ray-address, --gpus-per-checkpoint and --memory-per-checkpoint belong to "
            "--engine ray: add it, or leave them out"
        )
    result = run_track(
        options.models if len(options.models) > 1 else next(iter(options.models), None),
        texts_of(options),
        options.output,
        progress=progress,
        **engine,
        **chosen(options, ("revisions", "checkpoints", "steps", "keep", "formats")),
        **chosen(options, (*SAMPLE, *ANALYSIS, *SEARCH)),
    )
    if not options.quiet:
        for model in dict.fromkeys(str(run.sample["model"]) for run in result.runs):
            _tell(result, model, several=len(options.models) > 1)
    for name, reason in result.failed:
        print(f"fastdim: checkpoint {name} failed: {reason}", file=sys.stderr)
    if result.failed or result.n_failed:
        return FAILED_ROWS
    return OK


def _tell(result: Track, model: str, several: bool) -> None:
    """Print the steps of a model that were measured, and its phases."""
    runs = [run for run in result.runs if run.sample["model"] == model]
    failed = {name for name, _ in result.failed}
    start = f"{model} " if several else ""
    steps = [
        int(run.sample["step"]) for run in runs if f"{start}{run.sample['revision']}" not in failed
    ]
    told = f"{len(steps)} checkpoints measured, steps {', '.join(map(str, steps))}"
    print(f"{model}: {told}" if several else told)
    if len(steps) < 3:
        print("phases need at least 3 checkpoints")
        return
    filters = runs[0].definition.filters
    kind = "all" if "all" in filters else filters[0]
    for metric in PHASED:
        print(_phases(Track(runs), metric, kind))


def _phases(result: Track, metric: str, kind: str) -> str:
    """The phases in words, or why this track has none: all the rest of it was computed."""
    try:
        return str(phases(result, metric, kind))
    except InputError as error:
        return f"no phases of {metric}: {error}"
