"""The errors fastdim raises: each message says what is wrong, why, and how to fix it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType


class FastdimError(Exception):
    """Base of every error that fastdim raises on purpose."""


class InputError(FastdimError, ValueError):
    """The data or an argument cannot be used as given."""


class BackendError(FastdimError, RuntimeError):
    """The requested device or backend cannot run here."""


class ModelError(FastdimError, RuntimeError):
    """A model, a layer or a module path was not found or is not supported."""


class StoreError(FastdimError, RuntimeError):
    """A folder on disk is locked, damaged, full, or belongs to another run."""


class RankError(FastdimError, RuntimeError):
    """Another process of a distributed run ended, cannot be reached, or differs from this one."""


class RankMismatchError(RankError):
    """The processes of a distributed run differ; raised on all of them, which still talk."""


class DependencyError(FastdimError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Only the absence of the package itself becomes a `DependencyError`; an import that fails inside
    an installed package keeps its own error, which names the real cause.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise DependencyError(
            f"the package {package!r} is not installed, and this operation needs it; "
            f"install it with: pip install 'fastdim[{extra}]'",
            name=error.name,
        ) from error


def require_all(packages: Mapping[str, str]) -> None:
    """Raise one DependencyError naming every package that is not there; nothing is imported.

    packages: top-level module -> the extra that brings it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        extras = ",".join(dict.fromkeys(packages[name] for name in missing))
        raise DependencyError(
            f"not installed, and needed here: {names}; "
            f"install with: pip install 'fastdim[{extras}]'",
            name=missing[0],
        )
