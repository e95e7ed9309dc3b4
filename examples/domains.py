"""What the examples of other domains share: a module, random and briefly trained, measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch

import fastdim
from fastdim.cli import main as command
from fastdim.diagnose import profile_shape
from fastdim.errors import FastdimError

METRICS = ("id_twonn", "anisotropy", "mean_cosine")


@dataclass(frozen=True)
class Study:
    """A model with random weights, how to train it, and what it is measured on.

    loss(step): loss of the batch of a step, from 1. held_out: batches, as `extract_modules` takes
    them; modules: paths of its sites in the order of the pass; quality(): a held-out number.
    """

    model: torch.nn.Module
    loss: Callable[[int], torch.Tensor]
    held_out: Sequence[Any]
    modules: Sequence[str]
    quality: Callable[[], float]
    quality_name: str


def options(doc: str | None, steps: int) -> argparse.Namespace:
    """Where to write, steps of training, rows a site."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps, help="of training")
    parser.add_argument("--rows", type=int, default=4000, help="kept of each site")
    return parser.parse_args()


def run(study: Study, output: Path, steps: int, rows: int) -> pandas.DataFrame:
    """Measure, train, measure again; print and return the profiles side by side.

    Each half is a run folder of `fastdim profile` with its page: output/random, output/trained.
    """
    measured = [_measure(study, output / "random", rows)]
    before = study.quality()
    optimizer = torch.optim.AdamW(study.model.parameters(), lr=1e-3)
    study.model.train()
    for step in range(1, steps + 1):
        loss = study.loss(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    measured.append(_measure(study, output / "trained", rows))
    table = pandas.concat(measured, keys=["random", "trained"], axis=1)
    print(table.to_string(float_format=lambda value: f"{value:.3g}"))
    print(f"{study.quality_name}: {before:.3g} random, {study.quality():.3g} after {steps} steps")
    for name in ("random", "trained"):
        sweep = fastdim.Sweep.load(output / name)
        for metric in METRICS[:2]:
            for kind in ("all", "no_outliers"):
                shape = profile_shape(sweep, metric, kind, sites=("module",))
                print(f"{name}: {metric} ({kind}) is {shape.shape}, p_flat {shape.p_flat:.3g}")
    return table


def _measure(study: Study, output: Path, rows: int) -> pandas.DataFrame:
    """Rows of every site, then the profile of them; a line a site, a column a metric and filter."""
    store = output.with_name(f"{output.name}-rows")
    fastdim.extract_modules(study.model, study.held_out, study.modules, store, max_rows=rows)
    code = command(["profile", str(store), "--output", str(output), "--quiet"])
    if code:
        raise FastdimError(f"fastdim profile ended with {code}; {output} has the failed rows")
    table = fastdim.Sweep.load(output).table
    chosen = table[table["metric"].isin(METRICS) & table["filter"].isin(["all", "no_outliers"])]
    return chosen.pivot(index="module", columns=["metric", "filter"], values="value").loc[
        list(study.modules), list(METRICS)
    ]
