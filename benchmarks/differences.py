"""Each difference from other codes on simulated rows whose answer is known; fills a page's table.

    make differences       # minutes on 2 cores; puts the table into docs/estimators.md
    .venv/bin/python benchmarks/differences.py --sets 4 --only TLE GeoMLE

What is known, mean and standard deviation over sets of the other code's value and of ours, and
which mean is nearer by more than twice the error of their difference. Exits 1 where that is not
what the case says.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from difference_cases import CASES
from difference_lines import Line, nearer
from numpy.typing import ArrayLike
from study_page import fill
from worker import today

import fastdim


def shown(values: ArrayLike, missing: str) -> str:
    """Mean and standard deviation of the sets, and how many have no value."""
    given = np.atleast_1d(np.asarray(values, dtype=np.float64))
    finite = given[np.isfinite(given)]
    lost = f"{missing} in {len(given) - len(finite)} of {len(given)}"
    if not len(finite):
        return lost
    spread = finite.std(ddof=1) if len(finite) > 1 else 0.0
    text = f"{finite.mean():.4g} ({spread:.2g})"
    return text if len(finite) == len(given) else f"{text}, {lost}"


def table_line(name: str, line: Line) -> str:
    """A line of the table."""
    known = "none" if math.isnan(line.known) else f"{line.known:.4g}"
    theirs, ours = shown(line.theirs, "nan"), shown(line.ours, "refused")
    return f"| {name} | {line.setting} | {known} | {theirs} | {ours} | {nearer(line)} |"


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=20, help="of a slow case fewer, of some more")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE")
    parser.add_argument("--page", type=Path, help="whose place for the table is filled")
    options = parser.parse_args(arguments)
    if options.page and options.only:
        parser.error("--page needs every case: leave --only out")
    lines = [
        f"fastdim {fastdim.__version__}, numpy {np.__version__}, {today()}; mean (standard "
        f"deviation) over {options.sets} sets, 10 times as many of ideal rows and of one axis.",
        "",
        "| difference | simulated | known | theirs | ours | nearer |",
        "|---|---|---|---|---|---|",
    ]
    wrong = 0
    for name in options.only or CASES:
        start = time.process_time()
        for line in CASES[name](options.sets):
            lines.append(table_line(name, line))
            print(lines[-1], flush=True)
            if nearer(line) != line.nearer:
                wrong += 1
                print(f"  WRONG: said to be nearer: {line.nearer}")
        print(f"  {time.process_time() - start:.1f} processor seconds", flush=True)
    if options.page:
        text = fill(options.page.read_text("utf-8"), {"differences": "\n".join(lines)})
        options.page.write_text(text, "utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
