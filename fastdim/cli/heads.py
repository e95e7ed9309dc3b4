"""`fastdim attention`: statistics of every head of a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastdim.cli import FAILED_ROWS, OK
from fastdim.cli.display import wide
from fastdim.cli.given import MODEL, check_named, chosen, texts_of
from fastdim.extract.shards import storage_errors, write_bytes
from fastdim.sweeps.progress import Progress
from fastdim.sweeps.result import require_formats

SHOWN = {
    "max_weight": "max", "entropy": "entropy", "first_key": "key 0", "sink_rate": "sinks",
    "categorical": "categorical", "query_norm": "|q|", "key_norm": "|k|",
    "mean_cosine": "cos(q,k)", "key_bias_std": "key bias",
}  # fmt: skip


def attention(options: argparse.Namespace, progress: Progress) -> int:
    """Run the command; 1 if a row of the table is not a number."""
    check_named(options, output=None)
    require_formats(("csv",) if options.output is None else ("csv", "png"), [options.model])
    from fastdim.attention import attention as run

    found = run(
        options.model,
        texts_of(options),
        progress=progress,
        **chosen(options, (*MODEL, "revision", "seed", "confidence")),
    )
    written = None
    if options.output is not None:
        folder = Path(options.output)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            written = folder / "attention.csv"
            write_bytes(written, found.table.to_csv(index=False).encode())
            found.plot(folder / "attention.png")
    if not options.quiet:
        console = Console()
        table = Table(box=None, pad_edge=False)
        for heading in ("block", *SHOWN.values()):
            table.add_column(heading, justify="right", no_wrap=True)
        layers = found.layers()
        for label, row in zip(layers.index, layers.to_dict("records"), strict=True):
            table.add_row(str(label[0]), *(f"{row[name]:.3g}" for name in SHOWN))
        wide(console, table)
        console.print(table)
        if written is not None:
            told = f"written: {written}, {written.with_suffix('.png').name}"
            console.print(told, soft_wrap=True, highlight=False)
    failed = found.table[found.table["status"] == "failed"]
    if not len(failed):
        return OK
    first = failed.iloc[0]
    print(
        f"fastdim: {len(failed)} rows failed, the first: {first['statistic']} of "
        f"{first['module']}: {first['reason']}",
        file=sys.stderr,
    )
    return FAILED_ROWS
