"""
The command line: ``python -m shockproof demo``, or ``shockproof demo``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]

_DEMO_NEEDS = ("aiohttp", "ccxt", "rich")


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong, in one line: the whole usage would bury it."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line *argv* (default: the program's own) and return the exit code.

    0: it went well. 1: the demo found a difference. 2: it could not start, and why was said on stderr.
    128 + N: ended by signal N (Ctrl-C: 130).
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # before or after the part that handles it
        print("interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    from shockproof import __version__

    parser = _OneLineParser(prog="shockproof", description="Asyncio-native resilience for trading systems.")
    parser.add_argument("--version", action="version", version=f"shockproof {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="a trading session against a venue that misbehaves",
        description="A trading session on this machine: a real broker client trades through shockproof while its "
        "venue misbehaves. Exit code 0: the venue's ledger and the trader's book agree, and nothing that was "
        "reported written is missing.",
    )
    problem = _why_no_demo()
    if problem is None:
        from shockproof.demo.options import add_options

        add_options(demo)
    given, rest = parser.parse_known_args(argv)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    if problem is not None:
        print(f"shockproof demo: {problem}", file=sys.stderr)
        return 2
    if rest:
        demo.error(f"unrecognized arguments: {' '.join(rest)}")
    from shockproof.demo.options import Options
    from shockproof.demo.run import run

    return run(Options(given.seconds, given.seed, given.faults, given.output))


def _why_no_demo() -> str | None:
    if os.name != "posix":
        return f"it kills and restarts a process by signals: Linux or macOS is needed, this is {sys.platform}"
    missing = [name for name in _DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return f'{", ".join(missing)} not installed: pip install "shockproof[demo]"'
    return None


if __name__ == "__main__":
    sys.exit(main())
