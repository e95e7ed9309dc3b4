"""A tiny decoder with dropout, its texts, and a plain training loop, for tests of trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tiny_model import LETTERS, TEXT

TEXTS = [f"{TEXT[n : n + 40]} {n}" for n in range(0, 160, 4)]
OPTIONS: dict[str, Any] = {"context": 16, "max_tokens": 200, "pairs": 200, "threads": 1}


def tiny_gpt(seed: int = 0) -> Any:
    """GPT-2 of 2 blocks of 16 columns, with dropout: a training draws random numbers."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(LETTERS) + 1, n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def token_rows(count: int = 24, length: int = 16) -> torch.Tensor:
    """Rows of token ids to train on."""
    drawn = torch.Generator().manual_seed(1)
    return torch.randint(0, len(LETTERS), (count, length), generator=drawn)


def loop(model: Any, steps: int, after: Callable[[int], None], first: int = 1) -> list[float]:
    """Plain training; `after(step)` once each step. The losses."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rows = token_rows()
    losses = []
    model.train()
    for step in range(first, first + steps):
        batch = rows[(4 * step) % 24 :][:4]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        after(step)
    return losses
