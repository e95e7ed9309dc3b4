"""Compile every GPU kernel for every target, inspect the result, and write docs/gpu-report.md.

    make gpu-report                                    # Triton and CUDA, writes the page
    python benchmarks/gpu_report.py --quick --check    # Triton, a part of the configurations

No GPU is needed. Exits 1 where a kernel spills, touches local memory, takes more shared memory than
the target has, or multiplies matrices without tensor cores. The CUDA half needs nvcc 13.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from gpu_inspect import TARGETS, Facts, Target, cuobjdump, sass_facts, triton_facts

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/gpu-report.md"
# Sizes that a launch usually has: whole tiles, so that addresses are multiples of 16.
ALIGNED = {"width", "d", "row_stride", "padded"}
TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
# What is known and tolerated: (kernel, target) -> bytes. Seen in docs/cuda.md as well.
KNOWN_SPILLS = {("search_all<float>", "sm_90"): 8}
CUDA_TARGETS = ("sm_80", "sm_90", "sm_100")
CUDA_SOURCES = ("knn.cu", "cosine.cu")


@dataclass(frozen=True)
class Case:
    """One kernel as one launch asks for it: types of its pointers, constants, options."""

    kernel: Any
    label: str
    pointers: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    matrix: bool

    def compile(self, target: Target) -> Facts:
        """Compile for a target and inspect."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, aligned = {}, {}
        for place, name in enumerate(self.kernel.arg_names):
            if name in self.constants:
                signature[name] = "constexpr"
                continue
            signature[name] = f"*{self.pointers[name]}" if name in self.pointers else "i32"
            if name in self.pointers or name in ALIGNED:
                aligned[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, self.constants, aligned)
        compiled = triton.compile(
            source, target=GPUTarget(target.backend, target.arch, target.warp), options=self.options
        )
        return triton_facts(compiled)


def cases(target: str, quick: bool) -> Iterator[Case]:
    """Every kernel in every configuration that a search or a statistic launches on this target."""
    from fastdim.backends.triton import cosine, refine, rows, tiles
    from fastdim.backends.triton import filter as filters

    kinds = ["float16", "bfloat16"]
    tile = {**tiles.filter_tile(target), "UPCAST": False}
    lists = {"queries": "i32", "start": "fp32", "found": "i32"}
    for kind in kinds[:1] if quick else kinds:
        packed = lists | {"packed": TYPES[kind]}
        best = packed | {"scores": "fp32", "left_out": "fp32"}
        for keep in tiles.LISTS[::2] if quick else tiles.LISTS:
            for kernel in (filters.knn_places, filters.knn_filter):
                # Few neighbours are searched by places, which 32 never are.
                if keep < 32 or kernel is filters.knn_filter:
                    label = f"{kernel.__name__} {kind}, {keep} kept"
                    wide = tiles.filter_tile(target, kernel is filters.knn_places)
                    constants = {**tile, **wide, "KEEP": keep}
                    yield Case(kernel, label, best, constants, tiles.FILTER, True)
        above = packed | {"limits": "fp32", "count": "i32"}
        constants = {**tile, "ROOM": tiles.ROOM}
        yield Case(filters.rows_above, f"rows_above {kind}", above, constants, tiles.FILTER, True)
    pairs = {
        "rows": "fp64", "slopes": "fp64", "center": "fp64", "edges": "fp64", "moments": "fp64",
        "histogram": "i64",
    }  # fmt: skip
    for bins in (256,) if quick else (256, 2048):
        constants = {**tiles.tile_of("cosine_tiles", False), "BINS": bins}
        label = f"cosine_tiles, {bins} places"
        yield Case(cosine.cosine_tiles, label, pairs, constants, tiles.COSINE, True)
    rest: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
        (rows.column_parts, {"factors": "fp64", "out": "fp64"}, {"SCALED": True}),
        (rows.pack_rows, {"mean": "fp64", "scale": "fp64", "packed": "fp16", "sums": "fp64"}, {}),
        (rows.row_statistics, {"norms2": "fp64", "hashes": "i64"}, {}),
        (rows.equal_rows, {"left": "i64", "right": "i64", "out": "i32"}, {}),
        (
            rows.scaled_rows,
            {"chosen": "i64", "factors": "fp64", "shift": "fp64", "out": "fp64", "slopes": "fp64"},
            {},
        ),
        (
            refine.pair_distances,
            {"queries": "i32", "columns": "i32", "factors": "fp64", "out": "fp64"},
            {"WIDE": False},
        ),
        (
            refine.all_distances,
            {"queries": "i32", "factors": "fp64", "out": "fp64"},
            {"WIDE": False},
        ),
        (
            cosine.pair_cosines,
            {"left": "i64", "right": "i64", "inverse": "fp64", "out": "fp64"},
            {},
        ),
    ]
    for kind in ["float32"] if quick else list(TYPES):
        for kernel, pointers, constants in rest:
            name = kernel.__name__
            constants = {**constants, **tiles.tile_of(name, False)}
            if "WIDE" in constants:
                constants["WIDE"] = kind == "float64"
            typed = {"x": TYPES[kind], **pointers}
            yield Case(kernel, f"{name} {kind}", typed, constants, tiles.PLAIN, False)


