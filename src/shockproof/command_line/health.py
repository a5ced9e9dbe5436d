"""``shockproof health``: how a program that runs is, once."""

from __future__ import annotations

import argparse

from shockproof.command_line.options import add_json
from shockproof.command_line.outcome import ExitCode
from shockproof.command_line.running import Running, add_running
from shockproof.command_line.screen import Screen
from shockproof.command_line.status_lines import show_head, show_pending, show_services

__all__ = ["add_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Asks a program that runs how it is, by the socket in its state directory or over HTTP. Exit code 0: healthy or "
        "degraded; 1: unhealthy, a service is not available; 2: it does not answer; 3: nobody is there."
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 for degraded, too")
    add_running(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    running = Running(given)
    status = running.status()
    if given.json:
        screen.json(status)
    else:
        show_head(status, running.name, screen)
        show_services(status, screen)
        show_pending(status, screen, most=20)
    fine = {"healthy"} if given.strict else {"healthy", "degraded"}
    return ExitCode.FINE if status["overall_health"] in fine else ExitCode.WRONG
