"""The docstrings of the Python standard library: real English text on every machine, offline."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from fastdim.errors import InputError

# Packages of other projects, and tests: their docstrings are no documentation.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def stdlib_docstrings(root: Path | None = None) -> tuple[list[str], int]:
    """Every distinct docstring below root, in the order of file paths and lines.

    root: folder of .py files; the standard library of the running interpreter if None. Modules
    are parsed, never imported. Identical docstrings are returned once (the first).

    Returns the docstrings and the number of files that could not be read or parsed.
    Raises InputError if the interpreter came without its source files.
    """
    folder = Path(sysconfig.get_path("stdlib")) if root is None else root
    found: dict[str, None] = {}
    unreadable = 0
    for path in _python_files(folder):
        try:
            tree = _parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            unreadable += 1
            continue
        found.update(dict.fromkeys(_docstrings(tree)))
    if not found:
        raise InputError(
            f"no docstring found below {folder}: this Python has no standard library source; "
            "give a text file or folder instead"
        )
    return list(found), unreadable


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".py"))


def _parse(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        # Somebody else's invalid escape sequences are no concern of the reader.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    # ast.walk is breadth first; consecutive text wants the order of the file.
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        text = ast.get_docstring(node)
        if text:
            yield text
