"""python -m examples.training_dynamics --output DIR: train, measure, draw; resumes by itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from examples.training_dynamics.corpus import PACKAGES
from examples.training_dynamics.models import KINDS, Size
from examples.training_dynamics.run import Measured, run
from examples.training_dynamics.train import Options


def main() -> None:
    """Both trainings; the same command again goes on where it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--batch", type=int, default=Options.batch, help="contexts a step")
    parser.add_argument("--rate", type=float, default=Options.rate, help="peak learning rate")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=Options.dtype)
    parser.add_argument("--save-every", type=float, default=Options.save_every, help="seconds")
    parser.add_argument("--blocks", type=int, default=Size.blocks)
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--heads", type=int, default=Size.heads)
    parser.add_argument("--vocabulary", type=int, default=Size.vocabulary)
    parser.add_argument("--context", type=int, default=Size.context)
    parser.add_argument("--per-decade", type=int, default=Measured.per_decade)
    parser.add_argument("--rows", type=int, default=Measured.rows, help="kept of each layer")
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES), help="whose docstrings")
    parser.add_argument("--threads", type=int, help="of torch; not part of the run")
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    run(
        given.output,
        tuple(given.kinds),
        Size(given.blocks, given.width, given.heads, given.vocabulary, given.context),
        Options(given.steps, given.batch, given.rate, given.dtype, given.save_every),
        Measured(given.per_decade, given.rows),
        tuple(given.packages),
    )


if __name__ == "__main__":
    main()
