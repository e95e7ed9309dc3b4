"""`extract_modules` where care is needed: two stacks, other outputs, half types, masks."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import fastdim
from fastdim.errors import StoreError

IDS = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0], [4, 0, 0, 0]])


class Marks:
    """A tokenizer that keeps two ids for itself, and one for what it does not know."""

    all_special_ids = (0, 1, 9)
    unk_token_id = 9

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [self.unk_token_id] * len(text)}

    def decode(self, ids: list[int]) -> str:
        return f"w{ids[0]}"


@pytest.mark.parametrize("masked", [True, False])
def test_a_decoder_has_ids_and_a_mask_of_its_own(tmp_path: Path, masked: bool) -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=12, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    model = transformers.T5Model(config).eval()
    # As many positions on either side, but other tokens and another padding.
    batch = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
    batch["decoder_input_ids"] = IDS.flip(0)
    if masked:
        batch["decoder_attention_mask"] = (IDS.flip(0) != 0).long()
    paths = ["encoder.block.0", "decoder.block.0"]
    store = fastdim.extract_modules(model, [batch], paths, tmp_path, tokenizer=Marks())
    assert store.tokens(0).token.tolist() == [5, 6, 7, 8, 9, 4]
    decoded = [4, 8, 9, 5, 6, 7] if masked else IDS.flip(0).flatten().tolist()
    assert store.tokens(1).token.tolist() == decoded
    assert store.tokens(0).special.sum() == 0, "9 is an unknown word"
    taken: list[Any] = []
    for path in paths:
        model.get_submodule(path).register_forward_hook(
            lambda block, args, output: taken.append(output[0])
        )
    with torch.inference_mode():
        model(**batch)
    keep = [IDS != 0, IDS.flip(0) != 0 if masked else torch.ones(3, 4, dtype=torch.bool)]
    for layer in range(2):
        rows = taken[layer][keep[layer]].numpy()
        np.testing.assert_array_equal(store.rows(layer).data, rows)


Pair = namedtuple("Pair", "number hidden")


class Returning(nn.Module):
    """Hands its input on in a form of its own, through one module."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form = form
        self.inner = nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.form(self.inner(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x, x + 1),
        lambda x: [torch.arange(3), None, x, x + 1],
        lambda x: {"count": 3, "hidden": x},
        lambda x: Pair(torch.arange(3), x),
        lambda x: transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x),
    ],
)
def test_the_first_floating_tensor_of_an_output_is_taken(form: Any, tmp_path: Path) -> None:
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    store = fastdim.extract_modules(Returning(form), [x], ["", "inner"], tmp_path)
    for layer in range(2):
        np.testing.assert_array_equal(store.rows(layer).data, x.reshape(-1, 2).numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_modules_of_every_type_are_stored_as_they_compute(dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    model = nn.Linear(6, 5).to(kind)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).to(kind)
    store = fastdim.extract_modules(model, x.split(3), [""], tmp_path)
    assert store.dtype == dtype
    with torch.inference_mode():
        expected = torch.cat([model(part) for part in x.split(3)])
    np.testing.assert_array_equal(store.rows(0).float64(0, 8), expected.double().numpy())


def test_an_empty_batch_gives_no_row(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    for place, batches in enumerate(([x[:0], x], [x, x[:0]])):
        store = fastdim.extract_modules(nn.Identity(), batches, [""], tmp_path / str(place))
        np.testing.assert_array_equal(store.rows(0).data, x.reshape(-1, 2).numpy())
        np.testing.assert_array_equal(store.tokens(0).document, np.repeat(np.arange(4), 3))


def test_another_mask_is_another_extraction(tmp_path: Path) -> None:
    batches = [torch.ones(4, 3, 2), torch.zeros(4, 3, 2)]
    fastdim.extract_modules(nn.Identity(), batches, [""], tmp_path)
    (tmp_path / "shard-000001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"other activations \(they differ in rows_of_first_batch"):
        fastdim.extract_modules(
            nn.Identity(), batches, [""], tmp_path, mask=lambda batch: torch.tensor([1, 0, 0, 0])
        )
    again = fastdim.extract_modules(nn.Identity(), batches, [""], tmp_path)
    assert again.count(0) == 24
