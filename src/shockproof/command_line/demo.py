"""``shockproof demo``: a trading session on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import Final

from shockproof.command_line.outcome import CommandError
from shockproof.command_line.screen import Screen

__all__ = ["add_options"]

_NEEDS: Final = ("aiohttp", "ccxt", "rich")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command; none where it cannot run, and any will do to be told so."""
    parser.description = (
        "A trading session on this machine: a real broker client trades through shockproof while its venue "
        "misbehaves. Exit code 0: the venue's ledger and the trader's book agree, and nothing that was reported "
        "written is missing."
    )
    problem = _why_not()
    if problem is not None:
        parser.set_defaults(run=_refuse, problem=problem, takes_unknown=True)
        return
    from shockproof.demo.options import add_options as add_demo_options

    add_demo_options(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    from shockproof.demo.options import options_from
    from shockproof.demo.run import run

    try:
        options = options_from(given)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return run(options)


def _refuse(given: argparse.Namespace, screen: Screen) -> int:
    raise CommandError(given.problem)


def _why_not() -> str | None:
    if os.name != "posix":
        return f"it kills and restarts a process by signals: Linux or macOS is needed, this is {sys.platform}"
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return f'{", ".join(missing)} not installed: pip install "shockproof[demo]"'
    return None
