"""`import fastdim` costs less than 0.3 s beyond numpy's own time: the best of five of each."""

from __future__ import annotations

import subprocess
import sys

LIMIT_S = 0.3
CODE = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def best(statement: str) -> float:
    """Least time in seconds of five fresh interpreters."""
    command = [sys.executable, "-c", CODE.format(statement)]
    return min(
        float(subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout)
        for _ in range(5)
    )


def main() -> int:
    """Print both times; 1 if fastdim's own share is over the limit."""
    numpy = best("numpy")
    both = best("numpy, fastdim")
    print(f"import: numpy {numpy:.3f} s, fastdim {both - numpy:.3f} s more (limit {LIMIT_S} s)")
    return int(both - numpy > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
