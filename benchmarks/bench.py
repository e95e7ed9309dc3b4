"""All benchmarks of the engine into one table a processor: `make bench`.

    python benchmarks/bench.py --output benchmarks/results

Other libraries first, on a few rows, each beside its own worst error (compare.py); then neighbours
(neighbors.py), cosines (cosine.py), spectrum (spectrum.py). Each validates before it times and ends
with an error if fastdim is wrong. About 45 minutes on two idle cores, most of it FAISS's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the programs one after the other; the first error ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of the main cases")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    common = ["--repeats", str(options.repeats), "--output", str(options.output)]
    rows = ["--rows", str(options.rows)]
    few = str(min(options.rows, 5_000))
    wide = f"{min(options.rows, 20_000)}x4096"
    programs = [
        ["compare.py", "--rows", few, "--repeats", "3", "--data", "smollm2:15,offset,duplicates"],
        ["neighbors.py", *common, *rows],
        ["cosine.py", *common, *rows],
        ["spectrum.py", *common, *rows, "--wide", wide],
    ]
    for program, *arguments in programs:
        print(f"\n## {program}", flush=True)
        command = [sys.executable, str(HERE / program), *arguments]
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
