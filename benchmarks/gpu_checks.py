"""What a GPU engine must get right before it is timed: against float64, and against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np

# A row in 230 of a decoder's middle layer has 200 times the usual norm.
MASSIVE = 230
LARGEST_ERROR = 1e-6
# Sets in which cosines repeat.
REPEATING = ("repeated", "whole numbers")


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


def worst_cosine(x: np.ndarray, backend: str, bins: bool) -> float:
    """Largest difference of a moment or an end, or of a bin's share of all cosines, from the CPU's.

    bins: whether bins count. Where cosines repeat, one may lie on an edge to its last bit.
    """
    from fastdim import cosine_stats

    there = cosine_stats(x, pairs="all", backend=backend)
    here = cosine_stats(x, pairs="all", precision="exact")
    wrong = [abs(getattr(there, name) - getattr(here, name)) for name in ("mean", "std", "max")]
    if bins:
        wrong.append(np.abs(there.histogram - here.histogram).max() / here.n_pairs)
    return float(max(wrong))


def checks(backends: list[str], dry: bool) -> Iterator[dict[str, Any]]:
    """Each set's worst error with each backend, for the table of results.

    SystemExit where one is wrong.
    """
    neighbors = (2,) if dry else (1, 2, 20, 128)
    for name, values in adversarial(*((80, 12) if dry else (3_000, 200))).items():
        for backend in backends:
            exact = name not in REPEATING
            asked: list[tuple[str, Callable[[], float]]] = [
                (f"k = {k}", partial(worst_error, values, backend, k)) for k in neighbors
            ]
            asked.append(("cosines", partial(worst_cosine, values, backend, exact)))
            for what, ask in asked:
                error = ask()
                print(f"{name}, {backend}, {what}: {error:.1e}", flush=True)
                yield {"set": name, "backend": backend, "what": what, "error": error}
                if not error <= LARGEST_ERROR:
                    raise SystemExit(f"{backend} is wrong on {name}, {what}: nothing is timed")


def check_strategies(x: Any) -> None:
    """Every strategy of the CUDA engine gives the same bits, twice; SystemExit where not.

    x: (n, d) tensor on the device.
    """
    import torch

    from fastdim.backends import cuda

    first = cuda.knn_tensor(x, 2)
    for strategy, _ in product(cuda.STRATEGIES, range(2)):
        found = cuda.knn_tensor(x, 2, strategy=strategy)
        if not (torch.equal(found[0], first[0]) and torch.equal(found[1], first[1])):
            raise SystemExit(f"strategy {strategy!r} gives other neighbours than all pairs")


def check_layers(layers: Any) -> None:
    """`LayerSweep` gives the bits of one call a layer, with and without a graph, replayed or not.

    layers: (layers, n, d) tensor on the device. SystemExit where it does not.
    """
    import torch

    from fastdim import LayerSweep, cosine_stats, knn

    alone = [knn(x, 2, backend="cuda") for x in layers]
    cosines = [cosine_stats(x, pairs="all", backend="cuda") for x in layers]
    for graph in (False, True):
        sweep = LayerSweep(k=2, pairs="all", graph=graph)
        for turn in range(2):
            for number, (found, want) in enumerate(zip(sweep.knn(layers), alone, strict=True)):
                pairs = (
                    (found.distances, want.distances),
                    (found.indices, want.indices),
                )
                if not all(torch.equal(*map(torch.as_tensor, pair)) for pair in pairs):
                    raise SystemExit(f"layers at once, graph={graph}, call {turn}: layer {number}")
            for found_c, want_c in zip(sweep.cosine_stats(layers), cosines, strict=True):
                same = np.array_equal(found_c.histogram, want_c.histogram)
                if not same or (found_c.mean, found_c.std) != (want_c.mean, want_c.std):
                    raise SystemExit(f"cosines of layers at once, graph={graph}, call {turn}")


def check_estimators(values: np.ndarray, device: str) -> None:
    """Estimators of rows on the device are those of the rows in host memory; SystemExit if not."""
    import torch

    from fastdim import gride, levina_bickel, mom, twonn

    x = torch.from_numpy(values).to(device)
    asked: tuple[tuple[Callable[..., Any], dict[str, int]], ...] = (
        (twonn, {}),
        (twonn, {"queries": 500}),
        (levina_bickel, {"k": 20}),
        (gride, {"n1": 2, "n2": 4}),
        (mom, {"k": 20}),
    )
    for estimator, options in asked:
        there, here = estimator(x, **options), estimator(values, **options)
        name = f"{estimator.__name__}{options}: {there} on the device, {here} on the CPU"
        print(name, flush=True)
        if not abs(float(there) / float(here) - 1) < 1e-6:
            raise SystemExit(name)


def check_wide(backends: list[str], n: int = 600_000, d: int = 4_096) -> None:
    """Neighbours of some rows among more than 2^31 values, in 16 bits; SystemExit where wrong.

    Takes 10 GB on the device.
    """
    import torch

    from fastdim import knn

    x = torch.empty(n, d, dtype=torch.float16, device="cuda")
    for part in torch.split(x, 50_000):
        part.copy_(torch.randn(part.shape, device="cuda"))
    chosen = [0, 7, n // 2, n - 3, n - 1, *range(n - 45_000, n - 44_980)]
    want = torch.empty((len(chosen), n), dtype=torch.float64, device="cuda")
    for first in range(0, n, 20_000):
        block = x[first : first + 20_000].double()
        for place, query in enumerate(chosen):
            difference = block - x[query].double()
            want[place, first : first + 20_000] = difference.square().sum(dim=1).sqrt()
    want[range(len(chosen)), chosen] = torch.inf
    near = want.topk(2, largest=False)
    for backend in backends:
        found = knn(x, 2, queries=chosen, backend=backend)
        distances, places = torch.as_tensor(found.distances), torch.as_tensor(found.indices)
        error = float((distances.double() / near.values - 1).abs().max())
        print(f"{n:,} x {d:,} in float16, {backend}: {error:.1e}", flush=True)
        if not error <= LARGEST_ERROR or not torch.equal(places, near.indices):
            raise SystemExit(f"{backend} is wrong on {n} x {d} values: nothing is timed")
