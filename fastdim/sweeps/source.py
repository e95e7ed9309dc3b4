"""Where the rows of a run come from: a store of hidden states, or files made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastdim.extract.store import Site, Store, TokenTable
from fastdim.sweeps.reused import Reused


@dataclass(frozen=True)
class Source:
    """Layers of rows, with the tokens beside them where there are any.

    One layer at a time: rows may lie where those of the layer before were.
    """

    sites: list[Site]
    rows: Callable[[int], Any]  # by layer number; as `as_rows` takes them
    tokens: Callable[[int], TokenTable | None] = lambda layer: None  # by layer number, too
    token_text: Callable[[int], str] = str

    @classmethod
    def of_store(
        cls, store: Store, tokens: Callable[[int], TokenTable | None] | None = None
    ) -> Source:
        """The layers of a store; tokens: by layer number, where they are not the store's."""
        rows = partial(store.rows, empty=Reused().empty)
        return cls(store.sites, rows, tokens or store.tokens, store.token_text)
