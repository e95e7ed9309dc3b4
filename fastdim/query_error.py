"""How many query rows a wanted error takes: `queries="1%"`."""

from __future__ import annotations

import math
import re

from fastdim.errors import InputError

# Relative standard error of TwoNN from m query rows, times sqrt(m): 1.54 to 1.60 measured on
# 200,000 hidden states (docs/large-sets.md); 1.07 where ratios are Pareto.
SPREAD = 1.6


def is_error(queries: object) -> bool:
    """Whether queries are asked for by a text, such as "1%"."""
    return isinstance(queries, str)


def query_count(text: str, n: int | None = None) -> int:
    """Query rows for a relative standard error of TwoNN of `text`, e.g. "1%" or "0.5%".

    The error is that of looking at m of n rows where all could be queries: SPREAD / sqrt(m) times
    sqrt(1 - m/n) for a sample without replacement (Cochran, Sampling Techniques, 1977, 2.6), so
    m = m0 / (1 + m0/n) with m0 = (SPREAD / error)^2; m0 where n is None. At least 2.

    Raises InputError unless text is a percentage above 0 and below 100.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", text, flags=re.ASCII)
    percent = float(match[1]) if match else math.nan
    if not 0.0 < percent < 100.0:
        raise InputError(
            f"queries as a text is the wanted relative error of the dimension, above 0% and below "
            f"100%, as in '1%'; got {text!r}"
        )
    most = (100.0 * SPREAD / percent) ** 2
    if n is None:
        if most > 2**53:
            raise InputError(f"queries={text!r} takes {most:.0e} rows: pass a larger error")
        return max(2, math.ceil(most))
    return min(n, max(2, math.ceil(n / (1.0 + n / most))))
