"""Both trainings, one after the other, with what is measured at the log-spaced steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray

from examples.training_dynamics.corpus import collect, stream, train_tokenizer
from examples.training_dynamics.models import KINDS, Size, build
from examples.training_dynamics.train import (
    Batches,
    Options,
    load_state,
    train,
)
from fastdim.attention import attention
from fastdim.errors import InputError, StoreError
from fastdim.extract.texts import Corpus, make_corpus
from fastdim.integrations import LogSteps, Tracker


@dataclass(frozen=True)
class Measured:
    """Steps a decade; rows of each layer; tokens whose attention is taken; contexts of the
    held-out loss. All are of the same tokens at every step.
    """

    per_decade: int = 11
    rows: int = 4096
    attention_tokens: int = 2048
    loss_contexts: int = 64


def run(
    output: Path,
    kinds: tuple[str, ...],
    size: Size,
    options: Options,
    measured: Measured,
    packages: tuple[str, ...],
) -> None:
    """Train and measure every kind that is not finished; goes on where it was stopped. At the end
    KIND/model and held-out.jsonl are what `fastdim sweep` and its like take.

    Raises StoreError where the folder holds a run with other options or other texts.
    """
    output.mkdir(parents=True, exist_ok=True)
    split = collect(packages)
    asked = {
        "size": asdict(size), "options": asdict(options), "measured": asdict(measured),
        "packages": list(packages), "text_sha256": split.sha256,
    }  # fmt: skip
    _same_run(output / "options.json", asked)
    tokenizer = train_tokenizer(split.training, size.vocabulary)
    tokens = stream(split.training, tokenizer)
    held_out = stream(split.held_out, tokenizer)
    apart = len(held_out) // size.context // measured.loss_contexts
    if apart < 1:
        raise InputError(f"{len(held_out):,} held-out tokens are too few: use more packages")
    cut = held_out[: len(held_out) // size.context * size.context].reshape(-1, size.context)
    judged = cut[::apart][: measured.loss_contexts].reshape(-1)
    sizes = {
        "documents": [len(split.training), len(split.held_out)],
        "tokens": [len(tokens), len(held_out)],
        "parameters": {kind: _count(build(kind, size)) for kind in KINDS},
    }
    (output / "sizes.json").write_text(json.dumps(sizes, indent=1))
    print(json.dumps(sizes), flush=True)
    corpus = make_corpus(split.held_out, "held-out docstrings")
    lines = [json.dumps({"text": text}) for text in split.held_out]
    (output / "held-out.jsonl").write_text("\n".join(lines) + "\n")
    for kind in kinds:
        place = Place(output / kind, kind, corpus, tokenizer, size, measured)
        _run_kind(place, tokens, judged, options)


@dataclass(frozen=True)
class Place:
    """Where one kind's results go, and what it is measured on."""

    folder: Path
    kind: str
    corpus: Corpus
    tokenizer: Any
    size: Size
    measured: Measured


def _run_kind(
    place: Place, tokens: NDArray[np.int64], judged: NDArray[np.int64], options: Options
) -> None:
    """Train one kind on tokens; judged are those of the held-out loss."""
    folder, kind, size = place.folder, place.kind, place.size
    folder.mkdir(exist_ok=True)
    model = build(kind, size, options.seed)
    state = load_state(model, folder / "state.pt")
    tracker = Tracker(
        model,
        place.corpus,
        folder / "geometry",
        tokenizer=place.tokenizer,
        steps=LogSteps(place.measured.per_decade).until(options.steps),
        filters=None,  # all four
        context=size.context,
        max_tokens=place.measured.rows,
        name=kind,
        resumed=state.step,
        formats=("csv",),
    )

    def measure(step: int) -> None:
        tracker.measure(step)
        attend(model, place, step)

    print(f"{kind}: from step {state.step} of {options.steps}", flush=True)
    train(
        state,
        Batches(tokens, size.context, kind, options.seed),
        Batches(judged, size.context, kind, options.seed),
        options,
        tracker.due,
        measure,
        folder / "state.pt",
    )
    pandas.DataFrame(state.losses).to_csv(folder / "losses.csv", index=False)
    model.save_pretrained(folder / "model")
    place.tokenizer.save_pretrained(folder / "model")
    print(tracker.close(), flush=True)


def attend(model: Any, place: Place, step: int) -> None:
    """Statistics of every head into attention/step*.csv, under the names the geometry has."""
    table = attention(
        (model, place.tokenizer),
        place.corpus,
        context=place.size.context,
        max_tokens=place.measured.attention_tokens,
    ).table
    table["model"], table["revision"] = place.kind, f"step{step}"
    (place.folder / "attention").mkdir(exist_ok=True)
    path = place.folder / "attention" / f"step{step:08d}.csv"
    partial = path.with_suffix(".tmp")
    table.to_csv(partial, index=False)
    partial.replace(path)


def _count(model: torch.nn.Module) -> int:
    return sum(item.numel() for item in model.parameters())


def _same_run(path: Path, asked: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(asked, indent=1))
        return
    known = json.loads(path.read_text())
    changed = [name for name in asked if known.get(name) != asked[name]]
    if changed:
        raise StoreError(
            f"{path.parent} holds a run with other {', '.join(changed)}: give its options, or "
            "another output"
        )
