"""Checks an installed fastdim from outside its sources, with numpy alone beside it.

    python check_install.py [--level LEVEL] [--built LEVEL,LEVEL]

Small problems through the compiled kernels against the float64 references. Exits by an exception
when anything differs, when a heavy package was imported, or when the CPU level is another one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "faiss", "triton", "matplotlib", "pandas", "rich")


def require(condition: bool, what: str) -> None:
    """Stop with a message; unlike `assert` also under python -O."""
    if not condition:
        raise SystemExit(f"check_install: {what}")


def check_results() -> None:
    """Neighbours, dimension and cosines of 300 rows with a massive one and an offset."""
    import numpy as np

    import fastdim
    from fastdim import naive

    rows = np.random.default_rng(0).standard_normal((300, 33)).astype(np.float32)
    rows[7] *= 1000
    rows[40] = rows[41]
    for name, x in {"plain": rows, "offset": rows + 1e4, "half": rows.astype(np.float16)}.items():
        neighbors = fastdim.knn(x)
        expected, _ = naive.knn(x, 2)
        error = float((abs(neighbors.distances - expected) / np.maximum(expected, 1e-30)).max())
        require(error <= 1e-6, f"knn differs from float64 by {error:.1e} ({name})")
        value, reference = float(fastdim.twonn(x)), naive.twonn(x)
        require(
            abs(value - reference) <= 1e-5 * reference, f"twonn {value} != {reference} ({name})"
        )
        cosine = fastdim.cosine_stats(x, pairs="all")
        require(int(cosine.histogram.sum()) == 300 * 299 // 2, f"a pair is missing ({name})")
        error = abs(fastdim.anisotropy(x) - naive.spectrum(x).anisotropy)
        require(error <= 1e-9, f"anisotropy differs by {error:.1e} ({name})")


def check_levels(level: str | None, built: str | None) -> None:
    """The level in use and those compiled in; a level this CPU lacks is refused."""
    import numpy as np

    import fastdim
    from fastdim import _core

    active = _core.active_level()
    if level is not None:
        require(active == level, f"the CPU level is {active}, expected {level}")
    if built is not None:
        levels = ",".join(_core.built_levels())
        require(levels == built, f"built levels are {levels}, expected {built}")
    for missing in {"avx2", "avx512"} - set(_core.supported_levels()):
        os.environ["FASTDIM_ISA"] = missing
        try:
            fastdim.knn(np.eye(4))
        except fastdim.FastdimError as error:
            require(missing in str(error), f"the message does not name {missing}: {error}")
        else:
            require(False, f"FASTDIM_ISA={missing} was accepted without support")
        del os.environ["FASTDIM_ISA"]
    print(
        f"check_install: fastdim from {Path(fastdim.__file__).parent}, level {active}: as expected"
    )


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level")
    parser.add_argument("--built")
    options = parser.parse_args()
    import fastdim

    loaded = [name for name in HEAVY if name in sys.modules]
    require(not loaded, f"import fastdim loads {', '.join(loaded)}")
    sources = Path(__file__).resolve().parent.parent
    require(
        sources not in Path(fastdim.__file__).resolve().parents
        or "site-packages" in fastdim.__file__,
        f"this is the source tree ({fastdim.__file__}), not an installed package",
    )
    check_results()
    check_levels(options.level, options.built)


if __name__ == "__main__":
    main()
