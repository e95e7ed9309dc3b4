"""docs/estimators.md lists every estimator with all its columns, and its code runs."""

import inspect
import re
from pathlib import Path

import fastdim

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "estimators.md").read_text("utf-8")


def estimators() -> set[str]:
    return {
        name
        for name in fastdim.__all__
        if inspect.isfunction(member := getattr(fastdim, name))
        and member.__module__.startswith("fastdim.estimators")
    }


def test_every_estimator_has_its_line() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert {name for name, _ in rows} == estimators()
    assert len(rows) == len(estimators())
    for name, rest in rows:
        cells = re.split(r"(?<!\\)\|", rest)
        assert len(cells) == 6, name
        assert cells[0].strip(), name


def test_every_docstring_says_what_it_must() -> None:
    """Source with its year, cost or kin, duplicates or rows, and k where it is asked for."""
    for name in sorted(estimators()):
        text = inspect.getdoc(getattr(fastdim, name)) or ""
        if name in (
            "gride_scales",
            "local_dimension",
            "effective_rank",
            "stable_rank",
            "block_influence",
        ):
            assert re.search(r"`\w+`|as there", text), name
            continue
        assert re.search(r"(19|20)\d\d|arXiv|TSP|NIPS|TPAMI|Pattern|IEEE|`", text), name
        assert re.search(r"[Dd]uplicates|distinct rows?|equal row|as they are", text), name
        if "k" in inspect.signature(getattr(fastdim, name)).parameters:
            assert "refused" in text or "k >= number" in text, name


def test_code_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "docs/estimators.md", "exec"), names)
    assert "near" in names
