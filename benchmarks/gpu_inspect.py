"""What a compiler made of a GPU kernel: registers, spills, memory, tensor-core instructions."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """A chip's limits: CUDA C++ Programming Guide, table of compute capabilities; CDNA3 ISA guide.

    block_shared, shared: bytes of shared memory (LDS) a block and a multiprocessor. registers: of
    a multiprocessor for NVIDIA, of a lane's slot of a SIMD for AMD. warps: a multiprocessor.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    block_shared: int
    shared: int
    registers: int
    warps: int


TARGETS = {
    "sm_80": Target("sm_80", "cuda", 80, 32, 166_912, 167_936, 65_536, 64),
    "sm_90": Target("sm_90", "cuda", 90, 32, 232_448, 233_472, 65_536, 64),
    "sm_100": Target("sm_100", "cuda", 100, 32, 232_448, 233_472, 65_536, 64),
    "gfx942": Target("gfx942", "hip", "gfx942", 64, 65_536, 65_536, 512, 32),
}
# NVIDIA's: mma.sync, wgmma, tcgen05 and float64; AMD's.
TENSOR = {
    "HMMA": r"\bHMMA\.",
    "HGMMA": r"\bHGMMA\.",
    "UTCHMMA": r"\bUTCHMMA",
    "DMMA": r"\bDMMA\.",
    "MFMA": r"\bv_mfma_",
}


@dataclass(frozen=True)
class Facts:
    """One compiled kernel. spilled: bytes (NVIDIA) or registers (AMD) that went to memory.

    stack: bytes a thread. shared: bytes a block. local: instructions on local (scratch) memory.
    wide: global loads of 128 bits. tensor: tensor-core instructions by kind. loops: see
    `filter_loops`.
    """

    registers: int
    spilled: int
    stack: int
    shared: int
    local: int
    wide: int
    tensor: dict[str, int]
    loops: tuple[int, int, int] | None = None

    def blocks(self, target: Target, warps: int) -> int:
        """Blocks that fit a multiprocessor at a time."""
        # Registers are given to a warp in units of 256; a block takes 1 KiB more on NVIDIA.
        if target.backend == "cuda":
            by_registers = target.registers // (-(-self.registers * 32 // 256) * 256 * warps)
            by_shared = target.shared // (self.shared + 1024)
        else:
            waves = min(8, target.registers // (-(-max(1, self.registers) // 8) * 8))
            by_registers = 4 * waves // warps
            by_shared = target.shared // max(1, self.shared)
        return max(0, min(by_registers, by_shared, target.warps // warps))


def count_tensor(text: str) -> dict[str, int]:
    """Tensor-core instructions of a disassembly, by kind."""
    found = {kind: len(re.findall(pattern, text)) for kind, pattern in TENSOR.items()}
    return {kind: count for kind, count in found.items() if count}


def tools() -> Path:
    """Folder of cuobjdump and nvdisasm: they travel with the package triton."""
    import triton

    return Path(triton.__path__[0]) / "backends/nvidia/bin"


def cuobjdump(cubin: bytes, option: str) -> str:
    """What cuobjdump says of a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run(
            [str(tools() / "cuobjdump"), option, str(path)],
            check=True,
            capture_output=True,
            text=True,
            # nvdisasm is looked for on the PATH.
            env={**os.environ, "PATH": f"{tools()}:{os.environ.get('PATH', '')}"},
        ).stdout


def sass_facts(sass: str, registers: int, stack: int, shared: int) -> Facts:
    """Facts of one function's SASS. What spills lies on the stack and is reached by LDL and STL."""
    local = len(re.findall(r"\b(?:LDL|STL)\b", sass))
    return Facts(
        registers=registers,
        spilled=stack if local else 0,
        stack=stack,
        shared=shared,
        local=local,
        wide=len(re.findall(r"\b(?:LDG|LDGSTS)\.[^ ]*\b128\b", sass)),
        tensor=count_tensor(sass),
        loops=sass_loops(sass),
    )


def sass_loops(sass: str) -> tuple[int, int, int] | None:
    """`filter_loops` of SASS."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass)]
    jumps = [(at, re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)) for at, text in code]
    return filter_loops(code, [(at, int(jump[1], 16)) for at, jump in jumps if jump], r"MMA")


def amd_loops(assembly: str) -> tuple[int, int, int] | None:
    """`filter_loops` of AMD assembly: its vector instructions, beside which scalar ones run."""
    code, jumps, labels = [], [], {}
    for at, line in enumerate(assembly.splitlines()):
        label = re.match(r"(\.LBB\w+):", line)
        text = line.split(";")[0].strip()
        jump = re.match(r"s_c?branch\w*\s+(\.LBB\w+)", text)
        if label is not None:
            labels[label[1]] = at
        elif jump is not None:
            jumps.append((at, jump[1]))
        elif re.match(r"(?:v|ds|global|buffer)_", text):
            code.append((at, text))
    return filter_loops(code, [(at, labels[name]) for at, name in jumps], r"v_mfma")


def filter_loops(
    code: list[tuple[int, str]], jumps: list[tuple[int, int]], products: str
) -> tuple[int, int, int] | None:
    """Instructions of a filter's loop over slices, of a round of its end, which takes out one
    candidate, and of the rest of a tile, products apart, for slices may be peeled off their loop;
    None for a kernel without a loop over tiles and one after.

    code: places and texts of the instructions that count. jumps: from where to where. products:
    what matches those of the matrix units.
    """
    # A loop ends where the last jump goes back to its begin.
    ends = {to: max(at for at, there in jumps if there == to) for _, to in jumps}
    spans = []
    for to, at in ends.items():
        if to < at:
            body = [line for place, line in code if to <= place <= at]
            multiplying = sum(re.search(products, line) is not None for line in body)
            spans.append((len(body), to, at, multiplying))
    slices = min((span for span in spans if span[3]), default=None)
    if slices is None:
        return None
    around = [span for span in spans if span[1] < slices[1] and span[2] > slices[2]]
    if not around:
        return None
    tile = min(around)
    after = [span for span in spans if not span[3] and span[1] >= tile[2]]
    if not after:
        return None
    return slices[0], max(after)[0], tile[0] - slices[0] - (tile[3] - slices[3])


def nvidia(cubin: bytes, shared: int) -> Facts:
    """Facts of a cubin of one kernel; `shared` is what its launch asks for."""
    usage = cuobjdump(cubin, "-res-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {usage}")
    registers, stack, fixed = map(int, found.groups())
    return sass_facts(cuobjdump(cubin, "-sass"), registers, stack, shared + fixed)


def amd(assembly: str, shared: int) -> Facts:
    """Facts of AMD assembly of one kernel, from its metadata and instructions."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        if found is None:
            raise RuntimeError(f"the assembly does not state {name}")
        return int(found[1])

    return Facts(
        # vgpr_count of gfx942 holds accumulation registers too.
        registers=number("vgpr_count"),
        spilled=number("vgpr_spill_count"),
        stack=number("private_segment_fixed_size"),
        shared=shared,
        local=len(re.findall(r"\bscratch_(?:load|store)_", assembly)),
        wide=len(re.findall(r"\b(?:global|buffer)_load_dwordx4\b", assembly)),
        tensor=count_tensor(assembly),
        loops=amd_loops(assembly),
    )


def triton_facts(compiled: Any) -> Facts:
    """Facts of what triton.compile returned."""
    if "cubin" in compiled.asm:
        return nvidia(compiled.asm["cubin"], compiled.metadata.shared)
    return amd(compiled.asm["amdgcn"], compiled.metadata.shared)
