"""Words and numbers of the report: names of filters and sites, formatting, escaping."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Short names for charts and columns; the rule behind each filter is the filter's own.
FILTER_TITLES = {
    "all": "all tokens",
    "no_special": "no special",
    "no_outliers": "no outliers",
    "normalized": "normalized",
}

SITE_TITLES = {"embedding": "embedding", "final_norm": "final norm"}


def filter_title(name: str) -> str:
    """Short human name of a token filter; a filter the report does not know keeps its name."""
    return FILTER_TITLES.get(name, name)


def number(value: float, digits: int = 3) -> str:
    """A value with `digits` significant digits: "0.983", "25.6", "12,300", "1.2e-05", "–"."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4 or size >= 1e9:
        text = f"{value:.{digits - 1}e}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
    return "−" + text[1:] if text.startswith("-") else text


def _decimals(value: float, lower: float, upper: float) -> int | None:
    """Decimals that show the width of an interval with two digits; None for an e-notation."""
    size = max(abs(value), abs(lower), abs(upper))
    width = upper - lower
    if size >= 1e9 or 0 < size < 1e-4:
        return None
    if width <= 0 or size == 0:
        return None
    by_width = 1 - math.floor(math.log10(width))
    by_value = 2 - math.floor(math.log10(size))
    return min(max(by_width, by_value, 0), 6)


def interval(value: float, lower: float, upper: float) -> tuple[str, str]:
    """Value and "lower–upper" written with the same number of decimals; "" without interval."""
    if not (math.isfinite(value) and math.isfinite(lower) and math.isfinite(upper)):
        return number(value), ""
    decimals = _decimals(value, lower, upper)
    if decimals is None:
        return number(value), f"{number(lower)} to {number(upper)}"
    written = [f"{item:,.{decimals}f}".replace("-", "−") for item in (value, lower, upper)]
    return written[0], f"{written[1]} to {written[2]}"


def share(part: float, whole: float) -> str:
    """A share in per cent with two significant digits and a space that does not break: "0.42 %"."""
    if not whole:
        return "–"
    percent = 100.0 * part / whole
    if percent == 0 or percent >= 99.5:
        return f"{percent:.0f}\u00a0%"
    return f"{percent:.{max(0, 1 - math.floor(math.log10(abs(percent))))}f}\u00a0%"


def count(amount: float) -> str:
    """A whole number with thousands separators, "–" when it is not known."""
    return f"{int(amount):,}" if math.isfinite(amount) else "–"


def plural(amount: int, noun: str) -> str:
    """ "1 row", "84 rows"."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def listing(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def number_ranges(values: Iterable[int]) -> str:
    """Whole numbers with runs joined: [1, 2, 3, 7] -> "1–3, 7"."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in parts)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders the numbers in names by size: step512 before step1000."""
    pieces = re.split(r"(\d+)", text)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces if p)


_SHOWN_CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, limit: int = 32) -> str:
    """Token text with spaces and control characters made visible, cut to `limit` characters."""
    shown: list[str] = []
    for char in text:
        if char in _SHOWN_CONTROLS:
            shown.append(_SHOWN_CONTROLS[char])
        elif char == " ":
            shown.append("␣")
        elif unicodedata.category(char) in {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp", "Zs"}:
            # Direction overrides and surrogates would change or break the page around them.
            shown.append(f"\\u{ord(char):04x}")
        else:
            shown.append(char)
        if len(shown) > limit:
            return "".join(shown[:limit]) + "…"
    return "".join(shown)


def clean(text: str, limit: int = 2000) -> str:
    """Free text (names, reasons) without characters that are not allowed in a document."""
    kept = "".join(
        char
        if char in "\n\t " or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Cn"}
        else "�"
        for char in text
    )
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def escape(text: object) -> str:
    """Text safe inside HTML and SVG, as content and as a quoted attribute."""
    return html.escape(clean(str(text)), quote=True)
