"""Options from a YAML file: the same names as on the command line, which has the last word."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastdim.errors import InputError, require


def expand_config(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the options the file holds, before those already given.

    A key is an option's long name, with - or _; `model` may be a name or a list. Raises InputError
    for an unknown key or a value that is no scalar or list of scalars.
    """
    arguments = list(arguments)
    path = _config_path(arguments)
    if path is None:
        return arguments
    sub = _subparser(parser, arguments[0])
    actions = {
        option.lstrip("-").replace("-", "_"): action
        for action in (sub._actions if sub else ())
        for option in action.option_strings
        if option.startswith("--") and not option.startswith("--no-")
    }
    if sub is None or "config" not in actions:
        return arguments  # argparse names the mistake
    settings = _read(path)
    given = sub.parse_known_args(arguments[1:])[0]
    if getattr(given, "models", None):
        settings.pop("model", None)  # a model on the command line wins
    tokens: list[str] = []
    for key, value in settings.items():
        action = actions.get(str(key).replace("-", "_"))
        if action is None or action.dest in ("config", "help"):
            known = ", ".join(sorted(set(actions) - {"config", "help"}))
            raise InputError(f"{path}: unknown key {key!r}; known keys: {known}")
        tokens += _tokens(path, str(key), action, value)
    positionals, options = _split(arguments[1:])
    return [arguments[0], *positionals, *tokens, *options]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Leading positionals stay first: an option that takes a list would swallow them."""
    for number, argument in enumerate(arguments):
        if argument.startswith("-") and argument != "-":
            return arguments[:number], arguments[number:]
    return arguments, []


def _config_path(arguments: list[str]) -> Path | None:
    for number, argument in enumerate(arguments):
        if argument == "--config" and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
    return None


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            sub: argparse.ArgumentParser | None = action.choices.get(name)
            return sub
    return None


def _read(path: Path) -> dict[Any, Any]:
    yaml = require("yaml", "models")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the config file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold `option: value` lines")
    return settings


def _tokens(path: Path, key: str, action: argparse.Action, value: Any) -> Iterator[str]:
    option = next(name for name in action.option_strings if name.startswith("--"))
    values = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) or item is None for item in values):
        raise InputError(f"{path}: {key} must be a value or a list of values, got {value!r}")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {key} must be true or false, got {value!r}")
        if isinstance(action, argparse.BooleanOptionalAction):
            yield option if value else option.replace("--", "--no-", 1)
        elif value:
            yield option
        return
    if any(isinstance(item, bool) for item in values):
        raise InputError(f"{path}: {key} takes a value, got {value!r}")
    if action.nargs is None:
        if isinstance(value, list):
            raise InputError(f"{path}: {key} takes one value, got a list")
        yield f"{option}={value}"
        return
    yield option
    yield from (str(item) for item in values)
