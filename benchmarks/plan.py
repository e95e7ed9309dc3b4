"""The model of cost beside every run that was measured: the table of docs/scale.md.

    python benchmarks/plan.py             # print the table
    python benchmarks/plan.py --write     # put it into docs/scale.md

Runs stand in benchmarks/results/plan.json with the float32 product of the machine they ran on,
those of the million tokens in million.json. A plan of another machine goes by its own product,
measured or stated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdim.plan_work import (
    Cores,
    forward_operations,
    forward_seconds,
    search_seconds,
    site_analysis,
    spread_search_seconds,
    tiled_search_seconds,
)
from fastdim.sweeps.options import Defaults

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
MARKS = "<!-- runs: benchmarks/plan.py --write -->", "<!-- end of runs -->"
# Columns, parameters that are multiplied, blocks.
MODELS = {"smollm2": (576, 106_203_456, 30), "minilm": (384, 10_646_784, 6)}


def forward(cores: Cores, run: dict[str, Any]) -> float:
    """Of all ranks together."""
    width, parameters, blocks = MODELS[run["model"]]
    work = forward_operations(parameters, run["rows"], blocks, width, Defaults.context)
    ranks: int = run.get("ranks", 1)
    return forward_seconds(cores, work) / ranks


def analysis(cores: Cores, run: dict[str, Any]) -> float:
    """All sites, with the defaults of a sweep: four filters, one of them of directions."""
    width = MODELS[run["model"]][0]
    site = site_analysis(
        cores, run["rows"], width, Defaults.queries, Defaults.pairs, 4, 1,
        run.get("ranks", 1), run["item"],
    )  # fmt: skip
    sites: int = run["sites"]
    return sites * site.seconds


def search(cores: Cores, run: dict[str, Any]) -> float:
    """One call of knn, everything counted."""
    sizes = run["rows"], run["columns"], run.get("queries", run["rows"])
    if "tiles" in run:
        return tiled_search_seconds(cores, *sizes, run["tiles"])
    if "ranks" in run:
        return spread_search_seconds(cores, *sizes, run["ranks"])
    return search_seconds(cores, *sizes)


KINDS: dict[str, Callable[[Cores, dict[str, Any]], float]] = {
    "forward": forward,
    "analysis": analysis,
    "search": search,
}


def runs(results: Path = ROOT / "benchmarks" / "results") -> tuple[float, list[dict[str, Any]]]:
    """The float32 product of the machine, and every run that was measured on it."""
    found = json.loads((results / "plan.json").read_text())
    million = json.loads((results / "million.json").read_text())
    exact = million["exact"]
    told = {"commit": million["commit"], "date": million["date"]}
    rows, layers = exact["rows"], len(million["layers"].split(","))
    mine = [
        {"what": f"SmolLM2-135M, {rows:,} tokens: analysis, {layers} sites", "kind": "analysis",
         "model": "smollm2", "rows": rows, "sites": layers, "item": 2,
         "seconds": million["stages"]["analysis"], **told},
        {"what": f"the same: exact TwoNN of all rows of layer {exact['layer']}", "kind": "search",
         "rows": exact["distinct"], "columns": exact["columns"],
         "seconds": exact["seconds"], **told},
    ]  # fmt: skip
    return found["flops"], [*found["runs"], *mine]


def planned(flops: float, run: dict[str, Any]) -> float:
    """Seconds by the model of cost; ranks of one machine share its two cores."""
    ranks = run.get("ranks", 1)
    return KINDS[run["kind"]](Cores(2 // ranks, flops / ranks), run)


def table(flops: float, measured: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["| run | planned s | measured s | ratio | commit, date |", "|---|---|---|---|---|"]
    for run in measured:
        plan, seconds = planned(flops, run), run["seconds"]
        lines.append(
            f"| {run['what']} | {plan:.3g} | {seconds:.3g} | {plan / seconds:.2f} | "
            f"{run['commit']}, {run['date']} |"
        )
    return "\n".join(lines)


def page(text: str, made: str) -> str:
    """The page with this table between its marks."""
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}"


def main() -> None:
    """Print the table or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    given = parser.parse_args()
    made = table(*runs())
    print(made)
    if given.write:
        PAGE.write_text(page(PAGE.read_text(), made))


if __name__ == "__main__":
    main()
