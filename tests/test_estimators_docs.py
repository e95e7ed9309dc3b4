"""docs/estimators.md lists every estimator with all its columns, and its code runs."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import fastdim
import fastdim.sklearn as faces
import fastdim.torch as functions
from fastdim.estimators import lpca_noise as noise
from fastdim.estimators.lpca import RULES

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


MUST = {
    "source": r"(18|19|20)\d\d|arXiv \d",
    # In its own words: "as in" another function leaves the reader without.
    "assumptions": r"Assumes",
    "bias": r"[Bb]ias",
    "cost": r"Cost: [^.]*(O\(|search)",
    "formula": r"[\w)\]'] ?[/=^|*-] ?[\w(\[|]|log|sum",
    "interval": r"[Ii]nterval",
    "duplicates": r"[Dd]uplicates|distinct rows?|as they are",
    "k": r"refused|k plays no part",
}


@pytest.mark.parametrize("part", MUST)
def test_every_docstring_says_what_it_must(part: str) -> None:
    for name in sorted(estimators()):
        text = " ".join((inspect.getdoc(getattr(fastdim, name)) or "").split())
        assert re.search(MUST[part], text), name


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_lpca_has_its_source(rule: str) -> None:
    """Between its name and that of the next."""
    text = " ".join((inspect.getdoc(fastdim.lpca) or "").split())
    assert text.count(f'"{rule}": ') == 1
    own = text.split(f'"{rule}": ')[1]
    ends = [own.find(f'"{other}": ') for other in RULES if f'"{other}": ' in own]
    assert re.search(r"\b(19|20)\d\d\b|arXiv \d", own[: min(ends, default=250)])


@pytest.mark.parametrize(
    "compute",
    [
        noise.marchenko_pastur, noise.gavish_donoho, noise.kritchman_nadler, noise.minka,
        noise.denoised, noise.parallel_rule, noise.random_matrix_rule,
    ],
)  # fmt: skip
def test_every_edge_has_formula_and_source(compute: Callable[..., object]) -> None:
    text = " ".join((inspect.getdoc(compute) or "").split())
    assert re.search(r"<=|>|= ", text)
    assert re.search(r"\b(19|20)\d\d\b", text)


FACES = [
    getattr(faces, name)
    for name in faces.__all__
    if inspect.isclass(getattr(faces, name))
    and name not in ("DimensionEstimator", "KNeighborsTransformer")
]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_class_names_its_function(face: type) -> None:
    """Whose docstring has source, assumptions, bias and cost."""
    text = inspect.getdoc(face) or ""
    named = re.search(r"`fastdim\.(\w+)`", text)
    assert named
    assert named[1] in estimators()


@pytest.mark.parametrize("name", [name for name in functions.__all__ if name.islower()])
def test_functions_of_torch_say_what_they_must(name: str) -> None:
    """Source, the function of the same value, what equal rows do, and errors."""
    text = " ".join((inspect.getdoc(getattr(functions, name)) or "").split())
    assert re.search(r"(19|20)\d\d|arXiv \d|fastdim\.\w+\(x\)", text)
    assert re.search(r"fastdim\.(\w+)\(", text)
    assert re.search(r"[Ee]qual rows|[Dd]uplicates|errors as in", text)
    assert re.search(r"Raises|errors", text)


def test_code_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "docs/estimators.md", "exec"), names)
    assert "near" in names
