"""Rows of named modules of any torch module: images, sequences, recurrence; resumed, thinned."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fastdim
from fastdim.cli import main
from fastdim.errors import StoreError
from fastdim.extract.sampling import lowest
from fastdim.extract.writer import ShardWriter


def images(samples: int = 20, size: int = 4, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(samples, 3, 8, 8, generator=generator).split(size))


def network() -> nn.Sequential:
    """Two stages of different resolution, a vector at the end, and a module that works in place."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


MODULES = ["0", "3", "7", "7:input"]


def extract(folder: Path, **options: Any) -> fastdim.Store:
    given = {"model": network(), "batches": images(), "modules": MODULES, "output": folder}
    return fastdim.extract_modules(**(given | options))


def expected(model: nn.Sequential, upto: int) -> np.ndarray:
    with torch.inference_mode():
        out = model.eval()[: upto + 1](torch.cat(images()))
    moved = out.permute(0, 2, 3, 1) if out.ndim == 4 else out
    return moved.reshape(-1, out.shape[1]).numpy()


def test_rows_of_every_stage_are_the_modules_own(tmp_path: Path) -> None:
    model = network()
    model[4].eval()
    store = extract(tmp_path, model=model)
    for layer, upto in enumerate((0, 3, 7, 6)):
        # One batch of 20 or five of 4: a convolution may round otherwise.
        rows = store.rows(layer).data
        np.testing.assert_allclose(rows, expected(network(), upto), rtol=1e-5, atol=1e-6)
    assert [store.count(layer) for layer in range(4)] == [20 * 64, 20 * 16, 20, 20]
    assert [site.width for site in store.sites] == [8, 16, 10, 16]
    beside = store.tokens(1)
    np.testing.assert_array_equal(beside.document, np.repeat(np.arange(20), 16))
    np.testing.assert_array_equal(beside.position, np.tile(np.arange(16), 20))
    assert (beside.token == -1).all()
    assert not store.has_tokens
    # Each module in the mode it was in, and no hook left.
    assert [module.training for module in model] == [True] * 4 + [False] + [True] * 3
    assert not any(item._forward_hooks or item._forward_pre_hooks for item in model.modules())


def test_a_module_that_works_in_place_changes_no_row(tmp_path: Path) -> None:
    store = extract(tmp_path, batches=[torch.cat(images())], modules=["0"])
    np.testing.assert_array_equal(store.rows(0).data, expected(network(), 0))
    assert (store.rows(0).data < 0).any()


