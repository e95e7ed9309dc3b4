"""The package as installed: one version, its extras, a light import, documents that stay true."""

import re
import subprocess
import sys
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest

import fastdim

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"models", "report", "faiss", "faiss-gpu", "triton", "torch", "torchmetrics", "sklearn"}
EXTRAS |= {"lightning", "ray", "test", "dev", "bench"}
HEAVY = [
    "torch",
    "torchmetrics",
    "transformers",
    "faiss",
    "triton",
    "lightning",
    "ray",
    "matplotlib",
    "pandas",
    "rich",
    "scipy",
]


def python(*arguments: str) -> str:
    """Standard output of a fresh interpreter, which must succeed."""
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True
    ).stdout


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_column(markdown: str) -> list[str]:
    """Code-quoted entries of the first column of all tables."""
    return re.findall(r"^\| `([^`]+)` \|", markdown, flags=re.MULTILINE)


def test_version_is_written_once():
    declared = re.search(r'^version = "([^"]+)"$', read("pyproject.toml"), re.MULTILINE)
    assert declared is not None
    assert version("fastdim") == declared[1]
    assert python("-m", "fastdim", "--version").strip().split()[-1] == declared[1]
    sources = [*ROOT.glob("fastdim/**/*.py"), *ROOT.glob("csrc/**/*"), ROOT / "CMakeLists.txt"]
    copies = [path for path in sources if path.is_file() and declared[1] in path.read_text()]
    assert copies == []


def test_extras_and_base_dependencies():
    described = metadata("fastdim")
    assert set(described.get_all("Provides-Extra")) == EXTRAS
    requirements = described.get_all("Requires-Dist")
    base = {re.split(r"[<>=!~ ;\[]", line)[0] for line in requirements if "extra ==" not in line}
    assert base == {"numpy", "rich", "safetensors", "threadpoolctl"}
    faiss = [line for line in requirements if line.startswith("faiss")]
    assert len(faiss) == 2, "faiss-cpu and faiss-gpu are alternatives, each in one extra"
    assert {re.split(r"extra == ", line)[1].strip("\"'") for line in faiss} == {
        "faiss",
        "faiss-gpu",
    }


def test_console_script():
    (script,) = entry_points(group="console_scripts", name="fastdim")
    assert script.value == "fastdim.cli:main"
    assert callable(script.load())


def test_import_is_light():
    loaded = python("-c", "import sys, fastdim; print(*sys.modules)").split()
    assert "fastdim" in loaded
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("name", ["torch", "torchmetrics"])
def test_faces_are_named_as_their_package_and_import_it(name):
    """`fastdim.torch` is a package beside the real torch, which it must still find."""
    code = f"import sys, fastdim.{name} as face; print(sys.modules['{name}'].__file__); print(face)"
    theirs, ours = python("-c", code).splitlines()
    assert "fastdim" not in Path(theirs).parent.parts[-1]
    assert f"fastdim.{name}" in ours


@pytest.mark.parametrize("name", ["torch", "torchmetrics"])
def test_a_face_without_its_package_names_the_extra(name):
    code = f"""
import sys
sys.modules[{name!r}] = None  # as if it were not installed
import fastdim
try:
    import fastdim.{name}
except fastdim.DependencyError as error:
    print(error)
"""
    assert f"pip install 'fastdim[{name}]'" in python("-c", code)


def test_public_names_exist_and_are_described():
    assert {"knn", "twonn", "spectrum", "anisotropy", "cosine_stats", "profile", "sweep"} <= set(
        fastdim.__all__
    )
    undocumented = [name for name in fastdim.__all__ if not getattr(fastdim, name).__doc__]
    assert undocumented == []


def test_environment_page_lists_every_variable():
    used = set()
    for path in ROOT.glob("fastdim/**/*.py"):
        used |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text()))
    used |= set(re.findall(r'getenv\("([A-Z_]+)"', read("csrc/isa.cpp")))
    assert used >= {"FASTDIM_ISA", "FASTDIM_NUM_THREADS"}
    page = read("docs/environment.md")
    assert used <= set(re.findall(r"`([A-Z_]+)`", page))
    listed = {name for name in first_column(page) if name.startswith("FASTDIM_")}
    assert listed <= used


def test_table_page_lists_every_column_and_metric():
    from fastdim.layer import METRICS
    from fastdim.sweeps.filters import FILTERS
    from fastdim.sweeps.schema import COLUMNS

    listed = first_column(read("docs/table.md"))
    assert sorted(listed) == sorted([*COLUMNS, *METRICS, *FILTERS])


def test_make_variables_are_explained():
    variables = re.findall(r"^([A-Z_]+) \?=", read("Makefile"), flags=re.MULTILINE)
    assert len(variables) >= 8
    page = read("docs/environment.md")
    assert [name for name in variables if f"`{name}`" not in page] == []


def blocks(name: str) -> list[str]:
    """Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```$", read(name), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.filterwarnings("ignore:.*inverse_transform")  # UMAP, of any graph it is given
@pytest.mark.filterwarnings("ignore::ImportWarning:umap")  # without Tensorflow
@pytest.mark.parametrize("name", ["README.md", "docs/torch.md", "docs/integrations.md"])
def test_python_in_documents_runs(name, tmp_path, monkeypatch):
    found = blocks(name)
    assert found
    monkeypatch.chdir(tmp_path)  # where the examples write to
    namespace: dict[str, object] = {}
    for number, block in enumerate(found):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)


def test_commands_in_readme_exist():
    from fastdim.cli.parser import build_parser

    lines = re.findall(r"^fastdim (.+?)(?: +#.*)?$", read("README.md"), flags=re.MULTILINE)
    assert len(lines) >= 5
    parser = build_parser()
    for line in lines:
        assert parser.parse_args(line.split()).command == line.split()[0]


def test_contributing_is_short():
    assert len(read("CONTRIBUTING.md").splitlines()) <= 150


def test_exit_codes_agree_with_help():
    from fastdim.cli.parser import EXIT_CODES

    stated = re.findall(r"^  (\d+) ", EXIT_CODES, flags=re.MULTILINE)
    assert len(stated) >= 5
    assert re.findall(r"^\| (\d+) \|", read("docs/cli.md"), flags=re.MULTILINE) == stated
