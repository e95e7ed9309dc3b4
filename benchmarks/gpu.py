"""GPU engines: correctness against float64, then times beside other libraries, then tiles.

    python -m benchmarks.gpu                # on a machine with a GPU
    python -m benchmarks.gpu --dry          # here: Triton's interpreter, small sizes, CPU peers

Writes benchmarks/results/gpu-CHIP.json and .md, and what was measured into docs/triton.md; --tune
also writes the best tile of the filter for this chip into fastdim/backends/triton/tuned.json, which
searches read; where the extension of docs/cuda.md runs too, which of both is faster goes into
fastdim/backends/faster.json, which backend="auto" reads. A backend that is wrong is not timed.
Peers are timed where they are installed: torch.cdist with topk, faiss, cuVS, torchid.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

# Run as a module, Python looks for what lies beside this file in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_checks import (
    check_estimators,
    check_layers,
    check_strategies,
    check_wide,
    checks,
    like_tokens,
)
from study_page import fill

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parent.parent / "docs/triton.md"
SIZES = ((20_000, 1_024), (50_000, 576), (200_000, 576))
DRY_SIZES = ((200, 32),)
# All pairs in float64 take seconds beyond.
COSINE_ROWS = 50_000
# Layers of LayerSweep: those of a small model.
LAYERS, LAYER_ROWS = 12, 8_192


def usable() -> list[str]:
    """The GPU backends that can run here."""
    from fastdim.backends import cuda, triton
    from fastdim.errors import BackendError

    found = []
    for name, ask in (("triton", triton.default_device), ("cuda", cuda.device)):
        try:
            ask()
        except BackendError as error:
            print(f"{name}: not timed: {error}")
        else:
            found.append(name)
    return found


def median_seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall time of a call, the device waited for, after one call to warm up."""
    import torch

    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def cdist(x: Any, k: int) -> None:
    """torch.cdist and topk in blocks that fit; the row itself still among its neighbours."""
    import torch

    step = max(1, 2_000_000_000 // len(x))
    for start in range(0, len(x), step):
        torch.cdist(x[start : start + step], x).topk(k + 1, largest=False)


def peers(x: Any, k: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Other libraries that are installed, on the rows of x where it lies."""
    yield "torch.cdist + topk", lambda: cdist(x, k)
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        if x.device.type == "cpu":
            rows = x.numpy()
            yield "faiss.knn", lambda: faiss.knn(rows, rows, k + 1)
        elif hasattr(faiss, "StandardGpuResources"):
            import faiss.contrib.torch_utils

            resources = faiss.StandardGpuResources()
            yield "faiss.knn_gpu", lambda: faiss.knn_gpu(resources, x, x, k + 1)
    if x.device.type == "cuda" and importlib.util.find_spec("cuvs") is not None:
        from cuvs.neighbors import brute_force

        index = brute_force.build(x)
        yield "cuVS brute_force", lambda: brute_force.search(index, x, k + 1)
    if importlib.util.find_spec("torchid") is not None:
        from torchid.estimators import TwoNN

        # Its search and its estimate at once, for they do not come apart.
        yield "torchid TwoNN", lambda: TwoNN().fit(x)


def candidates() -> Iterator[dict[str, int]]:
    """Tiles of the filter to try; those that do not compile or fit are left out when timed."""
    for queries, rows, columns, warps, stages in product(
        (128, 64), (128, 64), (64, 128, 32), (8, 4), (3, 4, 2)
    ):
        yield {
            "BLOCK_QUERIES": queries,
            "BLOCK_ROWS": rows,
            "BLOCK_COLUMNS": columns,
            "num_warps": warps,
            "num_stages": stages,
        }


def tune(x: Any, k: int, repeats: int, most: int) -> list[tuple[float, dict[str, int]]]:
    """Seconds of a search with each tile, the fastest first, every one with the same distances."""
    import torch
    from triton.runtime.errors import OutOfResources

    from fastdim.backends.triton import search

    want = search.knn_tensor(x, k)[0]
    timed: list[tuple[float, dict[str, int]]] = []
    for tile in list(candidates())[:most]:
        try:
            found = search.knn_tensor(x, k, tuned=tile)[0]
        except OutOfResources as error:
            print(f"tile {tile}: does not fit: {error}")
            continue
        if not torch.equal(found, want):
            raise SystemExit(f"tile {tile} gives other distances: nothing is tuned")
        call = partial(search.knn_tensor, x, k, tuned=tile)
        seconds = median_seconds(call, x.device.type, 1)
        if not timed or seconds < 1.2 * min(seconds for seconds, _ in timed):
            seconds = median_seconds(call, x.device.type, repeats)
        print(f"tile {tile}: {seconds:.5f} s", flush=True)
        timed.append((seconds, tile))
    return sorted(timed, key=lambda pair: pair[0])


def ours_of(x: Any, rows: Any, k: int, backends: list[str]) -> Iterator[tuple[str, Any]]:
    """What fastdim does with x (n, d) where it lies; rows: x, or what a user without a GPU has."""
    from fastdim import cosine_stats, knn
    from fastdim.backends import cuda

    for name in backends:
        yield f"fastdim {name}", partial(knn, rows, k, backend=name)
    if "cuda" in backends:
        for strategy in cuda.STRATEGIES:
            yield f"cuda, {strategy}", partial(cuda.knn_tensor, x, k, strategy=strategy)
    if len(x) <= COSINE_ROWS:
        for name in backends:
            yield f"cosines {name}", partial(cosine_stats, rows, pairs="all", backend=name)


def timed(x: Any, k: int, backends: list[str], dry: bool, repeats: int) -> list[dict[str, Any]]:
    """Median seconds of fastdim and its peers on x (n, d); a peer that fails is told and left out.

    All calls in turns, so that a change of the clock is everyone's.
    """
    import torch

    rows: Any = x.numpy() if dry else x
    ours = dict(ours_of(x, rows, k, backends))
    calls = {**ours, **dict(peers(x, k))}
    spent: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for what, call in list(calls.items()):
            start = time.perf_counter()
            try:
                call()
                if not dry:
                    torch.cuda.synchronize()
            except RuntimeError as error:  # as which torch also tells that memory runs out
                if what in ours:
                    raise
                print(f"{len(x):,} rows: {what} left out: {error}", flush=True)
                del calls[what]
                torch.cuda.empty_cache()
                continue
            if turn:
                spent.setdefault(what, []).append(time.perf_counter() - start)
    return [
        {"what": what, "seconds": statistics.median(times), "slowest": max(times)}
        for what, times in spent.items()
    ]


def kernels(x: Any, k: int, backends: list[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of every kernel of a search of x (n, d) on a device, by backend."""
    from gpu_cuda import kernel_ms

    from fastdim.backends import cuda
    from fastdim.backends.triton import search

    calls = {"triton": partial(search.knn_tensor, x, k), "cuda": partial(cuda.knn_tensor, x, k)}
    if "cuda" in backends:
        calls["cuda, symmetric"] = partial(cuda.knn_tensor, x, k, strategy="symmetric")
        calls["cuda, pruned"] = partial(cuda.knn_tensor, x, k, strategy="pruned")
    return {name: kernel_ms(call) for name, call in calls.items() if name.split(",")[0] in backends}


def gemm_tflops() -> float:
    """Rate of torch's product of two float16 matrices of 8,192 x 8,192: the ceiling in practice."""
    import torch
    from gpu_cuda import median_ms

    a, b = (torch.randn(8_192, 8_192, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2 * 8_192**3 / median_ms(lambda: a @ b, 20) / 1e9


def layers(repeats: int, d: int = 576) -> list[dict[str, Any]]:
    """Seconds of the layers of a small model, one call a layer and all in one."""
    import torch

    from fastdim import LayerSweep, cosine_stats, knn

    one = torch.from_numpy(like_tokens(LAYER_ROWS, d))
    every = torch.stack([one.roll(place, 1) for place in range(LAYERS)]).cuda()
    check_layers(every[:3, :2_000])
    plain = LayerSweep(k=2, pairs="all", graph=False)
    graph = LayerSweep(k=2, pairs="all", graph=True)
    calls: dict[str, Callable[[], object]] = {
        "knn, layer by layer": lambda: [knn(x, 2, backend="cuda") for x in every],
        "knn, LayerSweep": lambda: plain.knn(every),
        "knn, LayerSweep, graph": lambda: graph.knn(every),
        "cosines, layer by layer": lambda: [
            cosine_stats(x, pairs="all", backend="cuda") for x in every
        ],
        "cosines, LayerSweep": lambda: plain.cosine_stats(every),
        "cosines, LayerSweep, graph": lambda: graph.cosine_stats(every),
    }
    return [
        {"what": what, "seconds": median_seconds(call, "cuda", repeats)}
        for what, call in calls.items()
    ]


def page(facts: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"# Measured on {facts['chip']}", "",
        f"{facts['date']}, {facts['versions']}; k = {facts['k']}, float32 rows like a decoder's. "
        "Median wall seconds of whole calls; TFLOP/s count 2 n^2 d, for cosines half of it.", "",
        "| rows | what | seconds | TFLOP/s | predicted |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in facts["times"]:
        twice = 1 if row["what"].startswith("cosines") else 2
        rate = 1e-12 * twice * row["n"] ** 2 * row["d"] / row["seconds"]
        predicted = f"{row['predicted']:.4f}" if row["predicted"] else "-"
        cells = (row["rows"], row["what"], f"{row['seconds']:.4f}", f"{rate:.1f}", predicted)
        lines.append(f"| {' | '.join(cells)} |")
    for part in facts["kernels"]:
        for backend, spent in part["ms"].items():
            listed = ", ".join(f"{name} {ms:.3g}" for name, ms in spent.items())
            lines += ["", f"{part['rows']}, {backend}, ms a kernel: {listed}."]
    if facts["layers"]:
        lines += ["", f"| {LAYERS} layers of {LAYER_ROWS:,} x 576 | seconds |", "|---|---|"]
        lines += [f"| {row['what']} | {row['seconds']:.4f} |" for row in facts["layers"]]
    for what, rate in facts["tflops"].items():
        lines += ["", f"Ceiling, {what}: {rate:.0f} TFLOP/s."]
    lines += ["", "| set | backend | what | worst error |", "|---|---|---|---|"]
    for check in facts["checks"]:
        told = (check["set"], check["backend"], check["what"], f"{check['error']:.1e}")
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def predicted_seconds(chip: str, n: int, d: int, what: str) -> float | None:
    """What the roofline model says of the Triton search on a chip whose name it knows."""
    from fastdim.backends import cost

    known = [short for short in cost.CHIPS if short in chip]
    if what != "fastdim triton" or not known:
        return None
    return cost.search(cost.CHIPS[known[0]], n, d).total


def faster(times: list[dict[str, Any]]) -> dict[str, str]:
    """Which backend took less time for each operation, all sizes together, where both ran."""
    found = {}
    for operation, word in (("knn", "fastdim"), ("cosine_stats", "cosines")):
        spent = {
            name: sum(row["seconds"] for row in times if row["what"] == f"{word} {name}")
            for name in ("cuda", "triton")
        }
        if all(spent.values()):
            found[operation] = min(spent, key=lambda name: spent[name])
    return found


def matrices(dry: bool, rows: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and rows (n, d) to time: like tokens, and those of files."""
    for n, d in DRY_SIZES if dry else SIZES:
        yield f"{n:,} x {d:,}", like_tokens(n, d)
    for path in rows:
        values = np.load(path)
        yield f"{path.stem}, {values.shape[0]:,} x {values.shape[1]:,}", values


def measure(dry: bool, tuning: bool, repeats: int, rows: list[Path]) -> dict[str, Any]:
    """Everything, for JSON. SystemExit where a backend is wrong or none is there."""
    import torch
    import triton as triton_package

    backends = usable()
    if not backends:
        raise SystemExit("no GPU backend can run here; --dry checks this program without one")
    device = "cpu" if dry else "cuda"
    chip = "interpreter" if dry else torch.cuda.get_device_name()
    judged = list(checks(backends, dry))
    check_estimators(like_tokens(300 if dry else 4_000, 64), device)
    if not dry:
        check_wide(backends)
    if "cuda" in backends:
        check_strategies(torch.from_numpy(like_tokens(5_000, 200)).cuda())
    times: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    k, x = 2, None
    for name, values in matrices(dry, rows):
        x = torch.from_numpy(values).to(device)
        n, d = x.shape
        for row in timed(x, k, backends, dry, repeats):
            print(f"{name}: {row['what']} {row['seconds']:.4f} s", flush=True)
            guess = predicted_seconds(chip, n, d, row["what"])
            times.append({"rows": name, "n": n, "d": d, **row, "predicted": guess})
        if not dry:
            parts.append({"rows": name, "n": n, "d": d, "ms": kernels(x, k, backends)})
            print(json.dumps(parts[-1]), flush=True)
    many = layers(repeats) if "cuda" in backends else []
    ceilings = {} if dry else {"float16 product": gemm_tflops()}
    if "cuda" in backends:
        from gpu_cuda import ceiling_tflops

        ceilings["mma.sync"] = ceiling_tflops()
    tiles = tune(x, k, repeats, 2 if dry else 100) if tuning and x is not None else []
    versions = f"torch {torch.__version__}, triton {triton_package.__version__}"
    return {
        "chip": chip,
        "versions": f"{versions}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "k": k,
        "checks": judged,
        "times": times,
        "kernels": parts,
        "layers": many,
        "tflops": ceilings,
        "tiles": tiles,
        "faster": faster(times),
    }


def measured(folder: Path = RESULTS) -> dict[tuple[str, int, int], float]:
    """Seconds of the Triton search on rows like tokens by chip, n and d, of all result files."""
    from fastdim.backends import cost

    found = {}
    for path in sorted(folder.glob("gpu-*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        chip = cost.chip_of(facts["chip"])
        for row in facts["times"]:
            like = row["rows"] == f"{row['n']:,} x {row['d']:,}"
            if chip is not None and like and row["what"] == "fastdim triton":
                found[chip.name, row["n"], row["d"]] = row["seconds"]
    return found


def update(page: Path = PAGE, folder: Path = RESULTS) -> None:
    """Put predictions, and what was measured beside them, into the page."""
    from fastdim.backends import cost

    text = fill(page.read_text(encoding="utf-8"), {"predictions": cost.table(measured(folder))})
    page.write_text(text, encoding="utf-8")


def keep(path: Path, chip: str, found: object) -> None:
    """Write what was found on a chip into a table of chips."""
    table = json.loads(path.read_text(encoding="utf-8"))
    table[chip] = found
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Measure, and write the results unless --dry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="without a GPU; times mean nothing")
    parser.add_argument("--tune", action="store_true", help="also try tiles of the filter")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=Path, nargs="*", default=[], help=".npy files to time too")
    parser.add_argument("--output", type=Path, help="folder of the results")
    given = parser.parse_args()
    if given.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    subprocess.run([sys.executable, "-m", "fastdim", "doctor"], check=True)
    facts = measure(given.dry, given.tune, 1 if given.dry else given.repeats, given.rows)
    folder = given.output or (None if given.dry else RESULTS)
    if folder is not None:
        stem = f"gpu-{facts['chip'].replace(' ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (folder / f"{stem}.md").write_text(page(facts), encoding="utf-8")
    if facts["tiles"]:
        print(f"fastest tile: {facts['tiles'][0]}")
    if not given.dry:
        from fastdim.backends.devices import MEASURED
        from fastdim.backends.triton.tiles import TUNED

        if facts["tiles"]:
            keep(TUNED, facts["chip"], facts["tiles"][0][1])
        if facts["faster"]:
            keep(MEASURED, facts["chip"], facts["faster"])
        if folder == RESULTS:
            update()
    return 0


if __name__ == "__main__":
    sys.exit(main())
