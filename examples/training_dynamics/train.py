"""One training that may be stopped anywhere: batches, masks and rates are functions of the step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.training_dynamics.corpus import MASK_ID
from examples.training_dynamics.models import KINDS

MASKED = 0.3  # share of the encoder's tokens that it has to guess
IGNORED = -100  # label of a token that does not count


@dataclass(frozen=True)
class Options:
    """steps, contexts a batch, peak rate, number type of autocast, seconds between two states."""

    steps: int = 1200
    batch: int = 16
    rate: float = 1e-3
    dtype: str = "bfloat16"
    save_every: float = 60.0
    seed: int = 0


@dataclass
class State:
    """What a stopped training goes on with."""

    model: Any
    optimizer: Any
    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)


class Batches:
    """Contexts of the training stream in an order of their own each epoch."""

    def __init__(self, tokens: NDArray[np.int64], context: int, kind: str, seed: int) -> None:
        assert kind in KINDS
        count = len(tokens) // context
        self.contexts = torch.from_numpy(tokens[: count * context].reshape(count, context))
        self.kind, self.seed = kind, seed
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.contexts)

    def batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels (size, context) of a step, from 1."""
        epoch, place = divmod((step - 1) * size, len(self) - len(self) % size)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
            self._order = epoch, order
        chosen = self.contexts[torch.from_numpy(self._order[1][place : place + size])]
        return self.examples(chosen, step)

    def examples(self, contexts: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels; the encoder's masks depend on the seed and the step alone."""
        if self.kind == "decoder":
            return contexts, contexts
        drawn = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        hidden = torch.rand(contexts.shape, generator=drawn) < MASKED
        return contexts.masked_fill(hidden, MASK_ID), contexts.masked_fill(~hidden, IGNORED)


def rate_at(step: int, options: Options) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine down to a tenth of the peak."""
    warm = max(1, options.steps // 20)
    if step <= warm:
        return options.rate * step / warm
    done = (step - warm) / max(1, options.steps - warm)
    return options.rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))


def new_state(model: Any) -> State:
    """A training at step 0: AdamW, decay for matrices alone."""
    matrices = [item for item in model.parameters() if item.ndim > 1]
    others = [item for item in model.parameters() if item.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return State(model, torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95)))


def save_state(state: State, path: Path) -> None:
    """Write the whole file or nothing."""
    data = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "losses": state.losses,
    }
    partial = path.with_suffix(".tmp")
    torch.save(data, partial)
    os.replace(partial, path)


def load_state(model: Any, path: Path) -> State:
    """The training as it was saved, or a new one where nothing was."""
    state = new_state(model)
    if path.exists():
        data = torch.load(path, weights_only=True)
        state.model.load_state_dict(data["model"])
        state.optimizer.load_state_dict(data["optimizer"])
        state.step, state.losses = data["step"], data["losses"]
    return state


def loss_of(model: Any, inputs: torch.Tensor, labels: torch.Tensor, dtype: str) -> torch.Tensor:
    """Mean cross-entropy in nats of the tokens that count."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss: torch.Tensor = model(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels
        ).loss
    return loss


def held_out_loss(model: Any, batches: Batches, options: Options) -> float:
    """Mean loss in nats over held-out contexts, masked the same way each time."""
    model.eval()
    found = []
    with torch.no_grad():
        for number, contexts in enumerate(batches.contexts.split(options.batch)):
            found.append(float(loss_of(model, *batches.examples(contexts, number), options.dtype)))
    model.train()
    return float(np.mean(found))


def train(
    state: State,
    batches: Batches,
    held_out: Batches,
    options: Options,
    due: Callable[[int], bool],
    measure: Callable[[int], None],
    path: Path,
) -> None:
    """Train up to `options.steps`; `measure(step)` where due, then a line in `state.losses`."""
    saved = time.perf_counter()
    state.model.train()
    while state.step < options.steps:
        step = state.step + 1
        for group in state.optimizer.param_groups:
            group["lr"] = rate_at(step, options)
        loss = loss_of(state.model, *batches.batch(step, options.batch), options.dtype)
        state.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimizer.step()
        state.step = step
        if due(step):
            measure(step)
            line = {
                "step": step,
                "tokens": step * options.batch * batches.contexts.shape[1],
                "rate": rate_at(step, options),
                "training_loss": float(loss.detach()),
                "held_out_loss": held_out_loss(state.model, held_out, options),
            }
            state.losses.append(line)
            print(
                f"step {step:5d}  training loss {line['training_loss']:.3f}  "
                f"held out {line['held_out_loss']:.3f}",
                flush=True,
            )
        if step == options.steps or time.perf_counter() - saved > options.save_every:
            save_state(state, path)
            saved = time.perf_counter()
