"""Documents: the token sequences the model reads, and the tokens among them that are kept."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError
from fastdim.extract.sampling import choose
from fastdim.extract.texts import Corpus

# Between two texts of one packed stream. Two newlines and no special token: an end-of-text mark
# in the middle of a context would become one more token of its own kind.
SEPARATOR = "\n\n"

# Hieroglyphs, cuneiform, Linear A: no vocabulary of words holds all of them.
RARE = "\U00013000 \U00012000 \U00010600"

# Texts handed to the tokenizer at a time.
TOKENIZER_BATCH = 512


@dataclass(frozen=True, eq=False)
class Documents:
    """m documents, ready to be run; T tokens in all, laid end to end.

    numbers: (m,) document numbers, ascending: the context's place in the packed stream, or the
             text's place in the corpus.
    offsets: (m + 1,) document i is tokens offsets[i]:offsets[i + 1].
    input_ids: (T,) token ids as the model reads them.
    special: (T,) tokens the tokenizer added, and every token with an id of `special_ids`.
    keep: (T,) tokens whose rows are stored.
    rule: "packed:<context>" or "text:<context>", as the table shows it.
    n_available: tokens the whole corpus gives under this rule.
    pad_id: id that fills shorter rows of a batch; its rows are masked and never stored.
    token_text: the text of each id among the kept tokens.
    """

    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    special: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    rule: str
    context: int
    max_tokens: int
    tokens_per_document: int | None
    seed: int
    n_available: int
    pad_id: int
    corpus_name: str
    corpus_sha256: str
    token_text: dict[int, str]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def n_rows(self) -> int:
        """Tokens kept: max_tokens, or as many as the corpus gives."""
        return int(self.keep.sum())

    @property
    def n_tokens(self) -> int:
        """Tokens the model reads."""
        return len(self.input_ids)

    def tokens_of(self, batches: Iterable[slice]) -> int:
        """Tokens the model reads in some of `batches`."""
        return sum(int(self.offsets[part.stop] - self.offsets[part.start]) for part in batches)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return int(np.diff(self.offsets).max())

    @property
    def sha256(self) -> str:
        """Hash of everything the model reads and of what is kept."""
        digest = hashlib.sha256()
        for array in (self.numbers, self.offsets, self.input_ids, self.special, self.keep):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def definition(self) -> dict[str, Any]:
        """What defines the sample, for the manifest and the table."""
        return {
            "corpus": self.corpus_name,
            "corpus_sha256": self.corpus_sha256,
            "document_rule": self.rule,
            "context": self.context,
            "max_tokens": self.max_tokens,
            "tokens_per_document": self.tokens_per_document,
            "seed": self.seed,
            "n_documents": len(self),
            "n_rows": self.n_rows,
            "sample_sha256": self.sha256,
        }

    def batches(self, batch_size: int) -> Iterator[slice]:
        """Consecutive groups of at most batch_size documents."""
        for start in range(0, len(self), batch_size):
            yield slice(start, min(start + batch_size, len(self)))

    def padded(
        self, batch: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Documents as a model reads them together, (documents, tokens of the longest).

        Token ids, filled up with `pad_id`; which of them are real; which rows are kept.
        """
        numbers = range(*batch.indices(len(self)))
        spans = [(int(self.offsets[i]), int(self.offsets[i + 1])) for i in numbers]
        shape = len(spans), max(stop - start for start, stop in spans)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        real, keep = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        for row, (start, stop) in enumerate(spans):
            ids[row, : stop - start] = self.input_ids[start:stop]
            real[row, : stop - start] = True
            keep[row, : stop - start] = self.keep[start:stop]
        return ids, real, keep


