"""What compilers make of the Triton kernels for every target: benchmarks/gpu_report.py --check."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_inspect import TARGETS, Facts, count_tensor, sass_facts  # noqa: E402
from gpu_report import compiled_targets, problems  # noqa: E402

GOOD = Facts(128, 0, 0, 98_304, 0, 24, {"HGMMA": 4})
LABEL = "knn_filter float16, 8 kept"


def test_kernels_compile_without_spills_and_with_tensor_cores(tmp_path: Path) -> None:
    """A part of them: the filter in float16, rows in float32; make gpu-report compiles them all."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    found = subprocess.run(
        [sys.executable, "benchmarks/gpu_report.py", "--quick", "--check"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    targets = compiled_targets()
    assert set(targets) >= {"sm_80", "sm_90"}
    assert f"{13 * len(targets)} kernels compiled for {', '.join(targets)}" in found.stdout


def test_what_must_not_be_is_told() -> None:
    target = TARGETS["sm_90"]
    assert problems(LABEL, GOOD, target, True) == []
    for bad, word in (
        (replace(GOOD, spilled=4), "spills 4"),
        (replace(GOOD, local=2), "local memory 2 times"),
        (replace(GOOD, shared=300_000), "300000 bytes of shared memory"),
        (replace(GOOD, tensor={}), "no tensor-core instruction"),
        (replace(GOOD, tensor={"HMMA": 64}), "does not use HGMMA"),
    ):
        assert any(word in problem for problem in problems(LABEL, bad, target, True)), word


def test_instructions_are_counted() -> None:
    sass = """
        /*0010*/ LDGSTS.E.BYPASS.128 [R1], [R2.64] ;
        /*0020*/ LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0030*/ LDG.E R4, [R2.64] ;
        /*0040*/ HMMA.16816.F32 R4, R8, R10, R4 ;
        /*0050*/ UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8], tmem[UR10], idesc[UR11] ;
        /*0060*/ STL [R1+0x8], R4 ;
        /*0070*/ LDL.64 R4, [R1+0x8] ;
    """
    facts = sass_facts(sass, 200, 16, 1024)
    assert (facts.local, facts.wide, facts.spilled) == (2, 2, 16)
    assert facts.tensor == {"HMMA": 1, "UTCHMMA": 1}
    assert count_tensor("v_mfma_f32_32x32x8_f16 a[0:15], v[2:3]") == {"MFMA": 1}


def test_occupancy_is_that_of_the_scarcest_resource() -> None:
    target = TARGETS["sm_90"]
    assert replace(GOOD, registers=128, shared=1024).blocks(target, 8) == 2
    assert replace(GOOD, registers=32, shared=100_000).blocks(target, 8) == 2
    assert replace(GOOD, registers=32, shared=0).blocks(target, 16) == 4
    assert replace(GOOD, registers=128, shared=0).blocks(TARGETS["gfx942"], 4) == 4
