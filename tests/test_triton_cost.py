"""The roofline model: it reproduces what was published, and counts with what was disassembled."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fastdim.backends import cost
from fastdim.backends.triton import tiles

ROOT = Path(__file__).resolve().parent.parent
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
    found = re.findall(r"^\| (sm_\d+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    counts = {name: tuple(map(int, numbers)) for name, *numbers in found}
    assert counts == {"sm_80": cost.SM_80, "sm_90": cost.SM_90, "sm_100": cost.SM_100}
    for name, chip in (("sm_80", "A100"), ("sm_90", "H100"), ("sm_100", "B200")):
        assert cost.CHIPS[chip].tile_rows == tiles.filter_tile(name)["BLOCK_ROWS"]


def test_expected_largest_of_poisson_numbers() -> None:
    draws = np.random.default_rng(0).poisson(0.3, (20_000, 128)).max(axis=1)
    assert cost.largest_of(0.3, 128) == pytest.approx(draws.mean(), rel=0.02)
    assert cost.largest_of(40.0, 1) == pytest.approx(40.0, rel=1e-6)


def test_more_work_takes_longer() -> None:
    chip = cost.CHIPS["H100"]
    small, large = cost.search(chip, 20_000, 1_024), cost.search(chip, 40_000, 1_024)
    assert 3 < large.filter / small.filter < 5
    assert 0 < small.filter_share < cost.GEMM
    assert cost.search(chip, 20_000, 1_024, keep=32).filter > small.filter
    assert cost.cosines(chip, 20_000, 1_024) > cost.cosines(cost.CHIPS["MI300X"], 20_000, 1_024)


def test_parts_of_the_rows() -> None:
    assert tiles.splits_of(1, 157, 132) == 157
    assert tiles.splits_of(157, 157, 132) == 2
    assert tiles.splits_of(400, 400, 132) == 1
    assert tiles.splits_of(400, 400, 132, lists=8) == 8
    assert tiles.splits_of(400, 3, 132, lists=8) == 3


def test_the_page_shows_the_predictions() -> None:
    page = (ROOT / "docs/triton.md").read_text(encoding="utf-8")
    assert cost.table() in page, "docs/triton.md: replace the table by cost.table()"