def build_documents(
    corpus: Corpus,
    tokenizer: Any,
    *,
    context: int = 256,
    pack: bool = True,
    max_tokens: int = 20_000,
    tokens_per_document: int | None = None,
    seed: int = 0,
) -> Documents:
    """Cut a corpus into documents and choose the tokens to keep.

    tokenizer: a transformers tokenizer. The special tokens it puts around a sequence (BERT's
        [CLS] and [SEP], Llama's <s>, nothing for GPT-2 or SmolLM2) are put around every document,
        count towards its length, may be kept, and are marked special; none is added beyond those.
    pack: True cuts the stream of all texts, joined by a blank line, into consecutive documents of
        exactly `context` tokens; what is left at the end is dropped, unless it is the only one.
        False makes one document of each text, cut off after `context` tokens.
    max_tokens, tokens_per_document, seed: see `sampling.choose`; fewer tokens are kept if the
        corpus has fewer.

    Raises InputError on a context without room for text, a limit below 1, or a corpus of fewer
    than two tokens.
    """
    prefix, suffix = added_tokens(tokenizer)
    room = context - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(
            f"context {context} leaves no room for text: this tokenizer adds "
            f"{len(prefix) + len(suffix)} special tokens to each document"
        )
    texts = list(_token_ids(corpus, tokenizer, SEPARATOR if pack else ""))
    if sum(map(len, texts)) < 2:
        raise InputError(
            f"the texts from {corpus.name} give {sum(map(len, texts))} token(s): "
            "at least 2 are needed, and neighbour statistics need many more"
        )
    bodies = _pack(texts, room) if pack else [ids[:room] for ids in texts]
    added = len(prefix) + len(suffix)
    lengths = np.array([len(ids) + added if len(ids) else 0 for ids in bodies], dtype=np.int64)
    chosen = choose(lengths, max_tokens, tokens_per_document, seed)
    ids = np.concatenate([part for n, _ in chosen for part in (prefix, bodies[n], suffix)])
    offsets = np.concatenate([[0], np.cumsum([len(keep) for _, keep in chosen])]).astype(np.int64)
    special = np.isin(ids, special_ids(tokenizer))
    for start, stop in itertools.pairwise(offsets):
        special[start : start + len(prefix)] = True
        special[stop - len(suffix) : stop] = True
    keep = np.concatenate([keep for _, keep in chosen])
    return Documents(
        numbers=np.array([number for number, _ in chosen], dtype=np.int64),
        offsets=offsets,
        input_ids=ids,
        special=special,
        keep=keep,
        rule=f"{'packed' if pack else 'text'}:{context}",
        context=context,
        max_tokens=max_tokens,
        tokens_per_document=tokens_per_document,
        seed=seed,
        n_available=int(lengths.sum()),
        pad_id=_pad_id(tokenizer),
        corpus_name=corpus.name,
        corpus_sha256=corpus.sha256,
        token_text={int(i): tokenizer.decode([int(i)]) for i in np.unique(ids[keep])},
    )


def special_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Ids of the marks that a tokenizer keeps for itself: those it calls special, but not the one
    it puts in place of a word it does not know. Empty without a tokenizer.

    Some call a mark "unknown" that no text gives, since they know every byte: it stays special.
    """
    ids = set(getattr(tokenizer, "all_special_ids", ()))
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown in ids and unknown in tokenizer(RARE, add_special_tokens=False)["input_ids"]:
        ids.remove(unknown)
    return np.array(sorted(ids), dtype=np.int64)


def added_tokens(tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The special tokens the tokenizer puts before and after a sequence, found by trying."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    extra = len(whole) - len(plain)
    for start in range(extra + 1):
        if whole[start : start + len(plain)] == plain:
            prefix, suffix = whole[:start], whole[start + len(plain) :]
            return np.array(prefix, dtype=np.int64), np.array(suffix, dtype=np.int64)
    raise InputError(
        "the tokenizer changes the text when it adds special tokens: "
        f"'a' gives {plain} without and {whole} with them"
    )


def _token_ids(corpus: Corpus, tokenizer: Any, separator: str) -> Iterator[NDArray[np.int64]]:
    """Token ids of each text, without special tokens; all but the last end with the separator.

    A text's tokens then depend on that text alone, whatever stands next to it.
    """
    last = len(corpus.texts) - 1
    texts = [t + separator if i < last else t for i, t in enumerate(corpus.texts)]
    for start in range(0, len(texts), TOKENIZER_BATCH):
        encoded = tokenizer(
            texts[start : start + TOKENIZER_BATCH],
            add_special_tokens=False,
            verbose=False,  # a text longer than the model's context is cut here, not an error
        )
        for ids in encoded["input_ids"]:
            yield np.array(ids, dtype=np.int64)


def _pack(texts: list[NDArray[np.int64]], room: int) -> list[NDArray[np.int64]]:
    stream = np.concatenate(texts)
    if len(stream) < room:
        return [stream]
    return list(stream[: len(stream) // room * room].reshape(-1, room))


def _pad_id(tokenizer: Any) -> int:
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0
