"""The roofline model: it reproduces what was published, and counts with what was disassembled."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from fastdim.backends import cost
from fastdim.backends.triton import tiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import gpu  # noqa: E402

# docs/cuda.md: torch.cdist and topk on an H100.
MEASURED = {(20_000, 1_024): 23.8e-3, (50_000, 576): 102e-3, (200_000, 576): 1.605}


@pytest.mark.parametrize("chip", cost.PUBLISHED)
def test_the_published_figures_within_30_percent(chip: str) -> None:
    predicted = cost.matrix_search(cost.CHIPS[chip], 20_000, 1_024)
    assert predicted == pytest.approx(cost.PUBLISHED[chip], rel=0.30)


@pytest.mark.parametrize("size", MEASURED)
def test_a_matrix_of_distances_as_measured_within_30_percent(size: tuple[int, int]) -> None:
    predicted = cost.matrix_search(cost.CHIPS["H100"], *size, cost.CDIST_PASSES)
    assert predicted == pytest.approx(MEASURED[size], rel=0.30)


def test_instructions_are_those_of_the_report() -> None:
    page = (ROOT / "docs/gpu-report.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (sm_\d+|gfx942) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    counts = {name: tuple(map(int, numbers)) for name, *numbers in found}
    nvidia = {"sm_80": cost.SM_80, "sm_90": cost.SM_90, "sm_100": cost.SM_100}
    assert counts == {**nvidia, "gfx942": cost.GFX942}
    chips = {"sm_80": "A100", "sm_90": "H100", "sm_100": "B200", "gfx942": "MI300X"}
    for name, chip in chips.items():
        assert cost.CHIPS[chip].tile_rows == tiles.filter_tile(name, places=True)["BLOCK_ROWS"]


def test_blocks_side_by_side_hide_the_shorter_work() -> None:
    """Two blocks a multiprocessor: the longer of products and selection counts, not their sum."""
    alone = cost.CHIPS["A100"]
    together = dataclasses.replace(alone, blocks=2)
    assert cost.search(together, 20_000, 1_024).filter < cost.search(alone, 20_000, 1_024).filter


def test_shared_memory_bounds_the_products() -> None:
    """A B200's tensor cores wait for their operands: faster ones would change nothing."""
    chip = cost.CHIPS["B200"]
    faster = dataclasses.replace(chip, float16=2 * chip.float16)
    assert cost.search(faster, 50_000, 576).filter == cost.search(chip, 50_000, 576).filter


def test_more_work_takes_longer() -> None:
    chip = cost.CHIPS["H100"]
    small, large = cost.search(chip, 20_000, 1_024), cost.search(chip, 40_000, 1_024)
    assert 3 < large.filter / small.filter < 5
    assert 0 < small.filter_share < cost.GEMM
    assert cost.search(chip, 20_000, 1_024, keep=32).filter > small.filter
    assert cost.cosines(chip, 20_000, 1_024) > cost.cosines(cost.CHIPS["MI300X"], 20_000, 1_024)


def test_parts_of_the_rows() -> None:
    assert tiles.splits_of(1, 157, 132) == 79, "one wave of two tiles, not two of one"
    assert tiles.splits_of(157, 157, 132) == 5, "six full waves"
    assert tiles.splits_of(396, 396, 132) == 1
    assert tiles.splits_of(400, 400, 132, lists=8) >= 8
    assert tiles.splits_of(400, 3, 132, lists=8) == 3
    assert tiles.splits_of(5000, 5000, 132) >= 5, "a program takes 1,024 tiles at most"


def test_each_pair_once_pays_where_products_are_most_of_the_work() -> None:
    chip = cost.CHIPS["H100"]
    shares = [cost.symmetric_share(chip, n, 576, 8) for n in (3_000, 50_000, 200_000, 10**7)]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 * cost.SMALL_TILES < shares[-1] < 0.65, "half the pairs, smaller tiles, other side"
    assert cost.symmetric_share(chip, 50_000, 64, 8) > 1, "the other side costs more than it saves"
    assert cost.symmetric_share(chip, 50_000, 576, 32) > shares[1]
    assert cost.symmetric_pays("NVIDIA H100 80GB HBM3", 200_000, 576, 8)
    assert not cost.symmetric_pays("NVIDIA H100 80GB HBM3", 3_000, 576, 8)
    assert not cost.symmetric_pays("an unknown chip", 200_000, 576, 8)


def test_the_page_shows_the_predictions() -> None:
    page = (ROOT / "docs/cuda.md").read_text(encoding="utf-8")
    assert cost.symmetric_table() in page, "docs/cuda.md: replace it by cost.symmetric_table()"
    page = (ROOT / "docs/triton.md").read_text(encoding="utf-8")
    assert cost.table(gpu.measured()) in page, "docs/triton.md: run benchmarks.gpu.update()"


def test_what_was_measured_stands_beside_the_predictions(tmp_path: Path) -> None:
    times = [
        {"rows": "20,000 x 1,024", "n": 20_000, "d": 1_024, "what": what, "seconds": seconds}
        for what, seconds in (("fastdim triton", 0.0021), ("fastdim cuda", 0.5))
    ]
    times.append({**times[0], "rows": "a file, 20,000 x 1,024", "seconds": 0.7})
    facts = {"chip": "NVIDIA H100 80GB HBM3", "times": times}
    (tmp_path / "gpu-H100.json").write_text(json.dumps(facts))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: predictions -->\nold\n<!-- end -->\nafter\n")
    gpu.update(page, tmp_path)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert [line for line in lines if "2.1 ms" in line and "H100 | 20,000" in line]
    assert sum("not measured" in line for line in lines) == 3 * len(cost.CHIPS) - 1
