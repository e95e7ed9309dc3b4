"""Which tokens are kept: a stateless hash, so runs can be split or resumed and agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdim.errors import InputError

# The position that stands for a document as a whole.
WHOLE_DOCUMENT = -1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def token_hash(
    document: NDArray[np.int64], position: NDArray[np.int64] | int, seed: int
) -> NDArray[np.uint64]:
    """A 64-bit word for each (document, position), a pure function of the three numbers.

    document: (n,) numbers; position: (n,) or one number; seed: any integer. Uniform over the
    64-bit words; the same on every machine and in every order of calls.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    word = np.full(np.shape(document), seed % 2**64, dtype=np.uint64)
    # Shape (1,) and up: numpy wraps unsigned arrays silently and warns only for scalars.
    for part in (document, np.broadcast_to(position, np.shape(document))):
        word = _mix(word + golden) ^ np.asarray(part).astype(np.int64).view(np.uint64)
    return _mix(word + golden)


def lowest(
    document: NDArray[np.int64], position: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.bool_]:
    """Mask of the `count` tokens of lowest hash among (document, position); ties by position."""
    mask = np.ones(len(document), dtype=bool)
    if count < len(document):
        order = np.lexsort((position, document, token_hash(document, position, seed)))
        mask[order[count:]] = False
    return mask


def lowest_each(
    document: NDArray[np.int64], position: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.bool_]:
    """Mask of the `count` tokens of lowest hash of every document; ties by position."""
    order = np.lexsort((position, token_hash(document, position, seed), document))
    ordered = document[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    mask = np.zeros(len(document), dtype=bool)
    mask[order[rank < count]] = True
    return mask


class Quota:
    """The `count` lowest hashes of a stream whose length nobody knows (a bottom-k sketch).

    A token with a hash above `bound` can never be among them. Memory: 8 bytes for each of count
    hashes. The outcome does not depend on the order or the sizes of what is added.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.bound = np.uint64(2**64 - 1)
        self._hashes = np.empty(0, dtype=np.uint64)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take more of the stream into account."""
        found = np.concatenate([self._hashes, hashes[hashes <= self.bound]])
        if len(found) > self.count:
            found = np.partition(found, self.count - 1)[: self.count]
        if len(found) == self.count:
            self.bound = found.max()
        self._hashes = found


def choose(
    lengths: NDArray[np.int64], max_tokens: int, per_document: int | None, seed: int
) -> list[tuple[int, NDArray[np.bool_]]]:
    """The documents to run, in ascending order, each with the mask (length,) of its kept tokens.

    Documents are taken by lowest hash until they give `max_tokens` tokens; of each the
    `per_document` tokens of lowest hash are kept (None: all of them). The total is exactly
    max_tokens, by fewer tokens of the last document taken, or all there are.

    Raises InputError on a limit below 1.
    """
    for name, limit in (("max_tokens", max_tokens), ("tokens_per_document", per_document)):
        if limit is not None and limit < 1:
            raise InputError(f"{name} must be at least 1, got {limit}")
    numbers = np.flatnonzero(lengths > 0).astype(np.int64)
    order = np.lexsort((numbers, token_hash(numbers, WHOLE_DOCUMENT, seed)))
    chosen: list[tuple[int, NDArray[np.bool_]]] = []
    left = max_tokens
    for number in numbers[order].tolist():
        length = int(lengths[number])
        count = min(length, left, length if per_document is None else per_document)
        positions = np.arange(length, dtype=np.int64)
        chosen.append(
            (number, lowest(np.full(length, number, dtype=np.int64), positions, count, seed))
        )
        left -= count
        if left == 0:
            break
    return sorted(chosen, key=lambda pair: pair[0])
