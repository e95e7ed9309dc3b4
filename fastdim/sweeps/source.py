"""Where the rows of a run come from: a store of hidden states, or files made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastdim.extract.store import Site, TokenTable


@dataclass(frozen=True)
class Source:
    """Layers of rows, with the tokens beside them where there are any."""

    sites: list[Site]
    rows: Callable[[int], Any]  # by layer number; as `as_rows` takes them
    tokens: Callable[[int], TokenTable | None] = lambda layer: None  # by layer number, too
    token_text: Callable[[int], str] = str
