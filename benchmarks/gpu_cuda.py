"""The CUDA engine on the device of this machine: correctness against float64, then times.

    python -m benchmarks.gpu_cuda [--output FILE]

Needs torch with CUDA and the extension fastdim._cuda. Times are medians of CUDA events.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastdim import _cuda
from fastdim.backends import cuda

SIZES = ((20_000, 1_024), (50_000, 576), (200_000, 576))


def like_tokens(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Rows like a decoder's: 24 strong directions, noise, an offset, 1 row in 230 at 200x."""
    g = torch.Generator(device="cuda").manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=g)

    x = normal(n, 24) @ normal(24, d) + normal(n, d) + 3 * normal(d)
    x[::230] *= 200.0
    return x


def adversarial(n: int = 3_000, d: int = 200) -> dict[str, torch.Tensor]:
    """The sets that break an expansion |x|^2 + |y|^2 - 2xy, and those that break a search."""
    x = like_tokens(n, d)
    gauss = torch.randn(n, d, device="cuda")
    column = gauss.clone()
    column[:, 3] *= 1e3
    repeated = gauss.clone()
    repeated[: n // 2] = repeated[0]
    near = gauss.clone()
    near[n // 2 :] = near[: n - n // 2] * (1 + 1e-6)
    wide = gauss.clone()
    wide[7] *= 1e11
    wide[8] = -wide[7]
    far = gauss.clone()
    far[7] *= 1e9
    return {
        "gauss": gauss,
        "tokens": x,
        "offset 1e4": gauss + 1e4,
        "column 1e3": column,
        "repeated": repeated,
        "near": near,
        "wide range": wide,
        "one far row": far,
        "integers": torch.randint(0, 3, (n, 8), device="cuda").float(),
        "float16": x[:, :57].half(),
        "bfloat16": x[:, :57].bfloat16(),
        "float64 1e140": gauss.double() * 1e140,
        "one column": gauss[:, :1].contiguous(),
    }


def brute(x: torch.Tensor, k: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 distances and row numbers of the k nearest of some rows, from differences."""
    wide = x.double()
    scale = wide.abs().max()
    distances, indices = [], []
    for i in rows.tolist():
        distance = ((wide - wide[i]) / scale).square().sum(1).sqrt() * scale
        distance[i] = torch.inf
        order = torch.sort(distance, stable=True)
        distances.append(order.values[:k])
        indices.append(order.indices[:k])
    return torch.stack(distances), torch.stack(indices)


def worst_error(x: torch.Tensor, k: int, tile: str | None = None, most: int = 3_000) -> list[Any]:
    """Largest relative error, rows with other neighbours, rows searched again, same bits twice."""
    got, index, counts = cuda.knn_tensor(x, k, tile=tile)
    again = cuda.knn_tensor(x, k, tile=tile)
    chosen = torch.randperm(len(x), device="cuda")[:most]
    want, place = brute(x, k, chosen)
    error = ((got[chosen] - want).abs() / want.clamp_min(1e-300)).nan_to_num(torch.inf).max()
    other = (index[chosen] != place).any(1).sum()
    same = bool((got == again[0]).all()) and bool((index == again[1]).all())
    return [float(error), int(other), int(counts[0]), int(counts[1]), same]


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call on the device, after two calls to warm up."""
    times: list[float] = []
    for i in range(repeats + 2):
        first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        call()
        last.record()
        last.synchronize()
        if i >= 2:
            times.append(first.elapsed_time(last))
    return float(statistics.median(times))


def kernel_ms(call: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Milliseconds a call of every kernel, by torch's profiler."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True
    ) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    out: dict[str, float] = {}
    for event in profile.key_averages():
        name = event.key.replace("(anonymous namespace)::", "").split("<")[0].split("(")[0]
        spent = event.self_device_time_total / 1e3 / repeats
        if spent > 0.001:
            key = name.split("::")[-1].split(" ")[-1]
            out[key] = out.get(key, 0) + round(spent, 4)
    return out


def cdist(x: torch.Tensor, k: int) -> None:
    """torch.cdist and topk, in blocks that fit; the row itself still among its neighbours."""
    step = max(1, 2_000_000_000 // len(x))
    for start in range(0, len(x), step):
        torch.cdist(x[start : start + step], x).topk(k + 1, largest=False)


def ceiling_tflops() -> float:
    """Rate of mma.sync alone, on random values."""
    blocks = cuda.device().multiprocessors
    out = torch.empty(blocks * 256, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    operations = _cuda.mma_ceiling(blocks, 20_000, out.data_ptr(), stream)
    spent = median_ms(lambda: _cuda.mma_ceiling(blocks, 20_000, out.data_ptr(), stream), 5)
    return operations / spent / 1e9


def time_cuda(x: torch.Tensor, k: int = 2, repeats: int = 7, tile: str | None = None) -> float:
    """Median milliseconds of the whole search of x (n, d), tensors on the device."""
    return median_ms(lambda: cuda.knn_tensor(x, k, tile=tile), repeats)


def measure(ceiling: float, n: int, d: int, peers: bool) -> dict[str, Any]:
    """Times of one size: whole search, each kernel, the filter's rate, torch.cdist + topk."""
    x = like_tokens(n, d)
    kernels = kernel_ms(lambda: cuda.knn_tensor(x, 2))
    small = kernel_ms(lambda: cuda.knn_tensor(x, 2, tile="small"))
    filter_ms = kernels.get("knn_filter", float("nan"))
    tflops = 2.0 * n * n * d / filter_ms / 1e9
    result = {
        "n": n,
        "d": d,
        "total_ms": time_cuda(x),
        "tiles_ms": {tile: time_cuda(x, tile=tile) for tile in ("small", "medium", "large")},
        "kernels_ms": kernels,
        "filter_small_ms": small.get("knn_filter"),
        "filter_tflops": tflops,
        "share_of_mma_sync": tflops / ceiling,
        "searched_again": int(cuda.knn_tensor(x, 2)[2][0]),
        "error_512_rows": worst_error(x, 2, most=512),
    }
    if peers:
        result["cdist_topk_ms"] = median_ms(lambda: cdist(x, 2), 3)
    return result


def main() -> int:
    """Print everything; 1 if a distance is off by more than 1e-6 or two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "correct": {}}
    failed = []
    for name, x in adversarial().items():
        for tile in ("small", "medium", "large"):
            for k in (1, 2, 20) if tile == "large" else (2,):
                found = worst_error(x, k, tile)
                report["correct"][f"{name}, {tile}, k={k}"] = found
                if found[0] > 1e-6 or not found[-1]:
                    failed.append((name, tile, k, found))
        print(name, found, flush=True)
    print("failed:", failed, flush=True)
    ceiling = ceiling_tflops()
    report["mma_sync_tflops"] = ceiling
    print("mma.sync alone, TFLOP/s:", ceiling, flush=True)
    report["times"] = []
    for n, d in SIZES:
        result = measure(ceiling, n, d, peers=True)
        report["times"].append(result)
        print(json.dumps(result, indent=1), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
