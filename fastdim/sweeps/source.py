"""Where the rows of a run come from: a store of hidden states, or files made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastdim.arrays import Rows
from fastdim.extract.store import Site, TokenTable


@dataclass(frozen=True)
class Source:
    """Layers of rows, with the tokens beside them where there are any."""

    sites: list[Site]
    rows: Callable[[int], Rows]  # by layer number
    tokens: TokenTable | None = None
    token_text: Callable[[int], str] = str