class Sequence(nn.Module):
    """Token ids to hidden states, through a convolution and a recurrence, with the given mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(30, 6)
        self.conv = nn.Conv1d(6, 5, 3, padding=1)
        self.late = nn.LSTM(5, 4)
        self.last = nn.GRU(4, 3, batch_first=True)
        self.pool = nn.Linear(3, 2)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        hidden = self.conv(self.embed(input_ids).transpose(1, 2)).permute(2, 0, 1)
        hidden, _ = self.last(self.late(hidden)[0].transpose(0, 1))
        return self.pool(hidden[:, -1])


class Words:
    """What `extract_modules` needs of a tokenizer."""

    all_special_ids = (1, 2)

    def decode(self, ids: list[int]) -> str:
        return f"w{ids[0]}"


def sentences() -> list[dict[str, torch.Tensor]]:
    """Two batches of 3 and 2 samples, 5 and 7 positions long, padded on the left or the right."""
    first = torch.tensor([[1, 5, 6, 7, 2], [0, 0, 1, 8, 2], [1, 9, 2, 0, 0]])
    second = torch.tensor([[1, 3, 4, 5, 6, 7, 2], [0, 0, 0, 0, 1, 4, 2]])
    return [{"input_ids": ids, "attention_mask": (ids != 0).long()} for ids in (first, second)]


def test_sequences_are_read_by_mask_with_their_tokens(tmp_path: Path) -> None:
    paths = ["embed", "conv", "late", "last"]
    store = extract(
        tmp_path, model=Sequence(), batches=sentences(), modules=paths, tokenizer=Words()
    )
    ids = [1, 5, 6, 7, 2, 1, 8, 2, 1, 9, 2, 1, 3, 4, 5, 6, 7, 2, 1, 4, 2]
    places = [0, 1, 2, 3, 4, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6]
    for layer in range(4):
        beside = store.tokens(layer)
        assert beside.token.tolist() == ids
        assert beside.position.tolist() == places
        assert beside.document.tolist() == [0] * 5 + [1] * 3 + [2] * 3 + [3] * 7 + [4] * 3
        np.testing.assert_array_equal(beside.special, np.isin(ids, (1, 2)))
    assert store.token_text(9) == "w9"
    model = Sequence().eval()
    with torch.inference_mode():
        rows = []
        for batch in sentences():
            late = model.late(
                model.conv(model.embed(batch["input_ids"]).transpose(1, 2)).permute(2, 0, 1)
            )[0].transpose(0, 1)
            rows.append(late[batch["attention_mask"] == 1])
    np.testing.assert_array_equal(store.rows(2).data, torch.cat(rows).numpy())


def test_layouts_name_the_axes_where_the_type_does_not(tmp_path: Path) -> None:
    x = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(2))
    plain = extract(tmp_path / "a", model=nn.Identity(), batches=[x], modules=[""])
    last = extract(
        tmp_path / "b", model=nn.Identity(), batches=[x], modules=[""], layouts={"": "bppd"}
    )
    first = extract(
        tmp_path / "c", model=nn.Identity(), batches=[x], modules=[""], layouts={"": "pbdp"}
    )
    np.testing.assert_array_equal(plain.rows(0).data, x.permute(0, 2, 3, 1).reshape(-1, 6).numpy())
    np.testing.assert_array_equal(last.rows(0).data, x.reshape(-1, 3).numpy())
    np.testing.assert_array_equal(first.rows(0).data, x.permute(1, 0, 3, 2).reshape(-1, 5).numpy())


def places(folder: Path, model: nn.Module, x: torch.Tensor, path: str) -> tuple[int, int, int]:
    """Samples, positions of one, and columns of what is stored for a module."""
    output = folder / f"rows of {path.replace(':', '-')}"
    store = extract(output, model=model, batches=[x], modules=[path])
    beside = store.tokens(0)
    return int(beside.document.max()) + 1, int(beside.position.max()) + 1, store.sites[0].width


@pytest.mark.parametrize("first", [True, False])
def test_parts_of_a_torch_encoder_have_its_axes(tmp_path: Path, first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 8) if first else torch.randn(5, 3, 8)
    for path in ("layers.0.linear1:input", "layers.0.self_attn", "layers.1.norm2", "layers.1", ""):
        assert places(tmp_path, model, x, path) == (3, 5, 8)


def test_a_module_of_another_kind_may_turn_the_axes_of_a_recurrence_inside(tmp_path: Path) -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.LSTM(4, 3)

        def forward(self, x: Any) -> Any:
            return self.late(x.transpose(0, 1))[0].transpose(0, 1)

    assert places(tmp_path, Turning(), torch.randn(2, 7, 4), "") == (2, 7, 3)
    assert places(tmp_path, Turning(), torch.randn(2, 7, 4), "late") == (2, 7, 3)


def test_a_sequential_and_its_activations_have_the_axes_of_the_convolutions(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(),
        nn.Sequential(nn.Conv1d(4, 6, 3), nn.Dropout(), nn.GELU()), nn.Identity(),
    )  # fmt: skip
    x = torch.randn(2, 1, 20)
    for path, found in {
        "0:input": (2, 20, 1), "1": (2, 18, 4), "2": (2, 18, 4), "2:input": (2, 18, 4),
        "3:input": (2, 18, 4), "3.1": (2, 16, 6), "3": (2, 16, 6), ":input": (2, 20, 1),
    }.items():  # fmt: skip
        assert places(tmp_path, model, x, path) == found, path


class Stop(Exception):
    pass


def stopping(after: int) -> Iterator[torch.Tensor]:
    for number, batch in enumerate(images()):
        if number == after:
            raise Stop
        yield batch


def test_an_interrupted_extraction_goes_on(tmp_path: Path) -> None:
    whole = extract(tmp_path / "whole")
    with pytest.raises(Stop):
        extract(tmp_path / "parts", batches=stopping(3))
    with pytest.raises(StoreError, match="unfinished"):
        fastdim.Store.open(tmp_path / "parts")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("shard-*")}
    assert len(times) == 3
    parts = extract(tmp_path / "parts", batches=iter(images()))
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert parts.manifest == whole.manifest


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Images one by one, of a number nobody knows."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.cat(images()))


def test_a_loader_over_a_stream_has_no_length(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    loader = torch.utils.data.DataLoader(Stream(), batch_size=8)
    store = extract(
        tmp_path / "s", batches=loader, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, None), (2, None), (3, None)]
    np.testing.assert_array_equal(
        store.rows(2).data, extract(tmp_path / "l", batches=images(size=8)).rows(2).data
    )


def documents_kept(store: fastdim.Store, layer: int) -> set[tuple[int, int]]:
    beside = store.tokens(layer)
    return set(zip(beside.document.tolist(), beside.position.tolist(), strict=True))


@pytest.mark.parametrize("size", [1, 4, 7, 20])
def test_max_rows_are_those_of_lowest_hash_for_every_batch_size(tmp_path: Path, size: int) -> None:
    store = extract(tmp_path / "most", batches=images(size=size), max_rows=100, seed=5)
    all_rows = extract(tmp_path / "all", batches=images(size=size), seed=5)
    for layer, places in enumerate((64, 16, 1, 1)):
        document, position = (a.ravel() for a in np.mgrid[:20, :places])
        mask = lowest(document, position, 100, 5)
        expected_rows = set(zip(document[mask].tolist(), position[mask].tolist(), strict=True))
        assert documents_kept(store, layer) == expected_rows
        np.testing.assert_array_equal(store.rows(layer).data, all_rows.rows(layer).data[mask])
    listed = {shard["file"] for shard in store.manifest["shards"]}
    assert {path.name for path in (tmp_path / "most").glob("*.safetensors")} == listed


def test_thinning_that_was_cut_off_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(tmp_path / "whole", max_rows=60)
    write = ShardWriter.write

    def cut(self: ShardWriter, number: int, *args: Any, **options: Any) -> None:
        if options.get("kind") == "kept" and number == 2:
            raise Stop
        write(self, number, *args, **options)

    monkeypatch.setattr(ShardWriter, "write", cut)
    with pytest.raises(Stop):
        extract(tmp_path / "parts", max_rows=60)
    monkeypatch.undo()
    assert list((tmp_path / "parts").glob("kept-000001*"))
    assert list((tmp_path / "parts").glob("shard-000002*"))
    assert extract(tmp_path / "parts", max_rows=60).manifest == whole.manifest


def test_rows_per_sample(tmp_path: Path) -> None:
    store = extract(tmp_path, rows_per_sample=3)
    for layer, count in enumerate((3, 3, 1, 1)):
        assert np.bincount(store.tokens(layer).document).tolist() == [count] * 20
    assert len(np.unique(store.tokens(0).position)) > 20


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.block = nn.Linear(4, 4)
        self.spare = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.block(torch.tanh(self.block(x))).argmax(-1)


def test_a_module_that_runs_twice_is_taken_by_call(tmp_path: Path) -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(4))
    model = Twice()
    paths = ["block#0", "block:input#1", "block#1"]
    store = extract(tmp_path, model=model, batches=[x], modules=paths)
    with torch.inference_mode():
        first = model.block(x)
        middle = torch.tanh(first)
        expected_rows = [first, middle, model.block(middle)]
    for layer, rows in enumerate(expected_rows):
        np.testing.assert_array_equal(store.rows(layer).data, rows.numpy())


def test_the_stored_type_holds_every_module(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).to(torch.bfloat16)
    model.append(nn.Identity())
    x = torch.randn(9, 4).to(torch.bfloat16)
    half = extract(tmp_path / "a", model=model, batches=[x], modules=["0", "1"])
    assert half.dtype == "bfloat16"
    with torch.inference_mode():
        rows = model.eval()[0](x).float().numpy()
    np.testing.assert_array_equal(half.rows(0).block(0, 9), rows)

    def forward(module: Any, batch: Any) -> None:
        module[2](module[0](batch).float())

    mixed = extract(tmp_path / "b", model=model, batches=[x], modules=["0", "2"], forward=forward)
    assert mixed.dtype == "float32"
    np.testing.assert_array_equal(mixed.rows(0).data, rows)


def test_profile_measures_the_folder(tmp_path: Path) -> None:
    extract(tmp_path / "rows")
    out = tmp_path / "out"
    main(["profile", str(tmp_path / "rows"), "--output", str(out), "--quiet"])
    table = pd.read_csv(out / "results.csv")
    assert table["module"].unique().tolist() == MODULES
    assert set(table["filter"]) == {"all", "no_outliers", "normalized"}
    value = table.query("module == '0' and filter == 'all' and metric == 'anisotropy'")["value"]
    rows = fastdim.Store.open(tmp_path / "rows").rows(0)
    assert value.item() == pytest.approx(fastdim.anisotropy(rows), rel=1e-9)
    extract(
        tmp_path / "words", model=Sequence(), batches=sentences(), modules=["embed"],
        tokenizer=Words(),
    )  # fmt: skip
    main(["profile", str(tmp_path / "words"), "--output", str(tmp_path / "w"), "--quiet"])
    assert "no_special" in set(pd.read_csv(tmp_path / "w" / "results.csv")["filter"])


def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match="another process is writing activations"):
        extract(tmp_path)
    os.close(descriptor)
    assert extract(tmp_path).n_rows == 1280


def test_other_batches_or_options_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    extract(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    changed = images()
    changed[3] = changed[3] + 1
    for options, message in (
        ({"batches": changed}, "batch 3 has another content"),
        ({"batches": images()[:4]}, "there were 5 batches, not 4"),
        ({"modules": ["0"]}, "differ in grids, rows_of_first_batch, sites"),
        ({"max_rows": 7}, "differ in max_rows"),
        ({"model": nn.Sequential(*network()[:7], nn.Linear(16, 10))}, "model_sha256"),
    ):
        with pytest.raises(StoreError, match=message):
            extract(tmp_path, **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shard.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match="holds no activations"):
        extract(tmp_path / "other")
    assert (tmp_path / "other" / "shard.safetensors").exists()


def test_anothers_files_are_neither_removed_nor_written_over(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("shard-000007.safetensors", "kept-000000.safetensors", "shard-000000.safetensors", "a.tmp")
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({"weight": torch.zeros(3)}, folder / name)
        before = (folder / name).read_bytes()
        with pytest.raises(StoreError, match="holds no activations"):
            extract(folder)
        assert [(path, path.read_bytes()) for path in folder.iterdir()] == [(folder / name, before)]


def test_a_first_shard_that_was_not_listed_yet_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(tmp_path / "whole")

    def cut(self: ShardWriter, *, complete: bool) -> None:
        raise Stop

    monkeypatch.setattr(ShardWriter, "_list", cut)
    with pytest.raises(Stop):
        extract(tmp_path / "parts")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["shard-000000.safetensors"]
    assert extract(tmp_path / "parts").manifest == whole.manifest


def test_a_thinned_shard_is_thinned_again_without_touching_the_listed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More batches than before are an extension: the first ones keep fewer of their rows."""
    extract(tmp_path / "parts", batches=images()[:3], max_rows=60)
    listed = ShardWriter._list

    def cut(self: ShardWriter, *, complete: bool) -> None:
        # Killed after a thinned shard is on disk and before the manifest tells so.
        if len(self.shards) == 5 and self.shards[0] != first:
            raise Stop
        listed(self, complete=complete)

    first = fastdim.Store.open(tmp_path / "parts").manifest["shards"][0]
    assert first["file"].startswith("kept")
    monkeypatch.setattr(ShardWriter, "_list", cut)
    with pytest.raises(Stop):
        extract(tmp_path / "parts", max_rows=60)
    monkeypatch.undo()
    parts = extract(tmp_path / "parts", max_rows=60)
    whole = extract(tmp_path / "whole", max_rows=60)
    for layer in range(4):
        np.testing.assert_array_equal(parts.rows(layer).data, whole.rows(layer).data)
        assert documents_kept(parts, layer) == documents_kept(whole, layer)
