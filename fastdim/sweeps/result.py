"""`Sweep`: the result of one or more runs, with its table, pictures and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdim.errors import InputError, StoreError, require_all
from fastdim.extract.model import model_packages
from fastdim.extract.shards import storage_errors, write_bytes
from fastdim.sweeps.options import FORMATS
from fastdim.sweeps.record import RunRecord, find_runs
from fastdim.sweeps.schema import to_frame

if TYPE_CHECKING:
    import pandas

_NEEDED = {"parquet": ("pandas", "pyarrow"), "csv": ("pandas",), "html": ("pandas",)}
_NEEDED["png"] = ("pandas", "matplotlib")


class Sweep:
    """Metrics of every layer under every token filter, of one or more models.

    Made by `fastdim.sweep` and `Sweep.load`. `runs` holds the plain data of each model.
    """

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        if not runs:
            raise InputError("a Sweep needs at least one run")
        self.runs = list(runs)

    @classmethod
    def load(cls, *folders: str | Path) -> Sweep:
        """Read saved runs; several folders, or a folder of runs, become one table. No torch.

        A run that was interrupted gives the rows of its finished pieces (`complete` is False).
        Raises StoreError where a folder holds no run or a damaged one.
        """
        paths = find_runs([Path(folder) for folder in folders])
        return cls([RunRecord.read(path) for path in paths])

    @cached_property
    def table(self) -> pandas.DataFrame:
        """Tidy table: one row a (model, revision, layer, filter, metric); see `schema.COLUMNS`.

        Needs pandas (DependencyError without it).
        """
        frame: pandas.DataFrame = to_frame([row for run in self.runs for row in run.rows()])
        return frame

    @property
    def layers(self) -> list[dict[str, Any]]:
        """One entry a (model, layer, filter): row counts, norms, and the rows that carry s1^2."""
        return [entry for run in self.runs for entry in run.layers()]

    @property
    def definition(self) -> dict[str, Any]:
        """The definition of the first run, and of every run under "runs"."""
        every = [run.definition.to_json() for run in self.runs]
        return {**every[0], "runs": every}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage: load, forward, analysis, report."""
        total: dict[str, float] = {}
        for run in self.runs:
            for stage, seconds in run.seconds.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total

    @property
    def complete(self) -> bool:
        """Whether every piece of every run is there (with status "ok" or "failed")."""
        return all(run.complete for run in self.runs)

    @property
    def n_failed(self) -> int:
        """(layer, filter) pieces with at least one failed metric."""
        return sum(run.n_failed for run in self.runs)

    def __repr__(self) -> str:
        names = ", ".join(str(run.sample["model"]) for run in self.runs)
        pieces = sum(len(run.pieces) for run in self.runs)
        return f"Sweep({names}: {pieces} pieces, {self.n_failed} failed)"

    def plot(self, path: str | Path | None = None) -> Any:
        """Curves of the metrics over the layers, as a matplotlib Figure; a file too if named."""
        from fastdim.report import plot_profiles

        return plot_profiles(self.table, path)

    def report(self, path: str | Path) -> Path:
        """Write one offline HTML file, and its JSON twin beside it; returns the HTML's path."""
        from fastdim.report import write_report

        with storage_errors(Path(path)):
            write_report(self, path)
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the runs so that `Sweep.load(folder)` reads them, and results.csv / .parquet.

        The folder must be new or empty. Several runs get a subfolder each.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{folder} exists and is not an empty folder; choose another")
        require_formats(("parquet", "csv"))
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path, run in zip(run_folders(folder, self._names()), self.runs, strict=True):
                run.write(path)
        self.write_results(folder, ("parquet", "csv"))
        return folder

    def write_results(self, folder: Path, formats: Sequence[str]) -> list[Path]:
        """Write the chosen files (see `FORMATS`) into a folder; returns their paths."""
        written = []
        if "parquet" in formats:
            written.append(folder / "results.parquet")
            write_bytes(written[-1], self.table.to_parquet(index=False))
        if "csv" in formats:
            written.append(folder / "results.csv")
            write_bytes(written[-1], self.table.to_csv(index=False).encode())
        if "html" in formats:
            written.append(self.report(folder / "report.html"))
        if "png" in formats:
            written.append(folder / "profiles.png")
            self.plot(written[-1])
        return written

    def _names(self) -> list[str]:
        return [f"{run.sample['model']}-{run.sample['revision']}".strip("-") for run in self.runs]


def require_formats(formats: Sequence[str], models: Sequence[Any] = ()) -> None:
    """Raise before any work if a file format is unknown, or a package is missing that the formats
    or the models to be run need; all that are missing are named at once.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown format {name!r}; there are: {', '.join(FORMATS)}")
    needed = {package: "models" for model in models for package in model_packages(model)}
    require_all(needed | {package: "report" for name in formats for package in _NEEDED[name]})


def run_folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Where each of several runs lies: the folder itself for one run, else a subfolder each."""
    if len(names) == 1:
        return [folder]
    slugs = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model" for name in names]
    return [
        folder / (slug if slugs.count(slug) == 1 else f"{slug}-{number}")
        for number, slug in enumerate(slugs, 1)
    ]
