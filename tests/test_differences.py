"""benchmarks/differences.py small: each line of the page's table of differences has a simulation,
and none comes out for the other side."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import differences  # noqa: E402
from difference_cases import CASES  # noqa: E402
from difference_lines import Line, nearer  # noqa: E402

PAGE = (ROOT / "docs" / "estimators.md").read_text("utf-8")
SETS = 3
# Differences that few sets do not tell, of little work each; and one that takes seconds a set.
OTHER_SETS = {
    "PH": 1,
    "CorrInt": 20,
    "GRIDE, skdim; Gride, DADApy": 20,
    "KNN, skdim and torchid": 20,
    "lPCA Fan where one axis has 95 %": 10,  # of these ten times as many, for rounding decides
}


def column(head: str) -> list[str]:
    """First cells of the lines below a table's head."""
    table = PAGE.partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    return [line.split(" | ")[0].removeprefix("| ") for line in table if line.startswith("|")]


def test_every_difference_of_the_page_is_simulated_there() -> None:
    stated = column("| where they differ | theirs | ours | why ours |")
    assert stated == list(CASES)
    assert set(column("| difference | simulated | known | theirs | ours | nearer |")) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_no_case_comes_out_for_the_other_side(name: str) -> None:
    """With so few sets a small difference may drown, but not turn; a large one is seen."""
    sets = OTHER_SETS.get(name, SETS)
    lines = list(CASES[name](sets))
    assert lines
    found = [nearer(line) for line in lines]
    said = [line.nearer for line in lines]
    for line, measured, claimed in zip(lines, found, said, strict=True):
        assert np.size(line.theirs) == np.size(line.ours) >= min(sets, SETS), line.setting
        if claimed != "neither":
            assert measured in (claimed, "neither"), line.setting
    if set(said) != {"neither"}:
        assert any(m == c != "neither" for m, c in zip(found, said, strict=True))


def test_nearer() -> None:
    assert nearer(Line("", 1.0, [2.0, 2.1], [1.0, 1.1])) == "ours"
    assert nearer(Line("", 1.0, [1.0, 1.1], [2.0, 2.1])) == "theirs"
    assert nearer(Line("", 1.0, [1.0, 1.2], [1.2, 1.0])) == "neither"
    assert nearer(Line("", 1.0, [math.nan, 1.0], [3.0, 3.0])) == "ours"
    assert nearer(Line("", 1.0, [1.0, 1.0], [math.nan, 1.0])) == "neither"
    assert nearer(Line("", math.nan, [1.0, 1.0], [math.nan, math.nan])) == "ours"
    assert nearer(Line("", math.nan, [1.0, 1.0], [1.0, math.nan])) == "neither"


def test_a_wrong_claim_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table: differences -->\n<!-- end -->\n", "utf-8")
    right = Line("a set", 1.0, [2.0, 2.1], [1.0, 1.1])
    monkeypatch.setattr(differences, "CASES", {"case": lambda sets: iter([right])})
    assert differences.main(["--page", str(page)]) == 0
    assert "| case | a set | 1 | 2.05 (0.071) | 1.05 (0.071) | ours |" in page.read_text("utf-8")
    wrong = Line("a set", 2.0, [2.0, math.nan], [math.nan, math.nan])
    monkeypatch.setattr(differences, "CASES", {"case": lambda sets: iter([wrong])})
    assert differences.main([]) == 1
    printed = capsys.readouterr().out
    assert "2 (0), nan in 1 of 2" in printed
    assert "refused in 2 of 2" in printed
    assert "WRONG" in printed
    assert re.search(r"processor seconds", printed)
