"""One function a command: options in, exit code out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastdim.cli import FAILED_ROWS, OK, exit_code
from fastdim.cli.display import Terminal, duration, split_text, wide
from fastdim.cli.given import ANALYSIS, SAMPLE, SEARCH, check_named, chosen, texts_of
from fastdim.cli.ranks import check_alone, joined, launched, threads_each
from fastdim.distributed.ranks import Ranks
from fastdim.errors import InputError
from fastdim.extract.shards import storage_errors
from fastdim.sweeps.folder import RunFolder
from fastdim.sweeps.jobs import Job, plan_job, prepare_files, prepare_model, run_job
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.record import RunRecord
from fastdim.sweeps.result import Sweep, require_formats, run_folders
from fastdim.sweeps.together import run_together
from fastdim.track_result import Track, load_runs, runs_in, trainings


def run(options: argparse.Namespace) -> int:
    """Run the command that was parsed; returns the exit code."""
    if options.command != "sweep":
        check_alone(options.command)
    return _COMMANDS[options.command](options)


def sweep(options: argparse.Namespace) -> int:
    """`fastdim sweep`: check everything that is cheap for every model, then run one by one."""
    if not launched():
        return _sweep(options, None)
    options.threads = threads_each(options.threads)
    with joined(options.rank_timeout, exit_code) as ranks:
        return _sweep(options, ranks)


def _sweep(options: argparse.Namespace, ranks: Ranks | None) -> int:
    """The sweep of this process, or of all ranks together."""
    jobs = _jobs(options) if ranks is None else ranks.each(lambda: _jobs(options))
    if options.dry_run:
        if ranks is None or ranks.first:
            for job in jobs:
                plan_job(job, _progress(options))
        return OK
    return _run_all(jobs, Path(options.output), options, _progress(options), ranks)


def _jobs(options: argparse.Namespace) -> list[Job]:
    """What is to be swept, checked."""
    if options.models and options.model:
        raise InputError("name the models once: as arguments or with --model, not both")
    models = options.models or options.model
    if not models:
        raise InputError("which model? A hub name, a folder, a .gguf file or package:NAME")
    check_named(options, None if options.dry_run else "--output DIR (or --dry-run)")
    require_formats(() if options.dry_run else options.formats, models)
    corpus = texts_of(options)
    return [
        prepare_model(
            model,
            corpus,
            **chosen(options, (*SAMPLE, *ANALYSIS, *SEARCH, "revision", "keep_activations")),
        )
        for model in models
    ]


def profile(options: argparse.Namespace) -> int:
    """`fastdim profile`: the same metrics for matrices from elsewhere."""
    require_formats(options.formats if options.output else ("csv",))
    job = prepare_files(options.files, name=options.name, **chosen(options, (*ANALYSIS, *SEARCH)))
    output = None if options.output is None else Path(options.output)
    return _run_all([job], output, options, _progress(options))


def _run_all(
    jobs: list[Job],
    output: Path | None,
    options: argparse.Namespace,
    progress: Progress,
    ranks: Ranks | None = None,
) -> int:
    names = [job.definition.model.removeprefix("package:") for job in jobs]
    folders = [None] if output is None else run_folders(output, names)

    def check() -> None:
        for job, folder in zip(jobs, folders, strict=True):
            job.check(folder)

    check() if ranks is None else ranks.from_first(check)
    records = []
    for job, folder in zip(jobs, folders, strict=True):
        if ranks is None or folder is None:
            records.append(run_job(job, folder, options.formats, progress))
        else:
            records.append(run_together(job, folder, options.formats, progress, ranks))
    result = Sweep(records)
    if ranks is not None and not ranks.first:
        return FAILED_ROWS if result.n_failed else OK
    if output is not None and len(records) > 1:
        result.write_results(output, options.formats)
    return _show(result, output, options.quiet)


def _show(result: Sweep, output: Path | None, quiet: bool) -> int:
    if not quiet:
        from fastdim.report import print_legend, print_table

        console = Console()
        print_table(result.table, console)
        print_legend(result.table, console)
        if result.seconds:
            console.print(split_text(result.seconds), highlight=False, soft_wrap=True)
        if output is not None:
            files = sorted(
                path.name
                for path in output.iterdir()
                if path.stem in ("results", "report", "profiles")
            )
            console.print(f"written to {output}: {', '.join(files)}", soft_wrap=True)
    _tell(warnings_of(result), "fastdim: ", " warnings")
    if result.n_failed:
        print(
            f"fastdim: {result.n_failed} of {sum(len(run.pieces) for run in result.runs)} pieces"
            " (layers x filters) have failed rows in the table; the reasons:",
            file=sys.stderr,
        )
        _tell(failure_reasons(result), "  ", "")
        return FAILED_ROWS
    return OK


MOST_REASONS = 5


def _tell(lines: list[str], start: str, what: str) -> None:
    """The first lines on standard error, and how many more stand in the table."""
    for line in lines[:MOST_REASONS]:
        print(f"{start}{line}", file=sys.stderr)
    if len(lines) > MOST_REASONS:
        more = len(lines) - MOST_REASONS
        print(f'{start}and {more} more{what}, in the column "reason"', file=sys.stderr)


def warnings_of(result: Sweep) -> list[str]:
    """Site, filter, metric and text of each row that was computed and is warned of."""
    table = result.table
    warned = table[(table["status"] == "ok") & (table["reason"] != "")]
    columns = (warned[name] for name in ("layer", "filter", "metric", "reason"))
    return [
        f"layer {layer}, {kind}, {metric}: {reason}"
        for layer, kind, metric, reason in zip(*columns, strict=True)
    ]


def failure_reasons(result: Sweep) -> list[str]:
    """The different reasons of failed rows, in the order of the table."""
    failed = result.table[result.table["status"] == "failed"]
    return list(dict.fromkeys(str(reason) for reason in failed["reason"]))


def report(options: argparse.Namespace) -> int:
    """`fastdim report`: table, page and picture again, from saved runs."""
    require_formats(options.formats)
    if options.output is None and len(options.folders) > 1:
        raise InputError("several folders: say where the common report goes with --output DIR")
    result = load_runs(*options.folders)
    output = Path(options.output or options.folders[0])
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    result.write_results(output, options.formats)
    if not result.complete:
        print("fastdim: a run is not finished; the report shows what is there", file=sys.stderr)
    if isinstance(result, Track):
        _tell([f"{path} is not finished, and left out" for path in result.unfinished], "  ", "")
    code = _show(result, output, options.quiet)
    # Of a model none of whose checkpoints could be measured there is no row.
    told = {f"{run.sample['model']} {run.sample['revision']}" for run in result.runs}
    told |= {str(run.sample["revision"]) for run in result.runs}
    failed = result.failed if isinstance(result, Track) else []
    missing = [(name, reason) for name, reason in failed if name not in told]
    for name, reason in missing:
        print(f"fastdim: checkpoint {name} failed: {reason}", file=sys.stderr)
    return FAILED_ROWS if missing else code


def ls(options: argparse.Namespace) -> int:
    """`fastdim ls`: the runs in some folders, finished or not."""
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "model", "revision", "rows", "sites", "pieces", "failed", "time"):
        table.add_column(heading, overflow="fold")
    places = [inner for place in options.folders for inner in trainings(Path(place))]
    for path in dict.fromkeys(run for place in places for run in runs_in(place)):
        folder = RunFolder(path)
        if folder.sample() is None:
            table.add_row(str(path), folder.definition().model, "", "", "", "none yet", "", "")
            continue
        record = RunRecord.read(path)
        sample = record.sample
        table.add_row(
            str(path),
            str(sample["model"]),
            str(sample["revision"]),
            f"{sample['n_rows']:,}",
            str(len(sample["sites"])),
            f"{len(record.pieces)} of {record.n_pieces}",
            str(record.n_failed),
            duration(sum(record.seconds.values())),
        )
    console = Console()
    wide(console, table)
    console.print(table)
    return OK


def doctor(options: argparse.Namespace) -> int:
    """`fastdim doctor`: what runs here."""
    from fastdim.doctor import examine, render

    answer = examine()
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        render(answer, Console())
    return OK


def _progress(options: argparse.Namespace) -> Progress:
    return Progress() if options.quiet else Terminal(Console(stderr=True))


def track(options: argparse.Namespace) -> int:
    """`fastdim track`: checkpoints of one training, and the phases of its layers."""
    from fastdim.cli.training import track as run_track

    return run_track(options, _progress(options))


def attention(options: argparse.Namespace) -> int:
    """`fastdim attention`: statistics of every head."""
    from fastdim.cli.heads import attention as run_attention

    return run_attention(options, _progress(options))


def causes(options: argparse.Namespace) -> int:
    """`fastdim causes`: ablations of every layer."""
    from fastdim.cli.causes import causes as run_causes

    return run_causes(options, _progress(options))


def plan(options: argparse.Namespace) -> int:
    """`fastdim plan`: what a sweep takes on many GPUs."""
    from fastdim.cli.planning import plan as run_plan

    return run_plan(options)


_COMMANDS = {
    "plan": plan,
    "attention": attention,
    "causes": causes,
    "sweep": sweep,
    "track": track,
    "profile": profile,
    "report": report,
    "ls": ls,
    "doctor": doctor,
}