def problems(label: str, facts: Facts, target: Target, matrix: bool) -> list[str]:
    """What must not be, in words."""
    where = f"{label} on {target.name}"
    found = []
    tolerated = KNOWN_SPILLS.get((label, target.name), 0)
    if facts.spilled > tolerated:
        found.append(f"{where} spills {facts.spilled}")
    if facts.local and not tolerated:
        found.append(f"{where} touches local memory {facts.local} times")
    if facts.shared > target.block_shared:
        found.append(f"{where} takes {facts.shared} bytes of shared memory")
    if matrix and not facts.tensor:
        found.append(f"{where} has no tensor-core instruction")
    expected = {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}.get(target.name)
    half = label.startswith(
        ("knn_places", "knn_filter float16", "knn_filter bfloat16", "rows_above")
    )
    if half and expected is not None and expected not in facts.tensor:
        found.append(f"{where} does not use {expected}")
    return found


def line(label: str, facts: Facts, target: Target, warps: int) -> str:
    """One row of the page."""
    blocks = facts.blocks(target, warps)
    share = f"{blocks} ({100 * blocks * warps // target.warps} %)"
    tensor = ", ".join(f"{count} {kind}" for kind, count in facts.tensor.items()) or "-"
    numbers = (facts.registers, facts.spilled, facts.stack, facts.shared)
    cells = [label, *map(str, numbers), share, tensor, str(facts.wide), str(facts.local)]
    return f"| {' | '.join(cells)} |"


HEAD = """| kernel | registers | spilled | stack | shared bytes | blocks (occupancy) | tensor-core \
instructions | 128-bit loads | local accesses |
|---|---|---|---|---|---|---|---|---|"""


def compiled_targets() -> list[str]:
    """The targets that the installed triton compiles every kernel for; fastdim refuses others."""
    import triton

    from fastdim.backends.triton.tiles import needed_triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return [name for name in TARGETS if version >= needed_triton(name)]


def triton_part(targets: list[str], quick: bool) -> tuple[list[str], list[str], int]:
    """Lines of the page, problems, and how many kernels were compiled."""
    lines, wrong, total = [], [], 0
    for name in targets:
        target = TARGETS[name]
        lines += ["", f"### Triton, {name}", HEAD]
        every = list(cases(name, quick))
        # The compilers release the interpreter lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(pool.map(lambda case, to=target: case.compile(to), every))
        for case, facts in zip(every, compiled, strict=True):
            total += 1
            lines.append(line(case.label, facts, target, case.options["num_warps"]))
            wrong += problems(case.label, facts, target, case.matrix)
    return lines, wrong, total


