"""A run, finished or not, as plain data: what is on disk, and what the table is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdim.errors import StoreError
from fastdim.sweeps.definition import Definition, python_version
from fastdim.sweeps.folder import RunFolder, write_json
from fastdim.sweeps.pieces import is_ok
from fastdim.sweeps.schema import table_rows


@dataclass
class RunRecord:
    """One model at one revision: definition, sample and pieces, each as its JSON file holds it."""

    definition: Definition
    sample: dict[str, Any]
    pieces: list[dict[str, Any]]
    seconds: dict[str, float] = field(default_factory=dict)
    python_version: str = field(default_factory=python_version)

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read the finished pieces of a run folder; needs no torch.

        Raises StoreError if the folder holds no run, or a run that has no sample yet.
        """
        folder = RunFolder(path)
        definition = folder.definition()
        sample = folder.sample()
        if sample is None:
            raise StoreError(f"{path}: the run has computed nothing yet; start its command again")
        pieces = []
        for site in sample["sites"]:
            for name in definition.filters:
                piece = folder.piece(site["layer"], name, definition.sha256)
                if piece is not None:
                    pieces.append(piece)
        python = folder.run().get("python_version", "")
        return cls(definition, sample, pieces, folder.timings(), python)

    def write(self, path: Path) -> None:
        """Write run.json, sample.json, timings.json and the pieces into a folder."""
        folder = RunFolder(path)
        folder.pieces.mkdir(parents=True, exist_ok=True)
        folder.write_run(self.definition, self.python_version)
        write_json(path / "sample.json", self.sample)
        write_json(path / "timings.json", self.seconds)
        for piece in self.pieces:
            write_json(folder.piece_path(piece["site"]["layer"], piece["filter"]), piece)

    @property
    def n_pieces(self) -> int:
        """Pieces of the whole run."""
        return len(self.sample["sites"]) * len(self.definition.filters)

    @property
    def complete(self) -> bool:
        """Whether every piece is there, failed ones included."""
        return len(self.pieces) == self.n_pieces

    @property
    def n_failed(self) -> int:
        """Pieces with at least one failed metric."""
        return sum(not is_ok(piece) for piece in self.pieces)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table, layer by layer, filter by filter, metric by metric."""
        definition, sample = self.definition, self.sample
        common = {
            **{name: sample[name] for name in ("model", "revision", "dtype", "store_dtype")},
            **{name: sample[name] for name in ("document_rule", "n_documents")},
            # Runs of before have neither.
            **{name: sample.get(name, "") for name in ("model_name", "architecture")},
            **{name: getattr(definition, name) for name in _FROM_DEFINITION},
            **{f"{name}_version": version for name, version in definition.versions.items()},
            "python_version": self.python_version,
        }
        return table_rows(common, self.pieces)

    def layers(self) -> list[dict[str, Any]]:
        """What stands beside the table, one entry a (layer, filter).

        Row counts, median and maximum norm, and `top_rows`: the rows that carry the largest share
        of s1^2, with their token, document and position.
        """
        empty: dict[str, Any] = dict.fromkeys(("n_rows", "n_removed", "norm_median", "norm_max"))
        empty["top_rows"] = []
        return [
            {
                "model": self.sample["model"],
                "revision": self.sample["revision"],
                **piece["site"],
                "filter": piece["filter"],
                "rule": piece["rule"],
                **(piece["extras"] or empty),
            }
            for piece in self.pieces
        ]


_FROM_DEFINITION = (
    "corpus", "corpus_sha256", "context", "max_tokens", "tokens_per_document", "batch_size", "seed",
    "device", "outlier_factor", "confidence",
)  # fmt: skip


def find_runs(paths: list[Path]) -> list[Path]:
    """Run folders: each path that is one, or else the runs right inside it, sorted by name.

    Raises StoreError for a path that holds none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise StoreError(f"{path} is not a folder; give the --output of a sweep")
        if (path / "run.json").is_file():
            inside = [path]
        else:
            inside = sorted(item.parent for item in path.glob("*/run.json"))
        if not inside:
            raise StoreError(
                f"{path} holds no fastdim run (no run.json in it or right below). Give the folder"
                " that was the --output of `fastdim sweep` or `fastdim profile`."
            )
        found += [item for item in inside if item not in found]
    return found
