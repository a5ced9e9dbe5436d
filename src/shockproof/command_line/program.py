"""The program ``shockproof``: finds the command, runs it, and sees to it that it ends well."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from shockproof.command_line.outcome import CommandError, ExitCode

__all__ = ["main", "parsers"]

_COMMANDS: Final = {
    "health": "how a program that runs is",
    "top": "the same, watched until Ctrl-C",
    "operations": "list, show and settle what began and did not end",
    "state": "show, verify and dump what was saved",
    "journal": "verify and dump the operation journal",
    "errors": "the error log, filtered, followed, summed up",
    "report": "an HTML file with pictures, of errors, state and what is pending",
    "clean": "delete or compress old error files",
    "doctor": "check whether everything around the program is as it should be",
    "completion": "the script that makes your shell complete",
    "demo": "a trading session against a venue that misbehaves",
}
"""Each is a module of this package; its options are made only when it is the one that is asked for."""


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong, in one line: the whole usage would bury it."""
        if message.endswith("required: KEY"):
            message += "; one that begins with a dash goes last, behind --"
        self.exit(ExitCode.NOT_DONE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line *argv* (default: the program's own) and return the exit code.

    0: it went well. 1: it was done, and something is wrong. 2: it could not be done, and why was said on stderr.
    3: what was asked for is not there. 4: another process owns the journal. 128 + N: ended by signal N (Ctrl-C: 130).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could follow
        from shockproof.command_line.completion import answer

        answer(lambda: parsers()[0])
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the program: what is said goes nowhere
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  open as long as the program runs
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return ExitCode.BROKEN_PIPE
    except Exception as error:
        if "--traceback" in words:
            raise
        name = " ".join(["shockproof", *[word for word in words if word in _COMMANDS][:1]])
        print(f"{name}: {_in_one_line(error)}", file=sys.stderr)
        if isinstance(error, OSError):
            _forget_output()
        return _code_of(error)


def _run(words: list[str]) -> int:
    parser, commands = parsers(only=next((word for word in words if not word.startswith("-")), ""))
    given, rest = parser.parse_known_args(words)
    if given.command is None:
        parser.print_help(sys.stderr)
        return ExitCode.NOT_DONE
    if rest and not getattr(given, "takes_unknown", False):
        commands[given.command].error(f"unrecognized arguments: {' '.join(rest)}")
    from shockproof.command_line.screen import Screen

    code: int = given.run(given, Screen())
    return code


def parsers(*, only: str | None = None) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and that of each command; with *only*, the others are there by name, without their options."""
    from shockproof import __version__

    parser = _OneLineParser(prog="shockproof", description="Asyncio-native resilience for trading systems.")
    parser.add_argument("--version", action="version", version=f"shockproof {__version__}")
    parser.add_argument("--traceback", action="store_true", help="where an error came from, for a bug report")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands: dict[str, argparse.ArgumentParser] = {}
    for name, what in _COMMANDS.items():
        command = commands[name] = subparsers.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}."
        )
        if only in {None, name}:
            importlib.import_module(f"shockproof.command_line.{name}").add_options(command)
    return parser, commands


def _in_one_line(error: Exception) -> str:
    from shockproof.views.words import printable
    from shockproof.vocabulary.errors import ShockproofError

    if isinstance(error, CommandError | ShockproofError):
        return printable(str(error))
    if isinstance(error, OSError):
        place = "" if error.filename is None else f"{error.filename}: "
        return printable(f"{place}{error.strerror or type(error).__name__}")
    return printable(f"a bug, and shockproof --traceback ... shows where: {type(error).__name__}: {error}")


def _code_of(error: Exception) -> int:
    from shockproof.vocabulary.errors import JournalLockedError, ShockproofError

    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, JournalLockedError):
        return ExitCode.OWNED
    if isinstance(error, OSError | ShockproofError):
        return ExitCode.NOT_DONE
    return ExitCode.BUG


def _forget_output() -> None:
    """What stdout still holds has nowhere to go; without this, Python would say so when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
