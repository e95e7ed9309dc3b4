"""Writes report.html and its JSON twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastdim.extract.shards import write_bytes
from fastdim.metrics import METRICS
from fastdim.report.data import read_sample
from fastdim.report.findings import findings_of
from fastdim.report.page import render
from fastdim.report.shapes import shapes_of
from fastdim.report.twin import twin_of, write_twin

if TYPE_CHECKING:
    import pandas as pd


class SweepLike(Protocol):
    """What a report is made from; `fastdim.Sweep` is one."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def layers(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def definition(self) -> Mapping[str, Any]: ...


def write_report(sweep: SweepLike, path: str | Path) -> tuple[Path, Path]:
    """Write the page to `path` and its JSON twin beside it; returns both paths.

    The twin has the name of the page with the suffix .json. Each file appears complete or not at
    all. Raises InputError for a table that cannot be reported, StoreError if a file cannot be
    written.
    """
    path = Path(path)
    twin_path = path.with_suffix(".json")
    table, extras, definition = sweep.table, sweep.layers, sweep.definition
    findings = findings_of(read_sample(table, extras, tuple(METRICS)))
    shapes = shapes_of(sweep)
    page = render(table, extras, definition, twin=twin_path.name, shapes=shapes)
    told = [item.to_json() for item in shapes]
    twin = write_twin(twin_of(table, extras, definition, findings, told))
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, page), (twin_path, twin)):
        write_bytes(target, text.encode())
    return path, twin_path
