#!/usr/bin/env bash
# The kernel tests on builds that watch memory, undefined behaviour and races; "kernels" are those
# in CUDA C++, on the emulated GPU.
#
#     scripts/check_sanitizers.sh PYTHON [address|thread|kernels]
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath --no-symlinks "$1")
kinds=${2:-"address thread kernels"}
known="$PWD/scripts/tsan_suppressions.txt"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
    local kind=$1 flags=$2 library=$3
    shift 3
    local tree="$work/$kind"
    mkdir -p "$tree"
    # Tests run beside a copy of the package: Python looks there first.
    cp -r fastdim tests pyproject.toml "$tree"
    rm -f "$tree"/fastdim/_core*.so
    CMAKE_ARGS="${CMAKE_ARGS:-} -DFASTDIM_SANITIZE=$flags" "$python" setup.py -q build_ext \
        --build-temp "$work/build-$kind" --build-lib "$tree"
    # Python frees nothing at exit. Nothing is captured, or a report would die with the process. The
    # C++ library comes along, or exceptions could not be watched.
    local preload
    preload="$(g++ -print-file-name="$library") $(g++ -print-file-name=libstdc++.so.6)"
    (cd "$tree" && env LD_PRELOAD="$preload" OPENBLAS_NUM_THREADS=1 \
        ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1 \
        TSAN_OPTIONS="halt_on_error=1 suppressions=$known" \
        PYTHONPATH="$tree" "$python" -m pytest -q -x -s -p no:cacheprovider "$@")
}

# The sources of csrc/cuda as a program: fibers need no Python around them.
check_kernels() {
    local flags=(-std=c++17 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
        -DFASTDIM_SIMT -ffp-contract=off -Itests/simt -Icsrc/cuda)
    local part parts=(library cosine_library sanitized) compilers=()
    for part in "${parts[@]}"; do
        "${CXX:-g++}" "${flags[@]}" -c "tests/simt/$part.cpp" -o "$work/$part.o" &
        compilers+=($!)
    done
    for part in "${compilers[@]}"; do wait "$part"; done
    "${CXX:-g++}" "${flags[@]}" "$work"/{library,cosine_library,sanitized}.o -o "$work/kernels"
    # Stacks of fibers are memory that the leak checker does not know.
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1 "$work/kernels"
    echo "emulated kernels: no report, results right"
}

for kind in $kinds; do
    case $kind in
    address)
        check address address,undefined libasan.so tests/test_knn.py tests/test_lookup.py \
            tests/test_join.py tests/test_cosine.py tests/test_moments.py \
            -k "dtypes or stride or duplicates or chosen_queries or widths or no_basis or many" ;;
    thread)
        check thread thread libtsan.so tests/test_join.py tests/test_cosine.py \
            tests/test_moments.py -k "threads or chosen_queries" ;;
    kernels) check_kernels ;;
    *)
        echo "unknown sanitizer $kind: address, thread or kernels" >&2
        exit 2 ;;
    esac
done
