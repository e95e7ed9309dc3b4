"""The texts of benchmarks/million.py: prose alone, nothing said twice; and its checks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import gaussian

import fastdim as fd

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import million
import prose

ONE = (
    "The kernel keeps a list of the pages that were changed, and it writes them to the disk when "
    "there is time, or when too many of them have been kept for long."
)
TWO = (
    "A package is removed by the program that has installed it, and its files of configuration "
    "stay on the system until you ask for them to be removed as well."
)
CODE = "int main(void) { return x[3] + y[4]; } " * 6
GERMAN = (
    "Der Kern führt eine Liste der Seiten, die geändert wurden, und schreibt sie auf die Platte, "
    "sobald Zeit dafür ist oder zu viele davon schon lange aufgehoben werden."
)


def test_paragraphs_of_a_page() -> None:
    parser = prose.Paragraphs()
    parser.feed(
        "<html><head><title>no</title></head><body><nav><p>menu</p></nav>"
        "<p>One <b>bold</b>\n  word &amp; more<p>unclosed<pre>code</pre>"
        "<ul><li>first<li>second <code>x</code></ul><table><tr><td><p>cell</table>"
        "<div>loose</div><p>last</p>"
    )
    parser.close()
    expected = ["One bold word & more", "unclosed", "first", "second x", "last"]
    assert parser.found == expected


@pytest.mark.parametrize(
    ("text", "is_prose"),
    [(ONE, True), (TWO, True), (CODE, False), (GERMAN, False), ("The end of it.", False)],
)
def test_prose(text: str, is_prose: bool) -> None:
    assert prose.is_prose(text) == is_prose


def test_what_was_said_before_is_dropped(tmp_path: Path) -> None:
    near = ONE.replace("when there is time", "when there is some time")
    pages = {
        "a/one.html": [ONE, CODE, TWO],
        "b/again.html": [near, ONE.upper()],
        "b/new.html": [ONE + " " + TWO, TWO.replace("package", "parcel").replace("files", "lists")],
        "b/other.txt": [ONE],
    }
    for name, paragraphs in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"<p>{text}</p>" for text in paragraphs))
    counts = prose.write_corpus(tmp_path, tmp_path / "texts.jsonl")
    lines = (tmp_path / "texts.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert kept[0] == {"source": "a/one.html", "text": f"{ONE}\n\n{TWO}"}
    # Of the changed sentence more than a tenth of the shingles were said: it is dropped too.
    assert len(kept) == 1
    assert counts == {
        "paragraphs": 7,
        "pages": 3,
        "dropped: not prose": 1,
        "dropped: said before": 4,
        "kept paragraphs": 2,
        "kept words": len((ONE + " " + TWO).split()),
        "pages without any left": 2,
    }


def test_the_check_of_distances_can_fail() -> None:
    x = gaussian(400, 12).astype(np.float32)
    x[7:30] = x[3]
    rows = fd.as_rows(x)
    found = fd.knn(rows, duplicates="collapse")
    chosen = np.arange(0, len(found.queries), 5)
    million.check_distances(rows, found, chosen)
    found.distances[chosen[3], 0] *= 1.001
    with pytest.raises(AssertionError):
        million.check_distances(rows, found, chosen)


def test_the_page_says_what_was_found() -> None:
    facts: dict[str, Any] = {
        "device": "a processor", "commit": "abc", "date": "2026-01-01", "threads": 2,
        "texts": {"pages": 3}, "stages": {"forward": 12.0}, "layers": "1,7", "table_rows": 112,
        "failed": 0,
        "exact": {
            "layer": 7, "rows": 1000, "distinct": 990, "columns": 4, "dtype": "float16",
            "seconds": 3.0, "processor_seconds": 5.0, "dimension": 8.1234, "lower": 8.0,
            "upper": 8.2,
        },
        "faiss": {
            "queries": 10, "seconds": 1.0, "processor_seconds": 2.0, "all_seconds": 100.0,
            "all_processor_seconds": 200.0,
        },
    }  # fmt: skip
    text = million.page(facts)
    for part in ("1,000 tokens", "990 distinct of 1,000", "| forward | 12 |", "| 100 | 200 |",
                 "TwoNN 8.123 (8.000 to 8.200)"):  # fmt: skip
        assert part in text
