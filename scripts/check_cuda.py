"""Checks a built fastdim._cuda on a machine without a driver: it imports, and says what is missing.

    python check_cuda.py FOLDER     # where _cuda*.so lies

Where there is a device, a search on it is held against float64 instead.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Import the extension from a folder and use it; SystemExit says what is wrong."""
    found = list(Path(sys.argv[1]).rglob("_cuda*.so"))
    if len(found) != 1:
        raise SystemExit(f"check_cuda: one _cuda*.so is to lie under {sys.argv[1]}, not {found}")
    spec = importlib.util.spec_from_file_location("fastdim._cuda", found[0])
    if spec is None or spec.loader is None:
        raise SystemExit(f"check_cuda: {found[0]} is no module")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastdim._cuda"] = module
    spec.loader.exec_module(module)

    import fastdim
    from fastdim import naive
    from fastdim.errors import BackendError

    count, why = module.devices()
    x = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    if count > 0:
        error = np.abs(fastdim.knn(x, backend="cuda").distances / naive.knn(x, 2)[0] - 1).max()
        if not error <= 1e-6:
            raise SystemExit(f"check_cuda: distances are wrong by {error:.1e}")
        print(f"fastdim._cuda: {found[0].stat().st_size >> 20} MB, right on {count} devices")
        return 0
    try:
        fastdim.knn(x, backend="cuda")
    except BackendError as error:
        if "finds no device" not in str(error) or why not in str(error):
            raise SystemExit(f"check_cuda: an unclear error: {error}") from None
    else:
        raise SystemExit("check_cuda: a search without a device ended without an error")
    print(f"fastdim._cuda: {found[0].stat().st_size >> 20} MB, imports; {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
