"""`fastdim causes`: a sweep with its activations, then ablations of every layer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastdim.cli import FAILED_ROWS, OK
from fastdim.cli.display import wide
from fastdim.cli.given import MODEL, SEARCH, check_named, chosen, texts_of
from fastdim.extract.shards import write_bytes
from fastdim.sweeps.jobs import prepare_model, run_job
from fastdim.sweeps.options import Defaults
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.result import require_formats


def causes(options: argparse.Namespace, progress: Progress) -> int:
    """Run the command; 1 if a row of the table failed."""
    check_named(options)
    require_formats(("csv",), [options.model])
    from fastdim.causes import FACTORS
    from fastdim.causes import causes as run

    folder = Path(options.output)
    job = prepare_model(
        options.model,
        texts_of(options),
        tokens_per_document=None,
        store_dtype=None,
        filters=["all"],
        queries=Defaults.queries,
        pairs=Defaults.pairs,
        exact=False,
        outlier_factor=Defaults.outlier_factor,
        keep_activations=True,
        **chosen(options, (*MODEL, "revision", "layers", "seed", "confidence", "threads", *SEARCH)),
    )
    job.check(folder)
    run_job(job, folder, ("csv",), progress)
    found = run(
        folder,
        queries=options.queries,
        confidence=options.confidence,
        threads=options.threads,
        **chosen(options, SEARCH),
    )
    write_bytes(folder / "causes.csv", found.to_csv(index=False).encode())
    if not options.quiet:
        console = Console()
        for metric in found["metric"].drop_duplicates():
            part = found[found["metric"] == metric]
            table = Table(box=None, pad_edge=False, title=f"{metric}: what each cause explains")
            for heading in ("block", "whole", *FACTORS, "left"):
                table.add_column(heading, justify="right", no_wrap=True)
            everything = "+".join(FACTORS)
            for block, rows in part.groupby("block"):
                value = {(r["kind"], r["name"]): r["value"] for r in rows.to_dict("records")}
                numbers = [value["ablation", "nothing"]]
                numbers += [value["share", name] for name in FACTORS]
                numbers.append(value["ablation", everything])
                table.add_row(str(block), *(f"{number:.3g}" for number in numbers))
            wide(console, table)
            console.print(table)
        console.print(f"written: {folder / 'causes.csv'}", soft_wrap=True, highlight=False)
    failed = int((found["status"] == "failed").sum())
    if failed:
        reasons = found.loc[found["status"] == "failed", "reason"]
        print(f"fastdim: {failed} rows failed, the first: {reasons.iloc[0]}", file=sys.stderr)
    return FAILED_ROWS if failed else OK
