"""What a layer of a sweep is measured by."""

from __future__ import annotations

from typing import Any

from fastdim.sweeps.definition import Definition
from fastdim.sweeps.filters import FILTERS


def settings_of(filters: tuple[str, ...] = tuple(FILTERS), **options: Any) -> Definition:
    """A definition with these filters; every row a query and every pair, unless options say."""
    settings: dict[str, Any] = {"queries": None, "pairs": None, "seed": 3, **options}
    return Definition(
        kind="profile",
        model="x",
        model_sha256="",
        filters=filters,
        confidence=0.9,
        outlier_factor=5.0,
        **settings,
    )
