"""What `extract_modules` cannot do: one clear error each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_extract_modules import Twice, extract, sentences
from torch import nn

from fastdim.errors import FastdimError, InputError, ModelError


class Flat(nn.Module):
    """Gives the rows of all tokens without an axis of samples, as mixtures of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.flat = nn.Linear(6, 6)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.flat(self.embed(input_ids).flatten(0, 1))


class Growing(nn.Module):
    """Rows of another width in every pass."""

    calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x.flatten(1)[:, : 10 + self.calls]


class Packing(nn.Module):
    """A recurrence on packed sequences, whose rows are those of all samples by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 3, batch_first=True)
        self.open = nn.Identity()

    def forward(self, x: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3], batch_first=True)
        return self.open(self.rnn(packed)[0])


PAIR = torch.zeros(4, 5)
LAYER = nn.TransformerEncoderLayer(4, 2, 8)
BAD: dict[str, tuple[dict[str, Any], type[FastdimError], str]] = {
    "no module": ({"model": "gpt2"}, InputError, "must be a torch.nn.Module, got str"),
    "path": ({"modules": ["77"]}, ModelError, "has no module '77': did you mean 7"),
    "one path": ({"modules": "0"}, InputError, "list of module paths"),
    "modules themselves": ({"modules": [LAYER]}, InputError, "list of module paths"),
    "a set": ({"modules": {"0", "3"}}, InputError, "list of module paths"),
    "one tensor": (
        {"batches": torch.zeros(4, 3, 8, 8)}, InputError, r"got one Tensor: give \[batch\]",
    ),
    "a number": ({"batches": 4}, InputError, "batches must be an iterable of batches, got one int"),
    "no weights": (
        {"model": nn.Linear(4, 3, device="meta"), "batches": [PAIR[:, :4]], "modules": [""]},
        ModelError, "on the device 'meta', which hold no values",
    ),
    "packed": (
        {"model": Packing(), "batches": [torch.zeros(2, 5, 4)], "modules": ["open"]},
        ModelError, "'open' gives no floating-point tensor.*recurrences on padded sequences",
    ),
    "packed, inside": (
        {"model": Packing(), "batches": [torch.zeros(2, 5, 4)], "modules": ["rnn:input"]},
        ModelError, "'rnn:input' gives no floating-point tensor",
    ),
    "single sequence": (
        {"model": nn.GRU(4, 3, batch_first=True), "batches": [torch.zeros(5, 4)], "modules": [""]},
        InputError, r"\(GRU, of a .* reads a tensor of 2 axes as one sample without an axis of",
    ),
    "single sequence, inside": (
        {"model": LAYER, "batches": [torch.zeros(5, 4)], "modules": ["linear1"]},
        InputError, r"linear1 \(Linear, of a recurrent or attention module\) reads a tensor of 2",
    ),
    "beyond bfloat16": (
        {"model": nn.Identity(), "batches": [1e300 * torch.ones(4, 2).double()], "modules": [""],
         "store_dtype": "bfloat16"},
        InputError, "8 values are too large for bfloat16; store as float64",
    ),
    "seed": ({"seed": -1}, InputError, "seed must be a whole number >= 0"),
    "no paths": ({"modules": []}, InputError, "list of module paths"),
    "path twice": ({"modules": ["0", "0"]}, InputError, "each once"),
    "never runs": (
        {"model": Twice(), "batches": [torch.zeros(3, 4)], "modules": ["spare"]},
        ModelError, "spare did not run",
    ),
    "runs twice": (
        {"model": Twice(), "batches": [torch.zeros(3, 4)], "modules": ["block"]},
        ModelError, "block runs 2 times in a pass: name the calls, 'block#0' to 'block#1'",
    ),
    "third call": (
        {"model": Twice(), "batches": [torch.zeros(3, 4)], "modules": ["block#2"]},
        ModelError, "only 2 calls",
    ),
    "integers": (
        {"model": Twice(), "batches": [torch.zeros(3, 4)], "modules": [""]},
        ModelError, "gives no floating-point tensor",
    ),
    "batch": ({"batches": [(torch.zeros(4, 3, 8, 8), PAIR)]}, ModelError, "give forward="),
    "shape": ({"batches": [PAIR]}, ModelError, r"does not run on batch 0 \(RuntimeError"),
    "no batch": ({"batches": []}, InputError, "gave no batch"),
    "object": (
        {"batches": [{"input": torch.zeros(4, 3, 8, 8), "path": Path("a")}]},
        InputError, "batch 0 holds a ",
    ),
    "mask shape": (
        {"mask": lambda batch: torch.ones(4, 7)}, InputError, r"mask\(batch\) has .* \(4, 7\)",
    ),
    "mask fails": (
        {"mask": lambda batch: batch.mask}, InputError,
        r"mask\(batch\) fails \(AttributeError: .* no attribute 'mask'\)",
    ),
    "layout, number": ({"layouts": {"0": 4}}, InputError, "got 4"),
    "empty mask": ({"mask": lambda batch: torch.zeros(len(batch))}, InputError, "leaves no row"),
    "tokens as samples": (
        {"model": Flat(), "batches": sentences(), "modules": ["flat"]},
        InputError, r"attention_mask has the shape \(3, 5\), and flat gives rows for \(15,\)",
    ),
    "layout": ({"layouts": {"0": "bddp"}}, InputError, "one b"),
    "layout rank": ({"layouts": {"0": "bpd"}}, InputError, "names 3 axes"),
    "layout of none": ({"layouts": {"5": "bd"}}, InputError, "not among the modules"),
    "samples": (
        {"layouts": {"0": "pdbp"}, "modules": ["0", "7"]}, InputError, "disagree on the number",
    ),
    "rank": (
        {"model": nn.Identity(), "batches": [torch.zeros(4)], "modules": [""]},
        InputError, "tensors of 1 axes",
    ),
    "width": ({"model": Growing(), "modules": [""]}, ModelError, "rows of 12 columns, and 11"),
    "single image": (
        {"model": nn.Conv2d(3, 4, 3), "batches": [torch.zeros(3, 8, 8)], "modules": [""]},
        InputError, r"\(Conv2d\) reads a tensor of 3 axes as one sample without an axis of samples",
    ),
    "single signal": (
        {"model": nn.Conv1d(3, 4, 3), "batches": [torch.zeros(3, 8)], "modules": [""]},
        InputError, r"\(Conv1d\) reads a tensor of 2 axes as one sample without an axis of samples",
    ),
    "max_rows": ({"max_rows": 0}, InputError, "max_rows must be a whole number"),
    "max_rows, text": ({"max_rows": "ten"}, InputError, "max_rows must be a whole number"),
    "max_rows, nan": ({"max_rows": float("nan")}, InputError, "max_rows must be a whole number"),
    "type": ({"store_dtype": "int8"}, InputError, "store_dtype must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_one_clear_error(case: str, tmp_path: Path) -> None:
    options, error, message = BAD[case]
    if case == "object":
        options = options | {"forward": lambda model, batch: model(batch["input"])}
    with pytest.raises(error, match=message):
        extract(tmp_path / "out", **options)


def test_positions_that_part_ways_are_an_error_that_names_the_module(tmp_path: Path) -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()

        def forward(self, x: Any) -> None:
            self.left(x)
            self.right(x[:, :5])

    batches = [torch.zeros(2, 5, 3), torch.zeros(2, 6, 3)]
    with pytest.raises(InputError, match=r"right gives .*in calls of their own"):
        extract(tmp_path, model=Fork(), batches=batches, modules=["left", "right"])
