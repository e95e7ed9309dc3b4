"""GPU engines: correctness against float64, then times beside other libraries, then tiles.

    python -m benchmarks.gpu                # on a machine with a GPU
    python -m benchmarks.gpu --dry          # here: Triton's interpreter, small sizes, CPU peers

Writes benchmarks/results/gpu-CHIP.json and .md; --tune also writes the best tile of the filter for
this chip into fastdim/backends/triton/tuned.json, which searches read; where the extension of
docs/cuda.md runs too, which of both is faster goes into fastdim/backends/faster.json, which
backend="auto" reads. A backend that is wrong is not timed. Peers are timed where they are
installed: torch.cdist with topk, faiss, cuVS, torchid.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = ((20_000, 1_024), (50_000, 576), (200_000, 576))
DRY_SIZES = ((200, 32),)
# All pairs in float64 take seconds beyond.
COSINE_ROWS = 50_000
# A row in 230 of a decoder's middle layer has 200 times the usual norm.
MASSIVE = 230


def like_tokens(n: int, d: int) -> np.ndarray:
    """Rows like a decoder's: 24 strong directions, noise, an offset, massive rows; float32."""
    rng = np.random.default_rng([n, d])
    directions = rng.standard_normal((24, d)).astype("f4")
    x: np.ndarray = rng.standard_normal((n, 24), dtype=np.float32) @ directions
    x += rng.standard_normal((n, d), dtype=np.float32)
    x += 3 * rng.standard_normal(d).astype("f4")
    x[::MASSIVE] *= 200.0
    return x


def adversarial(n: int, d: int) -> dict[str, np.ndarray]:
    """The sets that break an expansion |x|^2 + |y|^2 - 2xy, and those that break a search."""
    rng = np.random.default_rng(1)
    gauss = rng.standard_normal((n, d)).astype(np.float32)
    repeated, near, column = gauss.copy(), gauss.copy(), gauss.copy()
    repeated[: n // 2] = repeated[0]
    near[n // 2 :] = near[: n - n // 2] * np.float32(1 + 1e-6)
    column[:, 0] *= 1e3
    return {
        "gauss": gauss,
        "tokens": like_tokens(n, d),
        "offset 1e6": gauss + np.float32(1e6),
        "column 1e3": column,
        "repeated": repeated,
        "near": near,
        "whole numbers": rng.integers(0, 3, (n, 8)).astype(np.float32),
        "float16": like_tokens(n, d).clip(-6e4, 6e4).astype(np.float16),
        "float64 1e140": gauss.astype(np.float64) * 1e140,
    }


def worst_error(x: np.ndarray, backend: str, k: int) -> float:
    """Largest relative error of a distance, against float64 differences of up to 300 rows."""
    from fastdim import knn, naive

    chosen = np.random.default_rng(2).permutation(len(x))[:300]
    found = knn(x, k, backend=backend).numpy()
    want, _ = naive.knn(x, k, chosen)
    wrong = np.abs(found.distances[chosen] - want)
    return float(np.divide(wrong, want, out=np.where(wrong > 0, np.inf, 0.0), where=want > 0).max())


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
    for rows, columns, warps, stages in product((64, 128), (32, 64), (4, 8), (2, 3, 4)):
        yield {
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
    timed = []
    for tile in list(candidates())[:most]:
        try:
            found = search.knn_tensor(x, k, tuned=tile)[0]
        except OutOfResources as error:
            print(f"tile {tile}: does not fit: {error}")
            continue
        if not torch.equal(found, want):
            raise SystemExit(f"tile {tile} gives other distances: nothing is tuned")
        call = partial(search.knn_tensor, x, k, tuned=tile)
        timed.append((median_seconds(call, x.device.type, repeats), tile))
    return sorted(timed, key=lambda pair: pair[0])


def page(facts: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"# Measured on {facts['chip']}", "",
        f"{facts['date']}, {facts['versions']}; k = {facts['k']}, float32 rows like a decoder's. "
        "Median wall seconds of whole calls; TFLOP/s count 2 n^2 d, for cosines half of it.", "",
        "| n x d | what | seconds | TFLOP/s | predicted |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in facts["times"]:
        twice = 1 if row["what"].startswith("cosines") else 2
        rate = 1e-12 * twice * row["n"] ** 2 * row["d"] / row["seconds"]
        predicted = f"{row['predicted']:.4f}" if row["predicted"] else "-"
        size = f"{row['n']:,} x {row['d']:,}"
        cells = (size, row["what"], f"{row['seconds']:.4f}", f"{rate:.1f}", predicted)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| set | backend | k | worst relative error |", "|---|---|---|---|"]
    for check in facts["checks"]:
        judged = (check["set"], check["backend"], str(check["k"]), f"{check['error']:.1e}")
        lines.append(f"| {' | '.join(judged)} |")
    return "\n".join(lines) + "\n"


def predicted_seconds(chip: str, n: int, d: int, what: str) -> float | None:
    """What the roofline model says of the Triton search on a chip whose name it knows."""
    from fastdim.backends import cost

    known = [short for short in cost.CHIPS if short in chip]
    if what != "fastdim triton" or not known or cost.CHIPS[known[0]].loops is None:
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


def measure(dry: bool, tuning: bool, repeats: int) -> dict[str, Any]:
    """Everything, for JSON. SystemExit where a backend is wrong or none is there."""
    import torch
    import triton as triton_package

    from fastdim import cosine_stats, knn

    backends = usable()
    if not backends:
        raise SystemExit("no GPU backend can run here; --dry checks this program without one")
    device = "cpu" if dry else "cuda"
    chip = "interpreter" if dry else torch.cuda.get_device_name()
    checks = []
    for name, values in adversarial(*((80, 12) if dry else (3_000, 200))).items():
        for backend, k in product(backends, (2,) if dry else (1, 2, 20, 128)):
            error = worst_error(values, backend, k)
            print(f"{name}, {backend}, k = {k}: worst relative error {error:.1e}")
            checks.append({"set": name, "backend": backend, "k": k, "error": error})
            if not error <= 1e-6:
                raise SystemExit(f"{backend} is wrong on {name}: nothing is timed")
    times: list[dict[str, Any]] = []
    k, x = 2, None
    for n, d in DRY_SIZES if dry else SIZES:
        x = torch.from_numpy(like_tokens(n, d)).to(device)
        rows: Any = x.numpy() if dry else x
        ours: list[tuple[str, Callable[[], object]]] = [
            (f"fastdim {name}", partial(knn, rows, k, backend=name)) for name in backends
        ]
        if n <= COSINE_ROWS:
            ours += [
                (f"cosines {name}", partial(cosine_stats, rows, pairs="all", backend=name))
                for name in backends
            ]
        for what, call in [*ours, *peers(x, k)]:
            seconds = median_seconds(call, device, repeats)
            print(f"{n:,} x {d:,}: {what} {seconds:.4f} s")
            guess = predicted_seconds(chip, n, d, what)
            times.append({"n": n, "d": d, "what": what, "seconds": seconds, "predicted": guess})
    tiles = tune(x, k, repeats, 2 if dry else 100) if tuning and x is not None else []
    versions = f"torch {torch.__version__}, triton {triton_package.__version__}"
    return {
        "chip": chip,
        "versions": f"{versions}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "k": k,
        "checks": checks,
        "times": times,
        "tiles": tiles,
        "faster": faster(times),
    }


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
    parser.add_argument("--output", type=Path, help="folder of the results")
    given = parser.parse_args()
    if given.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    facts = measure(given.dry, given.tune, 1 if given.dry else given.repeats)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
