"""FAISS indexes over rows: chosen by size, built, saved, loaded, and known by the rows they hold.

An index only proposes candidates: `fastdim.backends.faiss_search` recomputes and audits them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fastdim.arrays import Rows, as_rows, whole_number
from fastdim.backends import cpu
from fastdim.errors import BackendError, InputError, StoreError, require

BACKENDS = ("faiss", "faiss-gpu")
KINDS = ("flat", "ivf", "hnsw", "nn-descent")

# From here on "auto" takes inverted lists in place of a scan of all rows.
IVF_ROWS = 1_000_000
# FAISS prints a warning where k-means has fewer rows than this a list.
ROWS_A_LIST = 39
# NN-descent cannot build a smaller graph.
DESCENT_ROWS = 101

# What "hnsw" and "nn-descent" are built with unless told otherwise: M, efConstruction, K.
LINKS = 32
CONSTRUCTION = 200
DEGREE = 64

# What a kind looks at, and so trades time for recall by; flat looks at everything.
EFFORT = {"ivf": "nprobe", "hnsw": "efSearch", "nn-descent": "search_L"}
START = {"ivf": 32, "hnsw": 64, "nn-descent": 64}
VERSION = 1

# Kinds that FAISS has on GPUs, and the most that it looks at and returns there.
GPU_KINDS = ("flat", "ivf")
GPU_PROBES = 2048
GPU_NEIGHBORS = 2048


@dataclass(frozen=True, eq=False)
class FaissIndex:
    """A FAISS index over n rows of d columns, made by `build` or `load`, for `knn(index=...)`.

    FAISS holds float32: rows less `center` (d,), divided by `scale`, so that a common offset or a
    tiny unit does not cost digits. kind: "flat", "ivf", "hnsw" or "nn-descent". parameters: what it
    was built with. fingerprint: SHA-256 of the rows, "" for an index that only one call sees. gpus:
    cards that hold it, 0 for host memory.
    """

    index: Any
    kind: str
    n: int
    d: int
    center: NDArray[np.float64]
    scale: float
    parameters: dict[str, int]
    fingerprint: str
    gpus: int = 0
    _nprobe: list[int] = field(default_factory=list, init=False, repr=False)

    @staticmethod
    def build(
        x: Any,
        kind: str = "auto",
        *,
        lists: int | None = None,
        links: int = LINKS,
        construction: int = CONSTRUCTION,
        degree: int = DEGREE,
        effort: int | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> FaissIndex:
        """An index over the rows of x (n, d), any dtype that `as_rows` takes.

        kind: "auto" is "flat" below 10^6 rows and "ivf" from there on; "hnsw" and "nn-descent" on
            request. Their graphs depend on the order in which threads come, so two builds may
            differ; "flat" and "ivf" do not.
        lists: of "ivf", 4 sqrt(n) if None. links, construction: of "hnsw" (M, efConstruction).
            degree: neighbours a row in the graph of "nn-descent" (K).
        effort: nprobe (32), efSearch (64) or search_L (64); a search may tune it.
        seed: of the k-means. threads: as in `knn`.

        For knn(duplicates="collapse") build it over the distinct rows, in order of their first
        occurrence. Raises InputError on bad values or too few rows; DependencyError without FAISS.
        """
        rows = as_rows(x, min_rows=2)
        options = {"lists": lists, "links": links, "construction": construction, "degree": degree}
        workers = cpu.resolve_threads(threads)
        return build(rows, kind, options, effort, seed, workers, fingerprint_of(rows))

    @property
    def effort(self) -> int:
        """nprobe, efSearch or search_L as it stands; the number of rows for "flat"."""
        if self.kind == "flat":
            return self.n
        if self.kind == "ivf":
            return self._nprobe[-1] if self.gpus else int(self.index.nprobe)
        if self.kind == "hnsw":
            return int(self.index.hnsw.efSearch)
        return int(self.index.nndescent.search_L)

    @property
    def most_effort(self) -> int:
        """The effort beyond which more finds nothing further."""
        if self.kind != "ivf":
            return self.n
        lists = self.parameters["lists"]
        return min(lists, GPU_PROBES) if self.gpus else lists

    def set_effort(self, value: int) -> None:
        """Set nprobe, efSearch or search_L. Raises InputError for "flat", which has none."""
        value = min(whole_number("effort", value, 1), self.most_effort)
        if self.kind == "flat":
            raise InputError("a flat index looks at every row: leave effort out")
        if self.gpus:
            space = require("faiss", "faiss-gpu").GpuParameterSpace()
            space.set_index_parameter(self.index, "nprobe", float(value))
            self._nprobe.append(value)
        elif self.kind == "ivf":
            self.index.nprobe = value
        elif self.kind == "hnsw":
            self.index.hnsw.efSearch = value
        else:
            self.index.nndescent.search_L = value

    def on_gpus(self) -> FaissIndex:
        """A copy on every GPU that FAISS sees, the rows divided among them if there are several.

        Raises InputError for a graph, which FAISS has on no GPU.
        """
        check_gpu_kind(self.kind)
        faiss = require("faiss", "faiss-gpu")
        count = int(faiss.get_num_gpus())
        options = faiss.GpuMultipleClonerOptions()
        options.shard = count > 1
        options.useFloat16 = False
        index = faiss.index_cpu_to_all_gpus(self.index, co=options)
        moved = replace(self, index=index, gpus=count)
        if self.kind == "ivf":
            moved.set_effort(self.effort)
        return moved

    def check_rows(self, rows: Rows) -> None:
        """Raise InputError unless the index was built over these rows, bit for bit."""
        if (rows.n, rows.d) == (self.n, self.d) and fingerprint_of(rows) == self.fingerprint:
            return
        raise InputError(
            f"the index holds {self.n} rows of {self.d} columns of another data set than the "
            f"{rows.n} x {rows.d} that are searched: build it over these rows (with "
            "duplicates='collapse' over the distinct ones), or leave index out"
        )

    def as_float32(self, rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop as the index holds them."""
        return ((rows.float64(start, stop) - self.center) / self.scale).astype(np.float32)

    def save(self, folder: str | Path) -> None:
        """Write `index.faiss` and `index.json` into a folder, which is made where it is missing.

        Raises InputError for an index inside one call, whose rows are not known.
        """
        if not self.fingerprint:
            raise InputError("this index was made inside one call: use FaissIndex.build to save it")
        faiss = require("faiss", "faiss")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        facts = folder / "index.json"
        # Facts come last: a folder without them was never finished.
        facts.unlink(missing_ok=True)
        faiss.write_index(self.index, str(folder / "index.faiss"))
        record = {
            "version": VERSION,
            "kind": self.kind,
            "n": self.n,
            "d": self.d,
            "scale": self.scale,
            "parameters": self.parameters,
            "effort": self.effort,
            "fingerprint": self.fingerprint,
            "bytes": (folder / "index.faiss").stat().st_size,
            "center": self.center.tolist(),
        }
        facts.write_text(json.dumps(record), encoding="utf-8")

    @staticmethod
    def load(folder: str | Path) -> FaissIndex:
        """The index that `save` wrote. Raises StoreError if it is missing, unfinished or damaged.

        Whether it belongs to the rows is checked when they are searched.
        """
        faiss = require("faiss", "faiss")
        path, facts = Path(folder) / "index.faiss", Path(folder) / "index.json"
        if not path.is_file() or not facts.is_file():
            raise StoreError(f"{folder} holds no finished FAISS index: save one there first")
        try:
            record = json.loads(facts.read_text(encoding="utf-8"))
            if record["version"] != VERSION or record["bytes"] != path.stat().st_size:
                raise ValueError("its version or its size is not what was recorded")
            index = faiss.read_index(str(path))
            center = np.array(record["center"], dtype=np.float64)
            if (index.ntotal, index.d) != (record["n"], record["d"]) or center.shape != (index.d,):
                raise ValueError("index.faiss holds other rows than index.json says")
            loaded = FaissIndex(
                index,
                str(record["kind"]),
                int(record["n"]),
                int(record["d"]),
                center,
                float(record["scale"]),
                {str(name): int(value) for name, value in record["parameters"].items()},
                str(record["fingerprint"]),
            )
            if loaded.kind != "flat":
                loaded.set_effort(int(record["effort"]))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the FAISS index in {folder} cannot be read ({error}): build and save it again"
            ) from error
        return loaded


