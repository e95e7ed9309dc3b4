"""`fastdim track`: measure checkpoints, say which phases their layers went through."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastdim.errors import InputError
from fastdim.sweeps.progress import Progress

FINISHED, FAILED_ROWS = 0, 1
PHASED = ("id_twonn", "anisotropy")


def track(options: argparse.Namespace, analysis: dict[str, Any], progress: Progress) -> int:
    """Run the command; 1 if a checkpoint or a row of the table failed."""
    if options.texts is None:
        raise InputError("which texts? --texts FILE, FOLDER, - or docstrings")
    if options.output is None:
        raise InputError("where to? --output DIR")
    from fastdim.diagnose.training import phases
    from fastdim.extract.texts import load_texts
    from fastdim.track import track as run

    names = ("layers", "context", "pack", "max_tokens", "tokens_per_document", "batch_size",
             "device", "dtype", "store_dtype", "trust_remote_code")  # fmt: skip
    result = run(
        options.model,
        load_texts(options.texts, field=options.text_field),
        options.output,
        revisions=options.revisions,
        checkpoints=options.checkpoints,
        steps=options.steps,
        keep=options.keep,
        formats=options.formats,
        progress=progress,
        **{name: getattr(options, name) for name in names},
        **analysis,
    )
    if not options.quiet:
        measured = len(result.runs) - len(result.failed)
        print(f"{measured} checkpoints measured, steps {', '.join(map(str, _steps(result)))}")
        if measured < 3:
            print("phases need at least 3 checkpoints")
        else:
            for metric in PHASED:
                print(phases(result, metric, steps=result.steps))
    for name, reason in result.failed:
        print(f"fastdim: checkpoint {name} failed: {reason}", file=sys.stderr)
    if result.failed or result.n_failed:
        return FAILED_ROWS
    return FINISHED


def _steps(result: Any) -> list[int]:
    failed = {name for name, _ in result.failed}
    return [step for name, step in result.steps.items() if name not in failed]
