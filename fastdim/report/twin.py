"""The JSON twin of the page: the same numbers, unrounded, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdim.errors import StoreError, require
from fastdim.metrics import METRICS
from fastdim.report.findings import RULES, Finding

if TYPE_CHECKING:
    import pandas as pd

TWIN_FORMAT = "fastdim-report"
TWIN_VERSION = 1

INFO_FIELDS = ("title", "sentence", "formula", "reference", "centered", "higher_means")


def plain(value: Any) -> Any:
    """A value as strict JSON holds it: NaN and missing are null, infinities "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item"):  # numpy scalars
        return plain(value.item())
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    text = str(value)
    return None if text == "<NA>" else text


def twin_of(
    table: pd.DataFrame,
    extras: Sequence[Mapping[str, Any]],
    definition: Mapping[str, Any],
    findings: Sequence[Finding],
    shapes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The twin as a JSON object.

    Columns that hold one value in all rows stand once, in `constant`; the others are the lists of
    `rows`, in the order of `columns`. `dtypes` are those of the table. Floats are written with all
    their digits. shapes: verdicts on the shape of profiles.
    """
    names = [str(name) for name in table.columns]
    data = {name: [plain(value) for value in table[name].tolist()] for name in names}
    constant = {
        name: values[0] for name, values in data.items() if len(set(map(repr, values))) == 1
    }
    columns = [name for name in names if name not in constant]
    seen = dict.fromkeys(str(name) for name in table["metric"].tolist())
    return {
        "format": TWIN_FORMAT,
        "format_version": TWIN_VERSION,
        "metrics": {
            name: {field: getattr(METRICS[name], field) for field in INFO_FIELDS}
            for name in seen
            if name in METRICS
        },
        "findings": [asdict(item) for item in findings],
        "rules": RULES,
        "shapes": plain(list(shapes)),
        "order": names,
        "dtypes": {name: str(table[name].dtype) for name in names},
        "constant": constant,
        "columns": columns,
        "rows": [list(row) for row in zip(*(data[name] for name in columns), strict=True)],
        "layers": plain(list(extras)),
        "definition": plain(dict(definition)),
    }


def write_twin(twin: Mapping[str, Any]) -> str:
    """The twin as text: strict JSON, one table row and one layer a line."""
    lists = ("layers", "rows")
    head = {key: value for key, value in twin.items() if key not in lists}
    text = json.dumps(head, indent=1, allow_nan=False)[:-1].rstrip()
    for key in lists:
        lines = ",\n".join(json.dumps(item, allow_nan=False) for item in twin[key])
        text += f',\n "{key}": [\n{lines}\n]'
    return text + "\n}\n"


def read_twin(path: str | Path) -> tuple[pd.DataFrame, list[dict[str, Any]], dict[str, Any]]:
    """(table, layers, definition) of a report.json: what the page was made from.

    Raises StoreError for a file that is no report or of a newer format; DependencyError without
    pandas.
    """
    pandas = require("pandas", "report")
    try:
        twin = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(twin, dict) or twin.get("format") != TWIN_FORMAT:
        raise StoreError(f"{path} is not the JSON twin of a fastdim report")
    if twin["format_version"] > TWIN_VERSION:
        raise StoreError(
            f"{path} has format version {twin['format_version']}, this fastdim reads up to "
            f"{TWIN_VERSION}; upgrade fastdim"
        )
    rows = twin["rows"]
    data = {name: [row[i] for row in rows] for i, name in enumerate(twin["columns"])}
    data.update({name: [value] * len(rows) for name, value in twin["constant"].items()})
    frame = pandas.DataFrame(
        {
            name: pandas.Series(_typed(data[name], dtype), dtype=dtype)
            for name, dtype in ((n, twin["dtypes"][n]) for n in twin["order"])
        }
    )
    return frame, twin["layers"], twin["definition"]


def _typed(values: list[Any], dtype: str) -> list[Any]:
    if dtype.startswith("float"):
        return [math.nan if value is None else float(value) for value in values]
    return values