def build(
    rows: Rows,
    kind: str,
    options: dict[str, int | None],
    effort: int | None,
    seed: int,
    threads: int,
    fingerprint: str = "",
) -> FaissIndex:
    """`FaissIndex.build` on validated rows; options left out are the defaults there."""
    kind = kind_of(kind, rows.n)
    if effort is not None and kind == "flat":
        raise InputError("a flat index looks at every row: leave effort out")
    faiss = require("faiss", "faiss")
    index, parameters = _empty(faiss, rows, kind, options, seed)
    center, scale = _place(rows)
    made = FaissIndex(index, kind, rows.n, rows.d, center, scale, parameters, fingerprint)
    with limited(threads):
        if kind == "ivf":
            size = min(rows.n, 64 * parameters["lists"])
            chosen = np.sort(np.random.default_rng(seed).choice(rows.n, size, replace=False))
            index.train(made.as_float32(rows.take(chosen), 0, size))
        if kind == "nn-descent":  # the graph is built in one go
            index.add(made.as_float32(rows, 0, rows.n))
        else:
            for start, stop in rows.spans():
                index.add(made.as_float32(rows, start, stop))
    if kind != "flat":
        made.set_effort(START[kind] if effort is None else effort)
    return made


def _empty(
    faiss: Any, rows: Rows, kind: str, options: dict[str, int | None], seed: int
) -> tuple[Any, dict[str, int]]:
    """An untrained index, and the parameters it has."""
    metric = faiss.METRIC_L2
    if kind == "flat":
        return faiss.IndexFlatL2(rows.d), {}
    if kind == "ivf":
        lists = lists_of(rows.n, options.get("lists"))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(rows.d), rows.d, lists, metric)
        index.cp.seed = seed + 1
        return index, {"lists": lists}
    if kind == "hnsw":
        links = whole_number("links", options.get("links", LINKS), 2)
        built = whole_number("construction", options.get("construction", CONSTRUCTION), 1)
        index = faiss.IndexHNSWFlat(rows.d, links, metric)
        index.hnsw.efConstruction = built
        return index, {"links": links, "construction": built}
    degree = min(whole_number("degree", options.get("degree", DEGREE), 2), rows.n - 1)
    if rows.n < DESCENT_ROWS:
        raise InputError(
            f"nn-descent needs at least {DESCENT_ROWS} rows, got {rows.n}: use index='flat'"
        )
    return faiss.IndexNNDescentFlat(rows.d, degree, metric), {"degree": degree}


