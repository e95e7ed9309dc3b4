"""How often profile_shape and phases name what was simulated, and what they see in flat noise.

Profiles of a known shape over the depth, with the errors of documents: each document moves all
sites, neighbouring sites together, now and then far. `signal` is the height of the shape in
standard errors of one site. Series of checkpoints have independent errors and moves of `signal`
errors of one checkpoint each. Writes tables; `--profiles` sets how many a cell.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdim.diagnose.curves import SCALES, Curve
from fastdim.diagnose.shape import SHAPES, shape_of
from fastdim.diagnose.training import layer_phases

Array = NDArray[np.float64]

# Each goes from 0 to 1 over the depth x in [0, 1].
TRUTHS: dict[str, list[Callable[[Array], Array]]] = {
    "bell": [
        lambda x: np.exp(-0.5 * ((x - 0.5) / 0.18) ** 2),
        lambda x: 4.0 * x * (1.0 - x),
        lambda x: np.exp(-0.5 * ((x - 0.35) / 0.15) ** 2),
    ],
    "plateau": [
        lambda x: np.clip(np.minimum(x, 1.0 - x) / 0.12, 0.0, 1.0),
        lambda x: np.clip(np.minimum(x / 0.1, (1.0 - x) / 0.2), 0.0, 1.0),
    ],
    "valley": [
        lambda x: 1.0 - np.exp(-0.5 * ((x - 0.5) / 0.18) ** 2),
        lambda x: np.abs(2.0 * x - 1.0),
    ],
    "rising": [lambda x: x, lambda x: 1.0 - np.exp(-4.0 * x)],
    "falling": [lambda x: 1.0 - x, lambda x: np.exp(-4.0 * x)],
    "flat": [np.zeros_like],
    "none-of-these": [
        lambda x: 0.5 - 0.5 * np.cos(4.0 * np.pi * x),
        lambda x: 0.5 + 0.5 * np.sin(3.0 * np.pi * x),
    ],
}


def simulate(
    truth: Callable[[Array], Array],
    sites: int,
    signal: float,
    documents: int,
    together: float,
    heavy: bool,
    rng: np.random.Generator,
) -> Curve:
    """A curve of a known shape and errors; `together` is the correlation of neighbouring sites."""
    positions = np.linspace(0.0, 1.0, sites)
    noise = np.empty((documents, sites))
    noise[:, 0] = rng.standard_normal(documents)
    fresh = np.sqrt(1.0 - together**2)
    for site in range(1, sites):
        noise[:, site] = together * noise[:, site - 1] + fresh * rng.standard_normal(documents)
    if heavy:  # of variance 1 still: t with 5 degrees of freedom, a whole document at once
        noise *= np.sqrt(3.0 / rng.chisquare(5.0, size=(documents, 1)))
    mean = noise.mean(axis=0)
    values = signal * truth(positions) + mean * np.sqrt(documents)
    parts = (noise - mean) / np.sqrt(documents)
    labels = tuple(f"block {n}" for n in range(sites))
    stderr = np.sqrt(np.square(parts).sum(axis=0) * documents / (documents - 1))
    return Curve(
        "simulated", "", "mean_cosine", "all", labels, tuple(range(sites)), positions, values,
        values, SCALES["plain"], parts, stderr, "simulated documents",
    )  # fmt: skip


def study(
    shape: str,
    profiles: int,
    sites: int,
    signal: float,
    documents: int,
    together: float,
    heavy: bool,
    seed: int = 0,
) -> Counter[str]:
    """Verdicts on `profiles` simulated profiles of a shape, its forms by turns."""
    forms = TRUTHS[shape]
    rng = np.random.default_rng([seed, sites, documents, SHAPES.index(shape)])
    found: Counter[str] = Counter()
    for number in range(profiles):
        curve = simulate(forms[number % len(forms)], sites, signal, documents, together, heavy, rng)
        found[shape_of(curve, 0.0, 0.95, seed).shape] += 1
    return found


CASES = [
    # sites, documents, correlation of neighbouring sites, heavy documents
    (12, 80, 0.0, False),
    (30, 80, 0.0, False),
    (30, 80, 0.8, False),
    (30, 80, 0.8, True),
    (30, 20, 0.8, False),
    (6, 200, 0.5, True),
]
SIGNALS = (6.0, 8.0, 10.0, 15.0)
FLATS = 10  # flat profiles for each of another shape: their share is a small one
CONSTANT = 100  # and constant series
CHECKPOINTS = (9, 20)

# Turning points of the series, in units of the signal.
SERIES: dict[str, tuple[float, ...]] = {
    "none": (0.0, 0.0),
    "expansion": (0.0, 1.0),
    "collapse": (1.0, 0.0),
    "expansion, compression": (0.0, 1.0, 0.0),
    "collapse, expansion": (1.0, 0.0, 1.0),
    "collapse, expansion, compression": (1.0, 0.0, 1.0, 0.0),
}


def series(turns: tuple[float, ...], checkpoints: int, signal: float, seed: int) -> str:
    """The verdict on one simulated series of a layer."""
    rng = np.random.default_rng([seed, checkpoints, len(turns), int(10 * signal)])
    places = np.linspace(0.0, checkpoints - 1.0, len(turns))
    truth = signal * np.interp(np.arange(checkpoints), places, turns)
    z = truth + rng.standard_normal(checkpoints)
    steps = [1 << n for n in range(checkpoints)]
    labels = tuple(f"step{step}" for step in steps)
    curve = Curve(
        "simulated", "", "mean_cosine", "all", labels, (0,) * checkpoints,
        np.array(steps, dtype=np.float64), z, z, SCALES["plain"], None, np.ones(checkpoints),
        "errors of the table",
    )  # fmt: skip
    return layer_phases("block 0", 0, curve, 0.0, 0.95, 0).verdict


def at_most(wrong: int, count: int, promised: float) -> str:
    """Share of wrong verdicts with its 95 % interval (Clopper & Pearson, Biometrika 26:404, 1934),
    and whether the promise is refused: whether all of the interval lies above it.
    """
    from scipy.stats import binomtest

    low, high = binomtest(wrong, count).proportion_ci(0.95, method="exact")
    verdict = ", REFUSED" if low > promised else ""
    return f"{100 * wrong / count:.1f} % ({100 * low:.1f} to {100 * high:.1f}{verdict})"


def phases_page(profiles: int, signals: tuple[float, ...]) -> list[str]:
    """Shares of series named right."""
    constant = CONSTANT * profiles
    lines = [
        "",
        "## Training phases",
        "",
        "Errors of the checkpoints are independent; each move is `signal` errors of one checkpoint."
        f" Of {constant:,} constant series at most 5 % are to have a phase; the promise counts as"
        " broken where the whole 95 % interval of that share (Clopper-Pearson) lies above.",
        "",
        *(
            f"- {checkpoints} checkpoints: "
            + at_most(
                sum(series(SERIES["none"], checkpoints, 0.0, n) != "none" for n in range(constant)),
                constant,
                0.05,
            )
            for checkpoints in CHECKPOINTS
        ),
        "",
        "| checkpoints | signal | " + " | ".join(name for name in SERIES if name != "none") + " |",
        "|---|---|" + "---|" * (len(SERIES) - 1),
    ]
    for checkpoints in CHECKPOINTS:
        for signal in signals:
            cells = []
            for verdict, turns in SERIES.items():
                if verdict == "none":
                    continue
                right = [series(turns, checkpoints, signal, n) == verdict for n in range(profiles)]
                cells.append(f"{100 * float(np.mean(right)):.1f} %")
            lines.append(f"| {checkpoints} | {signal:g} | " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr)
    return lines


def page(profiles: int, signals: tuple[float, ...]) -> str:
    """The whole study as Markdown."""
    lines = [
        "# How often a simulated shape is named right",
        "",
        f"{profiles} profiles a cell, {FLATS * profiles} flat ones, made by "
        f"`benchmarks/profile_shapes.py --profiles {profiles} --signals "
        f"{' '.join(f'{signal:g}' for signal in signals)}`. Signal: height of the"
        " shape in standard errors of one site.",
        "Flat: share of flat profiles called anything else, at most 5 %; the promise counts as"
        " broken where the whole 95 % interval of the share (Clopper-Pearson) lies above.",
        "",
        "| sites | documents | correlation | tails | signal | "
        + " | ".join(s for s in SHAPES if s != "flat")
        + " | flat, called a shape |",
        "|---|---|---|---|---|" + "---|" * len(SHAPES),
    ]
    for sites, documents, together, heavy in CASES:
        case = (sites, documents, together, heavy)
        flat = study("flat", FLATS * profiles, sites, 0.0, *case[1:])
        wrong = at_most(FLATS * profiles - flat["flat"], FLATS * profiles, 0.05)
        for signal in signals:
            cells = []
            for shape in SHAPES:
                if shape == "flat":
                    continue
                right = study(shape, profiles, sites, signal, *case[1:])[shape]
                cells.append(f"{100 * right / profiles:.0f} %")
            tails = "t5" if heavy else "normal"
            lines.append(
                f"| {sites} | {documents} | {together:g} | {tails} | {signal:g} | "
                + " | ".join(cells)
                + f" | {wrong} |"
            )
            print(lines[-1], file=sys.stderr)
    lines += phases_page(profiles, signals)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the study, or write it to --output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", type=int, default=200)
    parser.add_argument("--signals", type=float, nargs="+", default=list(SIGNALS))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = page(options.profiles, tuple(options.signals))
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
