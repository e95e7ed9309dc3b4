"""The command line: parse, run one command, turn every error into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from fastdim.cli.config import expand_config
from fastdim.cli.parser import build_parser
from fastdim.errors import FastdimError, InputError, RankError, StoreError

OK, FAILED_ROWS, USAGE, STORAGE, LOST, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fastdim ARGV`; returns the exit code (see `fastdim --help` for their meaning)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        parser = build_parser()
        options = parser.parse_args(expand_config(parser, arguments))
        from fastdim.cli import commands

        return commands.run(options)
    except SystemExit as exit_request:  # argparse: --help (0) or a usage error (2)
        return int(exit_request.code or 0)
    except KeyboardInterrupt:
        print("\nfastdim: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone: nothing is left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001 - the one place where errors become exit codes
        if debug:
            traceback.print_exc()
        return _report(error, debug)


def _report(error: Exception, debug: bool) -> int:
    if isinstance(error, FastdimError):
        print(f"fastdim: error: {error}", file=sys.stderr)
        return exit_code(error)
    if not debug:
        print(
            f"fastdim: internal error: {type(error).__name__}: {error}\n"
            "This is a bug: please report it with the output of the same command and --debug.",
            file=sys.stderr,
        )
    return INTERNAL


def exit_code(error: FastdimError) -> int:
    """The exit code of an error that fastdim raises on purpose."""
    if isinstance(error, RankError):
        return LOST
    return STORAGE if isinstance(error, StoreError) else USAGE


__all__ = ["InputError", "main"]
