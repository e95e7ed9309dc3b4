#!/usr/bin/env bash
# Runs an installed fastdim on emulated processors (Debian's qemu-user): an illegal instruction in
# code that every processor executes shows here and on no newer machine.
#   scripts/check_old_cpu.sh PYTHON      PYTHON: the interpreter of the environment that has fastdim
set -euo pipefail

python=$1
here=$(cd "$(dirname "$0")" && pwd)
# OpenBLAS must choose its own kernels for the emulated processor; one thread keeps it short.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE FASTDIM_ISA FASTDIM_AMX
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

emulated() { # CPU LEVEL
    echo "emulated $1:"
    (cd / && qemu-x86_64 -cpu "$1" "$python" "$here/check_install.py" --level "$2")
}

emulated Nehalem scalar # SSE4.2, what numpy's wheels need at least; no AVX
# Less what the emulator lacks and warns about: none of it concerns a program.
emulated Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm avx2 # AVX2 and FMA; no AVX-512
