"""Half precision through a whole sweep: computed in one type, stored in another, both stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_model import TEXT, save_tiny

from fastdim.arrays import Rows
from fastdim.cli import main
from fastdim.extract.store import Store

CONTEXT, TOKENS, BATCH = 16, 320, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("model")
    (root / "text.txt").write_text(TEXT)
    save_tiny(root / "tiny")
    return root


def swept(folder: Path, output: Path, *options: str) -> tuple[pd.DataFrame, Store]:
    """Table and activations of `fastdim sweep` with these options."""
    command = ["sweep", str(folder / "tiny"), "--texts", str(folder / "text.txt"), "--quiet"]
    command += ["--output", str(output), "--context", str(CONTEXT), "--max-tokens", str(TOKENS)]
    command += ["--batch-size", str(BATCH), "--formats", "parquet", "--threads", "1", *options]
    assert main(command) == 0
    return pd.read_parquet(output / "results.parquet"), Store.open(output / "activations")


def hidden_states(folder: Path, store: Store, dtype: str) -> list[torch.Tensor]:
    """`output_hidden_states` (tokens, width) of the same batches, computed in `dtype`."""
    model = transformers.AutoModel.from_pretrained(folder / "tiny", dtype=getattr(torch, dtype))
    batches = torch.from_numpy(store.tokens().token).reshape(-1, BATCH, CONTEXT)
    parts = []
    for ids in batches:
        with torch.inference_mode():
            out = model.eval()(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            )
        parts.append([state.reshape(-1, state.shape[-1]) for state in out.hidden_states])
    return [torch.cat(states) for states in zip(*parts, strict=True)]


def exact(rows: Rows) -> np.ndarray:
    """Rows of any type as float32, which holds every half-precision number."""
    return np.asarray(rows.block(0, rows.n))


@pytest.mark.parametrize(
    ("options", "dtype", "store_dtype"),
    [
        ((), "float32", "float32"),
        (("--dtype", "bfloat16"), "bfloat16", "bfloat16"),
        (("--dtype", "bfloat16", "--store-dtype", "float16"), "bfloat16", "float16"),
        (("--store-dtype", "float16"), "float32", "float16"),
        (("--store-dtype", "bfloat16"), "float32", "bfloat16"),
    ],
)
def test_types_asked_for_are_those_computed_stored_and_stated(
    options: tuple[str, ...], dtype: str, store_dtype: str, folder: Path, tmp_path: Path
) -> None:
    table, store = swept(folder, tmp_path / "out", *options)
    assert set(table["dtype"]) == {dtype}
    assert set(table["store_dtype"]) == {store_dtype}
    assert set(table["status"]) == {"ok"}
    assert store.n_rows == TOKENS
    states = hidden_states(folder, store, dtype)
    assert states[0].dtype == getattr(torch, dtype)
    for place in [*range(len(states) - 1), -1]:  # the last block's output is not in the list
        rows = store.rows(store.sites[place].layer)
        assert rows.dtype == store_dtype
        expected = states[place].to(getattr(torch, store_dtype)).float().numpy()
        np.testing.assert_array_equal(exact(rows), expected)


def test_half_precision_changes_the_numbers_a_little(folder: Path, tmp_path: Path) -> None:
    values = {}
    for dtype in ("float32", "bfloat16"):
        table, _ = swept(folder, tmp_path / dtype, "--dtype", dtype)
        measured = table[(table["metric"] == "anisotropy") & (table["filter"] == "all")]
        values[dtype] = measured["value"].to_numpy()
    assert (values["float32"] != values["bfloat16"]).all()
    # bfloat16 has 8 significant bits: numbers differ by some units of 2**-8 and no more.
    np.testing.assert_allclose(values["bfloat16"], values["float32"], rtol=0.05)


@pytest.mark.parametrize("option", ["--dtype", "--store-dtype"])
def test_an_unknown_type_is_refused(
    option: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(folder / "tiny"), "--texts", str(folder / "text.txt")]
    command += ["--output", str(tmp_path / "out"), option, "int8"]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fastdim: error: ")
    assert "int8" in error
    assert "float16, bfloat16" in error or "float32, float16" in error
    assert not list(tmp_path.rglob("*.safetensors"))