def kind_of(kind: str, n: int) -> str:
    """The kind of an index of n rows, "auto" by their number. Raises InputError on another name."""
    if kind not in ("auto", *KINDS):
        raise InputError(f"index must be 'auto' or one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "auto":
        return "ivf" if n >= IVF_ROWS else "flat"
    return kind


def lists_of(n: int, wanted: int | None) -> int:
    """Inverted lists of n rows, 4 sqrt(n) unless told. Raises InputError where rows are too few."""
    most = max(1, n // ROWS_A_LIST)
    lists = min(most, math.isqrt(16 * n)) if wanted is None else wanted
    if whole_number("lists", lists, 1) > most:
        raise InputError(
            f"lists = {lists} need {ROWS_A_LIST} rows each, and there are {n} rows: "
            f"pass at most {most}"
        )
    return lists


def check_gpu_kind(kind: str) -> None:
    """Raise InputError for a graph, which FAISS has on no GPU."""
    if kind not in GPU_KINDS:
        raise InputError(
            f"FAISS has no {kind!r} index on a GPU: pass index='flat' or 'ivf', or backend='faiss'"
        )


def _place(rows: Rows) -> tuple[NDArray[np.float64], float]:
    """Mean of the rows, and the largest norm about it (1 where all rows are equal)."""
    center = sum((rows.float64(*span).sum(axis=0) for span in rows.spans()), np.zeros(rows.d))
    center = np.asarray(center / rows.n)
    largest = 0.0
    for span in rows.spans():
        block = rows.float64(*span) - center
        # Squares of tiny values vanish.
        power = 2.0 ** math.frexp(float(np.abs(block).max()))[1]
        block /= power
        norm2 = float(np.einsum("ij,ij->i", block, block).max())
        largest = max(largest, power * math.sqrt(norm2))
    return center, largest or 1.0


def fingerprint_of(rows: Rows) -> str:
    """SHA-256 of number type, shape and values, whatever the strides."""
    digest = hashlib.sha256(f"{rows.dtype} {rows.n} {rows.d}".encode())
    for start, stop in rows.spans():
        digest.update(np.ascontiguousarray(rows.data[start:stop]).data)
    return digest.hexdigest()


def check_gpu() -> None:
    """Raise the BackendError of "faiss-gpu" where FAISS sees no GPU."""
    if int(require("faiss", "faiss-gpu").get_num_gpus()) == 0:
        raise BackendError(
            "backend='faiss-gpu' needs a GPU, and FAISS sees none (faiss.get_num_gpus() is 0): "
            "install 'fastdim[faiss-gpu]' in place of [faiss] on a machine with an NVIDIA card, "
            "or pass backend='faiss'"
        )


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """FAISS and its BLAS on this many threads."""
    require("faiss", "faiss")
    with threadpool_limits(threads):
        yield