def cuda_kernels(source: str, target: str) -> Iterator[tuple[str, str, int, int, int]]:
    """Of each kernel of a .cu file: mangled name, SASS, registers, stack, shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        subprocess.run(
            ["nvcc", "-std=c++17", "-O3", f"-arch={target}", "-cubin", "-o", str(cubin),
             str(ROOT / "csrc/cuda" / source)],
            check=True,
        )  # fmt: skip
        usage = cuobjdump(cubin.read_bytes(), "-res-usage")
        sass = cuobjdump(cubin.read_bytes(), "-sass")
    bodies = dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", sass, re.DOTALL))
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)"
    for mangled, *numbers in re.findall(pattern, usage):
        registers, stack, shared = map(int, numbers)
        yield mangled, bodies[mangled], registers, stack, shared


def cuda_part() -> tuple[list[str], list[str], int]:
    """The same of csrc/cuda/*.cu, by nvcc."""
    lines, wrong, total = [], [], 0
    for name in CUDA_TARGETS:
        target = TARGETS[name]
        lines += ["", f"### CUDA, {name}", HEAD]
        found, seen = [], set()
        for mangled, body, registers, stack, shared in chain(
            *(cuda_kernels(source, name) for source in CUDA_SOURCES)
        ):
            label, dynamic, threads = described(mangled)
            if label in seen:  # headers are compiled into more than one source
                continue
            seen.add(label)
            facts = sass_facts(body, registers, stack, shared + dynamic)
            matrix = label.startswith(("knn_filter", "cosine_tiles"))
            total += 1
            if facts.shared > target.block_shared:
                # `fastdim.backends.cuda` takes the largest tile that fits the device.
                found.append(f"| {label} | does not fit, is not chosen |||||||")
                continue
            found.append(line(label, facts, target, threads // 32))
            wrong += problems(label, facts, target, matrix)
        lines += sorted(found)
    return lines, wrong, total


def described(mangled: str) -> tuple[str, int, int]:
    """Readable name of a CUDA kernel, its dynamic shared memory (8 kept), its threads."""
    full = subprocess.run(
        ["c++filt", mangled], check=True, capture_output=True, text=True
    ).stdout.strip()
    name = full.split("(anonymous namespace)::", 1)[1].rsplit("(fastdim", 1)[0]
    name = re.sub(r"fastdim::cuda::|\(anonymous namespace\)::|\((?:int|bool)\)", "", name)
    name = re.sub(r"^void ", "", name).split("(")[0]
    shape = re.search(r"TileShape<(\d+), (\d+), (\d+), (\d+)>, (\w+), (\w+), (\w+)>", name)
    if shape is not None:
        rows, columns, slice_, stages = map(int, shape.groups()[:4])
        # As filter_bytes of csrc/cuda/filter.cuh with kQueue = 8 and 8 kept.
        dynamic = stages * (rows + columns) * slice_ * 2 + rows * 8 * (queue_size() + 8)
        bfloat, chosen, symmetric = (flag in ("true", "1") for flag in shape.groups()[4:])
        dynamic += rows * 8 + columns * (20 if symmetric else 8)
        kind = "bfloat16" if bfloat else "float16"
        kind += ", each pair once" if symmetric else ", chosen tiles" if chosen else ""
        return f"knn_filter {rows} x {columns} x {slice_}, {kind}", dynamic, rows
    if name.startswith("cosine_tiles"):
        # As cosine_bytes of csrc/cuda/cosine.cuh with 200 bins.
        return f"{name}, 200 bins", 3 * 2 * 64 * 16 * 8 + 4 * 200 * 4 + 128, 128
    return name, (16 + 64) * 33 * 8 if name.startswith("search_all") else 0, 256


def queue_size() -> int:
    """kQueue of the CUDA filter."""
    text = (ROOT / "csrc/cuda/filter.cuh").read_text()
    found = re.search(r"kQueue = (\d+)", text)
    if found is None:
        raise RuntimeError("csrc/cuda/filter.cuh no longer states kQueue")
    return int(found[1])


LOOPS = """
### Loops of the Triton filter by places in float16, 8 kept
Instructions of a slice of 64 columns (products), of taking out one candidate at the end, and of the
rest of a tile but its products: what `fastdim/backends/cost.py` counts with. Of gfx942 vector
instructions alone; scalar ones are issued beside them.

| target | slice | taking out | rest of a tile |
|---|---|---|---|"""


def loop_lines(targets: list[str]) -> list[str]:
    """The table of the filter's loops."""
    lines = [LOOPS]
    for name in targets:
        loops = next(cases(name, True)).compile(TARGETS[name]).loops
        if loops is None:
            raise RuntimeError(f"the filter's loops are not found in its code for {name}")
        lines.append(f"| {name} | {loops[0]} | {loops[1]} | {loops[2]} |")
    return lines


INTRODUCTION = """# What the GPU compilers made of the kernels

Written by `make gpu-report`; nothing here was run on a GPU. Triton {triton}, {nvcc}: {count}
kernels and configurations. No kernel may spill, touch local memory, take more shared memory than a
block may have, or multiply matrices without tensor cores; on sm_90 the Triton filter must use wgmma
(HGMMA), on sm_100 tcgen05 (UTCHMMA). One known exception, in the CUDA engine's full search:
`search_all<float>` on sm_90 keeps 8 bytes on the stack for what spills.

Registers are a thread's; AMD's count holds accumulation registers. Spilled: bytes a thread, on
gfx942 registers. Blocks: how many fit a multiprocessor (compute unit) at a time, with the share of
its warps. The Triton kernels are compiled as launched with columns and strides that are multiples
of 16. Shared bytes of the CUDA filter are with 8 kept in shared memory. Instructions are counted in
the whole kernel, not by how often they run.
"""


def main() -> int:
    """Compile, print what is wrong, write the page unless --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of the configurations")
    parser.add_argument("--check", action="store_true", help="Triton alone, write nothing")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS))
    given = parser.parse_args()
    if given.targets is None:
        given.targets = compiled_targets()
    if os.environ.get("TRITON_INTERPRET"):
        parser.error("unset TRITON_INTERPRET: the interpreter compiles nothing")
    lines, wrong, count = triton_part(given.targets, given.quick)
    if not given.check:
        import triton

        more, faults, compiled = cuda_part()
        lines += loop_lines(given.targets)
        lines, wrong, count = lines + more, wrong + faults, count + compiled
        version = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True)
        nvcc = re.search(r"release ([\d.]+)", version.stdout)
        head = INTRODUCTION.format(
            triton=triton.__version__, nvcc=f"nvcc {nvcc[1] if nvcc else '?'}", count=count
        )
        PAGE.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{count} kernels compiled for {', '.join(given.targets)}")
    for fault in wrong:
        print(f"wrong: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
